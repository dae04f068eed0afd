"""The simulator's own test subject: a small client that asks, durably, and a server that answers.

What is confirmed must be heard by the server, at least once, whatever breaks. It stands on the bare contract of a core,
without sessions: its loss and order are mended by asking again.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import ClassVar

from zmqkit.protocol.core import Frames, Link, Outputs, Read, Row
from zmqkit.testing.faults import CRASH_FAULTS, DISK_FAULTS, JOURNAL_FAULTS, NETWORK_FAULTS, STALL_FAULTS, Faults
from zmqkit.testing.peers import SimPeer
from zmqkit.testing.scenario import Scenario
from zmqkit.testing.tickets import SimTicket
from zmqkit.testing.world import World

AGAIN_S = 0.5
ADDRESS = "tcp://server:1"


class CoreBase:
    """The inputs that neither side cares about."""

    def __init__(self) -> None:
        self.out = Outputs()
        self.counters: dict[str, int | float] = {}
        self.closed = False

    @property
    def finished(self) -> bool:
        return self.closed

    def link_up(self, link: Link, now: float) -> None: ...
    def link_down(self, link: Link, now: float) -> None: ...
    def links_disturbed(self, group: Hashable, now: float) -> None: ...
    def receive_message(self, link: Link, frames: Frames, now: float) -> None: ...
    def stored(self, up_to: int, now: float) -> None: ...
    def store_failed(self, up_to: int, error: Exception, now: float) -> None: ...
    def loaded(self, read: Read, rows: Sequence[Row], now: float) -> None: ...
    def process_gone(self, key: Hashable, now: float) -> None: ...
    def handle_timer(self, now: float) -> None: ...
    def next_deadline(self) -> float | None:
        return None

    def end_turn(self, now: float) -> None: ...
    def close(self, now: float) -> None:
        self.closed = True

    def count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1


class PingServer(CoreBase):
    """Hears, tells its user, answers."""

    def receive_message(self, link: Link, frames: Frames, now: float) -> None:
        self.count("pings heard")
        self.out.items.append(int(frames[0]))
        self.out.sends.append((link, [frames[0], b"pong"]))


class PingClient(CoreBase):
    """Asks: stored first, then confirmed, then sent until it is answered, then deleted."""

    def __init__(self, next_key: int, last_key: int) -> None:
        super().__init__()
        self.next_key = next_key
        self.unstored: dict[int, tuple[int, SimTicket]] = {}
        self.undeleted: dict[int, int] = {}
        self.open: set[int] = set()
        self.link: Link | None = None
        self.again_at: float | None = None
        self.broken = False
        if last_key:
            self.out.reads.append(Read("messages", 1, last_key, 1_000_000))

    def ask(self, ticket: SimTicket, now: float) -> None:
        """The verb: resolved with the key when it is safe, with the error if it is not."""
        if self.broken:
            self.out.replies.append((ticket, RuntimeError("the journal is of no more use")))
            return
        key, self.next_key = self.next_key, self.next_key + 1
        number = self.out.write("messages", key, 1, b"ping")
        self.unstored[number] = (key, ticket)

    def stored(self, up_to: int, now: float) -> None:
        for number in [number for number in self.undeleted if number <= up_to]:
            del self.undeleted[number]
        for number in [number for number in self.unstored if number <= up_to]:
            key, ticket = self.unstored.pop(number)
            self.out.replies.append((ticket, key))
            self.open.add(key)
            self.send(key, now)

    def store_failed(self, up_to: int, error: Exception, now: float) -> None:
        self.count("stores failed")
        self.broken = type(error).__name__ == "CommitIndeterminate"
        for number in [number for number in self.unstored if number <= up_to]:
            self.out.replies.append((self.unstored.pop(number)[1], error))
        for number in [number for number in self.undeleted if number <= up_to]:
            self.open.add(self.undeleted.pop(number))
        if self.open and self.again_at is None:
            self.again_at = now + AGAIN_S

    def loaded(self, read: Read, rows: Sequence[Row], now: float) -> None:
        self.count("loads")
        for row in rows:
            self.open.add(row.key)
            self.send(row.key, now)

    def send(self, key: int, now: float) -> None:
        if self.link is not None:
            self.out.sends.append((self.link, [b"%d" % key]))
        if self.again_at is None:
            self.again_at = now + AGAIN_S

    def link_up(self, link: Link, now: float) -> None:
        self.link = link
        for key in sorted(self.open):
            self.send(key, now)

    def link_down(self, link: Link, now: float) -> None:
        self.link = None

    def receive_message(self, link: Link, frames: Frames, now: float) -> None:
        key = int(frames[0])
        if key in self.open:
            self.open.discard(key)
            self.undeleted[self.out.write("messages", key, 0, None)] = key
        else:
            self.count("pongs repeated")

    def handle_timer(self, now: float) -> None:
        self.again_at = None
        for key in sorted(self.open):
            self.count("pings repeated")
            self.send(key, now)

    def next_deadline(self) -> float | None:
        return self.again_at


class PingScenario(Scenario):
    """A client and a server; either may die at any moment."""

    faults = Faults(disk_s=8.0)
    faults_s = 15.0
    expects: ClassVar[tuple[str, ...]] = (
        *NETWORK_FAULTS, *STALL_FAULTS, *CRASH_FAULTS, *JOURNAL_FAULTS, *DISK_FAULTS,
        "pings heard", "pings repeated", "pongs repeated", "stores failed", "loads",
    )  # fmt: skip

    def build(self, world: World) -> None:
        self.confirmed: set[tuple[str, int]] = set()
        self.heard: set[int] = set()
        self.tickets: list[tuple[str, SimTicket]] = []
        self.asked = 0
        world.peer("server", lambda peer: PingServer(), bind=[ADDRESS]).on_items = self.on_items
        self.client = world.peer("client", self.make_client, connect=[ADDRESS], journal=True)

    def make_client(self, peer: SimPeer) -> PingClient:
        assert peer.journal is not None
        return PingClient(peer.journal.highest("messages") + 1, peer.journal.totals("messages").last_key)

    def on_items(self, peer: SimPeer, items: list[int]) -> None:
        self.heard.update(items)

    def step(self, world: World) -> None:
        for _ in range(self.random.randrange(4)):
            self.asked += 1
            ticket = SimTicket(self.asked)
            if self.client.post("ask", ticket):
                self.tickets.append((self.client.name, ticket))

    def check(self, world: World) -> None:
        left = []
        for name, ticket in self.tickets:
            if not ticket.done:
                left.append((name, ticket))
            elif isinstance(ticket.result, int):
                assert (name, ticket.result) not in self.confirmed, f"key {ticket.result} was confirmed twice"
                self.confirmed.add((name, ticket.result))
        self.tickets = left

    def converged(self, world: World) -> bool:
        disk = self.client.disk
        assert disk is not None
        return self.client.alive and not disk.rows("messages")

    def finish(self, world: World) -> None:
        lost = {key for _, key in self.confirmed} - self.heard
        assert not lost, f"confirmed but never heard: {sorted(lost)[:5]}"

    def explain(self, world: World) -> str:
        return f"client: {'down' if self.client.core is None else vars(self.client.core)}"
