"""Calls that look like calls. Pure: knows a client only as something with call, submit and stream.

Without a `Protocol` each attribute is a method over there. With one, only its methods are, and those that return an
iterator are streams; type checkers then know arguments and results.
"""

from __future__ import annotations

import collections.abc
import inspect
from typing import Any, get_origin, get_type_hints

from zmqkit.errors import UsageError

_STREAMS = (
    collections.abc.Iterator,
    collections.abc.Iterable,
    collections.abc.Generator,
    collections.abc.AsyncIterator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncGenerator,
)


class Verb:
    """One method over there: call it, or its `submit` or `stream`. An attribute of it is a longer name."""

    __slots__ = ("_client", "_name")

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._client.call(self._name, *args, **kwargs)

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        """See `Client.submit`."""
        return self._client.submit(self._name, *args, **kwargs)

    def stream(self, *args: Any, **kwargs: Any) -> Any:
        """See `Client.stream`."""
        return self._client.stream(self._name, *args, **kwargs)

    def __getattr__(self, name: str) -> Verb:
        if name.startswith("_"):
            raise AttributeError(name)
        return Verb(self._client, f"{self._name}.{name}")

    def __repr__(self) -> str:
        return f"<{self._name}() of {self._client!r}>"


class StreamVerb(Verb):
    """A method that a `Protocol` says to give a stream."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._client.stream(self._name, *args, **kwargs)


class Proxy:
    """What `Client.proxy` gives: each attribute is a method over there."""

    __slots__ = ("_client",)

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Verb:
        if name.startswith("_"):
            raise AttributeError(name)
        return Verb(self._client, name)

    def __repr__(self) -> str:
        return f"<proxy of {self._client!r}>"


class TypedProxy:
    """What `Client.proxy` gives for a `Protocol`: its methods, and nothing else."""

    __slots__ = ("_protocol", "_verbs")

    def __init__(self, client: Any, protocol: type[Any]) -> None:
        if not inspect.isclass(protocol):
            raise UsageError(f"proxy takes a class whose methods are those of the server, got {protocol!r}")
        self._protocol = protocol.__name__
        self._verbs = {
            name: (StreamVerb if _streams(member) else Verb)(client, name) for name, member in _methods(protocol)
        }
        if not self._verbs:
            raise UsageError(f"{protocol.__name__} has no public methods: it says nothing of the server")

    def __getattr__(self, name: str) -> Verb:
        try:
            return self._verbs[name]
        except KeyError:
            known = ", ".join(self._verbs)
            raise AttributeError(f"{self._protocol} has no method {name!r}; it has {known}") from None

    def __repr__(self) -> str:
        return f"<proxy for {self._protocol}>"


def _methods(protocol: type[Any]) -> list[tuple[str, Any]]:
    found: dict[str, Any] = {}
    for base in reversed(protocol.__mro__):
        public = {name: each for name, each in vars(base).items() if not name.startswith("_")}
        found.update({name: each for name, each in public.items() if inspect.isfunction(each)})
    return list(found.items())


def _streams(member: Any) -> bool:
    if inspect.isgeneratorfunction(member) or inspect.isasyncgenfunction(member):
        return True
    try:
        hint = get_type_hints(member).get("return")
    except Exception:  # a name that is not there when it is asked for
        hint = getattr(member, "__annotations__", {}).get("return")
        name = hint.partition("[")[0].rpartition(".")[2] if isinstance(hint, str) else ""
        return name in {each.__name__ for each in _STREAMS}
    return (get_origin(hint) or hint) in _STREAMS
