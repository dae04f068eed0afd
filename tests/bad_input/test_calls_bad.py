"""Calls that cannot be: each with its error and its counter, while an honest client beside makes its own."""

from __future__ import annotations

import concurrent.futures
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import zmqkit
from tests.bad_input.calls import Calls, served, service
from tests.bad_input.scenes import BEAT, LOCAL, until
from tests.bad_input.strangers import PATIENCE_S
from tests.reqrep.programs import square
from zmqkit import BadArguments, EncodeError, Limits, RemoteError, UnknownMethod, UsageError

SMALL = Limits(frame_bytes=65536 + 20_000, nesting=32)


def refused(scene: Calls, kind: type[zmqkit.Rejected], counter: str, call: Callable[[], object], says: str) -> None:
    """A call is refused by this error, and counted on both sides; nothing was executed."""
    before, executed = scene.count(counter), scene.count("calls_executed")
    mine = int(scene.client.stats()["calls_refused"])
    with pytest.raises(kind, match=says) as caught:
        call()
    assert type(caught.value) is kind
    assert (scene.count(counter), scene.count("calls_executed")) == (before + 1, executed)
    assert scene.client.stats()["calls_refused"] == mine + 1


@pytest.mark.parametrize(
    "name", ["ad", "Add", "add ", "add.x", "zmqkit.nothing", "__init__", "\0", "\u1234" * 200], ids=ascii
)
def test_a_method_that_is_not_there_is_refused_by_name(name: str) -> None:
    with served() as scene:
        for call in (lambda: scene.client.call(name), lambda: scene.client.submit(name, 1).result(PATIENCE_S),
                     lambda: next(scene.client.stream(name))):  # fmt: skip
            refused(scene, UnknownMethod, "calls_refused_method", call, r"nothing was executed.*methods\(\) lists")
        scene.finish()


@pytest.mark.parametrize("name", ["", "x" * 201, "\ud800", 5, None, b"add", ["add"]], ids=ascii)
def test_a_name_that_no_method_can_have_is_refused_where_it_is_given(name: Any) -> None:
    with served() as scene:
        sent = scene.client.stats()["calls_sent"]
        for verb in (scene.client.call, scene.client.submit, scene.client.stream):
            with pytest.raises((UsageError, TypeError, ValueError)):
                verb(name, 1)
        assert scene.client.stats()["calls_sent"] == sent
        scene.finish()


@pytest.mark.parametrize("id", ["", "x" * 1001, "\ud800", "\udfff" * 10, 5, None, b"id"], ids=ascii)
def test_a_request_id_that_cannot_travel_is_refused_where_it_is_given(id: Any) -> None:
    with served() as scene:
        with pytest.raises((TypeError, ValueError), match=r"^request_id "):
            scene.client.options(request_id=id)
        assert scene.client.options(request_id="\u1234 \0 \U0001f600").call("add", 1, 2) == 3
        scene.finish()


class Text(str):
    __slots__ = ()


def test_text_of_a_kind_of_its_own_is_text() -> None:
    with served() as scene:
        assert scene.client.options(request_id=Text("mine")).call(Text("add"), 1, 2) == 3
        scene.finish()


WRONG: dict[str, Callable[[Any], object]] = {
    "none": lambda client: client.call("add"),
    "too many": lambda client: client.call("add", 1, 2, 3),
    "another name": lambda client: client.call("add", 1, c=2),
    "twice": lambda client: client.call("add", 1, a=2),
    "an odd name": lambda client: client.call("add", 1, **{"\u1234 =;": 2}),
    "an upload of none": lambda client: client.call("add", 1, 2, iter([3])),
    "a stream of one": lambda client: next(client.stream("add", 1)),
    "one of a stream": lambda client: client.call("rows", 1),
}


@pytest.mark.parametrize("how", WRONG)
def test_arguments_that_do_not_fit_are_refused_before_anything_runs(how: str) -> None:
    with served() as scene:
        refused(scene, BadArguments, "calls_refused_arguments", lambda: WRONG[how](scene.client), r"add\(|rows\(")
        scene.finish()


@pytest.mark.parametrize(
    "value", [object(), {object(): 1}, "\ud800", [lambda: 1], 1 << 64, {1, object()}, b"x" * (80 << 20)],
    ids=["object", "key", "surrogate", "function", "integer", "set", "size"],
)  # fmt: skip
def test_an_argument_that_cannot_travel_is_refused_where_it_is_given(value: Any) -> None:
    with served() as scene:
        client, sent = scene.client, scene.client.stats()["calls_sent"]
        for call in (lambda: client.call("add", 1, value), lambda: client.call("add", a=1, b=value),
                     lambda: client.submit("add", value), lambda: client.stream("rows", value)):  # fmt: skip
            with pytest.raises(EncodeError):
                call()
        assert scene.client.stats()["calls_sent"] == sent
        scene.finish()


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def loop() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


