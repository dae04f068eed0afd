"""A device in a child process: steered, watched, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zmq

import zmqkit
from tests.devices.plainly import ANY, Ends, closing, received, stay_empty
from zmqkit.devices import DeviceProcess, Forwarder, Queue, Side, Streamer, aio
from zmqkit.errors import AddressInUse, Closed, Forked, UsageError, WaitTimeout
from zmqkit.options import Heartbeat, Limits

PATIENCE_S = 30.0


def at(device: DeviceProcess) -> Ends:
    return Ends(device.frontend_addresses[0], device.backend_addresses[0])


def test_it_carries_pauses_resumes_and_counts_as_a_device_here() -> None:
    device = DeviceProcess(Streamer, ANY, ANY, plain=True, name="elsewhere")
    assert (device.pid, device.addresses, device.stats(), device.alive) == (None, (), {}, False)
    with device:
        assert device.pid not in (None, os.getpid())
        assert (device.alive, device.carries, device.name) == (True, "plain", "elsewhere")
        ends = at(device)
        with closing(ends):
            push, pull = ends.front(zmq.PUSH), ends.back(zmq.PULL)
            push.send(b"1")
            assert received(pull) == [b"1"]
            device.pause()
            assert device.paused
            push.send(b"2")
            assert stay_empty(pull)
            device.resume()
            assert received(pull) == [b"2"]
            assert device.stats()["backend_messages_sent"] == 2
    assert (device.closed, device.alive, device._child and device._child.returncode) == (True, False, 0)
    device.close()


def test_what_it_is_given_travels(tmp_path: Path) -> None:
    front = Side(bind=[ANY, f"ipc://{tmp_path}/front"], limits=Limits(frame_bytes=65536, queued_messages=7))
    with DeviceProcess(
        Queue, front, [ANY], plain=True, heartbeat=Heartbeat(interval=2.0), limits=Limits(queued_messages=9),
        control=f"ipc://{tmp_path}/control", linger=0.5,
    ) as device:  # fmt: skip
        assert len(device.frontend_addresses) == 2
        assert device.control_address == f"ipc://{tmp_path}/control"
        with zmqkit.Client(device.control_address) as client:
            assert client.call("describe")[0]["kind"] == "queue"
            client.call("terminate")
        assert device.wait(PATIENCE_S) == 0


def test_a_child_that_is_killed_is_told_of_and_another_can_take_its_place() -> None:
    device = DeviceProcess(Streamer, ANY, ANY, plain=True, name="victim").open()
    front, back = device.frontend_addresses[0], device.backend_addresses[0]
    ends = Ends(front, back)
    with closing(ends):
        push, pull = ends.front(zmq.PUSH), ends.back(zmq.PULL)
        push.send(b"1")
        assert received(pull) == [b"1"]
        assert device.pid is not None
        os.kill(device.pid, signal.SIGKILL)
        assert device.wait(PATIENCE_S) == -signal.SIGKILL
        assert not device.alive
        with pytest.raises(Closed, match=r"victim: process .* ended by itself, with exit code -9"):
            device.pause()
        assert device.stats() == {}
        device.close()
        with DeviceProcess(Streamer, front, back, plain=True):
            for number in range(1000):
                push.send(b"%d" % number)
                if pull.poll(20):
                    break
            assert received(pull)


def test_what_opening_raises_there_is_raised_here() -> None:
    with DeviceProcess(Streamer, ANY, ANY, plain=True) as first:
        second = DeviceProcess(Streamer, first.frontend_addresses[0], ANY, plain=True)
        with pytest.raises(AddressInUse, match="the address is in use"):
            second.open()
        assert second.pid is None
        second.close()
        with pytest.raises(Closed, match="make a new one"):
            second.open()


@pytest.mark.parametrize(
    ("kind", "sides", "given", "error"),
    [
        (Queue, ("inproc://a", "inproc://a"), {}, UsageError),
        (Queue, ("inproc://a", "inproc://b"), {"capture": 1}, TypeError),
        (Queue, ("inproc://a",), {}, TypeError),
        (aio.Queue, ("inproc://a", "inproc://b"), {}, TypeError),
        ("Queue", ("inproc://a", "inproc://b"), {}, TypeError),
    ],
)
def test_what_is_wrong_with_it_is_told_before_a_child_is_started(
    kind: Any, sides: Any, given: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        DeviceProcess(kind, *sides, **given)


def test_the_child_ends_with_the_program_that_began_it_however_that_dies() -> None:
    text = (
        "from zmqkit.devices import *\n"
        "device = DeviceProcess(Queue, 'tcp://127.0.0.1:*', 'tcp://127.0.0.1:*', plain=True).open()\n"
        "print(device.pid, flush=True)\n"
        "input()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        descriptor = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.kill()
            assert select_readable(descriptor)
        finally:
            os.close(descriptor)
    finally:
        parent.kill()
        parent.communicate(timeout=PATIENCE_S)


def select_readable(descriptor: int) -> bool:
    """Whether the process of this descriptor has ended."""
    import select

    return bool(select.select([descriptor], [], [], PATIENCE_S)[0])


def test_a_child_that_runs_on_is_waited_for_no_longer_than_asked() -> None:
    with DeviceProcess(Forwarder, ANY, ANY, plain=True) as device, pytest.raises(WaitTimeout, match="still runs"):
        device.wait(0.05)


def test_a_forgotten_one_warns_and_its_child_is_gone() -> None:
    device = DeviceProcess(Queue, ANY, ANY, plain=True).open()
    child = device._child
    assert child is not None
    with pytest.warns(ResourceWarning, match="unclosed"):
        del device
    assert child.returncode == -signal.SIGKILL


def test_a_fork_of_this_program_does_not_end_it() -> None:
    with DeviceProcess(Queue, ANY, ANY, plain=True) as device:
        child = os.fork()
        if not child:
            device.close()
            os._exit(0 if forked(device) else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert device.alive
        device.pause()


def forked(device: DeviceProcess) -> bool:
    try:
        device.pause()
    except (Forked, Closed):
        return True
    return False
