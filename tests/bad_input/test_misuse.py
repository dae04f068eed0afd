"""Calls that cannot be carried out: refused where they are made, by a typed error, and nothing happened."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import logging
import math
import socket
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import zmqkit
import zmqkit.devices
from tests.bad_input.scenes import BEAT, LOCAL, bound_pusher, until
from tests.bad_input.strangers import PATIENCE_S
from zmqkit import (
    AddressError,
    AddressInUse,
    AlreadySettled,
    Backoff,
    Closed,
    DiscoveryError,
    EncodeError,
    Full,
    Heartbeat,
    InsecureAddress,
    Limits,
    Outgoing,
    PartlySent,
    Puller,
    Pusher,
    Retry,
    UsageError,
    WaitTimeout,
    Worker,
)
from zmqkit.events import Event, JobDead

NAN = math.nan


def io_threads() -> int:
    return sum(thread.name.startswith("zmqkit-") for thread in threading.enumerate())


# ---- addresses --------------------------------------------------------------------------------


ADDRESSES = [
    "", "x", "127.0.0.1:5555", "tcp://", "tcp://host", "tcp://:5", "tcp://1.2.3.4.5:1", "tcp://127.0.0.300:1",
    "tcp://127.0.0.1:99999", "tcp://127.0.0.1:-1", "tcp://127.0.0.1:http", "tcp://[::1:5", "tcp://::1:5",
    "tcp://127.0.0.1:5 5", "http://a:1", "udp://127.0.0.1:1", "ipc://", "ipc://" + "x" * 200, "inproc://a b",
    "zeroconf://", "zeroconf://a/b", "env://", "env://1 2", "static://", "static://a", "static://a:1,,b:2",
    "static://zeroconf://x", "tcp://\0:1", None, 5, b"tcp://127.0.0.1:1", 1.5, ["tcp://a:1"],
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES, ids=repr)
@pytest.mark.parametrize("side", ["bind", "connect"])
def test_what_is_no_address_is_named_with_the_forms_that_are(address: Any, side: Any) -> None:
    before = io_threads()
    options: dict[str, Any] = {side: [address]}
    for kind in (Pusher, Puller):
        with pytest.raises(AddressError, match=r"tcp://HOST:PORT|use a shorter one|ipc:///tmp/NAME") as caught:
            kind(**options)
        assert isinstance(caught.value, ValueError)
        assert repr(address)[:40].strip("'")[:20] in str(caught.value)
    assert io_threads() == before


@pytest.mark.parametrize(
    ("address", "match"),
    [
        ("tcp://*:5555", "name a host"),
        ("tcp://0.0.0.0:5555", "name a host"),
        ("tcp://[::]:5555", "name a host"),
        ("tcp://127.0.0.1:0", "name a port"),
        ("tcp://127.0.0.1:*", "name a port"),
        ("static://127.0.0.1:5555,127.0.0.1:0", "name a port"),
    ],
)
def test_what_can_only_be_bound_is_not_connected_to(address: str, match: str) -> None:
    with pytest.raises(UsageError, match=f"nobody can connect to it: {match}"):
        Puller(address)


def test_a_peer_without_an_address_is_told_what_one_looks_like() -> None:
    with pytest.raises(UsageError, match=r"needs an address, as in tcp://127\.0\.0\.1:5557"):
        Pusher()


def test_a_taken_port_is_refused_and_the_holder_goes_on() -> None:
    with bound_pusher() as scene:
        taken = scene.push.addresses[0]
        for kind in (Pusher(taken), Puller[Any](bind=taken)):
            with pytest.raises(AddressInUse, match="the address is in use; choose another port") as caught:
                kind.open()
            assert isinstance(caught.value, OSError)
            assert kind.addresses == ()
        scene.finish()
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(AddressInUse):
        Pusher(f"tcp://127.0.0.1:{other.getsockname()[1]}").open()


def test_a_port_that_is_free_again_can_be_bound_by_the_very_object_that_was_refused() -> None:
    with Pusher(LOCAL, linger=0) as first:
        address = first.addresses[0]
        second = Pusher(address, linger=0)
        with pytest.raises(AddressInUse, match=r"choose another port, or \* for a free one"):
            second.open()
    with second:
        assert second.addresses == (address,)


@pytest.mark.parametrize(
    "address", ["tcp://*:*", "tcp://0.0.0.0:0", "tcp://[::]:*", "tcp://192.0.2.1:5", "tcp://example:5"]
)
def test_beyond_this_host_nothing_is_bound_without_saying_so(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InsecureAddress, match=r"insecure=True \(or ZMQKIT_INSECURE=1\)"):
        Puller(bind=address)
    Puller(bind=address, insecure=True)
    monkeypatch.setenv("ZMQKIT_INSECURE", "1")
    Puller(bind=address)
    monkeypatch.setenv("ZMQKIT_INSECURE", "yes")
    with pytest.raises(InsecureAddress):
        Puller(bind=address)


def test_beyond_this_host_nothing_is_dialled_without_saying_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("tcp://192.0.2.1:5", "tcp://example.com:5", "static://127.0.0.1:5,192.0.2.1:5"):
        with pytest.raises(InsecureAddress):
            Puller(address)
        Puller(address, insecure=True)
    monkeypatch.setenv("JOBS", "tcp://192.0.2.1:5")
    with Puller[Any]("env://JOBS", LOCAL.replace("*", "9")) as pull:  # what was found and is not allowed is left out
        assert pull.stats()["io_connections"] == 0


def test_a_wildcard_that_was_allowed_works() -> None:
    with Pusher("tcp://0.0.0.0:*", insecure=True, linger=0) as push:
        port = push.addresses[0].rpartition(":")[2]
        with Puller[Any](f"tcp://127.0.0.1:{port}") as pull:
            push.send("x")
            job = pull.receive(PATIENCE_S)
            assert job is not None
            job.ack(wait=True)


@pytest.mark.parametrize("name", ["", "bad name", "bad_name", "-x", "x-", "x" * 64, "ümlaut", "a.b", "a/b", "\0"])
def test_a_name_that_cannot_be_announced_is_refused_with_one_that_can(name: str) -> None:
    with pytest.raises(DiscoveryError, match=r"cannot be announced or looked up: .*'[a-z0-9-]+' would do"):
        Pusher(announce=name).open()


def test_names_that_contradict_each_other_and_variables_that_are_not_set_are_named() -> None:
    with pytest.raises(UsageError, match="are two names for one peer: choose one"):
        Pusher("zeroconf://a", announce="b")
    for make in (Pusher, Puller):
        with pytest.raises(DiscoveryError, match="NOT_SET_AT_ALL is not set; set it to one or several addresses"):
            make("env://NOT_SET_AT_ALL").open()


# ---- settings --------------------------------------------------------------------------------


THERE = "tcp://127.0.0.1:9"


def refused(kind: type[Exception], make: Callable[..., object], name: str, *values: object) -> list[Any]:
    """Each of these values of one setting is refused with this exception."""
    return [pytest.param(kind, make, {name: value}, id=f"{name}={value!r:.20}") for value in values]


def a_pusher(**options: Any) -> object:
    return Pusher(LOCAL, **options)


def a_puller(**options: Any) -> object:
    return Puller(THERE, **options)


def a_worker(handler: Any = print, **options: Any) -> object:
    return Worker(handler, **{"source": THERE, "sink": THERE, **options})


SETTINGS = [
    *refused(ValueError, a_puller, "prefetch", 0, -1, 1.5, "5", 100_001, 2**70),
    *refused(ValueError, a_puller, "max_lease", 0, -1, NAN, math.inf, 1e9),
    *refused(ValueError, a_puller, "on_error", "", "ignore", None),
    *refused(ValueError, a_pusher, "max_failures", 0, -1, 1.5, "5"),
    *refused(ValueError, a_pusher, "max_waiting", 0, -1, 1.5, "5"),
    *refused(ValueError, a_pusher, "linger", -1, NAN, -math.inf),
    *refused(ValueError, a_pusher, "durability", "", "disk", None, 1),
    *refused(UsageError, a_pusher, "codec", "", "pickle", "MSGPACK", None, 5),
    *refused(ValueError, a_pusher, "name", "x" * 201, "\ud800", "a\nb", "\0"),
    *refused(TypeError, a_pusher, "name", 5, b"name"),
    *refused(TypeError, a_pusher, "announce", 5),
    *refused(TypeError, a_pusher, "heartbeat", 1.0, "fast"),
    *refused(TypeError, a_pusher, "limits", 5, {"nesting": 3}),
    *refused(TypeError, a_pusher, "backoff", 3, 0.1),
    *refused(TypeError, a_pusher, "nonsense", 1),
    *refused(TypeError, a_pusher, "prefetch", 1),
    *refused(ValueError, Heartbeat, "interval", 0, -1, NAN, math.inf, 1e-300, 1e300, 0.0001, 3601),
    *refused(ValueError, Heartbeat, "liveness", 0, -1, 1.5, 1001),
    *refused(ValueError, Backoff, "first", 0, NAN, -1),
    *refused(ValueError, Backoff, "factor", 0.5, math.inf),
    *refused(ValueError, Backoff, "cap", -1, math.inf),
    *refused(ValueError, Limits, "frame_bytes", 0, 65535, 2**62, 1e6),
    *refused(ValueError, Limits, "nesting", 0, 501),
    *refused(ValueError, Limits, "queued_messages", 0, 1.5),
    *refused(ValueError, Limits, "queued_bytes", -1, 2**70),
    *refused(ValueError, Retry, "delay", -1, NAN, math.inf, 1e9),
    *refused(UsageError, a_worker, "handler", None, 5),
    *refused(UsageError, a_worker, "bind", LOCAL),
    *refused(ValueError, a_worker, "threads", 0, -1),
    *refused(ValueError, a_worker, "batch", 0, -1),
    *refused(AddressError, a_worker, "source", "nowhere"),
]


@pytest.mark.parametrize(("expected", "make", "options"), SETTINGS)
def test_settings_that_cannot_work_are_refused_when_they_are_made(
    expected: type[Exception], make: Callable[..., object], options: dict[str, object]
) -> None:
    before = io_threads()
    with pytest.raises(expected):
        make(**options)
    assert io_threads() == before


def test_making_and_never_opening_does_nothing(tmp_path: Path) -> None:
    before = io_threads()
    push = Pusher(LOCAL, journal=tmp_path / "nowhere" / "jobs.db", announce="somebody")
    assert (push.addresses, push.stats(), push.closed) == ((), {}, False)
    push.close()
    push.close()
    assert push.closed
    assert io_threads() == before
    assert list(tmp_path.iterdir()) == []


# ---- bodies and headers ---------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: int


BODIES: list[tuple[object, str]] = [
    (object(), r"body is of type object"),
    ({1, 2}, r"body is of type set, .*send a list"),
    ({"when": object()}, r'body\["when"\] is of type object'),
    ([1, [2, {"x": 1j}]], r'body\[1\]\[1\]\["x"\] is of type complex'),
    ({"at": datetime.datetime(2026, 1, 1)}, r'body\["at"\] is a datetime without a time zone'),
    ([datetime.date(2026, 1, 1)], r"body\[0\] is of type datetime.date, .*isoformat"),
    ({"id": uuid.uuid4()}, r'body\["id"\] is of type uuid.UUID, .*send str\(it\)'),
    (decimal.Decimal(1), r"body is of type decimal.Decimal, .*send str\(it\)"),
    (2**64, r"body is an int of more than 64 bits, .*send str\(it\)"),
    (-(2**63) - 1, r"body is an int of more than 64 bits"),
    ("\ud800", r"body is a str with half of a surrogate pair"),
    ({"\udcff": 1}, r"body \(the key"),
    ({object(): 1}, r"body \(the key"),
    (Colour.RED, r"Colour, .*send its .value"),
    (Point(1), r"Point, .*send dataclasses.asdict\(it\)"),
    (print, r"body is of type builtin_function_or_method"),
    ([[]] * 5 + [{"a": {"b": {3: {4: {"c": set()}}}}}], r'body\[5\]\["a"\]\["b"\]\[3\]\[4\]\["c"\] is of'),
]  # fmt: skip


@pytest.mark.parametrize(("body", "match"), BODIES, ids=[str(number) for number in range(len(BODIES))])
def test_a_body_that_cannot_travel_is_named_by_its_place(body: object, match: str) -> None:
    with bound_pusher() as scene:
        for send in (scene.push.send, scene.push.send_nowait):
            with pytest.raises(EncodeError, match=match) as caught:
                send(body)
            assert isinstance(caught.value, TypeError)
        with pytest.raises(PartlySent) as partly:
            scene.push.send_many(["first", body, "last"])
        cause = partly.value.__cause__
        assert isinstance(cause, EncodeError)
        assert cause.index == 1
        assert partly.value.confirmed == 0
        scene.expect(sent=0, waiting=0)
        scene.finish()


def test_a_body_that_holds_itself_and_one_that_is_too_large_are_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with Pusher(LOCAL, linger=0, limits=Limits(frame_bytes=200_000)) as push:
        with pytest.raises(EncodeError, match="nests deeper than 32: flatten it, or raise Limits"):
            push.send(loop)
        with pytest.raises(EncodeError, match=r"takes 150\d\d\d bytes, more than the 134464 that fit into a frame"):
            push.send(b"x" * 150_000)
        for codec, body, match in (
            ("json", {1: 2}, "JSON has only strings as keys"),
            ("json", {"a": [NAN]}, r'body\["a"\]\[0\] is nan, which JSON does not have'),
            ("json", b"bytes", "which JSON cannot carry"),
            ("raw", "text", 'the codec "raw" takes bytes'),
        ):
            with Pusher(LOCAL, codec=codec, linger=0) as other, pytest.raises(EncodeError, match=match):
                other.send(body)


HEADERS: list[tuple[Any, str]] = [
    ({"a": 1}, "headers go from text to text, got 'a': 1"),
    ({1: "a"}, "headers go from text to text, got 1: 'a'"),
    ({"a": b"b"}, "headers go from text to text"),
    ({"a": None}, "headers go from text to text"),
    ({"zmqkit-id": "x"}, "names beginning with 'zmqkit-' are reserved, got 'zmqkit-id'"),
    ({"a": "x" * 8192}, "headers of 8193 bytes; at most 8192 are allowed: put data into the body"),
    ({"ü" * 2000: "ü" * 2097}, "headers of 8194 bytes"),
    ({"\ud800": "x"}, "is not text that can be encoded"),
    ({"x": "\udfff"}, "is not text that can be encoded"),
    ([("a", "b")], "headers are a mapping"),
    ("ab", "headers are a mapping"),
    (5, "headers are a mapping"),
]


@pytest.mark.parametrize(("headers", "match"), HEADERS, ids=[str(number) for number in range(len(HEADERS))])
def test_headers_that_cannot_travel_are_refused_by_name(headers: Any, match: str) -> None:
    with bound_pusher() as scene:
        for send in (scene.push.send, scene.push.send_nowait):
            with pytest.raises(EncodeError, match=match):
                send("x", headers=headers)
        with pytest.raises(PartlySent, match=match) as caught:
            scene.push.send_many([Outgoing("x", headers=headers)])
        assert isinstance(caught.value.__cause__, EncodeError)
        scene.expect(sent=0)
        scene.push.send("x", headers={"a": "x" * 8191})
        job = scene.pull.receive(PATIENCE_S)
        assert job is not None
        assert job.headers == {"a": "x" * 8191}
        job.ack()
        scene.finish()


# ---- times ----------------------------------------------------------------------------------


def test_a_timeout_that_is_no_number_is_refused_before_anything_is_done() -> None:
    with bound_pusher() as scene:
        push, pull = scene.push, scene.pull
        verbs: list[Callable[[Any], object]] = [
            lambda t: push.send("x", timeout=t),
            lambda t: push.flush(t),
            lambda t: push.wait_for_peers(1, timeout=t),
            lambda t: pull.wait_for_peers(1, timeout=t),
            lambda t: pull.receive(t),
            lambda t: push.close(t),
            lambda t: pull.close(t),
            lambda t: push.send_many(["x"], timeout=t),
        ]
        for verb in verbs:
            with pytest.raises(ValueError, match="a number of seconds, or None, got nan"):
                verb(NAN)
            with pytest.raises(TypeError):
                verb("soon")
        scene.expect(sent=0)
        scene.finish()


def test_a_time_that_is_out_is_out_at_once() -> None:
    with Pusher(LOCAL, max_waiting=1, linger=0) as push:
        receipt = push.send("x")
        for timeout in (0, -1, -math.inf):
            with pytest.raises(Full):
                push.send("y", timeout=timeout)
            with pytest.raises(WaitTimeout, match="1 message is not settled"):
                push.flush(timeout)
            with pytest.raises(WaitTimeout):
                receipt.wait(timeout=timeout)
            with pytest.raises(WaitTimeout, match=r"1 peer did not come within .*: nobody came to tcp:"):
                push.wait_for_peers(1, timeout=timeout)
        with pytest.raises(Full):
            push.send_nowait("y")
        with Puller[Any](push.addresses[0]) as pull:
            job: Any = pull.receive(math.inf)
            assert (job.body, pull.receive(0), pull.receive(-5)) == ("x", None, None)
            job.ack()
            push.flush(math.inf)
            push.send("z", timeout=1e300)
            pull.receive().ack()
            push.flush(PATIENCE_S)


def test_points_batches_and_handlers_that_cannot_be_are_refused() -> None:
    with bound_pusher() as scene:
        push, pull = scene.push, scene.pull
        refused: list[tuple[type[Exception], Callable[[], object]]] = [
            (ValueError, lambda: push.flush(until="soon")),  # type: ignore[arg-type]
            (ValueError, lambda: pull.batches(0)),
            (ValueError, lambda: pull.batches(-1)),
            (ValueError, lambda: pull.batches(1, -1)),
            (ValueError, lambda: pull.batches(1, NAN)),
            (ValueError, lambda: pull.run(print, threads=0)),
            (ValueError, lambda: pull.run(print, batch=0)),
            (UsageError, lambda: pull.run(None)),  # type: ignore[arg-type]
            (UsageError, lambda: pull.run(coroutine)),
            (TypeError, lambda: push.send_many(5)),  # type: ignore[arg-type]
        ]
        for expected, call in refused:
            with pytest.raises(expected):
                call()
        scene.finish()


async def coroutine(body: object) -> None:
    """Not for threads."""


# ---- settling -------------------------------------------------------------------------------


def test_settling_that_cannot_be_is_refused_and_leaves_the_job_as_it_was() -> None:
    with bound_pusher() as scene:
        scene.push.send("x")
        job: Any = scene.pull.receive(PATIENCE_S)
        for delay in (-1, NAN, math.inf, 1e9):
            with pytest.raises(ValueError, match="delay must be 0 or more seconds"):
                job.nack(delay=delay)
        with pytest.raises(TypeError):
            job.nack(delay="soon")
        for reason in (5, b"why", ["because"]):
            with pytest.raises(TypeError, match="reason must be text"):
                job.nack(reason=reason)
            with pytest.raises(TypeError, match="reason must be text"):
                job.reject(reason)
        assert job.outcome is None
        job.ack(wait=True)
        for again in (job.ack, job.nack, job.release, lambda: job.reject("late"), lambda: job.ack(wait=True)):
            with pytest.raises(AlreadySettled, match="was acked before: the first outcome counts"):
                again()
        scene.expect(acked=1)
        scene.finish()


def test_reasons_that_no_frame_carries_arrive_in_another_form() -> None:
    """What an exception says may hold halves of surrogate pairs, of a file's name say, or be of any length."""
    with bound_pusher() as scene:
        for reason in ("no file \udcff.txt", "x" * 5000, "\U0001f600" * 5000, "\0", "\ud83d" * 3000):
            scene.push.send("x")
            job = scene.pull.receive(PATIENCE_S)
            assert job is not None
            with job:
                raise zmqkit.Reject(reason)
        scene.push.flush(PATIENCE_S)
        scene.expect(dead=5)
        assert scene.pull.stats()["io_core_errors"] == 0
        reasons = [event.reason for event in scene.told(JobDead, 5)]
        assert reasons[0] == "no file \\udcff.txt"
        assert max(map(len, reasons)) == 2000
        scene.finish()