RESULTS: dict[str, Callable[[], Any]] = {
    "an object": object,
    "a class": lambda: Exception,
    "a key that cannot travel": lambda: {(1, object()): 1},
    "half a surrogate pair": lambda: "\udc80",
    "too large an integer": lambda: 1 << 70,
    "too large": lambda: b"x" * 50_000,
    "too deep": lambda: nested(40),
    "itself": loop,
    "a generator": lambda: (n for n in range(3)),
    "a lock": threading.Lock,
    "an iterator": lambda: iter([1]),
}


@pytest.mark.parametrize("what", RESULTS)
def test_a_result_that_cannot_travel_is_told_and_was_executed(what: str) -> None:
    server = service(SMALL)
    server.method(name="bad")(RESULTS[what])

    @server.method
    def items() -> Iterator[Any]:
        yield 1
        yield RESULTS[what]()

    with served(server) as scene:
        executed = scene.count("calls_executed")
        with pytest.raises(RemoteError, match=r"bad\(\) was executed.*cannot travel") as caught:
            scene.client.call("bad")
        assert (caught.value.type, caught.value.code) == ("EncodeError", None)
        stream = scene.client.stream("items")
        assert next(stream) == 1
        with pytest.raises(RemoteError, match="an item cannot travel"):
            next(stream)
        scene.expect(calls_executed=executed + 2)
        scene.finish()


def test_a_result_larger_than_its_client_takes_is_told_and_was_executed() -> None:
    server = service()
    server.method(name="fill")(lambda size: b"x" * size)

    @server.method
    def fills(size: int) -> Iterator[bytes]:
        yield b"x" * size

    with (
        served(server) as scene,
        zmqkit.Client(server.addresses[0], heartbeat=BEAT, timeout=PATIENCE_S, limits=SMALL) as small,
    ):
        assert len(small.call("fill", 10_000)) == 10_000
        for size in (SMALL.frame_bytes, 1 << 20):
            with pytest.raises(RemoteError, match=r"more than the [0-9]+ that the client takes") as caught:
                small.call("fill", size)
            assert caught.value.type == "EncodeError"
            with pytest.raises(RemoteError, match=r"more than the [0-9]+ that the client takes"):
                next(small.stream("fills", size))
        assert len(small.call("fill", 10_000)) == 10_000
        assert small.stats()["links_lost"] == 0
        scene.finish()


def test_a_result_that_nests_deeper_than_its_client_reads_is_told_and_was_executed() -> None:
    """It came, and is a value: only this client does not read such ones."""
    server = service()
    server.method(name="deep")(lambda: nested(20))

    @server.method
    def deeps() -> Iterator[Any]:
        yield 1
        yield nested(20)
        yield 3

    flat = Limits(nesting=8)
    with (
        served(server) as scene,
        zmqkit.Client(server.addresses[0], heartbeat=BEAT, timeout=PATIENCE_S, limits=flat) as client,
    ):
        for call in (lambda: client.call("deep"), lambda: client.submit("deep").result(PATIENCE_S)):
            with pytest.raises(RemoteError, match=r"deep\(\) was executed.*its result cannot be read here") as caught:
                call()
            assert caught.value.type == "DecodeError"
        stream = client.stream("deeps")
        assert next(stream) == 1
        with pytest.raises(RemoteError, match=r"deeps\(\) .*an item .*cannot be read here"):
            next(stream)
        assert list(stream) == []
        assert client.call("add", 1, 2) == 3
        scene.finish()


