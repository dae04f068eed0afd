"""What a type checker knows of devices. It is checked, never run; see public_face.py."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, assert_type

import zmqkit
from zmqkit import devices, events
from zmqkit.devices import DeviceProcess, Forwarder, Proxy, Queue, Side, Streamer, aio


def making() -> None:
    Queue("tcp://127.0.0.1:1", ["tcp://127.0.0.1:2", ">ipc:///tmp/a"], plain=True, control=None, name="calls")
    Forwarder(frontend=Side(bind="tcp://127.0.0.1:1", announce="news"), backend=Side(connect=["zeroconf://news"]))
    Streamer("tcp://127.0.0.1:1", "tcp://127.0.0.1:2", journal=Path("jobs.db"), plain_frontend="tcp://127.0.0.1:3")
    Proxy("inproc://a", "inproc://b", types=("XSUB", "XPUB"), limits=zmqkit.Limits(queued_messages=10), linger=None)
    Queue("tcp://127.0.0.1:1")  # type: ignore[call-arg]
    Queue("tcp://127.0.0.1:1", "tcp://127.0.0.1:2", capture="x")  # type: ignore[call-arg]
    Queue("tcp://127.0.0.1:1", 5558)  # type: ignore[arg-type]
    Forwarder("tcp://127.0.0.1:1", "tcp://127.0.0.1:2", True)  # type: ignore[call-arg, misc, unused-ignore]
    Side(bind=5557)  # type: ignore[arg-type]


def steering(queue: Queue) -> None:
    peer: zmqkit.Peer = queue
    assert_type(peer.name, str)
    assert_type(queue.open(), Queue)
    assert_type(queue.frontend_addresses, tuple[str, ...])
    assert_type(queue.carries, Literal["plain", "zmqkit"] | None)
    assert_type(queue.stats(), dict[str, int | float])
    queue.on(events.PeerRefused, lambda event: event.code)
    with queue as same:
        assert_type(same, Queue)
        assert_type(same.paused, bool)
    with zmqkit.stop_on_signals(queue):
        queue.run()


async def awaiting(streamer: aio.Streamer) -> None:
    peer: zmqkit.aio.Peer = streamer
    assert_type(peer.closed, bool)
    async with streamer as same:
        assert_type(same, aio.Streamer)
        await same.pause()
        assert_type(same.addresses, tuple[str, ...])
    await devices.aio.Queue("inproc://a", "inproc://b").run()


def elsewhere() -> None:
    with DeviceProcess(Queue, "tcp://127.0.0.1:1", "tcp://127.0.0.1:2", plain=True) as process:
        assert_type(process, DeviceProcess)
        assert_type(process.pid, int | None)
        assert_type(process.wait(5), int)
    DeviceProcess(aio.Queue, "tcp://127.0.0.1:1", "tcp://127.0.0.1:2")  # type: ignore[arg-type]
