"""A core that does nothing but write down what its driver tells it, and send what it is told."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from tests.simulation.ping import CoreBase
from zmqkit.protocol.core import Frames, Link, Read, Row
from zmqkit.testing.peers import SimPeer
from zmqkit.testing.world import World

ADDRESS = "tcp://binder:1"


class Recorder(CoreBase):
    """``heard`` has every input in its order, without times; ``times`` has their times."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[Any, ...]] = []
        self.times: list[float] = []
        self.deadline: float | None = None

    def note(self, now: float, *what: Any) -> None:
        self.heard.append(what)
        self.times.append(now)

    def kinds(self, *wanted: str) -> list[Any]:
        """What was heard of these kinds: kind alone, or with its one argument."""
        return [what[0] if len(what) == 1 else what[:2] for what in self.heard if what[0] in wanted]

    def messages(self) -> list[bytes]:
        return [what[2] for what in self.heard if what[0] == "message"]

    def links(self) -> list[Any]:
        return list(dict.fromkeys(what[1] for what in self.heard if what[0] == "message"))

    def send(self, link: Link, body: bytes, now: float) -> None:
        self.out.sends.append((link, [body]))

    def link_up(self, link: Link, now: float) -> None:
        self.note(now, "up", link)

    def link_down(self, link: Link, now: float) -> None:
        self.note(now, "down", link)

    def links_disturbed(self, group: Hashable, now: float) -> None:
        self.note(now, "disturbed", group)

    def receive_message(self, link: Link, frames: Frames, now: float) -> None:
        self.note(now, "message", link, b"".join(frames))

    def stored(self, up_to: int, now: float) -> None:
        self.note(now, "stored", up_to)

    def store_failed(self, up_to: int, error: Exception, now: float) -> None:
        self.note(now, "store failed", up_to, type(error).__name__)

    def loaded(self, read: Read, rows: Sequence[Row], now: float) -> None:
        self.note(now, "loaded", [row.key for row in rows])

    def process_gone(self, key: Hashable, now: float) -> None:
        self.note(now, "gone", key)

    def handle_timer(self, now: float) -> None:
        self.note(now, "timer")
        self.deadline = None

    def next_deadline(self) -> float | None:
        return self.deadline


def core(peer: SimPeer) -> Recorder:
    assert isinstance(peer.core, Recorder)
    return peer.core


def couple(seed: int = 0, *, keeps_pipe: bool = False, hop_timeout_s: float = 1.0) -> tuple[World, SimPeer, SimPeer]:
    """A binder and a dialler, connected, without faults."""
    world = World(seed, hop_timeout_s=hop_timeout_s)
    binder = world.peer("binder", lambda peer: Recorder(), bind=[ADDRESS])
    dialler = world.peer("dialler", lambda peer: Recorder(), connect=[ADDRESS])
    dialler.keeps_pipe = keeps_pipe
    world.run(0.1)
    assert core(dialler).kinds("up") == [("up", LINK)]
    return world, binder, dialler


LINK: Link = ("c", ADDRESS)
GROUP = ("b", ADDRESS)
