"""``zmqkit tap``: look at what a publisher publishes, topic by topic, without getting in anybody's way."""

from __future__ import annotations

import datetime
import sys
import threading
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from zmqkit import Message, Subscriber
from zmqkit.cli import options, show
from zmqkit.cli.outcome import Code, command, on_signals, one_line, say
from zmqkit.errors import Closed
from zmqkit.events import GapFound

MAX_TOPICS = 10_000
"""So many topics are told apart; others are counted together."""

BODY_CHARACTERS = 60


@command
def tap(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", show_default=False, help="Such as tcp://127.0.0.1:5556.")],
    topics: options.Topics = None,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.05, help="How often to print.")] = 1.0,
    count: Annotated[
        int | None, typer.Option(metavar="N", min=1, show_default=False, help="End after so many times.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, show_default=False,
            help="Show the N busiest topics. Default: as many as the terminal has lines for; 100 as JSON.",
        ),
    ] = None,
    bind: options.ConnectFirst = False,
    insecure: options.Insecure = False,
    as_json: options.AsJson = False,
) -> int:  # fmt: skip
    """Show topics and rates, live: a table on a terminal, elsewhere a line of JSON each time.

    It only listens: it asks for nothing that it missed, and where it is too slow it counts less, not later.
    """
    wanted = topics or ["#"]
    options.check_patterns(wanted)
    subscriber: Subscriber[Any] = Subscriber(
        *[] if bind else [address],
        bind=[address] if bind else [],
        topics=wanted,
        start="latest",
        on_gap="report",
        on_slow="conflate",
        insecure=insecure,
        name="zmqkit tap",
    )
    return _watch(subscriber, every, count, limit, as_json=as_json or not sys.stdout.isatty())


def _watch(subscriber: Subscriber[Any], every_s: float, count: int | None, limit: int | None, *, as_json: bool) -> int:
    unread = threading.Event()
    gaps: list[GapFound] = []

    def leave() -> None:
        unread.set()
        subscriber.stop()

    subscriber.on(GapFound, gaps.append)
    shown = 0
    with on_signals(subscriber.stop) as signals, subscriber, _Screen(as_json, limit) as screen:
        for address in subscriber.addresses:
            say(f"bound {address}")
        show.on_reader_gone(leave)
        for tally in _tallies(subscriber, every_s):
            tally.missed, gaps[:] = tally.missed + sum(each.last - each.first + 1 for each in gaps), []
            tally.conflated = int(subscriber.stats().get("messages_conflated", 0))
            screen.show(tally, "" if tally.publishers else subscriber._company())
            shown += 1
            tally.begin_interval()
            if shown == count:
                break
    if unread.is_set() and shown != count:
        raise BrokenPipeError
    if signals.number and count is not None and shown < count:
        return 128 + signals.number
    return Code.OK


def _tallies(subscriber: Subscriber[Any], every_s: float) -> Iterator[Tally]:
    """The same tally again and again, at the end of each interval, until the subscriber is stopped."""
    tally = Tally()
    due = tally.began + every_s
    while True:
        left = due - time.monotonic()
        if left <= 0:
            tally.seconds = time.monotonic() - tally.began
            yield tally
            due = max(due + every_s, time.monotonic())
            continue
        try:
            message = subscriber.receive(left)
        except Closed:
            return
        if message is not None:
            tally.add(message)


class Topic:
    """What was seen of one topic.

    Attributes:
        total: messages since the beginning.
        new: ... in this interval.
        sequence: the newest one's.
        body: the newest one's, if it came in this interval.
        shown: what was last shown of a body.
    """

    __slots__ = ("body", "new", "sequence", "shown", "total")

    def __init__(self) -> None:
        self.total = self.new = self.sequence = 0
        self.body: Any = None
        self.shown = ""


