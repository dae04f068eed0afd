"""``zmqkit device queue`` and its like: one device in the foreground, with plain peers; and ``zmqkit device ctl``."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.cli.conftest import Start
from tests.cli.terminal import ANYWHERE, WAIT_S, Command
from zmqkit.cli.device_host import Host
from zmqkit.cli.device_logs import entry_of, text_of
from zmqkit.cli.device_notify import Notifier
from zmqkit.cli.outcome import Stopped

BOTH = ("--frontend", ANYWHERE, "--backend", ANYWHERE, "--plain")


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    with zmq.Context() as context:
        yield context


def connected(context: zmq.Context[Any], kind: int, address: str) -> zmq.Socket[Any]:
    made: zmq.Socket[Any] = context.socket(kind)
    made.linger = 0
    made.rcvtimeo = made.sndtimeo = int(WAIT_S * 1000)
    made.connect(address)
    return made


def bound(command: Command, side: str) -> str:
    return command.said(f"{side} bound ").partition(f"{side} bound ")[2]


def end(command: Command, number: signal.Signals = signal.SIGTERM) -> str:
    command.signal(number)
    return command.finish()


def test_a_queue_passes_requests_and_replies_until_a_signal(zmqkit: Start, context: zmq.Context[Any]) -> None:
    queue = zmqkit("device", "queue", *BOTH)
    client = connected(context, zmq.REQ, bound(queue, "frontend"))
    server = connected(context, zmq.REP, bound(queue, "backend"))
    client.send_multipart([b"two", b""])
    assert server.recv_multipart() == [b"two", b""]
    server.send(b"answer")
    assert client.recv() == b"answer"
    client.close()
    server.close()
    assert end(queue, signal.SIGINT) == ""


def test_a_forwarder_passes_what_is_subscribed(zmqkit: Start, context: zmq.Context[Any]) -> None:
    forwarder = zmqkit("device", "forwarder", *BOTH)
    subscriber = connected(context, zmq.SUB, bound(forwarder, "backend"))
    subscriber.subscribe(b"a")
    publisher = connected(context, zmq.XPUB, bound(forwarder, "frontend"))
    assert publisher.recv() == b"\x01a"
    publisher.send(b"b no")
    publisher.send(b"a yes")
    assert subscriber.recv() == b"a yes"
    subscriber.close()
    publisher.close()
    end(forwarder)


def test_a_streamer_passes_jobs(zmqkit: Start, context: zmq.Context[Any]) -> None:
    streamer = zmqkit("device", "streamer", *BOTH)
    pusher = connected(context, zmq.PUSH, bound(streamer, "frontend"))
    puller = connected(context, zmq.PULL, bound(streamer, "backend"))
    pusher.send(b"job")
    assert puller.recv() == b"job"
    pusher.close()
    puller.close()
    end(streamer)


def test_a_proxy_passes_between_the_types_that_it_is_told(zmqkit: Start, context: zmq.Context[Any]) -> None:
    proxy = zmqkit("device", "proxy", *BOTH[:4], "--types", "pull,push")
    pusher = connected(context, zmq.PUSH, bound(proxy, "frontend"))
    puller = connected(context, zmq.PULL, bound(proxy, "backend"))
    pusher.send(b"job")
    assert puller.recv() == b"job"
    pusher.close()
    puller.close()
    end(proxy)


def test_several_addresses_are_bound_and_connected(zmqkit: Start, tmp_path: Path) -> None:
    paths = [f"ipc://{tmp_path}/{name}" for name in ("a", "b", "c")]
    queue = zmqkit(
        "device", "queue", "--frontend", paths[0], "--frontend", f"@{paths[1]}", "--backend", f">{paths[2]}",
        "--backend", ANYWHERE, "--plain", "--json", "--name", "edge",
    )  # fmt: skip
    queue.said(f"backend connects to {paths[2]}")
    found = json.loads(queue.printed("{"))
    assert (found["name"], found["kind"], found["control"]) == ("edge", "queue", [])
    assert found["frontend"] == paths[:2]
    assert found["backend"][0].startswith("tcp://127.0.0.1:")
    end(queue)


def test_signals_pause_and_resume(zmqkit: Start, context: zmq.Context[Any]) -> None:
    streamer = zmqkit("device", "streamer", *BOTH)
    pusher = connected(context, zmq.PUSH, bound(streamer, "frontend"))
    puller = connected(context, zmq.PULL, bound(streamer, "backend"))
    streamer.signal(signal.SIGUSR1)
    streamer.said("paused")
    pusher.send(b"waits")
    assert not puller.poll(50)
    streamer.signal(signal.SIGUSR2)
    streamer.said("resumed")
    assert puller.recv() == b"waits"
    pusher.close()
    puller.close()
    end(streamer)


def test_one_that_is_paused_ends_all_the_same(zmqkit: Start) -> None:
    queue = zmqkit("device", "queue", *BOTH)
    bound(queue, "backend")
    queue.signal(signal.SIGUSR1)
    queue.said("paused")
    end(queue)


def test_it_logs_json_lines(zmqkit: Start, tmp_path: Path) -> None:
    queue = zmqkit("device", "queue", *BOTH, "--log", "json", "--control", f"ipc://{tmp_path}/control")
    queue.said("control bound")
    end(queue)
    entries = [json.loads(line) for line in queue.err.text.splitlines()]
    assert [(each["device"], each["level"]) for each in entries] == [("queue", "info")] * 3
    assert entries[2]["message"] == f"control bound ipc://{tmp_path}/control"


def test_an_address_that_is_taken_is_named(zmqkit: Start) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        queue = zmqkit("device", "queue", "--frontend", taken, "--backend", ANYWHERE, "--plain")
        queue.finish(1)
    assert queue.err.text.startswith(f"zmqkit: cannot bind '{taken}'")


# ---- ctl ---------------------------------------------------------------------------


@pytest.fixture
def control(zmqkit: Start, tmp_path: Path) -> Iterator[str]:
    queue = zmqkit("device", "queue", *BOTH, "--control", f"ipc://{tmp_path}/control", "--name", "orders")
    queue.said("control bound")
    yield f"ipc://{tmp_path}/control"
    if queue.process.poll() is None:
        queue.signal(signal.SIGTERM)
    queue.finish()


def test_a_device_is_steered_from_a_shell(zmqkit: Start, control: str) -> None:
    assert zmqkit("device", "ctl", control, "pause").finish().splitlines()[1].split() == ["orders", "paused"]
    (found,) = zmqkit("device", "ctl", control, "describe", "--json").finish_json()
    assert (found["name"], found["kind"], found["state"], found["carries"]) == ("orders", "queue", "paused", "plain")
    (found,) = zmqkit("device", "ctl", control, "stats", "--json").finish_json()
    assert found["paused"] == 1
    assert found["rates"]["frontend_messages_received"] == 0.0
    assert zmqkit("device", "ctl", control, "resume", "--device", "orders", "--json").finish_json() == [
        {"name": "orders", "paused": False}
    ]
    assert "0:00:" in zmqkit("device", "ctl", control, "describe").finish()


def test_counters_are_shown_by_side(zmqkit: Start, control: str) -> None:
    lines = [line.split() for line in zmqkit("device", "ctl", control, "stats").finish().splitlines()]
    assert lines[0][:4] == ["device", "side", "received", "/s"]
    assert lines[1][:4] == ["orders", "frontend", "0", "0.0"]
    assert lines[2][:3] == ["backend", "0", "0.0"]


def test_counters_are_watched(zmqkit: Start, control: str) -> None:
    seen = zmqkit("device", "ctl", control, "stats", "--watch", "--every", "0.05", "--count", "3").finish_lines()
    assert [each["devices"][0]["name"] for each in seen] == ["orders"] * 3
    watching = zmqkit("device", "ctl", control, "stats", "--watch", "--every", "0.05")
    watching.printed("orders")
    watching.signal(signal.SIGINT)
    watching.finish()


def test_a_device_is_ended_from_a_shell(zmqkit: Start, tmp_path: Path) -> None:
    control = f"ipc://{tmp_path}/control"
    queue = zmqkit("device", "queue", *BOTH, "--control", control, "--name", "orders")
    queue.said("control bound")
    assert zmqkit("device", "ctl", control, "terminate", "--json").finish_json() == [
        {"name": "orders", "state": "ending"}
    ]
    queue.finish()


def test_ctl_says_what_it_cannot_do(zmqkit: Start, control: str, tmp_path: Path) -> None:
    unknown = zmqkit("device", "ctl", control, "pause", "--device", "odrers")
    unknown.finish(1)
    assert "no device 'odrers' here; there is: orders" in unknown.err.text
    nobody = zmqkit("device", "ctl", f"ipc://{tmp_path}/nobody", "pause", "--timeout", "0.2")
    nobody.finish(4)
    watch = zmqkit("device", "ctl", control, "pause", "--watch")
    watch.finish(2)
    assert "--watch is for stats" in watch.err.text
    zmqkit("device", "ctl", control, "halt").finish(2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("queue",), "the frontend needs an address"),
        (("queue", "--frontend", ANYWHERE), "the backend needs an address"),
        (("queue", "--frontend", "tcp://127.0.0.1:5", "--backend", "tcp://127.0.0.1:5"), "both at tcp://127.0.0.1:5"),
        (("queue", "--frontend", ANYWHERE, "--backend", "tcp://192.0.2.1:5"), "--insecure"),
        (("queue", "--frontend", ANYWHERE, "--backend", "127.0.0.1"), "is not an address"),
        (("queue", *BOTH, "--control", "tcp://0.0.0.0:5"), "let others on the network end devices"),
        (("streamer", *BOTH, "--plain-frontend", ANYWHERE), "--journal PATH"),
        (("proxy", *BOTH[:4], "--types", "PUB,REP,REQ"), "types"),
        (("run", "devices.toml", "--json"), "--check"),
    ],
)
def test_a_wrong_command_line_says_why(zmqkit: Start, arguments: tuple[str, ...], said: str) -> None:
    command = zmqkit("device", *arguments)
    command.finish(2)
    assert said in command.err.text


# ---- what needs no process ---------------------------------------------------------


class Stuck:
    """A device that does not end. When it is told to, a second signal comes."""

    name = "stuck"
    paused = False
    carries = None
    frontend_addresses = backend_addresses = ("tcp://127.0.0.1:1",)

    def __init__(self) -> None:
        self.told = 0
        self.over = threading.Event()

    def open(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def close(self, timeout: float | None = None) -> None: ...

    def stats(self) -> dict[str, int | float]:
        return {}

    def run(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        self.over.wait(WAIT_S)

    def stop(self) -> None:
        self.told += 1
        if self.told == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def test_the_second_signal_does_not_wait_for_the_device() -> None:
    device = Stuck()
    host = Host(device)
    host.open()
    with host.signals(), pytest.raises(Stopped) as stopped:
        host.run()
    assert stopped.value.number == signal.SIGTERM
    assert host._runner.is_alive()
    device.over.set()
    host._runner.join(WAIT_S)


def test_without_systemd_nobody_is_told() -> None:
    notifier = Notifier({})
    assert notifier.watchdog_s is None
    assert not notifier.tell(READY="1")


def test_the_environment_of_the_service_manager_is_not_handed_on(tmp_path: Path) -> None:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1", "HOME": "/"}
    assert Notifier(environment).watchdog_s is None  # another process is meant
    assert environment == {"HOME": "/"}


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_gets_one_name_a_line(tmp_path: Path, abstract: bool) -> None:
    path = f"@{tmp_path}/n" if abstract else f"{tmp_path}/n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path.replace("@", "\0"))
        manager.settimeout(WAIT_S)
        notifier = Notifier({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "5000000"})
        assert notifier.watchdog_s == 5.0
        assert notifier.tell(READY="1", STATUS="two\nSTOPPING=1")
        assert manager.recv(1000) == b"READY=1\nSTATUS=two STOPPING=1"


def test_what_strangers_wrote_stays_on_its_line() -> None:
    record = logging.LogRecord("zmqkit", logging.WARNING, "", 0, "said %s", ("a\nb\x1b[31m",), None)
    entry = entry_of(record, "orders")
    assert (entry["message"], entry["device"], entry["level"]) == ("said a b\\x1b[31m", "orders", "warning")
    assert text_of(entry) == "zmqkit: orders: said a b\\x1b[31m"