def test_a_burst_of_failures_with_long_tracebacks_is_told_whole() -> None:
    """Together they are larger than a message of the pipeline may be."""
    with bound_pusher(max_failures=1) as scene:
        scene.push.send_many(range(256))
        jobs = [scene.pull.receive(PATIENCE_S) for _ in range(256)]

        def settle(now: float) -> None:  # in one turn
            for job in jobs:
                assert job is not None
                core.settle(job._parcel, job._index, 1, None, "no", "\U0001f600" * 20_000, now)

        core = scene.pull._core
        assert scene.pull._driver is not None
        scene.pull._driver.submit(settle)
        scene.push.flush(PATIENCE_S)
        scene.expect(dead=256, frames_bad=0, failed=256)
        scene.finish()


# ---- after the end --------------------------------------------------------------------------


def test_every_use_of_a_closed_peer_says_so_and_closing_again_is_harmless() -> None:
    push, pull = Pusher(LOCAL, heartbeat=BEAT).open(), Puller[Any](bind=LOCAL).open()
    with Puller[Any](push.addresses[0]) as taker:
        receipt = push.send("x")
        job = taker.receive(PATIENCE_S)
        assert job is not None
        late = push.send("y")
        held = taker.receive(PATIENCE_S)
        assert held is not None
        job.ack(wait=True)
    with pytest.raises(zmqkit.Unsettled):
        push.close(0)
    for _ in range(3):
        push.close()
        pull.close()
        pull.close(0)
    assert push.closed
    assert pull.closed
    uses: list[Callable[[], object]] = [
        push.open, lambda: push.send("x"), lambda: push.send_nowait("x"), lambda: push.send_many(["x"]), push.flush,
        push.wait_for_peers, push.__enter__, pull.open, pull.receive, lambda: pull.receive(0), pull.wait_for_peers,
        lambda: late.wait(), held.ack, held.nack, held.release, lambda: held.reject("late"),
        lambda: held.ack(wait=True),
    ]  # fmt: skip
    for use in uses:
        with pytest.raises((Closed, PartlySent)) as caught:
            use()
        assert isinstance(caught.value, Closed) or isinstance(caught.value.__cause__, Closed)
    assert held.outcome is None
    assert push.stats()["sent"] == 2
    assert repr(push).endswith("(closed)>")
    assert receipt.id
    push.stop()
    pull.stop()


