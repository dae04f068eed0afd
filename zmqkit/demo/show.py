"""The demo on a terminal: a live picture of the run, then a table. This is the one module that imports rich.

Where standard output is no terminal, only the notes and the tables are written.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from zmqkit.demo.mining import Progress, Share
from zmqkit.demo.verdict import Verdict

BAR = 40
"""How wide a bar is, in characters."""

REDRAW_S = 0.1

STYLES = {"working": "green", "stopped": "green", "killed": "red"}


class RichScreen:
    """The screen of a reader; see `zmqkit.demo.screen.Screen`."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self.errors = Console(stderr=True, highlight=False)
        self.live = Live(console=self.console, auto_refresh=False, transient=True)
        self._drawn = 0.0

    def begin(self, folder: Path, files: int, workers: int, kill: bool) -> None:
        """Say what is going to happen."""
        self._line(f"Counting {files:,} files below {folder} with {workers} worker process{'es'[: 2 * (workers > 1)]}.")
        if kill:
            self._line("Midway one of them, the sender and the sink are killed in turn, each with work in hand.")

    def note(self, text: str) -> None:
        """Write one line above the picture."""
        self._line(f"  {text}", "bold red" if "kill" in text.lower() else "dim")

    def trouble(self, text: str) -> None:
        """Write it to standard error, above the picture."""
        self.errors.print(Text(text, "red"), soft_wrap=True)

    def _line(self, text: str, style: str = "") -> None:
        self.console.print(Text(text, style), soft_wrap=True)

    def _draw(self, picture: RenderableType, *, now: bool = False) -> None:
        if self.console.is_terminal and (now or time.monotonic() - self._drawn > REDRAW_S):
            self._drawn = time.monotonic()
            self.live.update(picture, refresh=True)

    def progress(self, progress: Progress) -> None:
        """Draw how far the pipeline is."""
        counters = Table.grid(padding=(0, 3))
        counters.add_row(
            Text(f"sent {progress.sent:,}"),
            Text(f"in flight {progress.in_flight:,}"),
            Text(f"settled {progress.settled:,}", "green"),
            Text(f"redelivered {progress.redelivered:,}", "bold red" if progress.redelivered else ""),
            Text(f"{progress.seconds:.1f} s", "dim"),
        )
        self._draw(
            Group(
                _bar_line("through the pipeline", progress.settled, progress.total), counters, _shares(progress.shares)
            ),
            now=progress.settled == progress.total,
        )

    @contextlib.contextmanager
    def counting_plainly(self, total: int) -> Iterator[Callable[[int], object]]:
        """Draw how far the plain count is."""
        self.note("now the same in one process, in a plain loop")
        yield lambda done: self._draw(_bar_line("in a plain loop", done, total))
        self.live.update("", refresh=True)

    def verdict(self, verdict: Verdict) -> None:
        """Write the tables, and the last word."""
        mined, plain = verdict.mined, verdict.plain
        self.live.stop()
        self.console.print()
        self.console.print(_comparison(verdict))
        self.console.print(_shares(mined.shares))
        self.console.print()
        facts = Table.grid(padding=(0, 2))
        rate = f"{verdict.total / mined.seconds:,.0f} files/s"
        expected = "a worker was killed with them in hand" if mined.killed("worker") else "no worker was killed"
        facts.add_row("redelivered", f"{mined.redelivered:,}", expected)
        facts.add_row("duplicates dropped", f"{mined.duplicates:,}", "results that came twice to the sink's inbox")
        facts.add_row("records", f"{mined.records:,}", "in the inbox, each committed with its count")
        facts.add_row("dead letters", f"{mined.dead:,}", "what does not tokenize")
        facts.add_row("through the pipeline", f"{mined.seconds:.1f} s", f"{rate}, journal synced")
        facts.add_row("in a plain loop", f"{plain.seconds:.1f} s", f"{verdict.total / plain.seconds:,.0f} files/s")
        facts.add_row("found by name", f"{mined.joined_seconds:.1f} s", "until all workers had joined")
        self.console.print(facts)
        for reason in mined.rejected[:5]:
            self._line(f"  rejected {reason}", "dim")
        if len(mined.rejected) > 5:
            self._line(f"  ... and {len(mined.rejected) - 5:,} more", "dim")
        names = ", ".join(f"{name} {number:,}" for name, number in mined.totals.names.most_common(8))
        self._line(f"most frequent names: {names}\n")
        problems = verdict.problems()
        for problem in problems:
            self._line(problem, "bold red")
        if not problems:
            self._line("All equal: nothing was lost, nothing was counted twice.", "bold green")

    def failed(self, reason: str) -> None:
        """Say why there is no verdict."""
        self.live.stop()
        self.trouble(f"zmqkit demo: {reason}")

    def __enter__(self) -> RichScreen:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()


def _bar_line(what: str, done: int, total: int) -> RenderableType:
    line = Table.grid(padding=(0, 1))
    line.add_row(Text(what), ProgressBar(total=total, completed=done, width=BAR), Text(f"{done:,} of {total:,} files"))
    return line


def _shares(shares: tuple[Share, ...]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    most = max((share.files for share in shares), default=0)
    for share in shares:
        table.add_row(
            Text(share.name),
            Text(f"process {share.pid}", "dim"),
            *_work(share, max(most, 1)),
            Text(share.state, STYLES[share.state]),
        )
    return table


def _work(share: Share, most: int) -> tuple[RenderableType, RenderableType]:
    if share.role != "worker":
        return Text({"sender": "hands out the files", "sink": "keeps the totals"}[share.role], "dim"), Text("")
    bar = ProgressBar(total=most, completed=share.files, width=BAR // 2)
    return bar, Text(f"{share.files:,} files", justify="right")


def _comparison(verdict: Verdict) -> RenderableType:
    table = Table()
    table.add_column("")
    table.add_column("pipeline", justify="right")
    table.add_column("plain loop", justify="right")
    table.add_column("")
    for row in verdict.rows():
        table.add_row(
            Text(row.what),
            f"{row.pipeline:,}",
            f"{row.plain:,}",
            Text("equal", "green") if row.equal else Text("DIFFERENT", "bold red"),
        )
    return table
