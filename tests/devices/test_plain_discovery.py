"""Plain devices and names: what they connect to comes and goes, and they are found themselves."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator

import pytest
import zmq

import zmqkit
from tests.devices.plainly import ANY, Ends, at, closing, received, stay_empty
from zmqkit import discovery
from zmqkit.devices import Forwarder, Queue, Side, Streamer
from zmqkit.errors import DiscoveryError, UsageError
from zmqkit.transport.context import context

PATIENCE_S = 30.0


@pytest.fixture
def name() -> Iterator[str]:
    """A name that nobody else has."""
    yield f"test-{uuid.uuid4().hex[:12]}"
    assert discovery.wait_closed(PATIENCE_S)


@contextlib.contextmanager
def bound(kind: int) -> Iterator[tuple[zmq.Socket[bytes], str]]:
    made = context().socket(kind)
    try:
        made.setsockopt(zmq.LINGER, 0)
        made.bind(ANY)
        yield made, made.getsockopt_string(zmq.LAST_ENDPOINT)
    finally:
        made.close(0)


def until(condition: Callable[[], object]) -> None:
    for _ in range(int(PATIENCE_S / 0.02)):
        if condition():
            return
        threading.Event().wait(0.02)
    raise AssertionError("it did not come to that")


def test_fixed_addresses_of_a_name_are_all_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with bound(zmq.PULL) as (first, here), bound(zmq.PULL) as (second, there):
        monkeypatch.setenv("ZMQKIT_TEST_PULLERS", f"{here}, {there}")
        members = ",".join(each.removeprefix("tcp://") for each in (here, there))
        for backend in ("env://ZMQKIT_TEST_PULLERS", f"static://{members}"):
            with Streamer(ANY, backend, plain=True) as device:
                push = Ends(device.frontend_addresses[0], "").front(zmq.PUSH)
                try:
                    waiting = [first, second]
                    for number in range(1000):
                        push.send(b"%d" % number)
                        waiting = [each for each in waiting if not each.poll(5)]
                        if not waiting:
                            break
                    assert not waiting
                finally:
                    push.close(0)
            for each in (first, second):
                while each.poll(100):
                    each.recv()


def test_a_variable_that_is_not_set_is_told_when_it_is_opened() -> None:
    device = Streamer(ANY, "env://ZMQKIT_NOT_SET", plain=True)
    with pytest.raises(DiscoveryError, match="ZMQKIT_NOT_SET is not set"):
        device.open()
    assert device.addresses == ()


def test_what_is_announced_is_connected_to_and_what_is_gone_gets_no_more(name: str) -> None:
    with Streamer(ANY, f"zeroconf://{name}", plain=True) as device:
        ends = Ends(device.frontend_addresses[0], "")
        with closing(ends), bound(zmq.PULL) as (first, here), bound(zmq.PULL) as (second, there):
            push = ends.front(zmq.PUSH)
            push.send(b"before anybody is there")
            with discovery.announce(name, [here], role="pull", instance="first"):
                assert received(first) == [b"before anybody is there"]
                with discovery.announce(name, [there], role="pull", instance="second"):
                    got: set[int] = set()
                    for number in range(1000):
                        push.send(b"%d" % number)
                        got |= {at_ for at_, each in enumerate((first, second)) if each.poll(10)}
                        if len(got) == 2:
                            break
                    assert len(got) == 2
                until(lambda: len(known(device)) == 1)
                for each in (first, second):
                    while each.poll(50):
                        each.recv()
                for number in range(100):
                    push.send(b"%d" % number)
                    assert received(first) == [b"%d" % number]
                assert stay_empty(second)


def known(device: Streamer) -> set[str]:
    """What its backend is connected to by name."""
    return {each for found in device._engine._found.values() for each in found}  # type: ignore[attr-defined]


def test_a_device_is_found_by_the_next_one(name: str) -> None:
    with (
        Queue(ANY, f"zeroconf://{name}", plain=True) as first,
        Queue(Side(announce=name), ANY, plain=True) as second,
    ):
        ends = Ends(first.frontend_addresses[0], second.backend_addresses[0])
        with closing(ends):
            client, worker = ends.front(zmq.REQ), ends.back(zmq.REP)
            client.send(b"?")
            assert received(worker) == [b"?"]
            worker.send(b"!")
            assert received(client) == [b"!"]


def test_zmqkits_plain_peers_find_a_plain_forwarder_by_its_names(name: str) -> None:
    with (
        Forwarder(Side(announce=f"{name}-in"), Side(announce=f"{name}-out"), plain=True) as device,
        zmqkit.Publisher(connect=f"zeroconf://{name}-in", plain=True, codec="json") as publisher,
    ):
        ends = at(device)
        with closing(ends):
            subscriber = ends.back(zmq.SUB)
            subscriber.subscribe(b"a")
            publisher.wait_for_subscribers(1, topic="a", timeout=PATIENCE_S)
            publisher.publish("a", {"n": 1})
            assert received(subscriber) == [b"a", b'{"n":1}']


def test_an_address_beyond_this_host_that_a_name_stands_for_is_not_connected_to(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Streamer(ANY, f"zeroconf://{name}", plain=True) as device:
        changed = device._engine._changed  # type: ignore[attr-defined]
        changed(1, "zeroconf://x", [discovery.Found("tcp://192.0.2.1:5555", "someone", "x", "pull")])
        assert known(device) == set()
        assert "found by zeroconf://x, but not connected" in caplog.text


def test_what_connects_to_the_name_that_it_announces_is_refused() -> None:
    with pytest.raises(UsageError, match="frontend and backend are both at zeroconf://jobs"):
        Streamer("@zeroconf://jobs", "zeroconf://jobs")
