"""How a command ends: exit codes, errors as one line, signals. Knows no command and no peer.

Every exit code that a script may see is made here; docs/cli.md and the end of each ``--help`` list them.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final, ParamSpec

from zmqkit.address import ALLOW
from zmqkit.errors import (
    AddressError,
    DuplicateInstance,
    InsecureAddress,
    JournalBusy,
    JournalError,
    NotSentInTime,
    OutcomeUnknown,
    WaitTimeout,
    ZmqkitError,
)
from zmqkit.events import JobDead, JournalTrouble

P = ParamSpec("P")


class Code(enum.IntEnum):
    """What the exit code says. Ended by signal N before it was done: 128 + N."""

    OK = 0
    FAILED = 1
    USAGE = 2
    JOURNAL_IN_USE = 3
    TIMEOUT = 4
    JOURNAL_UNUSABLE = 5
    UNKNOWN = 6


EPILOG = (
    "Exit codes: 0 done; 1 failed, or not everything was acked; 2 the command line is wrong; 3 a journal is in use; "
    "4 out of time; 5 a journal cannot be used; 6 a call's outcome is unknown; "
    "128+N ended by signal N before it was done."
)


class Failed(ZmqkitError):
    """Ends a command with one line on stderr."""

    def __init__(self, message: str, code: int = Code.FAILED) -> None:
        super().__init__(message)
        self.code = code


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM, raised in the main thread by `raise_on_signals`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def code_of(error: BaseException) -> int:
    """The exit code that an error ends a command with."""
    if isinstance(error, Failed):
        return error.code
    if isinstance(error, Stopped):
        return 128 + error.number
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(error, BrokenPipeError):
        return 128 + signal.SIGPIPE
    for kind, code in (
        (JournalBusy, Code.JOURNAL_IN_USE),
        (DuplicateInstance, Code.JOURNAL_IN_USE),
        (JournalError, Code.JOURNAL_UNUSABLE),
        (WaitTimeout, Code.TIMEOUT),
        (OutcomeUnknown, Code.UNKNOWN),
        (NotSentInTime, Code.TIMEOUT),
        (AddressError, Code.USAGE),
        (InsecureAddress, Code.USAGE),
    ):
        if isinstance(error, kind):
            return code
    return Code.FAILED


def one_line(text: str) -> str:
    """Text on one line, without what would steer a terminal: others may have written it."""
    words = " ".join(text.split())
    return (
        words if words.isprintable() else "".join([each if each.isprintable() else ascii(each)[1:-1] for each in words])
    )


def say(line: str) -> None:
    """One line on stderr: what is not the command's result."""
    # Nobody has to listen: a closed stderr must not end a command that is doing its work.
    with contextlib.suppress(OSError):
        print(f"zmqkit: {one_line(line)}", file=sys.stderr, flush=True)


def say_at_once(line: str) -> None:
    """The same from a signal handler, which may have interrupted a `say`."""
    with contextlib.suppress(OSError):
        os.write(2, f"zmqkit: {line}\n".encode())


_OWN_NAME = re.compile(r"^zmqkit [a-z ]+: ")
"""What peers of this command line are called in logs; each line of ours says zmqkit anyhow."""


class _Lines(logging.Handler):
    """What is logged, as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        # Commands tell of dead letters themselves; of a journal's trouble the driver has just told.
        if not any(isinstance(each, JobDead | JournalTrouble) for each in record.args or ()):
            for line in self.format(record).splitlines():
                say(_for_shells(_OWN_NAME.sub("", line)))


def speak_in_lines() -> None:
    """Let what zmqkit logs and warns of appear as lines on stderr."""
    log = logging.getLogger("zmqkit")
    if not log.handlers:
        log.addHandler(_Lines(logging.DEBUG if debugging() else logging.WARNING))
        log.propagate = False
    if debugging():
        log.setLevel(logging.DEBUG)


def debugging() -> bool:
    """Whether tracebacks are wanted: ``ZMQKIT_DEBUG=1``."""
    return os.environ.get("ZMQKIT_DEBUG") == "1"


def tell(error: BaseException) -> None:
    """An error as one line on stderr."""
    if debugging():
        traceback.print_exception(error, file=sys.stderr)
    say(_for_shells(str(error) or type(error).__name__))


def _for_shells(text: str) -> str:
    """What is said of Python, in the words of this command line."""
    return text.replace(ALLOW, "--insecure")


def command(function: Callable[P, int]) -> Callable[P, None]:
    """Make a function that returns an exit code a command: its errors become one line and an exit code."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        import typer  # here: processes that run a device and have no command line do not wait for it

        raise typer.Exit(run_to_code(functools.partial(function, *args, **kwargs)))

    # The wrapper's own annotations: typer reads those of the function through __wrapped__.
    return run


def run_to_code(function: Callable[[], int]) -> int:
    """The exit code of a command's work, whatever becomes of it."""
    try:
        code = function()
        sys.stdout.flush()
    except BrokenPipeError as error:
        if debugging():
            tell(error)
        _forget_stdout()
        return code_of(error)
    except KeyboardInterrupt as error:
        if debugging():
            tell(error)
        return code_of(error)
    except (ZmqkitError, OSError) as error:
        tell(error)
        return code_of(error)
    return int(code)


def _forget_stdout() -> None:
    """Whoever read our output is gone. The interpreter flushes once more at its end and must not complain."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class Signals:
    """What came so far.

    Attributes:
        number: the first signal's, 0 before one came.
    """

    def __init__(self) -> None:
        self.number = 0


LOOK_SECONDS: Final = 0.1
"""So long the main thread may sleep in one piece: Python sees a signal that came just before when it wakes."""


@contextlib.contextmanager
def on_signals(first: Callable[[], object]) -> Iterator[Signals]:
    """While this lasts, the first SIGINT or SIGTERM calls `first`; the next one raises `Stopped`, come what may.

    A signal that our parent set to be ignored (as shells do for jobs in the background) stays ignored.
    """
    seen = Signals()

    def handle(number: int, frame: FrameType | None) -> None:
        if seen.number:
            raise Stopped(number)
        seen.number = number
        first()

    kept = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            kept[number] = signal.signal(number, handle)
    try:
        yield seen
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def raise_on_signals() -> Iterator[Signals]:
    """While this lasts, SIGINT and SIGTERM raise `Stopped` in the main thread."""

    def interrupt() -> None:
        raise Stopped(seen.number)

    with on_signals(interrupt) as seen:
        yield seen
