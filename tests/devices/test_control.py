"""The control socket over a device: its verbs, its errors, and garbage that does not reach the device."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

import zmqkit
from zmqkit.devices.control import Control
from zmqkit.devices.rates import Rates
from zmqkit.errors import InsecureAddress, RemoteError, UsageError

ANYWHERE = "tcp://127.0.0.1:*"
WAIT_S = 20.0


class Queue:
    """A device that only notes what it is told."""

    def __init__(self) -> None:
        self.name = "orders"
        self.paused = False
        self.carries: str | None = "plain"
        self.frontend_addresses = ("tcp://127.0.0.1:5555",)
        self.backend_addresses = ("tcp://127.0.0.1:5556",)
        self.passed = 0
        self.ended = threading.Event()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def stats(self) -> dict[str, int | float]:
        self.passed += 1
        return {"frontend_messages_received": self.passed, "frontend_bytes_received": 10 * self.passed, "sessions": 1}

    def stop(self) -> None:
        self.ended.set()


@pytest.fixture
def device() -> Queue:
    return Queue()


@pytest.fixture
def control(device: Queue) -> Iterator[Control]:
    with Control(device, ANYWHERE) as control:
        yield control


@pytest.fixture
def client(control: Control) -> Iterator[Any]:
    with zmqkit.Client(*control.addresses, timeout=WAIT_S) as client:
        yield client.proxy()


def test_a_device_is_described(client: Any) -> None:
    (found,) = client.describe()
    assert found.pop("uptime") >= 0
    assert found == {
        "name": "orders",
        "kind": "queue",
        "state": "running",
        "frontend": ["tcp://127.0.0.1:5555"],
        "backend": ["tcp://127.0.0.1:5556"],
        "carries": "plain",
        "paused": False,
    }


def test_it_is_paused_and_resumed(client: Any, device: Queue) -> None:
    assert client.pause() == [{"name": "orders", "paused": True}]
    assert device.paused
    assert client.describe()[0]["state"] == "paused"
    assert client.resume("orders") == [{"name": "orders", "paused": False}]
    assert not device.paused


def test_its_counters_come_with_rates(client: Any) -> None:
    first, second = client.stats()[0], client.stats()[0]
    assert second["frontend_messages_received"] > first["frontend_messages_received"]
    assert second["sessions"] == 1
    assert second["rates"].keys() == {"frontend_messages_received", "frontend_bytes_received"}
    assert second["rates"]["frontend_bytes_received"] > 0


def test_it_is_told_to_end_and_whoever_said_so_is_answered(client: Any, device: Queue) -> None:
    assert client.terminate() == [{"name": "orders", "state": "ending"}]
    assert device.ended.wait(WAIT_S)


def test_a_name_that_nobody_bears_is_refused(client: Any, device: Queue) -> None:
    with pytest.raises(RemoteError, match="no device 'odrers' here; there is: orders") as refused:
        client.pause("odrers")
    assert refused.value.code == "unknown-device"
    assert not device.paused


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:*", "tcp://*:5555", "tcp://192.0.2.1:5555"])
def test_control_is_never_open_to_the_network(device: Queue, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMQKIT_INSECURE", "1")
    with pytest.raises(InsecureAddress, match="would let others on the network end devices"):
        Control(device, address)


@pytest.mark.parametrize("address", ["zeroconf://orders", "env://WHERE", "static://127.0.0.1:5555"])
def test_control_is_bound_at_an_address_of_its_own(device: Queue, address: str) -> None:
    with pytest.raises(UsageError, match="name the address itself"):
        Control(device, address)


def test_garbage_on_the_control_socket_reaches_nobody(control: Control, client: Any, device: Queue) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as stranger, context.socket(zmq.REQ) as asker:
        stranger.linger = asker.linger = 0
        for each in (stranger, asker):
            each.connect(control.addresses[0])
        for _ in range(100):
            stranger.send_multipart([os.urandom(20), b"", os.urandom(3)])
        asker.send(b"terminate")
        assert client.describe()[0]["name"] == "orders"
    assert client.pause() == [{"name": "orders", "paused": True}]
    assert not device.ended.is_set()


def test_rates_are_those_of_the_last_seconds() -> None:
    rates = Rates()
    assert rates.per_second() == {}
    for second in range(20):
        rates.add(float(second), {"backend_bytes_sent": 0 if second < 10 else 100 * (second - 10), "sessions": 3})
    assert rates.per_second() == {"backend_bytes_sent": 100.0}


def test_rates_begin_anew_with_the_counters() -> None:
    rates = Rates()
    rates.add(0.0, {"backend_messages_sent": 500})
    rates.add(1.0, {"backend_messages_sent": 700})
    rates.add(2.0, {"backend_messages_sent": 10})
    assert rates.per_second() == {"backend_messages_sent": 0.0}
    rates.add(3.0, {"backend_messages_sent": 30})
    assert rates.per_second() == {"backend_messages_sent": 20.0}
