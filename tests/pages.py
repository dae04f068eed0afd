"""Runs the code of a documentation page as a reader would: its blocks in order, in one folder, in several terminals.

How a block is run
------------------
````
```python     runs as a program of its own; it must exit with 0
```console    each line that begins with "$ " is typed into a terminal; other lines are what must then appear
```bash       runs as one script, with set -e; it must exit with 0
```           in any other language: is not run
````

In a console block a line ``...`` stands for any lines, and ``...`` within a line for anything. A line ``^C`` presses
Ctrl-C. A comment before a block changes how it is run; readers do not see it::

    <!-- file: worker.py -->        the block is written to that file; a later command must name it, or its module as in
                                    ``worker:``
    <!-- terminal: 2 -->            typed into a second terminal. A command that is its last line goes on running
                                    there while the page goes on: it is waited for until its lines have appeared.
                                    What is typed there later waits for its end
    <!-- not run: why -->           for what would touch more than this folder, such as an installation

and one that stands alone kills what runs in a terminal, as with kill -9::

    <!-- kill: 2 -->

What is left running at the end of the page gets Ctrl-C and must then end. Addresses are made a page's own: ports on
127.0.0.1 are replaced by free ones, and names behind ``zeroconf://`` and ``announce`` get a suffix. ``make x`` checks
only that there is such a target.

A plain call of ``zmqkit``, or of ``python`` with a program, may be started by tests/preloaded.py: that is much faster.
"""

from __future__ import annotations

import os
import queue
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.preloaded import Preloaded, Process

WAIT_S = 60.0
"""How long one command may take, or its lines may take to appear."""

COMMENT = re.compile(r"^<!-- (file|terminal|not run|kill): *(.*?) *-->$")
FENCE = re.compile(r"^( *)(`{3,})(\w*)\s*$")
SPELLINGS = {"py": "python", "python3": "python", "pycon": "python", "sh": "bash", "shell": "bash", "zsh": "bash"}
"""Other words for what is run: refused, or a block would escape the test by its spelling."""


class Block(NamedTuple):
    line: int
    language: str
    text: str
    how: str
    """The word of the comment before the block: file, terminal, not run; "" without one; kill stands alone."""
    what: str


