"""A client's core among servers that do as they are told, under virtual time. No socket, no thread."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import msgpack

from tests.protocol.pair import local
from zmqkit.events import Event
from zmqkit.options import Limits
from zmqkit.patterns.reqrep import wire
from zmqkit.patterns.reqrep.calls import Answer, Call, Item, Kind
from zmqkit.patterns.reqrep.client import ClientCore
from zmqkit.patterns.reqrep.rows import REQUESTS, read_request
from zmqkit.protocol.core import Frames, Row
from zmqkit.protocol.local import Local
from zmqkit.protocol.pattern import PatternCore
from zmqkit.protocol.session import Session
from zmqkit.testing.contract import check_deadline, check_rest, check_send

KEY = b"k" * 16


class ServerSide(PatternCore):
    """Notes what comes, and says what it is told to.

    Attributes:
        answers: it answers each call with its own body.
        got: (number, fields, body) of each call, in order.
        others: records that are not calls.
        floor: the last one heard.
        epochs: for which the messages were.
    """

    def __init__(self, local: Local, rng: random.Random, methods: tuple[str, ...] = (), grants: bool = True) -> None:
        super().__init__(local, rng)
        self.answers = False
        self.grants = grants
        self.methods = methods
        self.session: Session | None = None
        self.got: list[tuple[int, wire.CallFields, bytes]] = []
        self.others: list[list[Any]] = []
        self.bodies: list[bytes] = []
        self.floor = 0
        self.epochs: list[bytes] = []
        self.done = 0

    def opened(self, session: Session, now: float) -> None:
        self.session = session
        self.floor = 0
        self.say([wire.METHODS, 0, 0], msgpack.packb(list(self.methods)), now=now)

    def say(self, record: list[Any], body: bytes | None = None, *, now: float) -> None:
        assert self.session is not None
        packer = wire.Packer()
        packer.add(record, body)
        self.sessions.send(self.session, packer.pack(), 0, now)

    def received(self, session: Session, frames: Frames, messages: int, now: float) -> None:
        epoch, floor, records = wire.read(frames, wire.FROM_CLIENT)
        assert sum(record[0] == wire.CALL for record in records) == messages
        self.epochs.append(epoch)
        assert floor >= self.floor, "a floor went back"
        self.floor = floor
        for record in records:
            body = record[2]
            if record[0] == wire.CALL:
                assert record[1] >= floor
                self.got.append((record[1], wire.call(record), body))
                if self.answers:
                    self.say([wire.RESULT, record[1], 0, None], body, now=now)
            else:
                self.others.append([*record[:2], body or None, *record[3:]])
                self.bodies.append(body)
        if self.grants:
            self.done += messages
            said = self.local
            self.sessions.grant(session, said.credit_messages + self.done, said.credit_bytes + (self.done << 20))

    @property
    def numbers(self) -> list[int]:
        return [number for number, _, _ in self.got]


class Net:
    """One client and servers by name, each at its own address.

    Attributes:
        answers: by call number as it was made, the `Answer`; its absence is no answer yet.
        items: by the same, the stream's items.
        lose: frames to, and from, these servers vanish.
        late: timers are due that nobody has handled yet.
    """

    def __init__(self, *names: str, limits: Limits | None = None, durable: bool = False, **server: Any) -> None:
        self.now = 100.0
        self.durable = durable
        self.limits = limits
        self.defaults = server
        self.servers: dict[str, ServerSide] = {}
        self.connections: dict[str, int] = {}
        self.standing: set[str] = set()
        self.lose: set[str] = set()
        self.paused: set[str] = set()
        self.ways: deque[tuple[str, str, int, Frames]] = deque()
        self.lives = 0
        self.next = 1
        self.rows: dict[int, bytes] = {}
        self.storing = True
        self.late = False
        self.start_client()
        for name in names:
            self.start(name, **server)
            self.connect(name)
        self.flow()

    def start_client(self, seed: str = "c") -> None:
        said = local("client", role="client", accepts=frozenset({"server"}), about={"client": KEY})
        self.core = ClientCore(said, random.Random(seed), durable=self.durable, limits=self.limits)
        self.answers: dict[Any, Answer] = {}
        self.items: dict[Any, list[Item]] = {}
        self.told: list[Any] = []
        self.unclaimed: list[tuple[Call, Answer]] = []
        self.events: list[Event] = []
        self.calls: list[Call] = []

    def start(
        self, name: str, *, epoch: bytes | None = None, window: bytes | None = None, journal: bool = False,
        methods: tuple[str, ...] = (), credit: int = 1000, credit_bytes: int = 1 << 20, answers: bool = False,
        grants: bool = True,
    ) -> ServerSide:  # fmt: skip
        """A new life of a server: a new instance."""
        self.lives += 1
        epoch = epoch or b"epoch-%010d" % self.lives
        about = {"epoch": epoch, "window": window or epoch, "journal": journal}
        said = local(
            f"{name}{self.lives}", role="server", accepts=frozenset({"client"}), about=about, credit_messages=credit,
            credit_bytes=credit_bytes,
        )  # fmt: skip
        server = self.servers[name] = ServerSide(said, random.Random(f"{name}{self.lives}"), methods, grants)
        server.answers = answers
        return server

    # ---- connections -----------------------------------------------------------------

    def connect(self, name: str) -> None:
        self.connections[name] = self.connections.get(name, 0) + 1
        self.standing.add(name)
        self.core.link_up(("c", name), self.now)
        self.turn()

    def disconnect(self, name: str) -> None:
        self.standing.discard(name)
        self.ways = deque(each for each in self.ways if each[1] != name)
        self.core.link_down(("c", name), self.now)
        server = self.servers.get(name)
        if server is not None:
            server.link_down(("b", name, self.connections[name]), self.now)
        self.turn()

    def crash(self, name: str) -> None:
        """Its process is gone at once; its sessions end when silence says so, or when a new life forgets them."""
        del self.servers[name]
        self.disconnect(name)

    def restart(self, name: str, **more: Any) -> ServerSide:
        """Gone and there again: the session is forgotten."""
        self.crash(name)
        server = self.start(name, **{**self.defaults, **more})
        self.connect(name)
        self.flow()
        return server

    # ---- the turn --------------------------------------------------------------------

    def turn(self) -> None:
        moved = True
        while moved:
            moved = False
            self.core.end_turn(self.now)
            moved |= self._drain_client()
            for name, server in self.servers.items():
                server.end_turn(self.now)
                sends, server.out.sends = server.out.sends, []
                for link, frames in sends:
                    assert isinstance(link, tuple)
                    check_send(link, frames)
                    if name in self.standing and link[2] == self.connections[name] and name not in self.lose:
                        self.ways.append(("down", name, link[2], frames))
                server.out.replies, server.out.events, server.out.probes = [], [], []
        if self.storing and not self.late:
            check_deadline(self.core, self.now)

    def _drain_client(self) -> bool:
        out = self.core.out
        check_rest(self.core)
        moved = False
        if out.writes and self.storing:
            writes, out.writes = out.writes, []
            for write in writes:
                assert write.log == REQUESTS
                if write.value is None:
                    self.rows.pop(write.key, None)
                else:
                    self.rows[write.key] = write.value
            self.core.stored(out.written, self.now)
            moved = True
        moved |= bool(out.items)
        sends, out.sends = out.sends, []
        for link, frames in sends:
            check_send(link, frames)
            assert isinstance(link, tuple)
            name = link[1]
            if name in self.standing and name not in self.lose:
                self.ways.append(("up", name, self.connections[name], frames))
        for ticket, result in out.replies:
            moved = True
            if isinstance(result, Item):
                assert ticket not in self.answers, "an item after the end"
                self.items.setdefault(ticket, []).append(result)
            elif isinstance(result, Answer):
                assert ticket not in self.answers, f"{ticket} was answered twice"
                self.answers[ticket] = result
            else:
                self.told.append(ticket)
        self.unclaimed += out.items
        self.events += out.events
        out.replies, out.items, out.events, out.probes, out.disconnects = [], [], [], [], []
        return moved

    def refuse_store(self, error: Exception) -> None:
        """What was being stored is not."""
        self.core.out.writes = []
        self.core.store_failed(self.core.out.written, error, self.now)
        self.turn()

    def flow(self) -> None:
        self.turn()
        while self.ways:
            way, name, connection, frames = self.ways.popleft()
            if name not in self.standing or connection != self.connections[name]:
                continue
            if way == "down":
                self.core.receive_message(("c", name), frames, self.now)
            elif name in self.paused:
                continue
            elif name in self.servers:
                self.servers[name].receive_message(("b", name, connection), frames, self.now)
            self.turn()

    def advance(self, seconds: float) -> None:
        """Let time pass, with timers and messages as they come."""
        end = self.now + seconds
        while True:
            self.flow()
            cores: list[Any] = [self.core, *(s for name, s in self.servers.items() if name not in self.paused)]
            dues = [due for core in cores if (due := core.next_deadline()) is not None]
            if not dues or min(dues) > end:
                self.now = end
                return
            self.now = max(self.now, min(dues))
            for core in cores:
                due = core.next_deadline()
                if due is not None and due <= self.now:
                    core.handle_timer(self.now)
            self.turn()

    # ---- the user --------------------------------------------------------------------

    def make(self, method: str = "work", body: bytes = b"", timeout: float | None = 10.0, **more: Any) -> Call:
        """A call; its ticket is the number that it is made with."""
        number = self.fresh()
        deadline = None if timeout is None else self.now + timeout
        call = Call(number, method, body, deadline=deadline, ticket=number, renumber=self.fresh, **more)
        self.calls.append(call)
        return call

    def fresh(self) -> int:
        self.next += 1
        return self.next - 1

    def call(self, method: str = "work", body: bytes = b"", timeout: float | None = 10.0, **more: Any) -> Call:
        call = self.make(method, body, timeout, **more)
        self.core.call(call, self.now)
        self.flow()
        return call

    def do(self, verb: Callable[..., None], *args: Any) -> None:
        """A verb of the client, then all that follows."""
        verb(*args, self.now)
        self.flow()

    def kind(self, call: Call) -> Kind | None:
        """How it ended; None: it has not."""
        answer = self.answers.get(call.ticket)
        assert (answer is not None) == call.done
        return None if answer is None else Kind(answer.kind)

    def code(self, call: Call) -> str:
        return self.answers[call.ticket].code

    def happened(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def begin_again(self) -> list[Call]:
        """The client's process died; a new one takes up the journal."""
        self.ways.clear()
        self.start_client(f"again{self.now}")
        for name in list(self.standing):
            self.disconnect(name)
        self.advance(20.0)
        calls = [read_request(Row(key, 1, value)) for key, value in sorted(self.rows.items())]
        for call in calls:
            call.renumber = self.fresh
        return calls

    # ---- the servers' words ----------------------------------------------------------

    def say(self, name: str, record: list[Any], body: bytes | None = None) -> None:
        self.servers[name].say(record, body, now=self.now)
        self.flow()

    def result(self, name: str, call: Call | int, body: bytes = b"done") -> None:
        number = call if isinstance(call, int) else call.number
        self.say(name, [wire.RESULT, number, 0, None], body)

    def refuse(self, name: str, call: Call, code: str) -> None:
        self.say(name, [wire.REFUSED, call.number, None, code, f"it is {code}"])

    def unknown(self, name: str, call: Call, code: str) -> None:
        self.say(name, [wire.UNKNOWN, call.number, None, code, f"it is {code}"])
