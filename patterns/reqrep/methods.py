"""What a server offers: functions under names, their marks, and what their arguments must be.

Pure. Arguments are checked by a stub with the same parameters, made once: Python itself then says what is wrong with
them, in its own words and at its own speed, before the handler has seen anything.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar, get_type_hints, overload

from zmqkit.errors import UsageError
from zmqkit.patterns.reqrep.calls import MethodInfo
from zmqkit.patterns.reqrep.request import Request
from zmqkit.patterns.reqrep.wire import MAX_METHOD

F = TypeVar("F", bound=Callable[..., Any])

RESERVED: Final = "zmqkit."
METHODS: Final = "zmqkit.methods"
"""The method by which a server tells what it offers."""

_MARK: Final = "_zmqkit_method"


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """What was said of a function where it was marked."""

    name: str | None = None
    idempotent: bool = False
    concurrency: int | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        if self.name is not None:
            check_name(self.name)
        if not isinstance(self.idempotent, bool):
            raise TypeError(f"idempotent must be True or False, got {self.idempotent!r}")
        if self.concurrency is not None and (type(self.concurrency) is not int or self.concurrency < 1):
            raise ValueError(f"concurrency must be a whole number of 1 or more, or None, got {self.concurrency!r}")
        if self.timeout is not None:
            if isinstance(self.timeout, bool) or not isinstance(self.timeout, int | float):
                raise TypeError(f"timeout must be a number of seconds, or None, got {self.timeout!r}")
            if not 0 < self.timeout < math.inf:
                raise ValueError(f"timeout must be a positive number of seconds, or None, got {self.timeout!r}")


@overload
def method(fn: F, /) -> F: ...
@overload
def method(
    *, name: str | None = None, idempotent: bool = False, concurrency: int | None = None, timeout: float | None = None
) -> Callable[[F], F]: ...
def method(
    fn: F | None = None,
    /,
    *,
    name: str | None = None,
    idempotent: bool = False,
    concurrency: int | None = None,
    timeout: float | None = None,
) -> F | Callable[[F], F]:
    """Mark a function, or a method of a class, as one to be served by `Server.include`. It stays a plain function.

    Args:
        name: under which it is called; None: its own name.
        idempotent: done twice it does no harm. So it is sent again, also to another server, when one is lost.
        concurrency: more of them at once are refused as overloaded; None: no limit of its own.
        timeout: seconds that it may take at most, whatever the caller would wait; None: no limit of its own.
    """
    mark = Mark(name, idempotent, concurrency, timeout)

    def put(function: F) -> F:
        target: Any = function.__func__ if isinstance(function, staticmethod | classmethod) else function
        if not callable(target):
            raise UsageError(f"a method is a function, got {function!r}")
        setattr(target, _MARK, mark)
        return function

    return put if fn is None else put(fn)


class Method:
    """One function that is served.

    Attributes:
        name: under which it is called.
        call: the function.
        mark: what was said of it.
        streams: it is a generator: each value that it yields is an item of a stream.
        asynchronous: it runs on an event loop.
        wants_request: it takes the `Request`.
        stub: called with arguments it raises `TypeError` where the function would; None: nobody knows its parameters.
    """

    __slots__ = ("_place", "asynchronous", "call", "mark", "name", "streams", "stub", "wants_request")

    def __init__(self, name: str, call: Callable[..., Any], mark: Mark) -> None:
        self.name = name
        self.call = call
        self.mark = mark
        kind = _underlying(call)
        self.streams = inspect.isgeneratorfunction(kind) or inspect.isasyncgenfunction(kind)
        self.asynchronous = inspect.iscoroutinefunction(kind) or inspect.isasyncgenfunction(kind)
        signature = signature_of(call)
        self._place = None if signature is None else _request_parameter(call, signature)
        self.wants_request = self._place is not None
        self.stub = None if signature is None else _make_stub(name, signature, self._place)

    @property
    def info(self) -> MethodInfo:
        """What the core must know."""
        return MethodInfo(self.mark.idempotent, self.mark.concurrency)

    def bind(self, args: list[Any], kwargs: dict[str, Any], request: Request) -> tuple[list[Any], dict[str, Any]]:
        """The arguments with which to call the function. Raises `TypeError`, as a call of it would."""
        stub = self.stub
        if stub is None:
            return args, kwargs
        if self._place is None:
            stub(*args, **kwargs)
            return args, kwargs
        found, named = stub(*args, **kwargs)
        if isinstance(self._place, int):
            found.insert(self._place, request)
        else:
            named[self._place] = request
        return found, named

    def described(self) -> dict[str, Any]:
        """For people who ask: see docs/protocol.md, section 12.7."""
        signature = signature_of(self.call)
        if signature is None:
            shown = "(...)"
        else:
            without = [each for at, each in enumerate(signature.parameters.values()) if not self._is_request(at, each)]
            shown = str(signature.replace(parameters=without))
        return {
            "name": self.name,
            "signature": f"{self.name}{shown}",
            "doc": inspect.getdoc(self.call) or "",
            "kind": "stream" if self.streams else "call",
            "idempotent": self.mark.idempotent,
            "concurrency": self.mark.concurrency,
            "timeout": self.mark.timeout,
        }

    def _is_request(self, at: int, parameter: inspect.Parameter) -> bool:
        return self._place in (at, parameter.name)


class Methods:
    """All that one server offers, by name."""

    def __init__(self) -> None:
        self.by_name: dict[str, Method] = {}
        self.add(self.describe, Mark(idempotent=True), METHODS)

    def __iter__(self) -> Iterator[Method]:
        return iter(self.by_name.values())

    def describe(self) -> list[dict[str, Any]]:
        """What this server offers."""
        return [each.described() for name, each in sorted(self.by_name.items()) if not name.startswith(RESERVED)]

    def add(self, call: Callable[..., Any], mark: Mark, name: str) -> None:
        """Offer a function. Raises `UsageError`."""
        if not callable(call):
            raise UsageError(f"a method is a function, got {call!r}")
        if name in self.by_name:
            raise UsageError(f"there is a method {name!r} already; give one of the two another name=")
        self.by_name[name] = Method(name, call, mark)

    def decorate(self, fn: Callable[..., Any], mark: Mark) -> None:
        """What ``@server.method`` does."""
        if isinstance(fn, staticmethod | classmethod) or not callable(fn):
            raise UsageError(f"server.method takes a function, got {fn!r}; mark methods of a class with @zmqkit.method")
        name = mark.name or str(getattr(fn, "__name__", ""))
        if not name.isidentifier() and mark.name is None:
            raise UsageError(f"{fn!r} has no name of its own: give it one, as in @server.method(name='add')")
        self.add(fn, mark, check_name(name))

    def include(self, source: object, prefix: str) -> None:
        """What ``server.include`` does. Raises `UsageError` if nothing is marked there."""
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be text, got {prefix!r}")
        found = list(_marked(source))
        if not found:
            what = "an instance of it" if inspect.isclass(source) else "it"
            raise UsageError(f"nothing in {source!r} is marked with @zmqkit.method; mark what {what} is to serve")
        for name, call, mark in found:
            self.add(call, mark, check_name(prefix + (mark.name or name)))


def check_name(name: str) -> str:
    """The name, if a method may bear it. Raises `TypeError`, `UsageError`."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a method is text, got {name!r}")
    if not 1 <= len(name) <= MAX_METHOD or not name.isprintable() or name.startswith(RESERVED):
        raise UsageError(
            f"a method's name is printable text of 1 to {MAX_METHOD} characters that does not begin "
            f"with {RESERVED!r}, got {name[:60]!r}"
        )
    return name


