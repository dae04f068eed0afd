"""One job, one command: its body on stdin, its exit status as the outcome. Knows no peer.

The command gets a process group of its own: Ctrl-C in the terminal is for us, and we let it finish.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from typing import IO

from zmqkit.cli.outcome import LOOK_SECONDS, Code, Failed

TAIL_BYTES = 1500
"""How much of the end of stderr becomes part of the reason."""
CANNOT_RUN = (126, 127)
"""What a shell exits with when the command cannot be run, or is not there."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended.

    Attributes:
        status: its exit status; of one that a signal killed, minus the signal's number.
        tail: the end of what it wrote to stderr.
    """

    status: int
    tail: str

    @property
    def reason(self) -> str:
        """In words, for the job's record."""
        killed = self.status < 0
        said = f"killed by {signal.Signals(-self.status).name}" if killed else f"exit status {self.status}"
        return f"{said}: {self.tail}" if self.tail else said


class Command:
    """A shell command that is run once a job.

    Args:
        text: for ``/bin/sh -c``.
        quiet_stdout: what it prints on stdout goes to stderr, because stdout is used otherwise.
    """

    def __init__(self, text: str, *, quiet_stdout: bool) -> None:
        self.text = text
        self._quiet_stdout = quiet_stdout
        self._process: subprocess.Popen[bytes] | None = None
        self._over = False

    @property
    def runs(self) -> bool:
        """Whether it runs now."""
        return self._process is not None

    def run(self, body: bytes, variables: Mapping[str, str]) -> Ended:
        """Run it once, to its end.

        Args:
            body: what it reads on stdin.
            variables: what it finds in its environment, besides ours.

        Raises:
            Failed: it cannot be run at all, so that no job has a chance.
            OSError: it cannot be started, or its stdin has no room on the disk.
        """
        # A file, not a pipe: a command that reads nothing, or late, holds nobody up.
        with tempfile.TemporaryFile() as stdin:
            stdin.write(body)
            stdin.seek(0)
            process = subprocess.Popen(
                ["/bin/sh", "-c", self.text],
                stdin=stdin,
                stdout=sys.stderr if self._quiet_stdout else None,
                stderr=subprocess.PIPE,
                env={**os.environ, **variables},
                process_group=0,
            )
        self._process = process
        try:
            if self._over:
                self.kill()
            assert process.stderr is not None
            with process.stderr as stderr, _Relay(stderr) as relay:
                _await(process)
        except BaseException:  # also one that comes before we wait
            self.kill()
            process.wait()
            raise
        finally:
            self._process = None
        ended = Ended(process.returncode, relay.tail())
        if ended.status in CANNOT_RUN:
            # Else a typing error would make dead letters of every job.
            raise Failed(f"the command cannot be run ({ended.reason}); the job was given back uncounted", Code.FAILED)
        return ended

    def end_within(self, seconds: float) -> None:
        """Let what runs go on for so long, then kill it. For a signal handler: it takes no lock, starts no thread."""
        if seconds > 0:
            signal.signal(signal.SIGALRM, lambda number, frame: self.kill())
            signal.setitimer(signal.ITIMER_REAL, seconds)
        else:
            self.kill()

    def kill(self) -> None:
        """End what runs now, with all that it started, and whatever is run from now on."""
        self._over = True
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _await(process: subprocess.Popen[bytes]) -> None:
    """Wait for its end. Not by `Popen.wait` in this thread: a signal that came just before that one slept would be
    heard only when the command has ended by itself."""
    waiter = threading.Thread(target=process.wait, name="zmqkit-command", daemon=True)
    waiter.start()
    while waiter.is_alive():
        waiter.join(LOOK_SECONDS)


class _Relay:
    """Passes a command's stderr on to ours as it comes, and keeps the end of it.

    What the command left running in the background may keep the pipe open: it is read until the command itself has
    ended, and no longer.
    """

    def __init__(self, stderr: IO[bytes]) -> None:
        self._stderr = stderr
        self._tail = b""
        self._done, self._end = os.pipe()
        self._thread = threading.Thread(target=self._run, name="zmqkit-stderr", daemon=True)

    def __enter__(self) -> _Relay:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._end)
        self._thread.join()
        os.close(self._done)

    def tail(self) -> str:
        """The last lines, in one."""
        text = self._tail.decode("utf-8", "replace")
        return " / ".join([line.strip() for line in text.splitlines() if line.strip()])

    def _run(self) -> None:
        fd = self._stderr.fileno()
        os.set_blocking(fd, False)
        with selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_READ)
            selector.register(self._done, selectors.EVENT_READ)
            ended = False
            while not ended:
                ended = any(key.fd == self._done for key, _ in selector.select())
                # At the end one read takes all that a pipe holds; who goes on writing is not waited for.
                try:
                    chunk = os.read(fd, 1 << 20)
                except BlockingIOError:
                    continue
                if not chunk:
                    return
                self._tail = (self._tail + chunk)[-TAIL_BYTES:]
                with contextlib.suppress(OSError):  # nobody has to read ours
                    os.write(2, chunk)
