"""Peers under attack, each with an honest peer beside it that finishes all its work."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import zmqkit
from tests.bad_input.strangers import PATIENCE_S
from zmqkit.events import Event, PeerLost
from zmqkit.options import Heartbeat, Limits

LOCAL = "tcp://127.0.0.1:*"
BEAT = Heartbeat(interval=1.0, liveness=3)

JOBS = 20
"""The honest peer's work."""


def until(true: Callable[[], object], what: str = "it never came true") -> None:
    """Wait for what tells nobody when it happens, such as a counter."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.001)


class Watched:
    """A peer and what it tells.

    Attributes:
        peer: a `Pusher` or `Puller`.
        events: all that it told, in order.
    """

    def __init__(self, peer: Any) -> None:
        self.peer = peer
        self.events: list[Event] = []
        peer.on(Event, self.events.append)

    def count(self, name: str) -> int:
        """A counter of `stats`."""
        return int(self.peer.stats()[name])

    def told(self, kind: type[Event], count: int = 0) -> list[Any]:
        """The events of a type; waits until there are so many."""
        until(lambda: sum(isinstance(event, kind) for event in list(self.events)) >= count, f"no {kind.__name__}")
        return [event for event in list(self.events) if isinstance(event, kind)]

    def expect(self, **counters: int) -> None:
        """These counters come to exactly these values."""
        for name, value in counters.items():
            until(lambda name=name, value=value: self.count(name) >= value, f"{name} is {self.count(name)}")  # type: ignore[misc]
            assert self.count(name) == value, name

    def sound(self) -> None:
        """No input made the core raise."""
        assert self.count("io_core_errors") == 0
        assert self.peer._driver.failure is None


class Scene(Watched):
    """A peer under attack, and an honest one that works with it."""

    def __init__(self, peer: Any, push: zmqkit.Pusher, pull: zmqkit.Puller[Any]) -> None:
        super().__init__(peer)
        self.push = push
        self.pull = pull
        self.strange: list[Any] = []
        """Bodies of strangers' jobs that came between."""
        self._rounds = 0

    def leave_to_the_stranger(self) -> None:
        """The honest puller goes, and the pusher knows it: a closed puller waits for nobody to read its goodbye."""
        self.pull.close()
        self.told(PeerLost, 1)

    def finish(self, jobs: int = JOBS) -> None:
        """The honest peer does its work: all of it is sent, handled once, and settled."""
        self._rounds += 1
        mine = [f"honest {self._rounds}.{number}" for number in range(jobs)]
        self.push.send_many(mine)
        got: list[Any] = []
        deadline = time.monotonic() + PATIENCE_S
        while len(got) < jobs:
            job = self.pull.receive(max(0.0, deadline - time.monotonic()))
            assert job is not None, f"the honest peer got {len(got)} of {jobs} jobs"
            with job:
                (got if isinstance(job.body, str) and job.body.startswith("honest") else self.strange).append(job.body)
        assert Counter(got) == Counter(mine)
        self.push.flush(PATIENCE_S)
        self.sound()


@contextlib.contextmanager
def bound_pusher(limits: Limits | None = None, **options: Any) -> Iterator[Scene]:
    """A bound pusher under attack, an honest puller beside it."""
    with (
        zmqkit.Pusher(LOCAL, heartbeat=BEAT, limits=limits or Limits(), linger=0, **options) as push,
        zmqkit.Puller[Any](push.addresses[0], heartbeat=BEAT) as pull,
    ):
        scene = Scene(push, push, pull)
        pull.wait_for_peers(1, timeout=PATIENCE_S)
        yield scene
        scene.sound()


@contextlib.contextmanager
def bound_puller(limits: Limits | None = None, **options: Any) -> Iterator[Scene]:
    """A bound puller under attack, an honest pusher beside it; who attacks has credit for as much at a time."""
    options = {"prefetch": 256, **options}
    with (
        zmqkit.Puller[Any](bind=LOCAL, heartbeat=BEAT, limits=limits or Limits(), **options) as pull,
        zmqkit.Pusher(connect=pull.addresses[0], heartbeat=BEAT, linger=0) as push,
    ):
        scene = Scene(pull, push, pull)
        push.wait_for_peers(1, timeout=PATIENCE_S)
        yield scene
        scene.sound()


@contextlib.contextmanager
def dialling_puller(hostile: str, limits: Limits | None = None, **options: Any) -> Iterator[Scene]:
    """A puller that dials a hostile address and an honest pusher."""
    with (
        zmqkit.Pusher(LOCAL, heartbeat=BEAT, linger=0) as push,
        zmqkit.Puller[Any](hostile, push.addresses[0], heartbeat=BEAT, limits=limits or Limits(), **options) as pull,
    ):
        scene = Scene(pull, push, pull)
        pull.wait_for_peers(1, timeout=PATIENCE_S)
        yield scene
        scene.sound()


@contextlib.contextmanager
def dialling_pusher(hostile: str, limits: Limits | None = None, **options: Any) -> Iterator[Scene]:
    """A pusher that dials a hostile address and an honest puller."""
    with (
        zmqkit.Puller[Any](bind=LOCAL, heartbeat=BEAT) as pull,
        zmqkit.Pusher(
            connect=[hostile, pull.addresses[0]], heartbeat=BEAT, limits=limits or Limits(), linger=0, **options
        ) as push,
    ):
        scene = Scene(push, push, pull)
        push.wait_for_peers(1, timeout=PATIENCE_S)
        yield scene
        scene.sound()
