"""Peers in a process of their own, whose memory can be measured: ``python -m tests.bad_input.programs push``.

It says its address, then answers each line on stdin: ``stats`` with its counters and the most memory that it ever
took, ``work N`` with the same after it handed N jobs to (or took them from) an honest peer in the same process.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zmqkit

BEAT = zmqkit.Heartbeat(interval=1.0, liveness=3)


def most_memory() -> int:
    """The most memory that this process ever took, in bytes (VmHWM of proc(5))."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel does not tell")


def main(kind: str, *addresses: str) -> None:
    logging.disable(logging.CRITICAL)
    for address in serve_calls() if kind == "server" else serve(kind, list(addresses)):
        print(json.dumps({"address": address}), flush=True)


def serve(kind: str, dialled: list[str]) -> Iterator[str]:
    """One peer that is attacked, and an honest one that shares this process with it."""
    peer: Any
    push: zmqkit.Pusher
    pull: zmqkit.Puller[Any]
    if kind == "push":
        peer = push = zmqkit.Pusher("tcp://127.0.0.1:*", heartbeat=BEAT, linger=0).open()
        pull = zmqkit.Puller(push.addresses[0], heartbeat=BEAT).open()
    else:
        own = [] if dialled else ["tcp://127.0.0.1:*"]
        honest = zmqkit.Pusher("tcp://127.0.0.1:*", heartbeat=BEAT, linger=0).open() if dialled else None
        there = [*dialled, honest.addresses[0]] if honest is not None else []
        peer = pull = zmqkit.Puller(bind=own, connect=there, heartbeat=BEAT).open()
        push = honest or zmqkit.Pusher(connect=pull.addresses[0], heartbeat=BEAT, linger=0).open()
    push.wait_for_peers(1, timeout=20)
    with push, pull:
        yield (peer.addresses or ("",))[0]
        for line in sys.stdin:
            word, *numbers = line.split()
            if word == "work":
                work(push, pull, int(numbers[0]))
            print(json.dumps({"most_memory": most_memory(), **peer.stats()}), flush=True)


def serve_calls() -> Iterator[str]:
    """A server that is attacked, and an honest client that shares this process with it. Its work are calls."""
    server = zmqkit.Server("tcp://127.0.0.1:*", heartbeat=BEAT, limits=zmqkit.Limits(queued_bytes=16 << 20), linger=0)
    server.method(name="echo")(lambda value: value)
    server.method(name="fill")(lambda size: bytes(size))

    @server.method
    def rows(size: int) -> Iterator[bytes]:
        while True:
            yield bytes(size)

    with server, zmqkit.Client(server.addresses[0], heartbeat=BEAT, timeout=20, linger=0) as client:
        yield server.addresses[0]
        for line in sys.stdin:
            word, *numbers = line.split()
            if word == "work":
                assert [client.call("echo", n) for n in range(int(numbers[0]))] == list(range(int(numbers[0])))
            print(json.dumps({"most_memory": most_memory(), **server.stats()}), flush=True)


def work(push: zmqkit.Pusher, pull: zmqkit.Puller[Any], jobs: int) -> None:
    push.send_many(["honest"] * jobs)
    while jobs:
        job = pull.receive(20)
        assert job is not None
        with job:
            jobs -= job.body == "honest"
    push.flush(20)


if __name__ == "__main__":
    main(*sys.argv[1:])