def test_a_closed_peer_gives_its_port_back() -> None:
    with Pusher(LOCAL, linger=0) as push:
        address = push.addresses[0]
    with bound_pusher() as scene:
        with Pusher(address, linger=0) as again:
            assert again.addresses == (address,)
        scene.finish()


def test_a_callback_that_raises_spoils_nothing() -> None:
    with bound_pusher() as scene:

        def explode(event: object) -> None:
            raise RuntimeError("in a callback")

        scene.push.on(Event, explode)
        scene.pull.on(Event, explode)
        scene.push.send("x")
        job = scene.pull.receive(PATIENCE_S)
        assert job is not None
        job.reject("for the sake of an event")
        until(lambda: scene.count("io_callback_errors") >= 1)
        scene.finish()


@pytest.mark.parametrize(("event", "callback"), [("JobDead", print), (int, print), (None, print), (JobDead, None)])
def test_a_callback_that_cannot_work_is_refused_and_not_met_by_the_io_thread(event: Any, callback: Any) -> None:
    with zmqkit.Pusher(LOCAL, linger=0) as push:
        with pytest.raises(TypeError):
            push.on(event, callback)
        with pytest.raises(TypeError):
            zmqkit.on(event, callback)
        push.send("still there", timeout=PATIENCE_S)
        with zmqkit.Puller[Any](push.addresses[0]) as pull:
            job = pull.receive(PATIENCE_S)
            assert job is not None
            job.ack(wait=True)


