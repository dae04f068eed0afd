"""Starts `zmqkit` and programs in processes that have imported everything before: that takes most of a short test.

One server forks a process for each. It is a process like any other, with pipes, a folder, an environment, a
group, signals and an exit code of its own. What only a fresh interpreter shows, such as a module that nobody imported,
is seen by the tests that start one: those of README.md and docs/cli.md, of examples, of terminals, of what may be
imported. So is how an interpreter takes itself apart: here that is left out, once threads and exit handlers are done.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import queue
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import types
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]

START_S = 60.0
"""How long it may take to import everything; a fork takes milliseconds."""


# ---- in the tests ----------------------------------------------------------------


class Process:
    """What `Preloaded.start` returns: as much of a `subprocess.Popen` as the tests of commands use."""

    def __init__(self, label: str, stdin: IO[str], stdout: IO[str] | None, stderr: IO[str] | None) -> None:
        self.pid = 0
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self._label = label
        self._code = 0
        self._ended = threading.Event()

    def end(self, code: int) -> None:
        """For `Preloaded`: it has ended with this exit code; minus its number if that was a signal."""
        self._code = code
        self._ended.set()

    def poll(self) -> int | None:
        return self._code if self._ended.is_set() else None

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(self._label, timeout or 0.0)
        return self._code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended, and we are about to be told
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Preloaded:
    """The server, as tests see it."""

    def __init__(self) -> None:
        self._link, theirs = socket.socketpair()
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.preloaded", str(theirs.fileno())],
                cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True,
            )  # fmt: skip
        self._lock = threading.Lock()
        self._begun: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._next: Process | None = None
        self._running: dict[int, Process] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(
        self,
        arguments: Sequence[str | Path],
        folder: Path,
        stdin: int = subprocess.PIPE,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
        environment: Mapping[str, str] = os.environ,
        session: bool = False,
    ) -> Process:
        """Run ``zmqkit`` or ``python`` with what follows: arguments; a program, or ``-m`` and a module, and arguments.

        Args:
            arguments: the name of either, and what follows.
            folder: where to.
            stdin: a pipe, or nothing.
            stdout, stderr: a pipe, or a descriptor; stderr may be where stdout is.
            environment: all of it. What Python reads of it when it starts is this server's.
            session: it leads a session of its own, and not a group only.
        """
        words = [str(each) for each in arguments]
        source, to_stdin = os.pipe()
        given = [source]
        streams: list[IO[str] | None] = []
        for target in (stdout, stderr):
            if target == subprocess.PIPE:
                source, target = os.pipe()
                streams.append(open(source))  # noqa: SIM115 - whoever started it closes them
            else:
                target = os.dup(given[1] if target == subprocess.STDOUT else target)
                streams.append(None)
            given.append(target)
        process = Process(" ".join(words), open(to_stdin, "w"), *streams)  # noqa: SIM115
        if stdin == subprocess.DEVNULL:
            process.stdin.close()
        told = {"arguments": words, "folder": str(folder), "environment": dict(environment), "session": session}
        request = json.dumps(told).encode()
        with self._lock:
            self._next = process
            socket.send_fds(self._link, [len(request).to_bytes(4, "big")], given)
            self._link.sendall(request)
            process.pid = self._begun.get(timeout=START_S)
        for descriptor in given:
            os.close(descriptor)
        return process

    def _read(self) -> None:
        with self._link.makefile() as lines:
            for line in lines:
                told = json.loads(line)
                if "code" in told:
                    self._running.pop(told["pid"]).end(told["code"])
                else:
                    assert self._next is not None
                    self._running[told["pid"]] = self._next
                    self._begun.put(told["pid"])

    def close(self) -> None:
        self._link.shutdown(socket.SHUT_WR)
        self._server.wait(START_S)
        self._reader.join(START_S)
        self._link.close()


# ---- in the server ---------------------------------------------------------------


PACKAGES = (
    "cli", "discovery", "peer", "transport", "journal", "inbox", "protocol",
    "patterns.pipeline", "patterns.pubsub", "patterns.reqrep", "devices",
)  # fmt: skip
LATE = ("rich.live", "rich.progress", "rich.table", "typer.rich_utils", "pydantic")
"""What others import when they use it; not all of them in every version."""


def import_everything() -> None:
    """All that a command may import."""
    for package in PACKAGES:
        _import_all(f"zmqkit.{package}")
    for name in LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    warnings.filterwarnings("ignore", "This process", DeprecationWarning)  # programs fork while I/O threads run
    gc.collect()
    gc.freeze()  # children need not look at it again


def _import_all(package: str) -> None:
    for folder in importlib.import_module(package).__path__:
        for path in Path(folder).glob("*.py"):
            if not path.stem.startswith("__"):
                importlib.import_module(f"{package}.{path.stem}")


def serve(link: socket.socket) -> dict[str, Any] | None:
    """Fork as asked, until the tests have ended (None). Returns in each child, with what it is to be."""
    ended, tell_ended = os.pipe()
    os.set_blocking(tell_ended, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(tell_ended)
    poller = select.poll()
    poller.register(link, select.POLLIN)
    poller.register(ended, select.POLLIN)
    while True:
        for descriptor, _ in poller.poll():
            if descriptor == ended:
                os.read(ended, 4096)
                _tell_who_ended(link)
                continue
            head, given, _, _ = socket.recv_fds(link, 4, 3)
            if not head:
                return None
            request: dict[str, Any] = json.loads(_read_exactly(link, int.from_bytes(head, "big")))
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                link.close()
                os.close(ended)
                os.close(tell_ended)
                become(request, given)
                return request
            for each in given:
                os.close(each)
            link.sendall(json.dumps({"pid": pid}).encode() + b"\n")


def _tell_who_ended(link: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        link.sendall(json.dumps({"pid": pid, "code": os.waitstatus_to_exitcode(status)}).encode() + b"\n")


def _read_exactly(link: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        found += link.recv(size - len(found))
    return found


def become(request: dict[str, Any], given: list[int]) -> None:
    """What a fresh process would be: its streams, folder, environment, group and arguments."""
    if request["session"]:
        os.setsid()
    else:
        os.setpgid(0, 0)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, descriptor in enumerate(given):
        os.dup2(descriptor, number)
        os.close(descriptor)
    by_lines = "PYTHONUNBUFFERED" in os.environ  # all that a line goes through is flushed at its end
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, name)
        stream = open(  # noqa: SIM115 - for as long as it runs
            number, "w" if number else "r", buffering=1 if number == 2 or by_lines else -1,
            encoding=old.encoding, errors=old.errors, closefd=False,
        )  # fmt: skip
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def run(descriptor: int) -> int:
    atexit.register(leave)  # the first to be registered is the last to be called
    import_everything()
    with socket.socket(fileno=descriptor) as link:
        link.set_inheritable(False)
        request = serve(link)
    if request is None:
        return 0
    name, *arguments = request["arguments"]
    global status
    try:
        status = run_command(arguments) if name == "zmqkit" else run_python(arguments)
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            status = ended.code or 0
        raise
    return status


def run_command(arguments: list[str]) -> int:
    from zmqkit.cli import main as command

    sys.modules["__main__"] = types.ModuleType("__main__")
    script = Path(sys.executable).with_name("zmqkit")
    sys.argv, sys.path[0] = [str(script), *arguments], str(script.parent)
    return command()


def run_python(arguments: list[str]) -> int:
    if arguments[0] == "-m":
        sys.argv, sys.path[0] = arguments[1:], os.getcwd()
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return 0
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    program = Path(arguments[0]).absolute()
    sys.argv, sys.path[0] = arguments, str(program.parent)
    main.__file__ = str(program)
    exec(compile(program.read_bytes(), program, "exec", dont_inherit=True), vars(main))
    return 0


status: int | None = None
"""With which this process ends; None: as Python has it, because something was raised."""


def leave() -> None:
    """End at once: to take apart all that was imported costs more than most commands do."""
    if status is not None:
        with contextlib.suppress(OSError):  # as when nobody reads it: Python says so
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1])))
