"""The command `zmqkit` as a script sees it: a process, its output as it comes, its exit code. Every wait is bounded."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from tests.preloaded import Preloaded, Process

WAIT_S = 30.0

ANYWHERE = "tcp://127.0.0.1:*"


class Command:
    """One running command.

    Args:
        arguments: what follows ``zmqkit``.
        folder: to run in.
        stdin: given whole and closed; None: open until `finish`, see `type`.
        stdout, stderr: where it prints to, if not to us.
        environment: besides ours.
        preloaded: who starts it; default: it is started like any other program.
    """

    def __init__(
        self,
        arguments: tuple[str | Path, ...],
        folder: Path,
        stdin: str | None = "",
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
        environment: dict[str, str] | None = None,
        preloaded: Preloaded | None = None,
    ) -> None:
        script = Path(sys.executable).with_name("zmqkit")
        self.label = f"zmqkit {' '.join(map(str, arguments))}"
        self.process: subprocess.Popen[str] | Process
        # What the environment says may be read while modules are imported.
        if preloaded is not None and environment is None:
            self.process = preloaded.start(("zmqkit", *arguments), folder, stdout=stdout, stderr=stderr)
        else:
            self.process = subprocess.Popen(
                [script, *arguments],
                cwd=folder,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                text=True,
                process_group=0,
            )
        assert self.process.stdin is not None
        self._stdin = self.process.stdin
        self.out = _Stream(self.process.stdout)
        self.err = _Stream(self.process.stderr)
        if stdin is not None:
            self.type(stdin)
            self._stdin.close()

    def type(self, text: str) -> None:
        """Write to its stdin."""
        self._stdin.write(text)
        self._stdin.flush()

    @property
    def address(self) -> str:
        """What it bound, once it has."""
        return self.said("zmqkit: bound ").removeprefix("zmqkit: bound ")

    def said(self, text: str, times: int = 1) -> str:
        """The first line on stderr with this in it, or that of so many; waits for it."""
        number = itertools.count(1)
        return self._line(self.err, lambda line: text in line and next(number) == times, text)

    def printed(self, text: str = "") -> str:
        """The first line on stdout with this in it; waits for it."""
        return self._line(self.out, lambda line: text in line, text)

    def _line(self, stream: _Stream, wanted: Callable[[str], bool], text: str) -> str:
        found = stream.wait_for(wanted)
        assert found is not None, f"{self.label} never said {text!r}, but\n{self.out.text}\n{self.err.text}"
        return found

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def finish(self, code: int = 0) -> str:
        """Wait for its end, which must be with this exit code; what it printed on stdout."""
        if not self._stdin.closed:
            self._stdin.close()
        try:
            found = self.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.label} does not end\n{self.out.text}\n{self.err.text}") from None
        self.out.join()
        self.err.join()
        assert found == code, f"{self.label} exits with {found}, not {code}\n{self.out.text}\n{self.err.text}"
        assert "Traceback" not in self.err.text
        return self.out.text

    def finish_json(self, code: int = 0) -> Any:
        """The same for a command that prints JSON, one value."""
        return json.loads(self.finish(code))

    def finish_lines(self, code: int = 0) -> list[Any]:
        """The same for one that prints a line of JSON for each thing."""
        return [json.loads(line) for line in self.finish(code).splitlines()]

    def kill(self) -> None:
        """As with kill -9, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(BrokenPipeError):  # what was typed and not read
            self._stdin.close()
        self.out.close()
        self.err.close()


class _Stream:
    """Lines as they come."""

    def __init__(self, stream: IO[str] | None) -> None:
        self.text = ""
        self._stream: Iterable[str] = stream or []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._seen: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._stream:
            self.text += line
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def wait_for(self, wanted: Callable[[str], bool]) -> str | None:
        for seen in self._seen:
            if wanted(seen):
                return seen
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return None
            if line is None:
                self._lines.put(None)
                return None
            self._seen.append(line)
            if wanted(line):
                return line

    def join(self) -> None:
        self._thread.join(WAIT_S)

    def close(self) -> None:
        """Closed while it is read, a stream would wait for its reader: its writer must have ended."""
        self.join()
        if isinstance(self._stream, io.TextIOBase) and not self._thread.is_alive():
            self._stream.close()
