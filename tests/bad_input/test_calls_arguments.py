"""Arguments of the wrong kind to servers, clients and calls: refused where they are given, by name."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import zmqkit
from tests.bad_input.calls import served, service
from tests.bad_input.scenes import until
from tests.bad_input.strangers import PATIENCE_S
from zmqkit import EncodeError, RemoteError, ServiceError, aio

THERE = "tcp://127.0.0.1:9"

Make = Callable[..., list[Callable[[], object]]]


def servers(**options: Any) -> list[Callable[[], object]]:
    return [lambda: zmqkit.Server(THERE, **options), lambda: aio.Server(THERE, **options)]


def clients(**options: Any) -> list[Callable[[], object]]:
    return [lambda: zmqkit.Client(THERE, **options), lambda: aio.Client(THERE, **options)]


def options(**options: Any) -> list[Callable[[], object]]:
    return [lambda: zmqkit.Client(THERE).options(**options)]


def methods(**options: Any) -> list[Callable[[], object]]:
    return [lambda: zmqkit.Server(THERE).method(**options)(print), lambda: zmqkit.method(**options)(print)]


def errors(**options: Any) -> list[Callable[[], object]]:
    return [lambda: ServiceError(**{"code": "odd", **options})]


def cases(expected: type[Exception], make: Make, name: str, *values: object, says: str = "") -> list[Any]:
    return [
        pytest.param(expected, make, name, value, says or name, id=f"{make.__name__}-{name}={value!a:.20}")
        for value in values
    ]


REFUSED = [
    *cases(ValueError, servers, "threads", None, True, 0, -1, 1.5, "2", 10**9, math.nan),
    *cases(ValueError, servers, "processes", None, True, -1, 1.5, "2"),
    *cases(TypeError, servers, "executor", 0, False, object(), threading.Thread),
    *cases(TypeError, servers, "window", 0, False, [], {}, 600),
    *cases(TypeError, servers, "tracebacks", 0, 1, "yes"),
    *cases(ValueError, servers, "durability", None, "sure", 1, []),
    *cases(TypeError, servers, "journal", b"x.db", 5, True),
    *cases(ValueError, servers, "journal", "\ud800", "a\0b", Path("a\0b")),
    *cases(TypeError, clients, "journal", b"x.db", 5, True),
    *cases(ValueError, clients, "journal", "\ud800", "a\0b", Path("a\0b")),
    *cases(TypeError, clients, "timeout", "x", [], True),
    *cases(ValueError, clients, "timeout", math.nan),
    *cases(ValueError, clients, "retries", True, -1, 1.5, "2"),
    *cases(TypeError, options, "timeout", "x", [], True),
    *cases(ValueError, options, "retries", True, -1, 1.5, "2"),
    *cases(TypeError, options, "durable", None, 0, 1, "yes"),
    *cases(EncodeError, options, "headers", [], "", 0, False, [("a", "b")], {1: "a"}, {"a": 1}, {"a": b"b"}),
    *cases(EncodeError, options, "headers", {"a": "\ud800"}, {"\ud800": "a"}, {"zmqkit-a": "b"}, {"a": "b" * 9000},
           says="header"),
    *cases(ValueError, methods, "timeout", 0, -1, math.nan),
    *cases(ValueError, methods, "concurrency", 0, -1, True),
    *cases(TypeError, errors, "code", None, 404, b"odd"),
    *cases(TypeError, errors, "message", None, 404, b"odd"),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "make", "name", "value", "says"), REFUSED)
def test_an_argument_that_cannot_be_is_named_where_it_is_given(
    expected: type[Exception], make: Make, name: str, value: object, says: str
) -> None:
    for call in make(**{name: value}):
        with pytest.raises(expected, match=says):
            call()


@pytest.mark.parametrize("seconds", [None, math.inf, 10**400, 1e300, 10**12], ids=lambda value: f"{value!r:.8}")
def test_a_timeout_longer_than_a_life_is_none(seconds: Any) -> None:
    with served() as scene:
        client = scene.client.options(timeout=seconds)
        assert client.call("add", 1, 2) == 3
        assert list(client.stream("rows", 3)) == [0, 1, 2]
    zmqkit.Client(THERE, timeout=seconds)


@pytest.mark.parametrize("seconds", [0, -1, -math.inf, -(10**400), 1e-300], ids=lambda value: f"{value!r:.8}")
def test_a_timeout_of_nothing_is_over_before_anything_is_sent(seconds: Any) -> None:
    with served() as scene:
        with pytest.raises(zmqkit.NotSentInTime):
            scene.client.options(timeout=seconds).call("add", 1)
        scene.expect(calls_received=0)
        scene.finish()


def test_a_service_error_of_a_class_of_ones_own_arrives_whatever_it_holds() -> None:
    class Numbered(ServiceError):
        def __init__(self) -> None:
            super().__init__("odd")
            self.code = 404  # type: ignore[assignment]
            self.message = None  # type: ignore[assignment]

    server = service()

    @server.method
    def fail() -> None:
        raise Numbered

    with served(server) as scene:
        with pytest.raises(RemoteError) as caught:
            scene.client.call("fail")
        assert (caught.value.type, caught.value.code) == ("ServiceError", "404")
        scene.finish()


@pytest.mark.parametrize("verb", ["call", "submit", "upload"])
def test_a_call_that_is_interrupted_while_it_is_handed_over_is_cancelled(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it holds a handler until its time is out; one that waits for an upload for ever."""
    server, left = service(), threading.Event()

    @server.method
    def wait(items: Iterator[int]) -> None:
        try:
            list(items)
        finally:
            left.set()

    gate = threading.Event()
    server.method(name="hold")(lambda: gate.wait(PATIENCE_S))
    with served(server) as scene:
        kind: Any = type(scene.client._driver)
        submit = kind.submit

        def interrupted(driver: Any, fn: Any, *args: Any) -> None:
            submit(driver, fn, *args)
            if driver is scene.client._driver and getattr(fn, "__name__", "") == "call":
                monkeypatch.undo()
                raise KeyboardInterrupt

        monkeypatch.setattr(kind, "submit", interrupted)
        client = scene.client.options(timeout=None)
        with pytest.raises(KeyboardInterrupt):
            {
                "call": lambda: client.call("wait", iter([1])),
                "submit": lambda: client.submit("hold"),
                "upload": lambda: client.submit("wait", iter([1])),
            }[verb]()
        until(lambda: scene.client.stats()["calls_cancelled"] == 1)
        gate.set()
        until(lambda: not scene.server._executing)
        scene.finish()


def test_a_server_whose_event_loop_was_stopped_by_a_handler_is_not_deaf() -> None:
    server = service()

    @server.method
    async def stop() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(PATIENCE_S)

    with server, zmqkit.Client(server.addresses[0], timeout=PATIENCE_S) as client:
        running = threading.Thread(target=server.run)
        running.start()
        assert client.call("add", 1) == 1
        with pytest.raises(zmqkit.OutcomeUnknown, match="event loop ended"):
            client.call("stop")
        with pytest.raises(zmqkit.NotSent):
            client.options(timeout=0.2).call("add", 1)
        running.join(PATIENCE_S)
        assert not running.is_alive()
        assert server.closed
