"""What a run of the demo tells, and to whom: to a script as JSON, or to a reader with rich (`zmqkit.demo.show`).

This module needs no extra.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, Self

from zmqkit.demo.mining import Progress
from zmqkit.demo.verdict import Verdict


class NoRich(Exception):
    """The live display needs rich, and it is not installed."""


class Screen(Protocol):
    """Told of everything in a run, in this order; `note` from any thread."""

    def begin(self, folder: Path, files: int, workers: int, kill: bool) -> None:
        """The run begins."""

    def note(self, text: str) -> None:
        """Something happened that is worth a line."""

    def trouble(self, text: str) -> None:
        """Something is wrong, though the run goes on. From any thread, too."""

    def progress(self, progress: Progress) -> None:
        """How far the pipeline is."""

    def counting_plainly(self, total: int) -> contextlib.AbstractContextManager[Callable[[int], object]]:
        """The plain count goes on while the block runs; gives what is to be told how many files are done."""

    def verdict(self, verdict: Verdict) -> None:
        """The run is over."""

    def failed(self, reason: str) -> None:
        """There is no verdict, and why."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Json:
    """One JSON object on standard output, at the end; what went wrong is said on standard error too."""

    def begin(self, folder: Path, files: int, workers: int, kill: bool) -> None:
        """See `Screen`."""

    def note(self, text: str) -> None:
        """See `Screen`."""

    def trouble(self, text: str) -> None:
        """See `Screen`."""
        print(f"zmqkit demo: {text}", file=sys.stderr)

    def progress(self, progress: Progress) -> None:
        """See `Screen`."""

    @contextlib.contextmanager
    def counting_plainly(self, total: int) -> Iterator[Callable[[int], object]]:
        """See `Screen`."""
        yield lambda done: None

    def verdict(self, verdict: Verdict) -> None:
        """See `Screen`."""
        print(json.dumps(verdict.as_json(), indent=2))
        for problem in verdict.problems():
            self.trouble(problem)

    def failed(self, reason: str) -> None:
        """See `Screen`."""
        print(json.dumps({"ok": False, "error": reason}, indent=2))
        self.trouble(reason)

    def __enter__(self) -> Json:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to put back."""


def rich_screen() -> Screen:
    """The live display. Raises `NoRich` where rich is missing."""
    try:
        from zmqkit.demo.show import RichScreen
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "rich":
            raise
        raise NoRich("the live display needs rich: pip install 'zmqkit[cli]', or use --json") from error
    return RichScreen()


class TroubleHandler(logging.Handler):
    """Shows what is logged as an error. Warnings, such as of each dead letter, the screen counts anyway."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(logging.ERROR)
        self.screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record."""
        self.screen.trouble(self.format(record))
