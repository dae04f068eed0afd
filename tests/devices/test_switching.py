"""The engine of the learning switch, between real peers: every topology, devices that end and come back, bad input."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import pytest
import zmq

import zmqkit
from zmqkit.devices.sides import Side
from zmqkit.devices.switching import SwitchEngine
from zmqkit.errors import AddressInUse, UsageError
from zmqkit.events import BadFrame, Event, PeerRefused
from zmqkit.protocol import wire

PATIENCE_S = 30.0
BEAT = zmqkit.Heartbeat(interval=0.5, liveness=20)
"""Patient: devices are away more often here than connections are dialled anew."""
ANY = "tcp://127.0.0.1:*"

Topology = Literal["dialled", "dialling"]
TOPOLOGIES: tuple[Topology, ...] = ("dialled", "dialling")
"""How acceptors are reached: the switch dials them, or they dial it."""


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        pause.wait(0.005)


def until_all_answer(client: zmqkit.Client, names: tuple[str, ...]) -> None:
    """Ask until each of these servers was asked."""
    found: set[str] = set()

    def ask() -> bool:
        found.add(client.call("who"))
        return found == set(names)

    until(ask, "a server that is never asked")


@contextmanager
def switch(
    frontend: Side, backend: Side, roles: tuple[str, str] = ("client", "server"), **more: Any
) -> Iterator[SwitchEngine]:
    """One engine, open."""
    engine = SwitchEngine(name="between", frontend=frontend, backend=backend, roles=roles, heartbeat=BEAT, **more)
    engine.open()
    try:
        yield engine
    finally:
        engine.close(1.0)


@contextmanager
def serving(name: str, *at: str, **more: Any) -> Iterator[zmqkit.Server]:
    """A server in a thread of its own. Its method tells its name; another how often it was called with a number."""
    server = zmqkit.Server(*at, name=name, heartbeat=BEAT, **more)
    seen: list[int] = []

    @server.method(idempotent=True)
    def who() -> str:
        return name

    @server.method
    def count(number: int) -> int:
        seen.append(number)
        return seen.count(number)

    server.open()
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(PATIENCE_S)
        server.close(2.0)
        assert not thread.is_alive()


def resumed(peer: Any) -> int:
    """How many sessions of a peer, or ways of a switch, were gone on with."""
    return int(peer.stats()["sessions_resumed"])


class Path:
    """One switch, or two in a row, between clients and servers; any of them can be ended and opened anew."""

    def __init__(self, stack: ExitStack, topology: Topology, switches: int, roles: tuple[str, str]) -> None:
        self.stack = stack
        self.topology = topology
        self.roles = roles
        self.sides: list[tuple[Side, Side]] = []
        self.engines: list[SwitchEngine] = []
        self.count = switches
        stack.callback(self.close)

    def open(self, acceptors: list[str]) -> None:
        """Open all, the one next to the acceptors first. Without acceptors they will dial in."""
        behind = Side(bind=ANY) if self.topology == "dialling" else Side(connect=acceptors)
        for _ in range(self.count):
            engine = self._make(Side(bind=ANY), behind)
            front = Side(bind=engine.frontend_addresses)
            if engine.backend_addresses:
                behind = Side(bind=engine.backend_addresses)
            self.engines.insert(0, engine)
            self.sides.insert(0, (front, behind))
            behind = Side(connect=engine.frontend_addresses)

    def _make(self, frontend: Side, backend: Side) -> SwitchEngine:
        engine = SwitchEngine(name="between", frontend=frontend, backend=backend, roles=self.roles, heartbeat=BEAT)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                engine.open()
            except AddressInUse:  # of the one that was closed just before
                assert time.monotonic() < deadline
                engine = SwitchEngine(name="between", frontend=frontend, backend=backend, roles=self.roles)
            else:
                return engine

    def replace(self, number: int) -> None:
        """End a switch, and open another at the same addresses."""
        self.engines[number].close(0.0)
        self.engines[number] = self._make(*self.sides[number])

    @property
    def front(self) -> str:
        return self.engines[0].frontend_addresses[0]

    @property
    def back(self) -> str:
        return self.engines[-1].backend_addresses[0]

    def close(self) -> None:
        for engine in self.engines:
            engine.close(1.0)


def between(stack: ExitStack, topology: Topology, switches: int, names: tuple[str, ...]) -> Path:
    """Servers, and a path to them."""
    path = Path(stack, topology, switches, ("client", "server"))
    if topology == "dialling":
        path.open([])
        for name in names:
            stack.enter_context(serving(name, connect=path.back))
    else:
        path.open([stack.enter_context(serving(name, ANY)).addresses[0] for name in names])
    return path


# ---- the ways that there are ----------------------------------------------------------


@pytest.mark.parametrize("switches", [1, 2])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_one_client_reaches_all_servers(topology: Topology, switches: int) -> None:
    names = ("one", "two", "three")
    with ExitStack() as stack:
        path = between(stack, topology, switches, names)
        client = stack.enter_context(zmqkit.Client(path.front, heartbeat=BEAT))
        client.wait_for_peers(3, timeout=PATIENCE_S)
        until_all_answer(client, names)
        assert path.engines[0].stats()["sessions"] == 3


@pytest.mark.parametrize("switches", [1, 2])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_several_clients_share_the_servers(topology: Topology, switches: int) -> None:
    with ExitStack() as stack:
        path = between(stack, topology, switches, ("one", "two"))
        clients = [stack.enter_context(zmqkit.Client(path.front, heartbeat=BEAT)) for _ in range(3)]
        for client in clients:
            client.wait_for_peers(2, timeout=PATIENCE_S)
        for number, client in enumerate(clients):
            assert client.call("count", number) == 1
        stats = path.engines[-1].stats()
        assert stats["sessions"] == 6
        assert stats["frontend_messages_received"] >= 3
        assert stats["frontend_messages_received"] >= stats["backend_messages_sent"] >= 3
        assert stats["backend_messages_received"] >= stats["frontend_messages_sent"] >= 3


@pytest.mark.parametrize("switches", [1, 2])
@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("initiating", ["push", "pull"])
def test_jobs_of_every_pusher_come_to_a_puller(initiating: str, topology: Topology, switches: int) -> None:
    def peer(role: str, **at: Any) -> Any:
        return {"push": zmqkit.Pusher, "pull": zmqkit.Puller}[role](heartbeat=BEAT, **at)

    answering = "pull" if initiating == "push" else "push"
    with ExitStack() as stack:
        path = Path(stack, topology, switches, (initiating, answering))
        if topology == "dialling":
            path.open([])
            behind = [stack.enter_context(peer(answering, connect=path.back)) for _ in range(2)]
        else:
            behind = [stack.enter_context(peer(answering, bind=ANY)) for _ in range(2)]
            path.open([each.addresses[0] for each in behind])
        front = [stack.enter_context(peer(initiating, connect=path.front)) for _ in range(2)]
        for each in (*front, *behind):
            each.wait_for_peers(2, timeout=PATIENCE_S)
        pushers, pullers = (front, behind) if initiating == "push" else (behind, front)
        for number, pusher in enumerate(pushers):
            pusher.send_many([[number, n] for n in range(100)])
        got: list[Any] = []

        def work(puller: zmqkit.Puller[Any]) -> None:
            while len(got) < 200:
                job = puller.receive(timeout=0.05)
                if job is not None:
                    with job:
                        got.append(tuple(job.body))

        threads = [threading.Thread(target=work, args=(puller,), daemon=True) for puller in pullers]
        for thread in threads:
            thread.start()
        for pusher in pushers:
            assert pusher.flush(PATIENCE_S).acked == 100
        for thread in threads:
            thread.join(PATIENCE_S)
        assert sorted(got) == [(number, n) for number in range(2) for n in range(100)]


def test_a_frontend_that_connects_has_its_backend_begin_sessions() -> None:
    with zmqkit.Pusher(ANY, heartbeat=BEAT) as pusher:
        frontend = Side(connect=pusher.addresses)
        with (
            switch(frontend, Side(bind=ANY), ("push", "pull")) as engine,
            zmqkit.Puller(connect=engine.backend_addresses, heartbeat=BEAT) as puller,
        ):
            pusher.send("job")
            job = puller.receive(PATIENCE_S)
            assert job is not None
            with job:
                assert job.body == "job"
            assert pusher.flush(PATIENCE_S).acked == 1
            assert engine.stats()["frontend_messages_received"] > 0


def test_acceptors_that_are_dialled_and_such_that_dial_may_be_mixed() -> None:
    with ExitStack() as stack:
        dialled = stack.enter_context(serving("dialled", ANY))
        backend = Side(bind=ANY, connect=dialled.addresses)
        engine = stack.enter_context(switch(Side(bind=ANY), backend))
        stack.enter_context(serving("dialling", connect=engine.backend_addresses))
        client = stack.enter_context(zmqkit.Client(engine.frontend_addresses[0], heartbeat=BEAT))
        client.wait_for_peers(2, timeout=PATIENCE_S)
        until_all_answer(client, ("dialled", "dialling"))


def test_servers_are_found_by_the_name_that_the_device_looks_for() -> None:
    with ExitStack() as stack:
        backend = Side(connect="zeroconf://switching-servers")
        engine = stack.enter_context(switch(Side(bind=ANY, announce="switching-queue"), backend))
        client = stack.enter_context(zmqkit.Client("zeroconf://switching-queue", heartbeat=BEAT))
        stack.enter_context(serving("named", ANY, announce="switching-servers"))
        client.wait_for_peers(1, timeout=PATIENCE_S)
        assert client.call("who") == "named"
        assert engine.stats()["sessions"] == 1


# ---- who comes and goes ---------------------------------------------------------------


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_server_that_leaves_is_not_asked_and_one_that_comes_is(topology: Topology) -> None:
    with ExitStack() as stack:
        path = Path(stack, topology, 1, ("client", "server"))
        leaving = ExitStack()
        if topology == "dialling":
            path.open([])
            leaving.enter_context(serving("leaves", connect=path.back))
            address = path.back
        else:
            server = leaving.enter_context(serving("leaves", ANY))
            address = server.addresses[0]
            path.open([address])
        client = stack.enter_context(zmqkit.Client(path.front, heartbeat=BEAT))
        assert client.call("who") == "leaves"
        leaving.close()
        reply = client.submit("who")
        at = {"connect": address} if topology == "dialling" else {"bind": address}
        stack.enter_context(serving("comes", **at))
        assert reply.result(PATIENCE_S) == "comes"


def test_a_client_that_leaves_leaves_no_session_behind() -> None:
    with serving("stays", ANY) as server, switch(Side(bind=ANY), Side(connect=server.addresses)) as engine:
        with zmqkit.Client(engine.frontend_addresses[0], heartbeat=BEAT) as client:
            assert client.call("who") == "stays"
            assert engine.stats()["sessions"] == 1
        until(lambda: engine.stats()["sessions"] == 0, "the end of the session")
        until(lambda: server.stats()["sessions_lost"] == 1, "the server's notice of it")


# ---- devices that end, and others in their place ---------------------------------------


@pytest.mark.parametrize("switches", [1, 2])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_calls_go_on_through_a_switch_that_was_replaced(topology: Topology, switches: int) -> None:
    with ExitStack() as stack:
        path = between(stack, topology, switches, ("one", "two"))
        client = stack.enter_context(zmqkit.Client(path.front, heartbeat=BEAT))
        client.wait_for_peers(2, timeout=PATIENCE_S)
        for round_ in range(2 * switches):
            replies = [client.submit("count", 1000 * round_ + number) for number in range(50)]
            path.replace(round_ % switches)
            assert [reply.result(PATIENCE_S) for reply in replies] == [1] * 50
        until(lambda: resumed(client) > 0, "a session that is resumed")
        assert client.stats()["sessions_lost"] == 0
        until(lambda: resumed(path.engines[-1]) > 0, "a session that is resumed through the new device")


@pytest.mark.parametrize("switches", [1, 2])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_no_job_is_lost_or_done_twice_when_switches_are_replaced(topology: Topology, switches: int) -> None:
    with ExitStack() as stack:
        path = Path(stack, topology, switches, ("push", "pull"))
        if topology == "dialling":
            path.open([])
            puller = stack.enter_context(zmqkit.Puller(connect=path.back, heartbeat=BEAT))
        else:
            puller = stack.enter_context(zmqkit.Puller(bind=ANY, heartbeat=BEAT))
            path.open([puller.addresses[0]])
        pusher = stack.enter_context(zmqkit.Pusher(connect=path.front, heartbeat=BEAT))
        done: list[int] = []

        def work() -> None:
            while len(done) < 2000:
                job = puller.receive(timeout=PATIENCE_S)
                assert job is not None
                with job:
                    done.append(job.body)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        for round_ in range(4):
            pusher.send_many(range(500 * round_, 500 * (round_ + 1)))
            until(partial(lambda before: len(done) > before, 500 * round_), "the first of them")
            path.replace(round_ % switches)
        assert pusher.flush(PATIENCE_S).acked == 2000
        worker.join(PATIENCE_S)
        assert sorted(done) == list(range(2000))
        assert resumed(pusher) > 0
        assert pusher.stats()["sessions_lost"] == 0


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_pause_in_a_stream_of_jobs_loses_nothing(topology: Topology) -> None:
    with ExitStack() as stack:
        path = Path(stack, topology, 1, ("push", "pull"))
        if topology == "dialling":
            path.open([])
            puller = stack.enter_context(zmqkit.Puller(connect=path.back, heartbeat=BEAT, prefetch=50))
        else:
            puller = stack.enter_context(zmqkit.Puller(bind=ANY, heartbeat=BEAT, prefetch=50))
            path.open([puller.addresses[0]])
        (engine,) = path.engines
        pusher = stack.enter_context(zmqkit.Pusher(connect=path.front, heartbeat=BEAT))
        pusher.send_many(range(1000))
        done = []
        for _ in range(100):
            job = puller.receive(PATIENCE_S)
            assert job is not None
            with job:
                done.append(job.body)
        engine.pause()
        engine.pause()
        assert engine.stats()["paused"] == 1
        passed = engine.stats()["backend_messages_sent"]
        until(lambda: engine.stats()["frames_dropped"] > 0, "something that is held up")
        assert engine.stats()["backend_messages_sent"] == passed
        engine.resume()
        assert engine.stats()["paused"] == 0
        while len(done) < 1000:
            job = puller.receive(PATIENCE_S)
            assert job is not None
            with job:
                done.append(job.body)
        assert sorted(done) == list(range(1000))
        assert pusher.flush(PATIENCE_S).acked == 1000
        assert pusher.stats()["sessions_lost"] == 0


# ---- bad input ---------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["frontend", "backend"])
def test_a_peer_on_the_wrong_side_is_refused_by_name(side: str) -> None:
    told: list[Event] = []
    refused: list[PeerRefused] = []
    with ExitStack() as stack:
        engine = stack.enter_context(switch(Side(bind=ANY), Side(bind=ANY), tell=told.append))
        stack.enter_context(serving("right", connect=engine.backend_addresses))
        wrong = zmqkit.Pusher(connect=getattr(engine, f"{side}_addresses"), heartbeat=BEAT)
        wrong.on(PeerRefused, refused.append)
        stack.enter_context(wrong)
        until(lambda: refused, "the refusal")
        wanted = {"frontend": "client", "backend": "server"}[side]
        assert refused[0].code == "role"
        assert refused[0].reason == f"the device between takes {wanted} at its {side}, not push"
        assert any(isinstance(event, PeerRefused) for event in told)
        client = stack.enter_context(zmqkit.Client(engine.frontend_addresses[0], heartbeat=BEAT))
        assert client.call("who") == "right"


def test_an_acceptor_of_a_wrong_kind_is_named_and_others_are_used() -> None:
    told: list[Event] = []
    with ExitStack() as stack:
        pusher = stack.enter_context(zmqkit.Pusher(ANY, heartbeat=BEAT))
        server = stack.enter_context(serving("right", ANY))
        backend = Side(connect=[*pusher.addresses, *server.addresses])
        engine = stack.enter_context(switch(Side(bind=ANY), backend, tell=told.append))
        client = stack.enter_context(zmqkit.Client(engine.frontend_addresses[0], heartbeat=BEAT))
        assert client.call("who") == "right"
        until(lambda: any(isinstance(each, PeerRefused) for each in told), "the refusal")
        (event, *_) = [each for each in told if isinstance(each, PeerRefused)]
        assert event.code == "role"
        assert event.reason.startswith(f"{pusher.addresses[0]} at the backend: ")


def test_garbage_on_both_sides_is_counted_and_honest_peers_are_served() -> None:
    told: list[Event] = []
    with ExitStack() as stack:
        engine = stack.enter_context(switch(Side(bind=ANY), Side(bind=ANY), tell=told.append))
        stack.enter_context(serving("right", connect=engine.backend_addresses))
        context = stack.enter_context(zmq.Context())
        for address in (*engine.frontend_addresses, *engine.backend_addresses):
            socket = context.socket(zmq.DEALER)
            socket.linger = 0
            stack.callback(socket.close)
            socket.connect(address)
            for garbage in (b"", b"\x91", b"\xc1" * 50, b"\x92\x01\x80", b"\x91\x0b", b"\x92\x0d\x02", b"x" * 100_000):
                socket.send(garbage)
            for _ in range(200):
                socket.send(wire.pack([wire.DATA, b"sessions", 0, 0, 0, 1, 1, b"body"]))
        until(lambda: engine.stats()["frames_bad"] >= 12, "garbage that is counted")
        until(lambda: engine.stats()["frames_dropped"] >= 400, "frames of no session that are dropped")
        assert any(isinstance(each, BadFrame) for each in told)
        client = stack.enter_context(zmqkit.Client(engine.frontend_addresses[0], heartbeat=BEAT))
        assert client.call("who") == "right"
        assert engine.stats()["io_core_errors"] == 0


def test_who_says_garbage_without_end_is_disconnected() -> None:
    with (
        switch(Side(bind=ANY), Side(bind=ANY)) as engine,
        zmq.Context() as context,
        context.socket(zmq.DEALER) as socket,
    ):
        socket.linger = 0
        socket.connect(engine.frontend_addresses[0])
        for _ in range(300):
            socket.send(b"garbage")
        until(lambda: engine.stats()["links_expelled"] == 1, "the expulsion")


# ---- the engine itself ---------------------------------------------------------------------


def test_two_sides_that_connect_are_refused() -> None:
    one, other = Side(connect="tcp://127.0.0.1:5001"), Side(connect="tcp://127.0.0.1:5002")
    with pytest.raises(UsageError, match="bind all addresses of one side"):
        SwitchEngine(name="between", frontend=one, backend=other, roles=("client", "server"))


def test_an_address_in_use_leaves_nothing_open() -> None:
    with switch(Side(bind=ANY), Side(bind=ANY)) as engine:
        second = SwitchEngine(
            name="second", frontend=Side(bind=ANY), backend=Side(bind=engine.backend_addresses),
            roles=("client", "server"),
        )  # fmt: skip
        with pytest.raises(AddressInUse):
            second.open()
        assert not [each for each in threading.enumerate() if each.name == "zmqkit-second"]


def test_closing_is_idempotent_and_leaves_the_last_statistics() -> None:
    with serving("stays", ANY) as server:
        engine = SwitchEngine(
            name="between", frontend=Side(bind=ANY), backend=Side(connect=server.addresses), roles=("client", "server")
        )
        engine.close(1.0)
        assert engine.stats()["sessions"] == 0
        engine = SwitchEngine(
            name="between", frontend=Side(bind=ANY), backend=Side(connect=server.addresses), roles=("client", "server")
        )
        assert not engine.frontend_addresses
        engine.open()
        with zmqkit.Client(engine.frontend_addresses[0], heartbeat=BEAT) as client:
            assert client.call("who") == "stays"
        addresses = engine.frontend_addresses
        engine.close(1.0)
        engine.close(None)
        engine.pause()
        engine.resume()
        assert engine.frontend_addresses == addresses
        assert engine.stats()["frontend_messages_received"] > 0


def test_an_engine_that_fails_says_so_once() -> None:
    ended: list[BaseException] = []
    with switch(Side(bind=ANY), Side(bind=ANY), ended=ended.append) as engine:
        core = engine._core
        assert core is not None

        def broken(now: float) -> None:
            raise ZeroDivisionError

        core.end_turn = broken  # type: ignore[method-assign]
        engine.resume()
        until(lambda: ended, "word of the failure")
    assert len(ended) == 1
