"""What tests of custody have in common: a device's engine in a folder, its zmqkit peers and raw sockets."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import zmq

import zmqkit
from tests.devices.custody_program import HEARTBEAT, engine_in
from tests.pipeline.faces import PATIENCE_S
from zmqkit.devices.custody import CustodyEngine

PATIENCE_MS = int(PATIENCE_S * 1000)
MODULE = "tests.devices.custody_program"


@contextlib.contextmanager
def short_folder() -> Iterator[str]:
    """A folder with a short name: an ipc:// path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="zk-") as name:
        yield name


@contextlib.contextmanager
def engines() -> Iterator[Callable[..., CustodyEngine]]:
    """Yields what makes engines; they are closed at the end."""
    found: list[CustodyEngine] = []

    def make(*args: Any, **given: Any) -> CustodyEngine:
        engine = engine_in(*args, **given)
        found.append(engine)
        return engine

    yield make
    for each in found:
        each.close(0)


class Raw:
    """Raw sockets of one context."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self._all: list[zmq.Socket[bytes]] = []

    def push(self, address: str) -> zmq.Socket[bytes]:
        return self._made(zmq.PUSH, address)

    def pull(self, address: str) -> zmq.Socket[bytes]:
        return self._made(zmq.PULL, address)

    def _made(self, kind: int, address: str) -> zmq.Socket[bytes]:
        made = self.bare(kind)
        made.connect(address)
        return made

    def bare(self, kind: int) -> zmq.Socket[bytes]:
        made = self.context.socket(kind)
        self._all.append(made)
        made.setsockopt(zmq.LINGER, 0)
        made.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        made.setsockopt(zmq.SNDTIMEO, PATIENCE_MS)
        return made

    def close(self) -> None:
        for each in self._all:
            each.close(0)
        self.context.term()


def pusher(folder: str, **more: Any) -> zmqkit.Pusher:
    return zmqkit.Pusher(connect=f"ipc://{folder}/frontend", heartbeat=HEARTBEAT, **more)


def puller(folder: str, **more: Any) -> zmqkit.Puller[Any]:
    return zmqkit.Puller(f"ipc://{folder}/backend", heartbeat=HEARTBEAT, **more)


def until(true: Callable[[], object], what: str = "it never came true") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.002)


def take(pull: zmqkit.Puller[Any]) -> zmqkit.Job[Any]:
    job = pull.receive(PATIENCE_S)
    assert job is not None, "no job came"
    return job


def taken(pull: zmqkit.Puller[Any], count: int) -> list[Any]:
    """The bodies of so many jobs, acked."""
    found = []
    for _ in range(count):
        with take(pull) as job:
            found.append(job.body)
    return found


@contextlib.contextmanager
def closing_engine(engine: CustodyEngine) -> Iterator[CustodyEngine]:
    try:
        yield engine
    finally:
        engine.close(PATIENCE_S)