class Tally:
    """What was seen so far, and in this interval.

    Attributes:
        topics: as far as they are told apart; see `MAX_TOPICS`.
        others: messages of all other topics.
        publishers: ids of those whose messages came.
        total: messages since the beginning.
        new: messages in this interval.
        began: when the interval did, on the monotonic clock.
        seconds: how long it was, when it is over.
        missed: messages that did not come.
        conflated: messages that came faster than they could be counted.
    """

    def __init__(self) -> None:
        self.topics: dict[str, Topic] = {}
        self.others = Topic()
        self.publishers: set[str] = set()
        self.total = self.new = self.missed = self.conflated = 0
        self.began = time.monotonic()
        self.seconds = 0.0

    def add(self, message: Message[Any]) -> None:
        """One message more."""
        found = self.topics.get(message.topic)
        if found is None:
            found = self._make(message.topic)
        found.total += 1
        found.new += 1
        found.sequence = message.sequence
        found.body = message.body
        self.total += 1
        self.new += 1
        if len(self.publishers) < MAX_TOPICS:
            self.publishers.add(message.publisher)

    def _make(self, topic: str) -> Topic:
        if len(self.topics) >= MAX_TOPICS:
            return self.others
        found = self.topics[topic] = Topic()
        return found

    def begin_interval(self) -> None:
        """The next one begins. Where there are too many topics, the idle ones are counted with the others."""
        self.began = time.monotonic()
        self.new = 0
        if len(self.topics) >= MAX_TOPICS:
            for name in [name for name, each in self.topics.items() if not each.new]:
                self.others.total += self.topics.pop(name).total
        for each in (*self.topics.values(), self.others):
            each.new = 0
            each.body = None  # it may be large, and topics many

    def busiest(self, most: int) -> list[tuple[str, Topic]]:
        """Topics by their rate, then by all that came."""
        return sorted(self.topics.items(), key=lambda item: (-item[1].new, -item[1].total, item[0]))[:most]


class _Screen:
    """Where a tally is shown: a table that stands still on a terminal, or lines of JSON."""

    def __init__(self, as_json: bool, limit: int | None) -> None:
        self._limit = limit
        self._live: Live | None = None
        if not as_json:
            self._console = Console(markup=False, highlight=False)
            self._live = Live(console=self._console, auto_refresh=False)

    def __enter__(self) -> _Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, tally: Tally, absence: str) -> None:
        """Show how things are.

        Args:
            tally: at the end of an interval.
            absence: why nothing comes, or "".
        """
        if self._live is None:
            show.print_json(_described(tally, tally.busiest(self._limit or 100)))
        else:
            rows = self._limit or max(1, self._console.height - 4)
            self._live.update(Group(_table(tally, tally.busiest(rows)), _foot(tally, rows, absence)), refresh=True)


def _described(tally: Tally, topics: list[tuple[str, Topic]]) -> dict[str, Any]:
    return {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "seconds": round(tally.seconds, 3),
        "messages": tally.new,
        "rate": _rate(tally.new, tally),
        "total": tally.total,
        "missed": tally.missed,
        "conflated": tally.conflated,
        "publishers": len(tally.publishers),
        "topics": [
            {"topic": name, "messages": each.new, "rate": _rate(each.new, tally), "total": each.total,
             "sequence": each.sequence}
            for name, each in topics
        ],
        "topics_known": len(tally.topics),
    }  # fmt: skip


def _rate(count: int, tally: Tally) -> float:
    return round(count / max(tally.seconds, 1e-6), 1)


def _table(tally: Tally, topics: list[tuple[str, Topic]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("topic", no_wrap=True, overflow="ellipsis")
    for name in ("/s", "total", "sequence"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("last body", no_wrap=True, overflow="ellipsis")
    for name, each in topics:
        if each.new:
            each.shown = _body(each.body)
        table.add_row(
            Text(one_line(name)),
            f"{_rate(each.new, tally):,.0f}",
            f"{each.total:,}",
            f"{each.sequence:,}",
            Text(each.shown),
            style="" if each.new else "dim",
        )
    return table


def _body(body: Any) -> str:
    if isinstance(body, bytes):
        return f"{len(body):,} bytes"
    text = one_line(body[: 2 * BODY_CHARACTERS] if isinstance(body, str) else show.to_json(body))
    return text if len(text) <= BODY_CHARACTERS else f"{text[:BODY_CHARACTERS]}…"


def _foot(tally: Tally, rows: int, absence: str) -> Text:
    if absence:
        return Text(f"nothing yet: {absence}", style="dim")
    words = [f"{_rate(tally.new, tally):,.0f}/s", f"{tally.total:,} messages", f"{len(tally.topics):,} topics"]
    if len(tally.topics) > rows:
        words.append(f"{len(tally.topics) - rows:,} not shown")
    if tally.others.total:
        words.append(f"{tally.others.total:,} messages of other topics")
    if tally.missed:
        words.append(f"{tally.missed:,} missed")
    if tally.conflated:
        words.append(f"{tally.conflated:,} too fast to be counted")
    return Text("  ".join(words), style="dim")
