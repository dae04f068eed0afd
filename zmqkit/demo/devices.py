"""The demo of devices: a queue and a forwarder between two networks, killed again and again, and nothing is lost.

``make demo-devices``, or ``python -m zmqkit.demo.devices``. A client on the left calls a server on the right through a
queue, a publisher on the right reaches a subscriber on the left through a forwarder. Left and right are two network
namespaces that only the devices' one reaches, where there is root and ``ip``; else two loopback addresses. Both devices
are killed (SIGKILL) and started anew, and all goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from zmqkit.demo import FAILED, INTERRUPTED, OK, TERMINATED, USAGE, _sigterm_raises, _Terminated
from zmqkit.demo.networks import LOOPBACK, Networks, NoNamespaces, Where, namespaces
from zmqkit.transport import interrupts

WAIT_S = 60.0
"""How long any one step may take."""

DOWN_S = 0.3
"""How long devices stay away after a kill, besides the time that they take to start."""

STEADY = 100
"""Calls, and messages, that go through before the next kill, and after the last one."""


class Stuck(Exception):
    """Something did not happen in time, or a process ended that should not have."""


def _end_with_the_demo() -> None:
    """Runs in the child: the kernel kills it when the demo is killed, for a device has no leash."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Program:
    """One process of the demo, which tells what it does in lines of JSON."""

    def __init__(self, name: str, command: list[str], log: Path) -> None:
        self.name = name
        self.told: dict[str, Any] = {}
        self._log = log
        self._news = threading.Condition()
        with log.open("ab") as errors:
            # A session of its own: Ctrl-C is for the demo, which then ends them.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                preexec_fn=_end_with_the_demo if sys.platform == "linux" else None,
            )
        threading.Thread(target=self._read, name=f"{name}-reader", daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.closing(self.process.stdout) as lines:
            for line in lines:
                with self._news:
                    self.told = json.loads(line)
                    self._news.notify_all()
        self.process.wait()
        with self._news:
            self._news.notify_all()

    @property
    def done(self) -> int:
        """How far it is."""
        return int(self.told.get("done", 0))

    def wait(self, what: str, true: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Until what it told last is so. Raises `Stuck`."""

        def enough() -> bool:
            return bool(self.told and true(self.told)) or self.process.returncode is not None

        with self._news:
            in_time = self._news.wait_for(enough, WAIT_S)
            if self.told and true(self.told):
                return self.told
        why = f"ended by itself, with {self.process.returncode}" if in_time else f"not so within {WAIT_S:.0f} s"
        last = self._log.read_text(errors="replace").strip().splitlines()[-5:]
        raise Stuck("\n  ".join([f"{self.name}: {what}: {why}; it said last: {self.told}", *last]))

    def say(self, word: object) -> None:
        """Give it an order."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended; `wait` tells of it
            self.process.stdin.write(f"{word}\n".encode())
            self.process.stdin.flush()

    def kill(self) -> None:
        """SIGKILL, and its end."""
        self.process.kill()
        self.process.wait()


class Run:
    """One run: six processes, some of which are killed.

    Args:
        networks: where they are.
        rounds: how often the devices are killed.
        note: takes a line for people.
        folder: for their logs.
    """

    def __init__(self, networks: Networks, rounds: int, note: Callable[[str], object], folder: Path) -> None:
        self._networks = networks
        self._rounds = rounds
        self._note = note
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._addresses: dict[str, tuple[str, str]] = {}
        self.devices: dict[str, Program] = {}
        self.ends: dict[str, Program] = {}
        self.gaps: list[int] = []
        """Messages fetched from history after each kill."""

    def __call__(self) -> dict[str, Any]:
        """Run it. Raises `Stuck`."""
        with self._stack:
            self._start_devices()
            self._start_ends()
            client, subscriber = self.ends["client"], self.ends["subscriber"]
            restarts = []
            for _ in range(self._rounds):
                self._go_on()
                self._note(f"{client.done:,} calls answered, {subscriber.done:,} messages read")
                restarts.append(self._kill_and_restart())
            self._go_on()
            return self._end(restarts)

    def _start_devices(self) -> None:
        # The queue's clients and the forwarder's subscribers are on the left, servers and publishers on the right.
        left, right = f"tcp://{self._networks.left}:*", f"tcp://{self._networks.right}:*"
        for kind, front, back in (("queue", left, right), ("forwarder", right, left)):
            self._start_device(kind, *self._addresses.get(kind, (front, back)))
        for kind, device in self.devices.items():
            told = device.wait("it is open", lambda told: "frontend" in told)
            self._addresses[kind] = told["frontend"][0], told["backend"][0]

    def _start_device(self, kind: str, front: str, back: str) -> None:
        command = ["-m", "zmqkit", "device", kind, "--frontend", front, "--backend", back]
        self.devices[kind] = self._start(kind, "between", [*command, "--zmqkit", "--insecure", "--json"])

    def _start_ends(self) -> None:
        (calls, serves), (publishes, subscribes) = self._addresses["queue"], self._addresses["forwarder"]
        ends: list[tuple[str, Where, str]] = [
            ("server", "right", serves),
            ("client", "left", calls),
            ("subscriber", "left", subscribes),
            ("publisher", "right", publishes),
        ]
        for kind, (front, back) in self._addresses.items():
            self._note(f"{kind:<10} {front} | {back}   process {self.devices[kind].process.pid}")
        for role, where, address in ends:
            self.ends[role] = self._start(role, where, ["-m", "zmqkit.demo.ends", role, address])

    def _start(self, name: str, where: Where, command: list[str]) -> Program:
        command = self._networks.at(where, [sys.executable, "-P", *command])
        # What a signal's handler raises while Python forks is thrown away, and a process that nobody knows stays.
        interrupts.look_round()
        found = interrupts.enter()
        try:
            program = Program(name, command, self._folder / f"{name}.log")
            self._stack.callback(program.kill)
        finally:
            interrupts.leave(found)
        return program

    def _go_on(self) -> None:
        """Until so many more calls were answered, and messages read."""
        for role in ("client", "subscriber"):
            program = self.ends[role]
            target = program.done + STEADY
            program.wait(f"{target} done", lambda told, target=target: told["done"] >= target)  # type: ignore[misc]

    def _kill_and_restart(self) -> float:
        """Kill both devices, start them again at their addresses. Seconds from the start until both ends moved on."""
        killed = ", ".join(f"{kind} (process {each.process.pid})" for kind, each in self.devices.items())
        self._note(f"kill -9: {killed}")
        recovered = int(self.ends["subscriber"].told["messages_recovered"])
        for device in self.devices.values():
            device.kill()
        time.sleep(DOWN_S)
        before = {role: self.ends[role].done for role in ("client", "subscriber")}
        began = time.monotonic()
        self._start_devices()
        opened = time.monotonic() - began
        for role, done in before.items():
            self.ends[role].wait("it goes on", lambda told, done=done: told["done"] > done + 1)  # type: ignore[misc]
        took = time.monotonic() - began
        # It reads in order: whatever came now came after what was missed.
        more = int(self.ends["subscriber"].told["messages_recovered"]) - recovered
        self.gaps.append(more)
        self._note(f"started again: open after {opened:.2f} s, calls and messages go on after {took:.2f} s")
        return took

    def _end(self, restarts: list[float]) -> dict[str, Any]:
        client, server, publisher, subscriber = (
            self.ends[role] for role in ("client", "server", "publisher", "subscriber")
        )
        client.say("stop")
        publisher.say("stop")
        called = client.wait("it ends", lambda told: told.get("ended"))
        published = publisher.wait("it publishes no more", lambda told: "sessions_resumed" in told)["done"]
        subscriber.say(published)
        read = subscriber.wait("it has read all", lambda told: told.get("ended"))
        publisher.say(0)
        server.say("stop")
        served = server.wait("it ends", lambda told: told.get("ended"))
        return {
            "network": self._networks.kind,
            "kills": 2 * self._rounds,
            "calls": called["asked"],
            "answered": called["done"],
            "failed": called["failed"],
            "executed": served["done"],
            "executed_twice": served["twice"],
            "published": published,
            "read": read["done"],
            "out_of_order": read["wrong"],
            "losses": read["lost"],
            "sessions_resumed": {"calls": called["sessions_resumed"], "recovery": read["sessions_resumed"]},
            "gaps_recovered": sum(more > 0 for more in self.gaps),
            "messages_recovered": sum(self.gaps),
            "restart_seconds": [round(each, 3) for each in restarts],
        }


def problems(told: dict[str, Any]) -> list[str]:
    """Why the run failed, in words; empty when nothing was lost and what should happen did."""
    found = []
    if told["answered"] != told["calls"]:
        found.append(f"{told['calls'] - told['answered']} calls were not answered: {told['failed']}")
    if told["executed"] != told["calls"] or told["executed_twice"]:
        found.append(f"of {told['calls']} calls {told['executed']} were executed, {told['executed_twice']} twice")
    if told["read"] != told["published"] or told["out_of_order"] or told["losses"]:
        found.append(
            f"of {told['published']} messages {told['read']} were read, {told['out_of_order']} out of order, and"
            f" {told['losses']} times some were named as lost"
        )
    if told["kills"] and not told["sessions_resumed"]["calls"]:
        found.append("the queue was killed, but no session went on over the next one")
    if told["kills"] and not told["gaps_recovered"]:
        found.append("the forwarder was killed, but nothing had to be fetched from history")
    return found


def run(rounds: int = 3, network: str = "auto", as_json: bool = False) -> int:
    """Run the demo and return its exit code.

    Args:
        rounds: how often both devices are killed.
        network: "namespaces", "loopback", or "auto": namespaces where they can be made.
        as_json: print one JSON object to standard output and nothing else.

    Returns:
        0: nothing was lost, sessions went on and gaps were recovered. 1: not so. 2: it was asked for what cannot be.
        130, 143: ended by Ctrl-C, by SIGTERM.
    """

    def note(text: str) -> None:
        if not as_json:
            print(f"  {text}", flush=True)

    def failed(reason: str) -> None:
        if as_json:
            print(json.dumps({"ok": False, "problems": [reason]}))
        print(f"zmqkit demo: {reason}", file=sys.stderr)

    try:
        with _sigterm_raises(), contextlib.ExitStack() as stack:
            quiet = stack.enter_context(_quiet_end())
            networks = stack.enter_context(_networks(network, note))
            stack.callback(quiet)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zmqkit-demo-")))
            if not as_json:
                print(f"A queue and a forwarder between {networks.about}.", flush=True)
            told = Run(networks, rounds, note, folder)()
    except NoNamespaces as error:
        failed(f"--network namespaces: {error}")
        return USAGE
    except Stuck as error:
        failed(str(error))
        return FAILED
    except KeyboardInterrupt:
        failed("ended by Ctrl-C; its processes are gone too")
        return INTERRUPTED
    except _Terminated:
        failed("ended by SIGTERM; its processes are gone too")
        return TERMINATED
    wrong = problems(told)
    if as_json:
        print(json.dumps({"ok": not wrong, "problems": wrong, **told}, indent=2))
    else:
        _show(told, wrong)
    return FAILED if wrong else OK


@contextlib.contextmanager
def _networks(network: str, note: Callable[[str], object]) -> Iterator[Networks]:
    with contextlib.ExitStack() as stack:
        if network == "loopback":
            networks = LOOPBACK
        else:
            try:
                networks = stack.enter_context(namespaces())
            except NoNamespaces as error:
                if network != "auto":
                    raise
                note(f"no network namespaces: {error}")
                networks = LOOPBACK
        yield networks


@contextlib.contextmanager
def _quiet_end() -> Iterator[Callable[[], object]]:
    """Gives what has no signal disturb the rest of the block: who presses Ctrl-C twice still leaves nothing behind."""
    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def quiet() -> None:
        if here:
            for number in before:
                signal.signal(number, signal.SIG_IGN)

    try:
        yield quiet
    finally:
        if here:
            for number, handler in before.items():
                signal.signal(number, handler)


def _show(told: dict[str, Any], wrong: list[str]) -> None:
    resumed = told["sessions_resumed"]
    calls, recovery = resumed["calls"], resumed["recovery"]
    rows = [
        ("devices killed", told["kills"], "with SIGKILL, under load"),
        ("calls answered", told["answered"], f"of {told['calls']:,}; executed twice: {told['executed_twice']}"),
        ("messages read", told["read"], f"of {told['published']:,}; out of order: {told['out_of_order']}"),
        ("sessions resumed", calls + recovery, f"{calls} of calls, {recovery} of recovery"),
        ("gaps recovered", told["gaps_recovered"], f"{told['messages_recovered']:,} messages fetched from history"),
    ]
    print()
    for what, number, about in rows:
        print(f"{what:<18}{number:>8,}  {about}")
    print()
    for problem in wrong or ["Nothing was lost, nothing came twice."]:
        print(problem)


def main() -> int:
    """Read the command line, run the demo, return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m zmqkit.demo.devices", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="kill both devices so often (default 3)")
    parser.add_argument("--network", choices=("auto", "namespaces", "loopback"), default="auto")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    asked = parser.parse_args()
    if not 0 <= asked.rounds <= 1000:
        parser.error(f"--rounds takes a number from 0 to 1000, not {asked.rounds}")
    return run(asked.rounds, asked.network, asked.json)


if __name__ == "__main__":
    sys.exit(main())
