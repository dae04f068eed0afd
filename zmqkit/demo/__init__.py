"""The main job, end to end: a text-mining pipeline over real files, in which worker, sender and sink are killed.

``zmqkit demo``, or without the command line's extra ``python -m zmqkit.demo --json``. Every file of the running
Python's own standard library goes through a durable pipeline of processes that find each other by name. What stands in
the sink's database at the end is held against a plain count.

This module is the way in: it checks what was asked, picks a screen, and turns what happened into an exit code.
Nothing below uses more of zmqkit than its public face.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from zmqkit.demo.screen import Screen

OK, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
"""Exit codes: all equal; something differs or went wrong; asked for what cannot be; Ctrl-C; SIGTERM."""

MAX_WORKERS = 64

DEFAULT_WORKERS = max(2, min(4, os.cpu_count() or 2))
"""One a core, but two at least: one of them is to be killed."""

__all__ = ["DEFAULT_WORKERS", "MAX_WORKERS", "run"]


def run(files: Path | None = None, workers: int = DEFAULT_WORKERS, kill: bool = True, json: bool = False) -> int:
    """Run the demo and return its exit code.

    Everything stays on the loopback interface, unless ZMQKIT_INTERFACES says otherwise; the journal and the totals
    lie in a temporary folder and go with it.

    Args:
        files: count the .py files below this folder; None: the standard library of the running Python.
        workers: how many worker processes, from 1 to `MAX_WORKERS`.
        kill: kill one of them, the sender and the sink in turn, each with work in hand, and start others.
        json: print one JSON object to standard output and nothing else, instead of the live display.

    Returns:
        0: the pipeline counted what a plain loop counts, and jobs were delivered again if and only if a worker was
        killed. 1: not so. 2: it was asked for what cannot be. 130, 143: ended by Ctrl-C, by SIGTERM.
    """
    from zmqkit.demo import screen as screens

    try:
        screen: Screen = screens.Json() if json else screens.rich_screen()
    except screens.NoRich as error:
        print(f"zmqkit demo: {error}", file=sys.stderr)
        return USAGE
    try:
        with _on_loopback(), _sigterm_raises(), _logged_to(screen), screen:
            return _run(files, workers, kill, screen)
    except KeyboardInterrupt:
        screen.failed("ended by Ctrl-C; all other processes are gone too")
        return INTERRUPTED
    except _Terminated:
        screen.failed("ended by SIGTERM; all other processes are gone too")
        return TERMINATED


def _run(files: Path | None, workers: int, kill: bool, screen: Screen) -> int:
    import zmqkit
    from zmqkit.demo import counting, crew, mining, verdict

    if not 1 <= workers <= MAX_WORKERS:
        screen.failed(f"--workers takes a number from 1 to {MAX_WORKERS}, not {workers}")
        return USAGE
    folder = Path(sysconfig.get_path("stdlib")) if files is None else files
    try:
        sources = counting.find_sources(folder)
    except counting.FilesError as error:
        screen.failed(f"--files: {error}" if files is not None else str(error))
        return USAGE
    screen.begin(folder, len(sources), workers, kill)
    try:
        mined = mining.Run(folder, sources, workers, kill, screen.progress, screen.note)()
        with screen.counting_plainly(len(sources)) as on_file:
            plain = counting.count_plainly(sources, on_file)
    except (zmqkit.ZmqkitError, mining.Stalled, crew.ProcessDied, counting.FilesError, OSError) as error:
        screen.failed(f"{type(error).__name__}: {error}")
        return FAILED
    result = verdict.Verdict(len(sources), kill, mined, plain)
    screen.verdict(result)
    return FAILED if result.problems() else OK


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Announce and browse on the loopback interface only, children included."""
    if "ZMQKIT_INTERFACES" in os.environ:
        yield
        return
    os.environ["ZMQKIT_INTERFACES"] = "127.0.0.1"
    try:
        yield
    finally:
        del os.environ["ZMQKIT_INTERFACES"]


@contextlib.contextmanager
def _logged_to(screen: Screen) -> Iterator[None]:
    """Show zmqkit's log there and nowhere else: who writes to the terminal besides would spoil the picture.

    Somebody who has it log everything is debugging, and keeps what was set up.
    """
    from zmqkit.demo.screen import TroubleHandler

    logger = logging.getLogger("zmqkit")
    before = logger.handlers, logger.propagate
    if not logger.isEnabledFor(logging.DEBUG):
        logger.handlers, logger.propagate = [TroubleHandler(screen)], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before


class _Terminated(BaseException):
    """SIGTERM came."""


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does: through every ``finally``."""

    def terminate(_number: int, _frame: FrameType | None) -> NoReturn:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
