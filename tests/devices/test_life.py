"""How a device ends: closed twice, forgotten, forked, interrupted, left open at exit, or by itself."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

import zmqkit
from tests.devices.plainly import ANY, Ends, at, closing, received
from zmqkit.devices import Device, Forwarder, Queue, Streamer
from zmqkit.errors import Closed, Forked

PATIENCE_S = 30.0
HEAD = "import os, signal, sys, threading, zmqkit\nfrom zmqkit.devices import *\nANY = 'tcp://127.0.0.1:*'\n"


@contextlib.contextmanager
def program(text: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program in a process of its own."""
    made = subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", HEAD + text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield made
    finally:
        made.kill()
        made.communicate(timeout=PATIENCE_S)


def test_two_threads_may_close_it_at_once_and_both_find_it_closed() -> None:
    device = Streamer(ANY, ANY, plain=True).open()
    front = device.frontend_addresses[0]
    failures: list[BaseException] = []

    def close() -> None:
        try:
            device.close(1)
            Streamer(front, ANY, plain=True)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not failures
    with Streamer(front, ANY, plain=True) as again:
        assert again.frontend_addresses == (front,)


def test_a_device_that_is_forgotten_warns_and_gives_its_ports_back() -> None:
    device = Queue(ANY, ANY, plain=True, name="forgotten").open()
    front = device.frontend_addresses[0]
    proxy = device._engine._proxy  # type: ignore[attr-defined]  # its end can be waited for
    reference = weakref.ref(device)
    with pytest.warns(ResourceWarning, match="unclosed .*Queue forgotten"):
        del device
    assert reference() is None  # no cycle holds it, and no thread
    zmqkit.transport.tickets.wait(proxy.ended, PATIENCE_S)
    with Queue(front, ANY, plain=True) as again:
        assert again.frontend_addresses == (front,)


@pytest.mark.parametrize("plain", [None, False], ids=["sensing", "zmqkit"])
@pytest.mark.parametrize("kind", [Queue, Forwarder, Streamer])
def test_a_forgotten_device_of_each_kind_is_freed_and_another_opens_at_its_addresses(
    kind: Any, plain: bool | None
) -> None:
    device = kind(ANY, ANY, plain=plain).open()
    addresses = device.addresses
    with pytest.warns(ResourceWarning, match="unclosed"):
        del device
    for attempt in range(100):
        again = kind(*addresses, plain=True)
        try:
            again.open()
        except zmqkit.AddressInUse:  # it is just ending
            assert attempt < 99
            threading.Event().wait(0.1)
        else:
            break
    assert again.addresses == addresses
    again.close()


def test_a_blocked_device_that_is_forgotten_ends_all_the_same() -> None:
    device = Streamer(ANY, ANY, plain=True, limits=zmqkit.Limits(queued_messages=10)).open()
    ends = at(device)
    with closing(ends):
        push, _ = ends.front(zmq.PUSH, SNDTIMEO=300), ends.back(zmq.PULL, RCVHWM=1)
        with contextlib.suppress(zmq.Again):
            while True:
                push.send(bytes(100_000))
        proxy = device._engine._proxy  # type: ignore[attr-defined]
        with pytest.warns(ResourceWarning, match="unclosed"):
            del device
        zmqkit.transport.tickets.wait(proxy.ended, PATIENCE_S)


def test_a_blocked_device_is_closed_in_bounded_time() -> None:
    device = Streamer(ANY, ANY, plain=True, limits=zmqkit.Limits(queued_messages=10)).open()
    ends = at(device)
    with closing(ends):
        push, _ = ends.front(zmq.PUSH, SNDTIMEO=300), ends.back(zmq.PULL, RCVHWM=1)
        with contextlib.suppress(zmq.Again):
            while True:
                push.send(bytes(100_000))
        closer = threading.Thread(target=device.close, args=(0.1,))
        closer.start()
        closer.join(PATIENCE_S)
        assert not closer.is_alive()


def test_what_was_given_to_a_connection_leaves_while_it_lingers() -> None:
    with Streamer(ANY, ANY, plain=True) as device:
        ends = at(device)
        with closing(ends):
            pull, push = ends.back(zmq.PULL), ends.front(zmq.PUSH)
            for number in range(500):
                push.send(b"%d" % number)
            assert received(pull) == [b"0"]
            while device.stats()["backend_messages_sent"] < 500:
                assert device.stats()["sessions"] == 0
            device.close(10)
            assert [received(pull)[0] for _ in range(499)] == [b"%d" % number for number in range(1, 500)]


def test_a_forked_child_has_no_device_and_takes_no_port() -> None:
    with Queue(ANY, ANY, plain=True, name="parents") as device:
        told, tell = os.pipe()
        child = os.fork()
        if not child:
            os.write(tell, b"y" if forked_well(device) else b"n")
            os._exit(0)
        try:
            os.close(tell)
            assert os.read(told, 1) == b"y"
        finally:
            os.close(told)
            assert os.waitpid(child, 0)[1] == 0
        # The parent's goes on.
        ends = at(device)
        with closing(ends):
            client, worker = ends.front(zmq.REQ), ends.back(zmq.REP)
            client.send(b"?")
            assert received(worker) == [b"?"]