class Textless(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class Leaving(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class Numeric(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class Odd(Exception):
    code = property(lambda self: 1 / 0)
    __traceback__ = None


class Base(BaseException):
    pass


def chain() -> Exception:
    error = ValueError("the last")
    for _ in range(500):
        another = ValueError("x")
        another.__context__ = error
        error = another
    return error


def circle() -> Exception:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    return one


ERRORS: dict[str, tuple[str, Callable[[], BaseException]]] = {
    "no text": ("Textless", Textless),
    "text that leaves": ("Leaving", Leaving),
    "text that is none": ("Numeric", Numeric),
    "half a surrogate pair": ("ValueError", lambda: ValueError("\udc80" * 100)),
    "a long text": ("ValueError", lambda: ValueError("x" * 10_000_000)),
    "a long name": ("x" * 197 + "...", lambda: type("x" * 5_000, (Exception,), {})()),
    "attributes that raise": ("Odd", Odd),
    "a long chain": ("ValueError", chain),
    "a circle": ("ValueError", circle),
    "a group": ("ExceptionGroup", lambda: ExceptionGroup("many", [ValueError(str(n)) for n in range(2_000)])),
    "a bare base": ("Base", Base),
    "leave": ("SystemExit", lambda: SystemExit(3)),
    "an interrupt": ("KeyboardInterrupt", KeyboardInterrupt),
    "a generator's end": ("GeneratorExit", GeneratorExit),
    "a stop": ("StopIteration", lambda: StopIteration(5)),
    "a service's data": ("ServiceError", lambda: zmqkit.ServiceError("odd", "data", object())),
    "a service's large data": ("ServiceError", lambda: zmqkit.ServiceError("odd", "data", b"x" * (1 << 20))),
    "a service's surrogates": ("ServiceError", lambda: zmqkit.ServiceError("\ud800", "\ud800", "\ud800")),
}


@pytest.mark.parametrize("what", ERRORS)
def test_an_exception_that_does_not_travel_arrives_as_what_can_be_said_of_it(what: str) -> None:
    kind, make = ERRORS[what]
    server = service(SMALL)

    @server.method
    def fail() -> None:
        raise make()

    @server.method
    def fails() -> Iterator[int]:
        yield 1
        if isinstance(error := make(), StopIteration):
            raise RuntimeError
        raise error

    @server.method
    async def later() -> None:
        error = make()
        if isinstance(error, StopIteration):
            error = ValueError()
        raise error

    with served(server) as scene:
        executed = scene.count("calls_executed")
        with pytest.raises(RemoteError, match=r"fail\(\) was executed") as caught:
            scene.client.call("fail")
        assert caught.value.type == kind
        assert len(str(caught.value)) < 10_000
        stream = scene.client.stream("fails")
        assert next(stream) == 1
        with pytest.raises(RemoteError):
            next(stream)
        with pytest.raises(RemoteError):
            scene.client.call("later")
        scene.expect(calls_executed=executed + 3)
        scene.finish()


def test_a_server_that_is_closed_at_once_tells_of_running_handlers_only_if_there_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with served() as scene:
        scene.finish()
        scene.server.close(0)
        assert "still ran" not in caplog.text
    go_on = threading.Event()
    server = service()
    server.method(name="wait")(lambda: go_on.wait(PATIENCE_S))
    with served(server) as scene:
        reply = scene.client.submit("wait")
        until(lambda: scene.server._executing)
        scene.server.close(0)
        assert "1 handlers still ran" in caplog.text
        assert type(reply.exception(PATIENCE_S)) is zmqkit.OutcomeUnknown
        go_on.set()


def test_a_server_that_is_closed_amid_streams_lays_that_on_no_handler(caplog: pytest.LogCaptureFixture) -> None:
    server = service()

    @server.method
    async def later() -> AsyncIterator[int]:
        for n in itertools.count():
            yield n

    def slowly() -> Iterator[int]:
        yield 1
        time.sleep(0.5)

    with served(server) as scene:
        streams = [scene.client.stream("rows", 1000), scene.client.stream("later")]
        assert [next(each) for each in streams] == [0, 0]
        upload = scene.client.submit("total", slowly())
        until(lambda: len(scene.server._executing) == 2 and scene.count("items_received") == 1)
        scene.server.close(0)
        for each in streams:
            with pytest.raises(zmqkit.StreamBroken):
                list(each)
        assert isinstance(upload.exception(PATIENCE_S), zmqkit.OutcomeUnknown)
        until(lambda: not scene.server._executing)
        assert "raised" not in caplog.text


def test_an_executor_that_was_shut_down_executes_nothing_and_that_is_said() -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        server = zmqkit.Server(LOCAL, executor=executor)
        server.method(square)
        with server, zmqkit.Client(server.addresses[0], timeout=PATIENCE_S) as client:
            assert client.call("square", 3) == 9
            executor.shutdown()
            for _ in range(3):
                with pytest.raises(zmqkit.Rejected, match=r"takes no more calls.*nothing was executed") as caught:
                    client.call("square", 3)
                assert caught.value.code == "executor"
            assert server.stats()["calls_refused_executor"] == 3


def test_a_thousand_bad_calls_at_once_are_each_refused_as_what_they_are() -> None:
    with served() as scene:
        replies: list[tuple[type[zmqkit.CallError], Any]] = []
        for number in range(334):
            replies.append((UnknownMethod, scene.client.submit(f"none{number}")))
            replies.append((BadArguments, scene.client.submit("add")))
            replies.append((RemoteError, scene.client.submit("add", {}, number)))
        for kind, reply in replies:
            assert type(reply.exception(PATIENCE_S)) is kind
        until(lambda: scene.count("calls_executed") == 334)
        scene.expect(calls_refused_method=334, calls_refused_arguments=334)
        scene.finish()


def test_many_may_wait_for_results_and_none_is_forgotten(tmp_path: Path) -> None:
    """Whoever waits when the last one is taken by another has nothing more to wait for."""
    go_on = threading.Event()
    server = service()
    server.method(name="hold")(lambda n: go_on.wait(PATIENCE_S) and n)
    got: list[int] = []
    with served(server) as scene, zmqkit.Client(server.addresses[0], timeout=0.05, journal=tmp_path / "c.db") as client:
        durable = client.options(durable=True)
        for n in range(5):
            with pytest.raises(zmqkit.NoReplyInTime):
                durable.call("hold", n)
        waiting = [
            threading.Thread(target=lambda: got.extend(each.result() for each in client.results())) for _ in range(8)
        ]
        for each in waiting:
            each.start()
        go_on.set()
        for each in waiting:
            each.join(PATIENCE_S)
        assert not any(each.is_alive() for each in waiting)
        assert sorted(got) == list(range(5))
        scene.finish()