@pytest.mark.parametrize("count", ["1", None, [], 1.5])
def test_a_count_of_peers_that_is_none_is_refused_here_and_not_in_the_io_thread(count: Any) -> None:
    with zmqkit.Pusher(LOCAL, linger=0) as push:
        with pytest.raises(TypeError, match="count must be a whole number"):
            push.wait_for_peers(count, timeout=PATIENCE_S)
        assert push.stats()["io_core_errors"] == 0


@pytest.mark.parametrize("timeout", ["1", [], math.nan, 10**400])
def test_a_reply_that_is_asked_for_with_nonsense_is_still_there(timeout: Any) -> None:
    server = zmqkit.Server(LOCAL)

    @server.method
    def seven() -> int:
        return 7

    with server, zmqkit.Client(server.addresses[0]) as client:
        reply = client.submit("seven")
        with pytest.raises((TypeError, ValueError), match="timeout must be"):
            reply.result(timeout)
        assert reply.result(30) == 7


@pytest.mark.parametrize("linger", [3e6, 1e10, math.inf])
def test_who_would_wait_for_years_may_close(linger: float, caplog: pytest.LogCaptureFixture) -> None:
    makers = (zmqkit.Publisher, zmqkit.Server, functools.partial(zmqkit.devices.Queue, LOCAL))
    for made in (maker(LOCAL, linger=linger) for maker in makers):
        with made:
            pass
    with zmqkit.Publisher(LOCAL) as pub:
        pub.close(linger)
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]
