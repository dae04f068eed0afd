"""What a server offers, without one: marks, names, and arguments that are checked before anything runs."""

from __future__ import annotations

import functools
import math
import sys
import types
from typing import Any

import pytest

import zmqkit
from zmqkit import Request, UsageError
from zmqkit.patterns.reqrep.calls import Execution, MethodInfo
from zmqkit.patterns.reqrep.methods import Mark, Method, Methods, check_name


def request() -> Request:
    return Request(Execution(b"c" * 16, 1, "x", b""), None)


def everything(a: Any, b: Any = 2, /, c: Any = 3, *rest: Any, d: Any, e: Any = 5, **more: Any) -> Any:
    return a, b, c, rest, d, e, more


def simple(a: Any, b: Any = 1) -> Any:
    return a, b


def stars(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def asking(a: Any, r: Request, b: Any = 2, /, c: Any = 3, *rest: Any, d: Any = 4, **more: Any) -> Any:
    return a, b, c, rest, d, more


def asking_first(r: Request, a: Any, *rest: Any) -> Any:
    return a, rest


def asking_last(a: Any, *, r: Request, b: Any = 2) -> Any:
    return a, b


def unlucky(_stub: Any, _default_b: Any = 1, None_: Any = 2) -> Any:
    return _stub, _default_b, None_


CALLS: list[tuple[Any, list[Any], dict[str, Any]]] = [
    (everything, [1], {"d": 4}),
    (everything, [1, 2, 3, 4, 5], {"d": 4, "e": 6, "f": 7}),
    (everything, [1], {"d": 4, "a": 5, "b": 6, "c": 7}),
    (everything, [1], {}),
    (everything, [], {"d": 1}),
    (simple, [1], {}),
    (simple, [1, 2], {}),
    (simple, [1], {"b": 2}),
    (simple, [], {}),
    (simple, [1, 2, 3], {}),
    (simple, [1], {"a": 1}),
    (simple, [1], {"x": 1}),
    (stars, [1, 2], {"a": 1}),
    (unlucky, [1], {}),
    (unlucky, [1, 2], {"None_": 3}),
    (functools.partial(simple, 5), [], {}),
    (functools.partial(simple, b=5), [1], {}),
    (functools.partial(simple, 5), [1, 2], {}),
    (len, [[1]], {}),
    (math.hypot, [3, 4], {}),
]


@pytest.mark.parametrize("at", range(len(CALLS)))
def test_arguments_are_taken_and_refused_as_python_does(at: int) -> None:
    call, args, kwargs = CALLS[at]
    name = getattr(call, "__name__", "simple")
    method = Method(name, call, Mark())
    expected, error = _tried(call, args, kwargs)
    if error is None:
        found, named = method.bind(args, kwargs, request())
        assert call(*found, **named) == expected
    else:
        with pytest.raises(TypeError) as caught:
            method.bind(args, kwargs, request())
        assert isinstance(call, functools.partial) or str(caught.value) == str(error)


def _tried(call: Any, args: list[Any], kwargs: dict[str, Any]) -> tuple[Any, TypeError | None]:
    try:
        return call(*args, **kwargs), None
    except TypeError as error:
        return None, error


@pytest.mark.parametrize(
    ("call", "args", "kwargs", "expected"),
    [
        (asking, [1], {}, (1, 2, 3, (), 4, {})),
        (asking, [1, 5, 6, 7, 8], {"d": 9, "x": 1}, (1, 5, 6, (7, 8), 9, {"x": 1})),
        (asking, [1], {"c": 5}, (1, 2, 5, (), 4, {})),
        (asking_first, [1, 2, 3], {}, (1, (2, 3))),
        (asking_first, [], {"a": 1}, (1, ())),
        (asking_last, [1], {"b": 3}, (1, 3)),
    ],
)
def test_the_request_is_put_in_wherever_it_is_asked_for(call: Any, args: Any, kwargs: Any, expected: Any) -> None:
    method = Method("f", call, Mark())
    assert method.wants_request
    found, named = method.bind(args, kwargs, request())
    assert call(*found, **named) == expected


@pytest.mark.parametrize(("args", "kwargs"), [([], {}), ([1, 2], {}), ([1], {"r": 1}), ([1], {"x": 2})])
def test_the_request_is_nothing_that_a_caller_can_give(args: Any, kwargs: Any) -> None:
    with pytest.raises(TypeError):
        Method("f", asking_last, Mark()).bind(args, kwargs, request())


def test_a_request_among_many_is_refused() -> None:
    def f(*requests: Request) -> None: ...

    with pytest.raises(UsageError, match="a parameter of its own"):
        Method("f", f, Mark())


def test_kinds_of_functions_are_told_apart() -> None:
    def generator() -> Any:
        yield

    async def coroutine() -> None: ...

    async def async_generator() -> Any:
        yield

    class Callable_:
        async def __call__(self) -> None: ...

    kinds: list[Any] = [simple, generator, coroutine, async_generator, functools.partial(generator), Callable_()]
    made = [Method("f", each, Mark()) for each in kinds]
    assert [each.streams for each in made] == [False, True, False, True, True, False]
    assert [each.asynchronous for each in made] == [False, False, True, True, False, True]
    assert Method("f", simple, Mark(idempotent=True, concurrency=2)).info == MethodInfo(True, 2)


def test_a_marked_function_stays_a_plain_function() -> None:
    @zmqkit.method(name="other", idempotent=True)
    def f(a: int) -> int:
        return a

    server = zmqkit.Server("tcp://127.0.0.1:*")

    @server.method
    def g(a: int) -> int:
        return a

    assert f(1) == g(1) == 1
    assert type(f) is type(g) is types.FunctionType


def test_a_module_is_served_by_its_own_marks() -> None:
    module = types.ModuleType("tests.some_service")
    exec("import zmqkit\n@zmqkit.method\ndef mine(): return 1\ndef plain(): return 2", module.__dict__)
    module.borrowed = zmqkit.method(simple)  # type: ignore[attr-defined]
    methods = Methods()
    methods.include(module, "m.")
    assert set(methods.by_name) == {"zmqkit.methods", "m.mine"}
    del simple._zmqkit_method  # type: ignore[attr-defined]


def test_a_property_is_not_asked_for_its_value() -> None:
    class Service:
        @property
        def costly(self) -> None:
            raise AssertionError

        @zmqkit.method
        @classmethod
        def made(cls) -> str:
            return cls.__name__

    methods = Methods()
    methods.include(Service(), "")
    assert methods.by_name["made"].call() == "Service"


def test_what_cannot_be_served_is_refused_where_it_is_said() -> None:
    class Service:
        @zmqkit.method
        def f(self) -> None: ...

    methods = Methods()
    methods.decorate(simple, Mark())
    for words, verb in (
        ("there is a method 'simple' already", lambda: methods.decorate(simple, Mark())),
        (r"include\(Service\(\)\)", lambda: methods.include(Service, "")),
        ("nothing in .* is marked", lambda: methods.include(sys, "")),
        ("no name of its own", lambda: methods.decorate(lambda: 1, Mark())),
        ("takes a function", lambda: methods.decorate(5, Mark())),  # type: ignore[arg-type]
        ("does not begin with 'zmqkit.'", lambda: check_name("zmqkit.methods")),
        ("printable", lambda: check_name("a\nb")),
        ("1 to 200", lambda: check_name("a" * 201)),
    ):
        with pytest.raises(UsageError, match=words):
            verb()
    for error, settings in (
        (ValueError, {"concurrency": 0}), (ValueError, {"timeout": 0}), (TypeError, {"timeout": "1 s"}),
        (TypeError, {"idempotent": 1}), (TypeError, {"name": 5}), (ValueError, {"timeout": math.nan}),
    ):  # fmt: skip
        with pytest.raises(error):
            zmqkit.method(**settings)
