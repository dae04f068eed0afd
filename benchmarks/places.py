"""Where benchmarks keep their files, and the brokers that they start: nothing of either is left when a run ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator

RUN = "ZMQKIT_BENCH"
"""Names the folder of this run, to the processes that it starts."""


@contextlib.contextmanager
def run_folder() -> Iterator[None]:
    """Makes a folder in the working directory, on a disk rather than in memory, for all that this run keeps.

    The run removes it at its end: its processes are killed, and could not.
    """
    with tempfile.TemporaryDirectory(dir=os.getcwd(), prefix=".bench-") as folder:
        os.environ[RUN] = folder
        try:
            yield
        finally:
            del os.environ[RUN]


def folder() -> tempfile.TemporaryDirectory[str]:
    """A folder of its own in that of the run, or in the working directory."""
    return tempfile.TemporaryDirectory(dir=os.environ.get(RUN) or os.getcwd(), prefix=".bench-")


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def broker(command: list[str], port: int, patience_seconds: float = 10.0) -> Iterator[None]:
    """Run a broker as long as this process lives, and wait until it listens.

    Raises:
        RuntimeError: it ended, or did not listen within so many seconds.
    """

    def die_with_us() -> None:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: the benchmark kills its processes

    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet, preexec_fn=die_with_us) as server:
        try:
            until = time.monotonic() + patience_seconds
            while not listens(port):
                if server.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{command[0]} does not listen on port {port}; it ended with {server.poll()}")
                time.sleep(0.01)
            yield
        finally:
            server.kill()