def read_blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, and the kills between them, in order."""
    lines = iter(enumerate(page.splitlines(), 1))
    how = what = ""
    for number, line in lines:
        if comment := COMMENT.match(line):
            if comment[1] == "kill":
                yield Block(number, "", "", "kill", comment[2])
            else:
                how, what = comment[1], comment[2]
        elif fence := FENCE.match(line):
            indent, ticks, language = len(fence[1]), fence[2], fence[3]
            body = []
            for _, inner in lines:
                if inner.strip() == ticks:
                    break
                body.append(inner[indent:])
            else:
                raise ValueError(f"line {number}: the block never ends")
            if language in SPELLINGS:
                raise ValueError(f"line {number}: write {SPELLINGS[language]}, not {language}")
            yield Block(number, language, "\n".join(body) + "\n", how, what)
            how = what = ""
        elif line.strip() and how:
            raise ValueError(f"line {number}: the comment '{how}: {what}' stands before no block")


class Command(NamedTuple):
    text: str
    expected: list[str]
    interrupted: bool
    """Ctrl-C is pressed once the lines have appeared."""


def read_commands(text: str) -> list[Command]:
    """What is typed in a console block, with the output that is shown for it."""
    commands: list[Command] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            commands.append(Command(line[2:], [], False))
        elif not commands:
            raise ValueError(f"a console block begins with a command after '$ ', not with {line!r}")
        elif line == "^C":
            commands[-1] = commands[-1]._replace(interrupted=True)
        elif line.startswith("> "):
            commands[-1] = commands[-1]._replace(text=f"{commands[-1].text}\n{line[2:]}")
        else:
            commands[-1].expected.append(line)
    return commands


def pattern_of(expected: list[str]) -> re.Pattern[str]:
    """Lines with ``...`` as wild cards, as one pattern for the whole output; trailing blanks do not count."""
    parts = []
    for line in expected:
        if line.strip() == "...":
            parts.append(r"(?:.*\n)*?")
        else:
            parts.append(".*".join(re.escape(piece) for piece in line.rstrip().split("...")) + r"[ \t]*\n")
    return re.compile("".join(parts))


class Running:
    """A command in a terminal: a process group of its own, and what it has printed so far."""

    def __init__(self, label: str, process: subprocess.Popen[str] | Process) -> None:
        self.label = label[:200]
        self.output = ""
        self._line = 0
        """Where its last line begins."""
        self.process = process
        self._chunks: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self._chunks.put(line)
        self._chunks.put("")

    def _next_line(self, deadline: float) -> bool:
        """Take in one line more; False at the end of the output."""
        try:
            line = self._chunks.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise AssertionError(f"{self.label!r} said no more for {WAIT_S:.0f} s\n{self.output}") from None
        self._line = len(self.output)
        self.output += line
        return bool(line)

    def wait_for_lines(self, expected: list[str]) -> None:
        """Until the output shows these lines, anywhere in it."""
        deadline = time.monotonic() + WAIT_S
        pattern, last = pattern_of(expected), pattern_of(expected[-1:])
        while not (last.search(self.output, self._line) and pattern.search(self.output)):
            if not self._next_line(deadline):
                raise AssertionError(f"{self.label!r} ended without showing\n{expected}\nbut\n{self.output}")

    def wait(self) -> int:
        """Until it has ended and said everything; its exit status, negative for a signal."""
        deadline = time.monotonic() + WAIT_S
        while self._next_line(deadline):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def interrupt(self) -> None:
        """Ctrl-C: the whole group is told."""
        self._tell(signal.SIGINT)

    def kill(self) -> None:
        self._tell(signal.SIGKILL)

    def _tell(self, what: signal.Signals) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, what)


class Page:
    """One page being run.

    Args:
        text: the page.
        folder: where it is run.
        makefile: what ``make`` would read.
        preloaded: starts what is a plain call of ``zmqkit`` or ``python``; default: all is started as a shell does.
    """

    def __init__(self, text: str, folder: Path, makefile: str = "", preloaded: Preloaded | None = None) -> None:
        self._blocks = list(read_blocks(own_addresses(text)))
        self._folder = folder
        self._preloaded = preloaded
        self._targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
        self._terminals: dict[str, Running] = {}
        self._unused: dict[str, int] = {}
        # The programs of this environment come first, as after activating it.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        self._environment = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "COLUMNS": "100", "NO_COLOR": "1"}

    def run(self) -> None:
        """Run every block; an AssertionError names the first one that does not do what the page says."""
        try:
            for block in self._blocks:
                try:
                    self._run_block(block)
                except (AssertionError, ValueError) as error:
                    raise AssertionError(f"line {block.line}: {error}") from error
            self._end_what_runs()
            assert not self._unused, f"no command uses the files of lines {self._unused}"
        finally:
            for running in self._terminals.values():
                running.kill()
                running.process.wait()

    def _run_block(self, block: Block) -> None:
        if block.how == "kill":
            running = self._terminals.pop(block.what, None)
            assert running is not None, f"nothing runs in terminal {block.what}"
            running.kill()
            assert running.wait() == -signal.SIGKILL, f"it had ended before\n{running.output}"
        elif block.how == "not run":
            assert len(block.what) > 5, "say why it is not run"
        elif block.how == "file":
            path = self._folder / block.what
            assert path.resolve().is_relative_to(self._folder.resolve())
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
            self._unused[block.what] = block.line
        elif block.language == "python":
            program = self._folder / f"line_{block.line}.py"
            program.write_text(block.text)
            self._finish(self._start(f"python {program}"))
        elif block.language == "bash":
            self._finish(self._start(block.text, "-euo", "pipefail"))
        elif block.language == "console":
            commands = read_commands(block.text)
            if block.how == "terminal" and (earlier := self._terminals.pop(block.what, None)) is not None:
                self._finish(earlier)  # a terminal takes the next command when the one before has ended
            for command in commands:
                stays = block.how == "terminal" and command is commands[-1] and not command.interrupted
                self._type(command, block.what if stays else None)

    def _type(self, command: Command, terminal: str | None) -> None:
        words = shlex.split(command.text, comments=True)
        if words[0] == "make":
            unknown = {word for word in words[1:] if "=" not in word} - self._targets
            assert not unknown, f"the Makefile has no {unknown}"
            return
        running = self._start(command.text)
        if terminal:
            self._terminals[terminal] = running
            running.wait_for_lines(command.expected)
        elif command.interrupted:
            running.wait_for_lines(command.expected)
            running.interrupt()
            running.wait()
        else:
            self._finish(running)
            if command.expected and not pattern_of(command.expected).fullmatch(_stripped(running.output)):
                raise AssertionError(
                    f"{command.text!r} shows\n{running.output}\nand not\n" + "\n".join(command.expected)
                )

    def _start(self, command: str, *shell: str) -> Running:
        used = {name for name in self._unused if name in command or f"{name.removesuffix('.py')}:" in command}
        self._unused = {name: line for name, line in self._unused.items() if name not in used}
        words = None if shell or self._preloaded is None else plain_call(command)
        if words is not None and self._preloaded is not None:
            return Running(
                command,
                self._preloaded.start(
                    words,
                    self._folder,
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.STDOUT,
                    environment=self._environment,
                    session=True,
                ),
            )
        process = subprocess.Popen(
            ["bash", *shell, "-c", command],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return Running(command, process)

    def _finish(self, running: Running) -> None:
        try:
            status = running.wait()
        except BaseException:
            running.kill()
            running.process.wait()
            raise
        assert status == 0, f"{running.label!r} exits with {status}\n{running.output}"

    def _end_what_runs(self) -> None:
        for terminal, running in list(self._terminals.items()):
            running.interrupt()
            status = running.wait()
            assert status in (0, 130, -signal.SIGINT), f"terminal {terminal} exits with {status}\n{running.output}"
            del self._terminals[terminal]


def plain_call(command: str) -> list[str] | None:
    """The words of a call of ``zmqkit``, or of ``python`` with a program, that asks nothing of a shell; else None."""
    if re.search(r"[$`\\~*?{}\[\]!=]|\n", command):
        return None
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    if any(set(word) <= set("();<>|&") for word in words):
        return None
    called = words[0] == "zmqkit" or (words[0] == "python" and len(words) > 1 and words[1].endswith(".py"))
    return words if called else None


def _stripped(output: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in output.splitlines())


def own_addresses(text: str) -> str:
    """The page with ports and discovery names that nobody else uses."""
    ports = {port: str(_free_port()) for port in sorted(set(re.findall(r"127\.0\.0\.1:([1-9]\d*)", text)))}
    text = re.sub(r"(127\.0\.0\.1:)([1-9]\d*)", lambda match: match[1] + ports[match[2]], text)
    suffix = uuid.uuid4().hex[:8]
    return re.sub(r"(zeroconf://|announce=\"|--announce[ =])([a-z][a-z0-9-]*)", rf"\1\2-{suffix}", text)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