def signature_of(call: Callable[..., Any]) -> inspect.Signature | None:
    """The signature; None where Python does not know one."""
    try:
        return inspect.signature(call)
    except (TypeError, ValueError):
        return None


def _marked(source: object) -> Iterable[tuple[str, Callable[..., Any], Mark]]:
    if inspect.isclass(source):
        raise UsageError(f"include takes an instance, not the class: server.include({source.__name__}())")
    if isinstance(source, types.ModuleType):
        for name, value in vars(source).items():
            mark = getattr(value, _MARK, None)
            # What a module imported is another one's to offer.
            if isinstance(mark, Mark) and getattr(value, "__module__", None) == source.__name__:
                yield name, value, mark
        return
    for name in dir(type(source)):
        # Looked up in the class first: a property is not asked for its value.
        plain = inspect.getattr_static(type(source), name)
        target = plain.__func__ if isinstance(plain, staticmethod | classmethod) else plain
        mark = getattr(target, _MARK, None)
        if isinstance(mark, Mark):
            yield name, getattr(source, name), mark


def _underlying(call: Any) -> Any:
    """The function behind partials and callable objects, which tells whether it is a coroutine or a generator."""
    while hasattr(call, "func") and not inspect.isfunction(call) and not inspect.ismethod(call):
        call = call.func
    if not (inspect.isfunction(call) or inspect.ismethod(call) or inspect.isbuiltin(call)) and not inspect.isclass(
        call
    ):
        return getattr(call, "__call__", call)  # noqa: B004 - an object with __call__
    return call


