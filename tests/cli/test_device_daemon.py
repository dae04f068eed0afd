"""The daemon: many devices, each a process of its own, and what becomes of one is not the others' matter."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

import zmqkit as library
from tests.cli.conftest import Start
from tests.cli.terminal import WAIT_S, Command
from zmqkit.errors import RemoteError

ANYWHERE = "tcp://127.0.0.1:*"


def device(name: str, frontend: str = ANYWHERE, backend: str = ANYWHERE, more: str = "plain = true") -> str:
    return f'[[device]]\nname = "{name}"\nkind = "queue"\nfrontend = "{frontend}"\nbackend = "{backend}"\n{more}\n'


class Daemon:
    """A running daemon and a client of its control socket."""

    def __init__(self, start: Start, folder: Path, *devices: str, label: str = "devices", **how: Any) -> None:
        self.file = folder / f"{label}.toml"
        self.control = f"ipc://{folder}/{label}"
        self.write(*devices)
        self.command: Command = start("device", "run", self.file.name, **how)
        self.client = library.Client(self.control, timeout=WAIT_S)

    def write(self, *devices: str) -> None:
        self.file.write_text(f'[control]\naddress = "{self.control}"\n' + "".join(devices))

    def ready(self) -> Daemon:
        self.command.said("ready: ")
        return self

    def ask(self, verb: str, name: str | None = None) -> dict[str, dict[str, Any]]:
        """By the device's name."""
        return {each["name"]: each for each in self.client.call(verb, name)}

    def end(self, code: int = 0) -> str:
        """Told to end; what it printed."""
        self.command.signal(signal.SIGTERM)
        self.command.finish(code)
        return self.command.err.text


Make = Callable[..., Daemon]


@pytest.fixture
def daemon(zmqkit: Start, tmp_path: Path) -> Iterator[Make]:
    made: list[Daemon] = []

    def make(*devices: str, **how: Any) -> Daemon:
        made.append(Daemon(zmqkit, tmp_path, *devices, **how))
        return made[-1]

    yield make
    for each in made:
        each.client.close(0)
        if each.command.process.poll() is None:
            each.end()


class Echo:
    """A plain REP that answers at a queue's backend, and a REQ at its frontend."""

    def __init__(self, context: zmq.Context[Any], described: dict[str, Any]) -> None:
        self._over = threading.Event()
        self._replies = context.socket(zmq.REP)
        self._replies.connect(described["backend"][0])
        self._requests = context.socket(zmq.REQ)
        self._requests.rcvtimeo = self._requests.sndtimeo = int(WAIT_S * 1000)
        self._requests.connect(described["frontend"][0])
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def _answer(self) -> None:
        while not self._over.is_set():
            if self._replies.poll(50):
                self._replies.send(self._replies.recv())

    def ask(self, text: str) -> str:
        self._requests.send_string(text)
        answer: str = self._requests.recv_string()
        return answer

    def __enter__(self) -> Echo:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(WAIT_S)
        self._replies.close(0)
        self._requests.close(0)


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    with zmq.Context() as context:
        yield context


