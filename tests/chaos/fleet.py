"""The processes of one run: started, killed, stopped, started again, and always ended.

Knows processes, pipes and signals; nothing of zmqkit, and nothing of what the processes do.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tests.chaos.plan import CREW, Role, Step
from tests.preloaded import Preloaded, Process

ROOT = Path(__file__).parents[2]
BUSY_S = 60.0
"""How long a process may take until it is at work, while others are killed. It takes about a second."""
LOG_LINES = 60
WRONG = re.compile(r" (ERROR|CRITICAL) |^Exception |^Fatal ", re.MULTILINE)
"""What stands in a log when something went wrong: logged as such, or in a thread or finalizer that nobody watches."""
STACKS_S = 1.0
"""How long a process that is stuck may take to write down where."""


class Stuck(Exception):
    """Something that must come about did not, in a time that is far longer than it takes."""


class Died(Exception):
    """A process ended that nobody had killed."""


class Member:
    """One process, through all its lives."""

    def __init__(self, role: Role, index: int) -> None:
        self.role = role
        self.index = index
        self.name = f"{role}-{index}"
        self.life = 0
        self.process: subprocess.Popen[bytes] | Process | None = None
        self.said: list[str] = []
        """What it told in this life."""
        self.address = ""
        """Where it was bound last."""
        self.stopped = False
        self.finishing = False
        self.back_s: float | None = None
        """So long after it has ended in good order its next life begins; None: it had its last one."""
        self.began = 0.0

    def told(self, what: str) -> bool:
        """It has said this in this life."""
        return self.process is not None and any(line.split(" ")[0] == what for line in self.said)


class Fleet:
    """All processes of a run, as a context; leaving it ends them.

    Args:
        folder: where they write.
        run: under which names they find each other.
        seed: of what they do by chance.
        plant: a bug to plant, or nothing.
        crew: how many processes of each role there are.
        program: the module that they run.
        programs: the module of each role that has another one.
        first: the roles that begin with the context, the others by `begin` or `start`; None: all.
        devices: how many stand in the path; told to all.
        note: told what is done, to whom, in which life and when: "kill sink-0 2 17.5"; also who is open, and busy.
        dead: called when a step has killed somebody, before the next life.
    """

    preloaded: ClassVar[Preloaded | None] = None
    """Starts the processes of all fleets, where there are many lives to begin; None: each is a fresh interpreter."""

    def __init__(
        self,
        folder: Path,
        run: str,
        seed: int,
        plant: str = "",
        *,
        crew: Mapping[Role, int] = CREW,
        program: str = "tests.chaos.roles",
        programs: Mapping[Role, str] | None = None,
        first: Collection[Role] | None = None,
        devices: int = 0,
        note: Callable[[str], object] = str,
        dead: Callable[[Member, Step], object] = lambda member, step: None,
    ) -> None:
        self.folder = folder
        self.members = [Member(role, index) for role, count in crew.items() for index in range(count)]
        self.kills: Counter[Role] = Counter()
        self.kills_at_work: Counter[Role] = Counter()
        self.stops: Counter[Role] = Counter()
        self.drains: Counter[Role] = Counter()
        self.restarts: Counter[Role] = Counter()
        self.slowest: dict[Role, float] = dict.fromkeys(crew, 0.0)
        """The longest that any life took from its start until it was at work, in seconds, stops left out."""
        self._arguments = ["--run", run, "--folder", str(folder), "--seed", str(seed), "--plant", plant]
        self._arguments += ["--devices", str(devices)]
        self._program = program
        self._programs = programs or {}
        self._first = list(crew) if first is None else first
        self._note = note
        self._dead = dead
        self._selector = selectors.DefaultSelector()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    # ---- doing ---------------------------------------------------------------------

    def do(self, step: Step) -> None:
        """Carry out one step of the plan. Raises `Stuck` and `Died`."""
        self.pause(step.pause_s)
        member = next(each for each in self.members if (each.role, each.index) == (step.role, step.index))
        if step.early:
            self.wait(lambda: member.process is not None, BUSY_S, f"{member.name} to live again")
        else:
            # Stopped while it was at work, it is at work.
            self.wait(lambda: member.told("busy"), BUSY_S, f"{member.name} to be at work")
        process = member.process
        assert process is not None
        if step.kind == "kill":
            self.kills[member.role] += 1
            self.kills_at_work[member.role] += member.told("busy")
            self._tell("kill", member)
            process.kill()
            process.wait()
            self._gone(member)
            self._dead(member, step)
            address = member.address if step.same_address else ""
            self._after(step.away_s, lambda: self.start(member, address))
        elif step.kind == "drain":
            self.drains[member.role] += 1
            self._tell("drain", member)
            member.back_s = step.away_s
            self._tell_to_finish(member)
        elif not member.stopped:
            self.stops[member.role] += 1
            self._tell("stop", member)
            process.send_signal(signal.SIGSTOP)
            _await_standstill(process.pid)
            member.stopped = True
            self._after(step.away_s, lambda: self._go_on(member, process))

    def start(self, member: Member, address: str = "") -> None:
        """Begin the next life of a process; bound here, or where there is a port."""
        member.life += 1
        self.restarts[member.role] += member.life > 1
        command = ["-m", self._programs.get(member.role, self._program), member.role]
        command += ["--index", str(member.index), "--life", str(member.life), *self._arguments]
        command += ["--address", address] if address else []
        environment = {**os.environ, "ZMQKIT_INTERFACES": "127.0.0.1"}
        process: subprocess.Popen[bytes] | Process
        with self._log(member).open("ab") as log:
            if self.preloaded is not None:
                process = self.preloaded.start(["python", *command], ROOT, stderr=log.fileno(), environment=environment)
            else:
                process = subprocess.Popen(
                    [sys.executable, *command],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=environment,
                    # Ctrl-C is for the parent. When that dies, the kernel ends the stopped ones of an orphaned group.
                    process_group=0,
                )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self._selector.register(process.stdout, selectors.EVENT_READ, member)
        member.process, member.said, member.began = process, [], time.monotonic()
        member.finishing, member.back_s = False, None
        self._tell("start", member)

    def begin(self, role: Role, address: str) -> None:
        """Begin the first life of all of a role that do not begin by themselves."""
        for member in self.members:
            if member.role == role:
                self.start(member, address)

    def finish(self, role: Role, within_s: float) -> None:
        """Tell all of a role to end in good order, and wait until they have. Raises `Stuck` and `Died`."""
        ending = [each for each in self.members if each.role == role]
        for member in ending:
            self._tell_to_finish(member)
        self.wait(lambda: all(each.process is None for each in ending), within_s, f"each {role} to finish")

    def settle_down(self, within_s: float) -> None:
        """No more harm: let all that are stopped go on, and all that are dead live. Raises `Stuck` and `Died`."""
        while self._due:
            heapq.heappop(self._due)[2]()
        self.wait(lambda: all(each.told("open") for each in self.members), within_s, "all processes to be open")

    def all_well(self) -> bool:
        """All are at work, and nothing that was done to one is still to be undone."""
        return not self._due and all(each.told("busy") and not each.finishing for each in self.members)

    def _go_on(self, member: Member, process: subprocess.Popen[bytes] | Process) -> None:
        if member.process is process:
            member.stopped = False
            member.began = time.monotonic()
            process.send_signal(signal.SIGCONT)
            self._tell("go", member)

    def _tell_to_finish(self, member: Member) -> None:
        assert member.process is not None
        assert member.process.stdin is not None
        member.finishing = True
        with contextlib.suppress(BrokenPipeError):  # it died: that is told where it is waited for
            os.write(member.process.stdin.fileno(), b"finish\n")

    def _tell(self, what: str, member: Member) -> None:
        self._note(f"{what} {member.name} {member.life} {time.monotonic()}")

    # ---- waiting -------------------------------------------------------------------

    def pause(self, seconds: float) -> None:
        """Let things happen for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._turn(left)

    def wait(self, until: Callable[[], bool], within_s: float, what: str) -> None:
        """Let things happen until something is so. Raises `Stuck` and `Died`."""
        deadline = time.monotonic() + within_s
        while not until():
            left = deadline - time.monotonic()
            if left <= 0:
                raise Stuck(f"waited {within_s:.0f} s for {what}\n\n{self.describe()}")
            self._turn(left)

    def _after(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._count), what))

    def _turn(self, most_s: float) -> None:
        """Wait for what happens next, and take note of it."""
        if self._due:
            most_s = min(most_s, max(0.0, self._due[0][0] - time.monotonic()))
        for key, _ in self._selector.select(most_s):
            self._hear(key.data)
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()

    def _hear(self, member: Member) -> None:
        process = member.process
        assert process is not None
        assert process.stdout is not None
        said = os.read(process.stdout.fileno(), 4096).decode()
        member.said += said.splitlines()
        for line in said.splitlines():
            if line.startswith("open tcp"):
                member.address = line.split(" ")[1]
            if line.startswith("open"):
                self._tell("open", member)
            elif line == "busy":
                self._tell("busy", member)
                self.slowest[member.role] = max(self.slowest[member.role], time.monotonic() - member.began)
        if said:
            return
        code = process.wait(5)
        self._gone(member)
        self._tell("ended", member)
        if not (member.finishing and code == 0 and "done" in member.said):
            raise Died(f"{member.name} ended by itself, with {code}\n\n{self._logged(member)}")
        if member.back_s is not None:
            self._after(member.back_s, lambda: self.start(member, member.address))

    def _gone(self, member: Member) -> None:
        process, member.process, member.stopped = member.process, None, False
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        self._selector.unregister(process.stdout)
        process.stdin.close()
        process.stdout.close()

    # ---- telling -------------------------------------------------------------------

    def complaints(self) -> list[str]:
        """Logs in which something raised that should not have. That a handler raises is planned, and a warning."""
        return [f"{each.name} logged:\n{self._logged(each)}" for each in self.members if self._complains(each)]

    def _complains(self, member: Member) -> bool:
        return WRONG.search(self._log(member).read_text(errors="replace")) is not None

    def describe(self) -> str:
        """Where every process is just now: its last log lines and counters, its stacks."""
        living = [each for each in self.members if each.process is not None and not each.stopped]
        for member in living:
            assert member.process is not None
            member.process.send_signal(signal.SIGUSR1)
        time.sleep(STACKS_S)  # the handler tells nobody when it is through
        parts = []
        for member in self.members:
            state = "dead" if member.process is None else "stopped" if member.stopped else ", ".join(member.said)
            parts.append(f"==== {member.name}, life {member.life}: {state}\n{self._logged(member)}")
            path = self.folder / f"{member.name}.{member.life}.history"
            told = path.read_text().splitlines() if path.exists() else []
            parts += [line for line in told if line.startswith("stats")][-1:]
            parts += [line for line in told if not line.startswith("stats")][-3:]
        return "\n".join(parts)

    def _log(self, member: Member) -> Path:
        return self.folder / f"{member.name}.log"

    def _logged(self, member: Member) -> str:
        """The end of its log, with the stacks in it as far as they are of this repository."""
        text = self._log(member).read_text(errors="replace")
        theirs = ("/lib/python", "<frozen ", "tests/chaos/roles.py", "tests/chaos/process.py")
        return "\n".join([line for line in text.splitlines() if not any(each in line for each in theirs)][-LOG_LINES:])

    # ---- beginning and ending ------------------------------------------------------

    def __enter__(self) -> Self:
        for member in self.members:
            if member.role in self._first:
                self.start(member)
        return self

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        living: Sequence[Member] = [each for each in self.members if each.process is not None]
        for member in living:
            assert member.process is not None
            member.process.kill()  # a stopped one, too
        for member in living:
            assert member.process is not None
            member.process.wait()
            self._gone(member)
        self._selector.close()


def _await_standstill(pid: int) -> None:
    """Threads of a process that was sent SIGSTOP may run on for a moment, on other processors."""
    until = time.monotonic() + BUSY_S
    tasks = Path(f"/proc/{pid}/task")
    while tasks.is_dir() and any(_runs(task) for task in tasks.iterdir()):
        assert time.monotonic() < until, f"process {pid} does not stop"
        time.sleep(0.001)


def _runs(task: Path) -> bool:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0] not in "TtZX"
    except OSError:  # it has ended
        return False
