"""The verbs of a device, over its three faces: threads, asyncio and trio."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio
import zmq

import zmqkit
from tests.devices.plainly import ANY, Ends, at, closing, received, stay_empty
from zmqkit import devices
from zmqkit.devices import aio
from zmqkit.errors import AddressInUse, Closed, InsecureAddress, UsageError
from zmqkit.options import Limits

Scenario = Callable[[Any], Awaitable[None]]

NAMES = ("Queue", "Forwarder", "Streamer", "Proxy")
OTHER_NAMES = {"__enter__": "__aenter__", "__exit__": "__aexit__"}
COROUTINES = {"open", "close", "run", "pause", "resume", "wait_for_peers"}


def run_sync(scenario: Scenario) -> None:
    asyncio.run(scenario(devices))  # type: ignore[arg-type]  # it is a coroutine


def run_asyncio(scenario: Scenario) -> None:
    asyncio.run(scenario(aio))  # type: ignore[arg-type]


def run_trio(scenario: Scenario) -> None:
    trio.run(scenario, aio)


over_all_faces = pytest.mark.parametrize("run", [run_sync, run_asyncio, run_trio], ids=["sync", "asyncio", "trio"])


async def done(what: Any) -> Any:
    """What a verb returned, whichever face it is of."""
    return await what if inspect.isawaitable(what) else what


@contextlib.asynccontextmanager
async def entered(device: Any) -> AsyncIterator[Any]:
    if hasattr(device, "__aenter__"):
        async with device:
            yield device
    else:
        with device:
            yield device


@over_all_faces
def test_a_device_opens_carries_pauses_resumes_counts_and_closes(run: Callable[[Scenario], None]) -> None:
    async def scenario(face: Any) -> None:
        device = face.Streamer(ANY, ANY, plain=True, name="jobs")
        assert device.stats() == {}
        assert device.addresses == ()
        async with entered(device):
            assert device.addresses == (*device.frontend_addresses, *device.backend_addresses)
            ends = at(device)
            with closing(ends):
                push, pull = ends.front(zmq.PUSH), ends.back(zmq.PULL)
                push.send_multipart([b"a", b""])
                assert received(pull) == [b"a", b""]
                await done(device.pause())
                assert (device.paused, device.stats()["paused"]) == (True, 1)
                for number in range(100):
                    push.send(b"%d" % number)
                assert stay_empty(pull)
                assert device.stats()["frontend_messages_received"] == 2  # frames, as libzmq counts
                await done(device.pause())
                await done(device.resume())
                assert (device.paused, device.stats()["paused"]) == (False, 0)
                assert [received(pull)[0] for _ in range(100)] == [b"%d" % number for number in range(100)]
                await done(device.resume())
                stats = device.stats()
        assert stats["frontend_messages_received"] == stats["backend_messages_sent"] == 102
        assert stats["frontend_bytes_received"] == stats["backend_bytes_sent"] == 1 + 190
        assert stats["backend_messages_received"] == stats["frontend_messages_sent"] == stats["sessions"] == 0
        assert device.closed
        assert device.stats() == stats  # as they were
        await done(device.close())

    run(scenario)


@over_all_faces
def test_requests_that_come_while_it_is_paused_are_answered_when_it_goes_on(run: Callable[[Scenario], None]) -> None:
    async def scenario(face: Any) -> None:
        async with entered(face.Queue(ANY, ANY, plain=True)) as device:
            ends = at(device)
            with closing(ends):
                worker, clients = ends.back(zmq.REP), [ends.front(zmq.REQ) for _ in range(20)]
                for round_ in range(3):
                    await done(device.pause())
                    for number, client in enumerate(clients):
                        client.send(b"%d" % number)
                    assert stay_empty(worker)
                    await done(device.resume())
                    for _ in clients:
                        worker.send_multipart([*received(worker), b"%d" % round_])
                    for number, client in enumerate(clients):
                        assert received(client) == [b"%d" % number, b"%d" % round_]

    run(scenario)


@over_all_faces
def test_run_ends_when_it_is_stopped_and_closes_the_device(run: Callable[[Scenario], None]) -> None:
    async def scenario(face: Any) -> None:
        device = face.Forwarder(ANY, ANY, plain=True)
        # Stopped from another thread, once it carries something.
        stopper = threading.Thread(target=stop_when_open, args=(device,))
        stopper.start()
        await done(device.run())
        stopper.join(10)
        assert device.closed
        device.stop()

    run(scenario)


def stop_when_open(device: Any) -> None:
    for _ in range(1000):
        if device.addresses:
            break
        threading.Event().wait(0.01)
    device.stop()


@pytest.mark.parametrize("run", [run_asyncio, run_trio], ids=["asyncio", "trio"])
def test_a_task_that_runs_a_device_can_be_cancelled_and_closes_it(run: Callable[[Scenario], None]) -> None:
    async def scenario(face: Any) -> None:
        device = face.Streamer(ANY, ANY, plain=True)
        await device.open()
        async with anyio.create_task_group() as group:
            group.start_soon(device.run)
            await anyio.wait_all_tasks_blocked()
            assert not device.closed
            group.cancel_scope.cancel()
        assert device.closed
        async with face.Streamer(*device.addresses, plain=True) as again:
            assert again.addresses == device.addresses

    run(scenario)


@over_all_faces
def test_who_stops_before_run_has_nothing_run(run: Callable[[Scenario], None]) -> None:
    async def scenario(face: Any) -> None:
        device = face.Queue(ANY, ANY, plain=True)
        device.stop()
        await done(device.run())
        assert device.closed

    run(scenario)


@over_all_faces
def test_a_closed_device_takes_no_verb(run: Callable[[Scenario], None]) -> None:
    async def scenario(face: Any) -> None:
        device = face.Queue(ANY, ANY, plain=True)
        await done(device.close())  # never opened
        for verb in (device.open, device.pause, device.resume, device.run, device.wait_for_peers):
            with pytest.raises(Closed, match="make a new one"):
                await done(verb())
        await done(device.close())
        assert "(closed)" in repr(device)

    run(scenario)


@over_all_faces
def test_a_device_whose_address_is_taken_can_be_opened_later(run: Callable[[Scenario], None]) -> None:
    async def scenario(face: Any) -> None:
        first = face.Streamer(ANY, ANY, plain=True)
        await done(first.open())
        second = face.Streamer(ANY, first.backend_addresses[0], plain=True)
        with pytest.raises(AddressInUse, match=first.backend_addresses[0]):
            await done(second.open())
        assert second.addresses == ()
        taken = first.backend_addresses
        await done(first.close())
        await done(second.open())
        assert second.backend_addresses == taken
        await done(second.close())

    run(scenario)


@over_all_faces
def test_plain_peers_cannot_be_waited_for(run: Callable[[Scenario], None]) -> None:
    async def scenario(face: Any) -> None:
        async with entered(face.Queue(ANY, ANY, plain=True)) as device:
            with pytest.raises(UsageError, match="there are no sessions"):
                await done(device.wait_for_peers(timeout=5))

    run(scenario)


@over_all_faces
def test_a_device_that_carries_zmqkit_waits_for_sessions(run: Callable[[Scenario], None]) -> None:
    async def scenario(face: Any) -> None:
        async with entered(face.Queue(ANY, ANY, plain=False)) as device:
            with pytest.raises(zmqkit.WaitTimeout, match=r"1 sessions did not come within 0.05 s: there are 0"):
                await done(device.wait_for_peers(timeout=0.05))
            with pytest.raises(TypeError, match="count"):
                await done(device.wait_for_peers("one"))

    run(scenario)


@over_all_faces
def test_it_can_be_steered_over_its_control_socket(run: Callable[[Scenario], None], tmp_path: Path) -> None:
    async def scenario(face: Any) -> None:
        device = face.Queue(ANY, ANY, plain=True, control=f"ipc://{tmp_path}/control", name="calls")
        await done(device.open())
        assert device.control_address == f"ipc://{tmp_path}/control"
        await anyio.to_thread.run_sync(steer, device.control_address)
        assert device.paused
        # It was told to end: run() does so at once.
        await done(device.run())
        assert device.closed

    run(scenario)


def steer(address: str) -> None:
    with zmqkit.Client(address) as client:
        (described,) = client.call("describe")
        assert (described["kind"], described["name"], described["carries"]) == ("queue", "calls", "plain")
        client.call("pause")
        (stats,) = client.call("stats")
        assert stats["paused"] == 1
        client.call("terminate")


def test_a_control_socket_that_cannot_be_opened_leaves_nothing_open(tmp_path: Path) -> None:
    with pytest.raises(InsecureAddress):
        devices.Queue(ANY, ANY, plain=True, control="tcp://*:5555")
    path = f"ipc://{tmp_path}/control"
    with devices.Queue(ANY, ANY, plain=True, control=path):
        second = devices.Queue(ANY, ANY, plain=True, control=path)
        with pytest.raises(AddressInUse):
            second.open()
        assert second.addresses == ()


def test_a_memory_of_a_dead_backend_is_bounded_and_nothing_is_lost() -> None:
    size, mark = 100_000, 10
    with devices.Streamer(ANY, ANY, plain=True, limits=Limits(queued_messages=mark)) as device:
        ends = at(device)
        with closing(ends):
            push = ends.front(zmq.PUSH, SNDHWM=mark, SNDTIMEO=300, SNDBUF=size)
            sent = 0
            with contextlib.suppress(zmq.Again):
                while sent < 1000:
                    push.send(b"%05d" % sent + bytes(size))
                    sent += 1
            # Two high-water marks, and what the kernel's buffers take of 100 KB messages.
            assert mark <= sent < 200
            pull = ends.back(zmq.PULL)
            assert [int(received(pull)[0][:5]) for _ in range(sent)] == list(range(sent))


def test_each_side_has_limits_of_its_own() -> None:
    small = devices.Side(bind=ANY, limits=Limits(frame_bytes=65536))
    with devices.Streamer(small, ANY, plain=True) as device:
        ends = at(device)
        with closing(ends):
            push, other, pull = ends.front(zmq.PUSH), ends.front(zmq.PUSH), ends.back(zmq.PULL)
            push.send(bytes(65537))  # who sends it is disconnected
            other.send(b"healthy")
            assert received(pull) == [b"healthy"]
            other.send(bytes(65536))
            assert received(pull) == [bytes(65536)]


def test_several_addresses_a_side_bound_and_connected_to(tmp_path: Path) -> None:
    with devices.Streamer(ANY, ANY, plain=True) as behind:
        front = [ANY, f"ipc://{tmp_path}/front", "inproc://front-of-several"]
        back = devices.Side(bind=[ANY, f"ipc://{tmp_path}/back"], connect=behind.frontend_addresses)
        with devices.Streamer(front, back, plain=True) as device:
            assert (len(device.frontend_addresses), len(device.backend_addresses)) == (3, 2)
            fronts = [Ends(address, behind.backend_addresses[0]) for address in device.frontend_addresses]
            backs = [Ends(device.frontend_addresses[0], address) for address in device.backend_addresses]
            with closing(*fronts, *backs):
                pushes = [each.front(zmq.PUSH) for each in fronts]
                pulls = [each.back(zmq.PULL) for each in (*backs, fronts[0])]
                seen: set[tuple[int, int]] = set()
                chooser = random.Random(1)  # in turn, each would meet the same one always
                for _ in range(1000):
                    source = chooser.randrange(3)
                    pushes[source].send(b"%d" % source)
                    for target, pull in enumerate(pulls):
                        while pull.poll(5):
                            seen.add((int(pull.recv()), target))
                    if len(seen) == 9:  # from each of three in front to each of three behind
                        break
                assert len(seen) == 9


def test_a_device_that_is_restarted_at_its_addresses_again_and_again_serves_clients_that_try_again() -> None:
    first = devices.Queue(ANY, ANY, plain=True).open()
    front, back = first.frontend_addresses[0], first.backend_addresses[0]
    ends = Ends(front, back)
    over = threading.Event()

    def restart() -> None:
        device = first
        for _ in range(4):
            over.wait(0.2)
            device.close(0)
            device = devices.Queue(front, back, plain=True).open()
        over.wait(30)
        device.close(0)

    def work(worker: zmq.Socket[bytes]) -> None:
        while not over.is_set():
            if worker.poll(50):
                worker.send_multipart(worker.recv_multipart())

    with closing(ends):
        worker = ends.back(zmq.ROUTER)
        client = ends.front(zmq.REQ, REQ_RELAXED=1, REQ_CORRELATE=1)
        threads = [threading.Thread(target=restart), threading.Thread(target=work, args=(worker,))]
        for thread in threads:
            thread.start()
        try:
            for number in range(400):
                for _ in range(50):  # ZeroMQ's lazy pirate
                    client.send(b"%d" % number)
                    if client.poll(300):
                        break
                assert received(client) == [b"%d" % number]
        finally:
            over.set()
            for thread in threads:
                thread.join(30)


def public(kind: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        found |= {name: value for name, value in vars(base).items() if not name.startswith("_") or name == "__init__"}
    return {name: value for name, value in found.items() if callable(value)}


@pytest.mark.parametrize("name", NAMES)
def test_both_faces_have_the_same_methods_parameters_and_defaults(name: str) -> None:
    sync, other = public(getattr(devices, name)), public(getattr(aio, name))
    assert sync.keys() == other.keys()
    for method, value in sync.items():
        mine, theirs = inspect.signature(value), inspect.signature(other[method])
        assert mine.parameters == theirs.parameters, method


@pytest.mark.parametrize("name", NAMES)
def test_what_waits_is_a_coroutine_in_the_async_face_and_only_there(name: str) -> None:
    waiting = {method for method, value in public(getattr(aio, name)).items() if inspect.iscoroutinefunction(value)}
    assert waiting == COROUTINES
    assert not [
        method for method, value in public(getattr(devices, name)).items() if inspect.iscoroutinefunction(value)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_each_public_name_says_what_it_is(name: str) -> None:
    for kind in (getattr(devices, name), getattr(aio, name)):
        assert kind.__doc__
        assert not [method for method, value in public(kind).items() if method != "__init__" and not value.__doc__]
        assert issubclass(kind, zmqkit.Peer if kind.__module__ != "zmqkit.devices.aio" else zmqkit.aio.Peer)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"plain": "yes"}, TypeError, "plain must be"),
        ({"heartbeat": 5}, TypeError, "heartbeat must be"),
        ({"limits": 5}, TypeError, "limits must be"),
        ({"control": 5}, TypeError, "control must be"),
        ({"insecure": 5}, TypeError, "insecure must be"),
        ({"name": "x" * 300}, ValueError, "name must be"),
        ({"linger": -1}, ValueError, "linger must be"),
        ({"capture": "x"}, TypeError, "unexpected keyword argument 'capture'"),
        ({"codec": "raw"}, TypeError, "unexpected keyword argument 'codec'"),
    ],
)
def test_a_keyword_that_is_wrong_is_refused_by_name(given: Any, error: type[Exception], words: str) -> None:
    for face in (devices, aio):
        with pytest.raises(error, match=words):
            face.Queue("inproc://a", "inproc://b", **given)


@pytest.mark.parametrize("types", ["ROUTER", ("ROUTER",), ("ROUTER", "DEALER", "PUB"), (1, 2), None, 1.5])
def test_a_proxy_of_no_two_kinds_is_refused(types: Any) -> None:
    with pytest.raises(TypeError, match="types must be two kinds of sockets"):
        devices.Proxy("inproc://a", "inproc://b", types=types)


def test_a_proxy_of_kinds_that_do_not_go_together_is_refused() -> None:
    with pytest.raises(UsageError, match="no plain device stands between PULL and PULL: it can be DEALER-DEALER, "):
        devices.Proxy("inproc://a", "inproc://b", types=("PULL", "PULL"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"frontend": "inproc://a"}, "has frontend= and backend= and no other side"),
        ({"frontend": "inproc://a", "backend": "inproc://b", "plain_frontend": "inproc://c"}, "no other side"),
        ({"frontend": "inproc://a", "backend": "inproc://b", "journal": "x.db", "plain": True}, "leave out plain="),
    ],
)
def test_a_streamer_with_sides_that_do_not_go_together_is_refused(given: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        devices.Streamer(**given)