def forked_well(device: Device) -> bool:
    for verb in (device.open, device.pause, device.resume):
        try:
            verb()
        except Forked as error:
            if "parents belongs to the parent process" not in str(error):
                return False
        else:
            return False
    device.stop()
    device.close()
    try:
        device.open()
    except Closed:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_run_in_order(number: int) -> None:
    text = """
device = Streamer(ANY, ANY, plain=True)
def tell():
    while not device.addresses:
        threading.Event().wait(0.01)
    print("up", flush=True)
threading.Thread(target=tell).start()
device.run()
print(device.closed)
"""
    with program(text) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "up\n"
        running.send_signal(number)
        out, told = running.communicate(timeout=PATIENCE_S)
        assert (running.returncode, out, told) == (0, "True\n", "")


def test_ctrl_c_in_a_with_block_closes_the_device() -> None:
    text = """
with Streamer(ANY, ANY, plain=True) as device:
    try:
        print("up", flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        device.close()
        print(device.closed)
"""
    with program(text) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "up\n"
        running.send_signal(signal.SIGINT)
        out, told = running.communicate(timeout=PATIENCE_S)
        assert (running.returncode, out, told) == (0, "True\n", "")


def test_a_program_that_leaves_a_device_open_ends_at_once() -> None:
    with program("device = Queue(ANY, ANY, plain=True).open()\nprint('done', flush=True)") as running:
        out, _ = running.communicate(timeout=PATIENCE_S)
        assert (running.returncode, out) == (0, "done\n")


def test_a_device_in_a_thread_is_stopped_from_another() -> None:
    device = Queue(ANY, ANY, plain=True).open()
    runner = threading.Thread(target=device.run)
    runner.start()
    ends = at(device)
    with closing(ends):
        client, worker = ends.front(zmq.REQ), ends.back(zmq.REP)
        client.send(b"?")
        assert received(worker) == [b"?"]
    device.stop()
    runner.join(PATIENCE_S)
    assert not runner.is_alive()
    assert device.closed


class Failing:
    """An engine that ends by itself as soon as it is open."""

    def __init__(self, **given: Any) -> None:
        self._ended = given["ended"]
        self._threads: list[threading.Thread] = []
        self.frontend_addresses = self.backend_addresses = ("inproc://nowhere",)

    def open(self) -> None:
        self._threads = [threading.Thread(target=self._ended, args=(OSError("out of order"),))]
        self._threads[0].start()

    def close(self, timeout: float | None) -> None:
        for thread in self._threads:
            thread.join(timeout)

    def begin_close(self) -> None:
        self.close(0)

    def pause(self) -> None:
        raise OSError("out of order")

    resume = pause

    def stats(self) -> dict[str, int | float]:
        return {}


class FailingQueue(Queue):
    def _plain_engine(self, **given: Any) -> Any:
        return Failing(**given)


def test_run_raises_what_ended_the_device_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    device = FailingQueue("inproc://a", "inproc://b", plain=True, name="weak")
    with pytest.raises(OSError, match="out of order"):
        device.run()
    assert device.closed
    assert "weak: the device ended by itself: out of order" in caplog.text


def test_events_of_an_engine_reach_callbacks_and_one_that_raises_harms_none(caplog: pytest.LogCaptureFixture) -> None:
    device = Queue(ANY, ANY, plain=True, name="told")
    told: list[zmqkit.events.Event] = []

    def fail(event: zmqkit.events.Event) -> None:
        raise RuntimeError("a bug")

    device.on(zmqkit.events.BadFrame, fail)
    remove = device.on(zmqkit.events.Event, told.append)
    event = zmqkit.events.BadFrame("told", "it is empty")
    device._given()["tell"](event)
    assert told == [event]
    assert "a callback for BadFrame raised" in caplog.text
    remove()
    device._given()["tell"](event)
    assert told == [event]


def test_nobody_else_is_woken_when_a_port_is_taken_over() -> None:
    """A device at the addresses of a closed one serves the peers of the first: they connect again by themselves."""
    first = Streamer(ANY, ANY, plain=True).open()
    front, back = first.frontend_addresses[0], first.backend_addresses[0]
    ends = Ends(front, back)
    with closing(ends):
        push, pull = ends.front(zmq.PUSH), ends.back(zmq.PULL)
        push.send(b"first")
        assert received(pull) == [b"first"]
        first.close()
        with Streamer(front, back, plain=True):
            for number in range(1000):
                push.send(b"%d" % number)
                if pull.poll(20):
                    break
            assert int(received(pull)[0]) >= 0


def test_a_close_that_is_interrupted_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Queue("tcp://127.0.0.1:*", "tcp://127.0.0.1:*", plain=True).open()
    engine = device._engine

    def interrupted(linger: float | None) -> None:
        raise KeyboardInterrupt

    begin, begun = engine.begin_close, []

    def begin_close() -> None:
        begun.append(True)
        begin()

    monkeypatch.setattr(engine, "close", interrupted)
    monkeypatch.setattr(engine, "begin_close", begin_close)
    with pytest.raises(KeyboardInterrupt):
        device.close()
    assert begun
