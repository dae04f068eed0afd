"""``zmqkit publish``: publish lines, or JSON lines, to a topic."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from zmqkit import Publisher, Retention
from zmqkit.cli import feed, options, show
from zmqkit.cli.outcome import Code, Failed, Stopped, code_of, command, raise_on_signals, say, tell
from zmqkit.errors import EncodeError, PartlySent, ZmqkitError

LINGER_S = 5.0
"""How long subscribers that are behind are served at the end, unless --linger says otherwise."""

REFRESH_HZ = 8


@command
def publish(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", show_default=False, help="Such as tcp://127.0.0.1:5556.")],
    topic: Annotated[str, typer.Argument(metavar="TOPIC", show_default=False, help="Such as prices.eu.gold.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE", show_default=False,
            help="What to publish, a message a line; -, or no file: stdin.",
        ),
    ] = None,
    json_lines: Annotated[
        bool, typer.Option("--json-lines", help="Each line is JSON; blank lines are skipped. Default: text.")
    ] = False,
    wait_for: Annotated[
        int, typer.Option(metavar="N", min=0, help="Publish once so many subscribers of the topic are there.")
    ] = 0,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0, show_default=False, help="With --wait-for: for at most so long."),
    ] = None,
    stay: Annotated[
        bool, typer.Option("--stay", help="Serve those who come late after the last line too, until a signal.")
    ] = False,
    history: Annotated[
        int, typer.Option(metavar="N", min=0, help="Keep so many messages in memory, for those who come late.")
    ] = 1_000,
    last_value: Annotated[
        bool, typer.Option("--last-value", help="Keep the topic's last message for those who come late.")
    ] = False,
    journal: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", show_default=False, help="Keep messages in this file, across restarts.",
            callback=options.check_path,
        ),
    ] = None,
    durability: options.DurabilityOption = options.Safe.POWER,
    keep_count: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, show_default=False, help="With --journal: keep so many. Default: all."),
    ] = None,
    keep_seconds: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.001, show_default=False, help="With --journal: keep none that is older."),
    ] = None,
    linger: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="At the end serve those who are behind for so long more.")
    ] = LINGER_S,
    bind: options.BindFirst = True,
    announce: options.Announce = None,
    insecure: options.Insecure = False,
    as_json: options.AsJson = False,
) -> int:  # fmt: skip
    """Publish each line of the files, or of stdin, to a topic.

    What is published reaches the subscribers that are there, and later ones as far as it is kept: in memory, or in a
    journal. With --wait-for nothing is published before they are there.
    """
    if timeout is not None and not wait_for:
        raise Failed("--timeout is how long to wait for subscribers: say --wait-for N", Code.USAGE)
    if journal is None and (keep_count is not None or keep_seconds is not None):
        raise Failed("--keep-count and --keep-seconds are about a journal; without one, say --history N", Code.USAGE)
    options.check_files(files or [])
    options.check_topic(topic)
    publisher = Publisher(
        *[address] * bind,
        connect=[] if bind else [address],
        history=history,
        journal=journal,
        durability=durability.value,
        retention=None if journal is None else Retention(count=keep_count, seconds=keep_seconds),
        last_value=last_value,
        announce=announce,
        insecure=insecure,
        name="zmqkit publish",
    )
    return _Run(publisher, topic).run(
        feed.batches(files or [], feed.json_line if json_lines else feed.text_line, skip_blank=json_lines),
        wait_for=wait_for,
        timeout_s=timeout,
        stay=stay,
        linger_s=linger,
        journal=journal,
        as_json=as_json,
    )


class _Run:
    """A publisher at work, from opening to the last word."""

    def __init__(self, publisher: Publisher, topic: str) -> None:
        self._publisher = publisher
        self._topic = topic
        self._published = 0

    def run(
        self,
        batches: Iterator[feed.Batch],
        *,
        wait_for: int,
        timeout_s: float | None,
        stay: bool,
        linger_s: float,
        journal: Path | None,
        as_json: bool,
    ) -> int:
        problem: BaseException | None = None
        ended = False
        with raise_on_signals():
            self._publisher.open()
            try:
                for address in self._publisher.addresses:
                    say(f"bound {address}")
                if wait_for:
                    self._publisher.wait_for_subscribers(wait_for, topic=self._topic, timeout=timeout_s)
                with self._progress():
                    for batch in batches:
                        self._publish(batch)
                ended = True
                if stay:
                    say(f"{self._published} published; serving those who come late, until a signal")
                    threading.Event().wait()
            except (ZmqkitError, OSError, Stopped) as error:
                problem = error
            self._close(linger_s)
        return self._conclude(problem if not (ended and isinstance(problem, Stopped)) else None, journal, as_json)

    def _publish(self, batch: feed.Batch) -> None:
        try:
            self._published += self._publisher.publish_many((self._topic, body) for body in batch.bodies)
        except PartlySent as error:
            self._published += error.confirmed
            cause = error.__cause__
            if not isinstance(cause, EncodeError):
                raise Failed(
                    f"{batch.place(error.confirmed)} and after: {cause}",
                    Code.FAILED if cause is None else code_of(cause),
                ) from error
            # Messages are encoded in groups: those of its group that stand before the bad one are still to be sent.
            bad = error.confirmed + (cause.index or 0)
            self._published += self._publisher.publish_many(
                (self._topic, body) for body in batch.bodies[error.confirmed : bad]
            )
            raise Failed(f"{batch.place(bad)}: {cause}; what stood before it was published") from error

    def _close(self, linger_s: float) -> None:
        # What is not served any more is told by what each subscriber finds at the next start.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            self._publisher.close(linger_s)

    def _conclude(self, problem: BaseException | None, journal: Path | None, as_json: bool) -> int:
        if problem is not None and not isinstance(problem, Stopped):
            tell(problem)
        if as_json:
            show.print_json({"published": self._published, "journal": None if journal is None else str(journal)})
        else:
            say(f"{self._published} published")
        return Code.OK if problem is None else code_of(problem)

    @contextlib.contextmanager
    def _progress(self) -> Iterator[None]:
        """A line on stderr, if that is a terminal: how many were published, how fast, and to how many."""
        if not sys.stderr.isatty():
            yield
            return
        # here: it takes a terminal to wait for it
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        began = time.monotonic()

        def look() -> Text:
            rate = self._published / max(time.monotonic() - began, 1e-3)
            subscribers = len(self._publisher.subscribers())
            return Text(f"{self._published:,} published  {rate:,.0f}/s  {subscribers} subscribers")

        with Live(console=Console(stderr=True), get_renderable=look, refresh_per_second=REFRESH_HZ, transient=True):
            yield