def wait_gone(pidfd: int) -> None:
    """Until this process has ended."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    assert poller.poll(WAIT_S * 1000), "the process has not ended"
    os.close(pidfd)


def test_a_killed_device_is_there_again_and_its_neighbour_never_knew(daemon: Make, context: zmq.Context[Any]) -> None:
    """The same addresses, and a plain REQ that was connected all the time goes on by itself."""
    running = daemon(device("orders"), device("prices")).ready()
    before = running.ask("describe")
    asked = threading.Event()
    answers: list[str] = []
    with Echo(context, before["orders"]) as orders, Echo(context, before["prices"]) as prices:
        assert orders.ask("one") == "one"

        def ask_on() -> None:
            while not asked.is_set():
                answers.append(prices.ask(str(len(answers))))

        neighbour = threading.Thread(target=ask_on)
        neighbour.start()
        os.kill(before["orders"]["pid"], signal.SIGKILL)
        running.command.said("orders: its process was ended by signal 9 (Killed); started again in ")
        running.command.said("orders: queue runs again (")
        assert orders.ask("two") == "two"
        asked.set()
        neighbour.join(WAIT_S)
    assert not neighbour.is_alive()
    assert answers == [str(each) for each in range(len(answers))]
    after = running.ask("describe")
    assert after["orders"]["frontend"] == before["orders"]["frontend"]
    assert (after["orders"]["restarts"], after["prices"]["restarts"]) == (1, 0)
    assert after["prices"]["pid"] == before["prices"]["pid"]
    running.end()


def test_jobs_of_zmqkit_peers_settle_through_a_streamer_that_is_killed(daemon: Make) -> None:
    """None is lost: what the dead device had in hand its peers send again. One may come twice, if it was long away."""
    streamer = device("jobs", more="plain = false").replace("queue", "streamer")
    running = daemon(streamer, device("orders")).ready()
    found = running.ask("describe")["jobs"]
    done: list[int] = []
    with (
        library.Pusher(connect=found["frontend"][0]) as pusher,
        library.Puller(connect=found["backend"][0], prefetch=10) as puller,
    ):
        for number in range(200):
            pusher.send(number)
        while len(set(done)) < 200:
            job = puller.receive(WAIT_S)
            assert job is not None, f"no job came after {len(done)}"
            with job:
                done.append(job.body)
            if len(done) in (50, 100):
                os.kill(running.ask("describe")["jobs"]["pid"], signal.SIGKILL)
        pusher.flush(timeout=WAIT_S)
    assert set(done) == set(range(200))
    after = running.ask("describe")
    assert (after["jobs"]["restarts"], after["orders"]["restarts"]) == (2, 0)


def test_a_paused_device_comes_back_paused(daemon: Make) -> None:
    running = daemon(device("orders")).ready()
    assert running.ask("pause")["orders"]["paused"]
    os.kill(running.ask("describe")["orders"]["pid"], signal.SIGKILL)
    assert ", paused" in running.command.said("orders: queue runs again (")
    assert running.ask("describe")["orders"]["state"] == "paused"
    assert running.ask("stats")["orders"]["paused"]
    assert not running.ask("resume")["orders"]["paused"]
    assert running.ask("describe")["orders"]["state"] == "running"


def test_a_device_whose_address_is_taken_is_named_and_tried_again(daemon: Make, context: zmq.Context[Any]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        running = daemon(device("orders", frontend=taken), device("prices")).ready()
        assert "1 of 2 devices running; orders: cannot bind" in running.command.said("ready: ")
        found = running.ask("describe")
        assert found["orders"]["state"] in ("waiting", "starting")
        assert taken in running.command.said(f"orders: cannot bind '{taken}'")
        assert "error" in running.ask("stats", "orders")["orders"]
        with Echo(context, found["prices"]) as prices:
            assert prices.ask("well?") == "well?"
    running.command.said("orders: queue runs again")
    assert running.ask("describe")["orders"]["frontend"] == [taken]


def test_the_file_is_read_again_and_only_what_is_different_is_touched(daemon: Make) -> None:
    running = daemon(device("same"), device("changed"), device("gone")).ready()
    before = running.ask("describe")
    gone = os.pidfd_open(before["gone"]["pid"])
    running.write(device("same"), device("changed", more="plain = true\nlinger = 1.0"), device("new"))
    running.command.signal(signal.SIGHUP)
    running.command.said("was read again: added new; changed changed; removed gone")
    wait_gone(gone)
    running.command.said("new: queue runs")
    after = running.ask("describe")
    assert after.keys() == {"same", "changed", "new"}
    assert after["same"]["pid"] == before["same"]["pid"]
    assert after["changed"]["pid"] != before["changed"]["pid"]


def test_a_file_that_became_wrong_changes_nothing(daemon: Make) -> None:
    running = daemon(device("orders")).ready()
    before = running.ask("describe")
    running.write(device("orders"), device("orders"))
    running.command.signal(signal.SIGHUP)
    running.command.said(f"{running.file.name}:10: there are two devices 'orders': the first is on line 4")
    running.command.said("all stays as it was")
    assert running.ask("describe")["orders"]["pid"] == before["orders"]["pid"]


def test_one_device_is_ended_and_the_next_reading_starts_it_again(daemon: Make) -> None:
    running = daemon(device("orders"), device("prices")).ready()
    running.ask("terminate", "orders")
    running.command.said("orders: ended")
    found = running.ask("describe")
    assert (found["orders"]["state"], found["prices"]["state"]) == ("ended", "running")
    running.command.signal(signal.SIGHUP)
    running.command.said("was read again: changed orders")
    assert running.ask("describe")["orders"]["state"] in ("starting", "running")


def test_all_are_ended_over_the_control_socket(daemon: Make) -> None:
    running = daemon(device("orders"), device("prices")).ready()
    assert running.ask("terminate").keys() == {"orders", "prices"}
    running.command.finish()
    assert "orders: ended" in running.command.err.text


def test_garbage_at_the_control_socket_disturbs_nobody(daemon: Make, context: zmq.Context[Any]) -> None:
    running = daemon(device("orders")).ready()
    with Echo(context, running.ask("describe")["orders"]) as orders:
        for kind in (zmq.DEALER, zmq.PUSH, zmq.SUB):
            with context.socket(kind) as stranger:
                stranger.linger = 0
                stranger.connect(running.control)
                if kind == zmq.DEALER:
                    for each in range(100):
                        stranger.send_multipart([os.urandom(each + 1), b"terminate", b""])
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(running.control.removeprefix("ipc://"))
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n" + os.urandom(1000))
            assert orders.ask("well?") == "well?"
        assert running.ask("pause")["orders"]["paused"]
        assert not running.ask("resume")["orders"]["paused"]
        for verb, arguments in (("describe", ["nobody"]), ("pause", [7])):
            with pytest.raises(RemoteError, match="there is no device"):
                running.client.call(verb, *arguments)
        assert orders.ask("still?") == "still?"


def test_a_second_daemon_at_the_same_control_socket_is_refused(daemon: Make, zmqkit: Start) -> None:
    running = daemon(device("orders")).ready()
    second = zmqkit("device", "run", running.file.name)
    second.finish(1)
    assert f"cannot bind '{running.control}'" in second.err.text
    assert running.ask("describe")["orders"]["state"] == "running"
    assert zmqkit("device", "run", running.file.name, "--check").finish() == ""


def test_a_second_daemon_at_the_same_addresses_takes_over_when_the_first_ends(daemon: Make) -> None:
    first = daemon(device("orders")).ready()
    (frontend,), (backend,) = (first.ask("describe")["orders"][side] for side in ("frontend", "backend"))
    second = daemon(device("orders", frontend, backend), label="second").ready()
    second.command.said(f"orders: cannot bind '{frontend}'")
    assert first.ask("describe")["orders"]["restarts"] == 0
    first.end()
    second.command.said("orders: queue runs again")
    assert second.ask("describe")["orders"]["frontend"] == [frontend]


def test_devices_end_when_their_daemon_was_killed(daemon: Make) -> None:
    running = daemon(device("orders")).ready()
    child = os.pidfd_open(running.ask("describe")["orders"]["pid"])
    running.command.kill()
    wait_gone(child)


def test_a_device_may_have_a_control_socket_of_its_own(daemon: Make, tmp_path: Path) -> None:
    running = daemon(device("orders", more=f'plain = true\ncontrol = "ipc://{tmp_path}/own"'), device("prices")).ready()
    assert running.ask("describe")["orders"]["control"] == [f"ipc://{tmp_path}/own"]
    with library.Client(f"ipc://{tmp_path}/own", timeout=WAIT_S) as own:
        assert [each["name"] for each in own.call("pause")] == ["orders"]
        assert running.ask("stats", "orders")["orders"]["paused"] == 1
        os.kill(running.ask("describe")["orders"]["pid"], signal.SIGKILL)
        assert ", paused" in running.command.said("orders: queue runs again (")
        assert own.call("describe")[0]["paused"]
        own.call("terminate")
    running.command.said("orders: its process ended with exit status 0; started again")
    running.command.said("orders: queue runs again (", times=2)  # the third try, if another had the port meanwhile
    assert running.ask("describe")["prices"]["restarts"] == 0


def test_signals_pause_and_resume_all(daemon: Make) -> None:
    running = daemon(device("orders"), device("prices")).ready()
    running.command.signal(signal.SIGUSR1)
    running.command.said("paused: orders, prices")
    assert all(each["paused"] for each in running.ask("describe").values())
    running.command.signal(signal.SIGUSR2)
    running.command.said("resumed: orders, prices")
    assert not any(each["paused"] for each in running.ask("describe").values())


def test_logs_are_a_line_of_json_each(daemon: Make, tmp_path: Path) -> None:
    running = daemon('[log]\nformat = "json"\n', device("orders"))
    running.command.said('"message": "ready: 1 of 1 device running"')
    os.kill(running.ask("describe")["orders"]["pid"], signal.SIGKILL)
    running.command.said("queue runs again")
    entries = [json.loads(line) for line in running.end().splitlines()]
    assert all(each.keys() >= {"at", "level", "logger", "message"} for each in entries)
    (killed,) = [each for each in entries if "signal 9" in each["message"]]
    assert (killed["level"], killed["device"]) == ("warning", "orders")


class Systemd:
    """Listens as the service manager does."""

    def __init__(self, folder: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._socket.settimeout(WAIT_S)
        self.environment = {"NOTIFY_SOCKET": str(folder / "notify")}

    def told(self, words: str) -> dict[str, str]:
        """Waits for a message with this in it."""
        while True:
            text = self._socket.recv(65536).decode()
            if words in text:
                return dict(line.split("=", 1) for line in text.splitlines())

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    systemd = Systemd(tmp_path)
    yield systemd
    systemd.close()


def test_systemd_is_told_when_devices_are_ready_and_when_they_end(daemon: Make, systemd: Systemd) -> None:
    running = daemon(device("orders"), environment=systemd.environment)
    assert systemd.told("READY=1")["STATUS"] == "1 of 1 device running"
    running.command.signal(signal.SIGHUP)
    assert int(systemd.told("RELOADING=1")["MONOTONIC_USEC"]) > 0
    systemd.told("READY=1")
    running.command.signal(signal.SIGTERM)
    systemd.told("STOPPING=1")
    running.command.finish()


def test_a_device_that_cannot_start_keeps_nobody_waiting_for_readiness(daemon: Make, systemd: Systemd) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        daemon(device("orders", frontend=taken), device("prices"), environment=systemd.environment)
        assert systemd.told("READY=1")["STATUS"].startswith("1 of 2 devices running; orders: cannot bind")


@pytest.mark.slow
def test_a_device_that_hangs_is_killed_and_the_watchdog_is_told_that_all_is_well(
    daemon: Make, systemd: Systemd
) -> None:
    running = daemon(
        device("orders"), device("prices"), environment={**systemd.environment, "WATCHDOG_USEC": "9000000"}
    ).ready()
    systemd.told("WATCHDOG=1")
    os.kill(running.ask("describe")["orders"]["pid"], signal.SIGSTOP)
    running.command.said("orders: it has not answered for 3 s, and was killed; started again")
    running.command.said("orders: queue runs again (")
    assert "2 of 2 devices running" in systemd.told("STATUS=2 of 2")["STATUS"]
    assert running.ask("describe")["prices"]["restarts"] == 0


@pytest.mark.slow
def test_a_device_that_hangs_does_not_keep_the_answers_of_others_from_ctl(daemon: Make, zmqkit: Start) -> None:
    running = daemon(device("orders"), device("prices")).ready()
    stopped = running.ask("describe")["orders"]["pid"]
    os.kill(stopped, signal.SIGSTOP)
    try:
        for verb in ("describe", "stats", "pause"):
            told = zmqkit("device", "ctl", running.control, verb, "--json").finish(1)
            found = {each["name"]: each for each in json.loads(told)}
            assert found["orders"]["error"] == "orders has not answered for 3 s"
            assert "error" not in found["prices"]
    finally:
        os.kill(stopped, signal.SIGCONT)


@pytest.mark.slow
def test_a_device_that_does_not_end_is_killed_in_the_end(daemon: Make) -> None:
    running = daemon(device("orders"), device("prices")).ready()
    stopped = running.ask("describe")["orders"]["pid"]
    os.kill(stopped, signal.SIGSTOP)
    running.command.signal(signal.SIGTERM)
    running.command.said("orders: it has not ended within 8 s, and is killed")
    running.command.finish()


def test_a_second_signal_ends_all_at_once(daemon: Make) -> None:
    running = daemon(device("orders")).ready()
    os.kill(running.ask("describe")["orders"]["pid"], signal.SIGSTOP)
    running.command.signal(signal.SIGINT)
    running.command.signal(signal.SIGTERM)
    running.command.said("told to end a second time: devices are killed")
    running.command.finish()
