"""Other processes for these tests: ``python -m tests.pipeline.programs NAME ARGS``, which speaks JSON lines."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.pipeline.faces import PATIENCE_S

ROOT = Path(__file__).parents[2]


class Program:
    """One of them, while it runs."""

    def __init__(self, name: str, *args: object, module: str = "tests.pipeline.programs", **environment: str) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-W",
                "ignore:This process:DeprecationWarning",
                "-m",
                module,
                name,
                *map(str, args),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment},
        )
        assert self.process.stdout is not None
        self._lines = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.process.stdout, selectors.EVENT_READ)
        self.errors = ""

    def heard(self) -> Any:
        """The next thing it says; waits for it."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + PATIENCE_S
        while b"\n" not in self._lines:
            ready = self._selector.select(max(0.0, deadline - time.monotonic()))
            more = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            assert more, f"it said nothing more: {self._lines!r} {self._end_and_read_errors()}"
            self._lines += more
        line, _, self._lines = self._lines.partition(b"\n")
        return json.loads(line)

    def tell(self, what: object = None) -> None:
        """Say something to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what).encode() + b"\n")
        self.process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def end(self) -> int:
        """Wait for its own end; its exit code. What it wrote to stderr is in `errors`."""
        _, errors = self.process.communicate(timeout=PATIENCE_S)
        self.errors = errors.decode()
        return self.process.returncode

    def _end_and_read_errors(self) -> str:
        self.process.kill()
        return self.process.communicate()[1].decode()


@contextmanager
def program(name: str, *args: object, module: str = "tests.pipeline.programs", **environment: str) -> Iterator[Program]:
    """Runs a program for as long as the block."""
    running = Program(name, *args, module=module, **environment)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()
        running._selector.close()