def _request_parameter(call: Callable[..., Any], signature: inspect.Signature) -> int | str | None:
    """Which parameter gets the `Request`: a position, or a name where it is keyword-only. None: none."""
    try:
        hints = get_type_hints(_underlying(call))
    except Exception:  # annotations may hold anything
        hints = {}
    for at, parameter in enumerate(signature.parameters.values()):
        hint = hints.get(parameter.name, parameter.annotation)
        if hint is Request or (isinstance(hint, str) and hint in ("Request", "zmqkit.Request")):
            if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
                raise UsageError(f"{parameter} cannot get the Request: give it a parameter of its own")
            return parameter.name if parameter.kind is inspect.Parameter.KEYWORD_ONLY else at
    return None


def _make_stub(name: str, signature: inspect.Signature, place: int | str | None) -> Callable[..., Any]:
    """A function with these parameters but the one for the `Request`; it gives what it was called with.

    Without a `Request` to be put in, it gives nothing: its call is the check.
    """
    parameters = [each for at, each in enumerate(signature.parameters.values()) if place not in (at, each.name)]
    defaults = {f"_default_{each.name}": each.default for each in parameters if each.default is not each.empty}
    source, seen_only, seen_star, positional = [], False, False, []
    keywords: list[str] = []
    for each in parameters:
        shown = f"{each.name}=_default_{each.name}" if each.default is not each.empty else each.name
        if seen_only and each.kind is not each.POSITIONAL_ONLY:
            source.append("/")
            seen_only = False
        if each.kind is each.POSITIONAL_ONLY:
            seen_only = True
        if each.kind is each.KEYWORD_ONLY and not seen_star:
            source.append("*")
            seen_star = True
        if each.kind is each.VAR_POSITIONAL:
            shown, seen_star = f"*{each.name}", True
            positional.append(f"*{each.name}")
        elif each.kind is each.VAR_KEYWORD:
            shown = f"**{each.name}"
            keywords.append(f"**{each.name}")
        elif each.kind is each.KEYWORD_ONLY:
            keywords.append(f"{each.name!r}: {each.name}")
        else:
            positional.append(each.name)
        source.append(shown)
    if seen_only:
        source.append("/")
    result = f"[{', '.join(positional)}], {{{', '.join(keywords)}}}" if place is not None else "None"
    space: dict[str, Any] = dict(defaults)
    try:
        exec(f"def _stub({', '.join(source)}):\n    return {result}", space)
    except SyntaxError as error:
        raise UsageError(f"the parameters of {name}{signature} cannot be checked: {error}") from error
    stub: Callable[..., Any] = space["_stub"]
    stub.__name__ = stub.__qualname__ = name
    return stub
