"""Other processes for these tests: ``python -m tests.pipeline.programs NAME ARGS``, which speaks JSON lines.

tests/preloaded.py starts them, with all imported: that takes most of the time of a short program.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

from tests.pipeline.faces import PATIENCE_S
from tests.preloaded import Preloaded

ROOT = Path(__file__).parents[2]


class Program:
    """One of them, while it runs."""

    preloaded: ClassVar[Preloaded]
    """Starts them; set by the fixture of that name."""

    def __init__(self, name: str, *args: object, module: str = "tests.pipeline.programs", **environment: str) -> None:
        self._written = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        self.process = self.preloaded.start(
            ["python", "-m", module, name, *map(str, args)],
            ROOT,
            stderr=self._written.fileno(),
            environment={**os.environ, **environment},
        )
        assert self.process.stdout is not None
        self._lines = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.process.stdout, selectors.EVENT_READ)
        self.errors = ""

    def heard(self) -> Any:
        """The next thing it says; waits for it."""
        deadline = time.monotonic() + PATIENCE_S
        while b"\n" not in self._lines:
            more = self._more(deadline)
            if not more:
                self.kill()
                raise AssertionError(f"it said nothing more: {self._lines!r} {self._read_errors()}")
            self._lines += more
        line, _, self._lines = self._lines.partition(b"\n")
        return json.loads(line)

    def _more(self, deadline: float) -> bytes:
        """What it says next; nothing at its end, or when it takes too long."""
        assert self.process.stdout is not None
        ready = self._selector.select(max(0.0, deadline - time.monotonic()))
        return os.read(self.process.stdout.fileno(), 65536) if ready else b""

    def tell(self, what: object = None) -> None:
        """Say something to it."""
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def end(self) -> int:
        """Wait for its own end; its exit code. What it wrote to stderr is in `errors`."""
        deadline = time.monotonic() + PATIENCE_S
        self.process.stdin.close()
        while self._more(deadline):
            pass
        code = self.process.wait(max(0.0, deadline - time.monotonic()))
        self.errors = self._read_errors()
        return code

    def _read_errors(self) -> str:
        self._written.seek(0)
        return self._written.read().decode()

    def close(self) -> None:
        """Kill it if it still runs; nothing of it is left."""
        self.kill()
        self._selector.close()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._written.close()
        with suppress(BrokenPipeError):  # of what it was told and did not read
            self.process.stdin.close()


@contextmanager
def program(name: str, *args: object, module: str = "tests.pipeline.programs", **environment: str) -> Iterator[Program]:
    """Runs a program for as long as the block."""
    running = Program(name, *args, module=module, **environment)
    try:
        yield running
    finally:
        running.close()
