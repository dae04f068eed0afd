"""Bugs planted into publish-subscribe: the publisher's core, its history and offsets, topics, the subscriber's core."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.simulation.mutants import Mutant, replaced
from zmqkit.patterns.pubsub import links
from zmqkit.patterns.pubsub.audience import Audience
from zmqkit.patterns.pubsub.cursors import Cursors
from zmqkit.patterns.pubsub.feeds import Feed, Feeder
from zmqkit.patterns.pubsub.history import Epochs, History
from zmqkit.patterns.pubsub.offsets import LastOffsets
from zmqkit.patterns.pubsub.publisher import PublisherCore
from zmqkit.patterns.pubsub.recovery import Recovery
from zmqkit.patterns.pubsub.rows import Row
from zmqkit.patterns.pubsub.talk import Commit
from zmqkit.patterns.pubsub.topics import Filter
from zmqkit.protocol.session import Session

# ---- the publisher -------------------------------------------------------------------


def sends_before_it_is_stored(old: Callable[..., None]) -> Callable[..., None]:
    def take(self: PublisherCore, packs: Any, first: int, tickets: list[Any]) -> None:
        old(self, packs, first, tickets)
        if self._storing:
            row = self._storing[-1].row
            if not self._ready or self._ready[-1].key < row.key:
                self.history.add(row)
                self._ready.append(row)

    return take


def says_that_nothing_was_before(old: Callable[..., int]) -> Callable[..., int]:
    def put(self: LastOffsets, topic: str, offset: int) -> int:
        old(self, topic, offset)
        return self.floor

    return put


def hides_what_history_let_go(old: Callable[..., Any]) -> Callable[..., Any]:
    def hole(self: History, filter: Filter, after: int) -> list[str] | None:
        found: list[str] | None = old(self, filter, after)
        return None if found == [] else found

    return hole


def forgets_topics_that_are_gone(old: Callable[..., Any]) -> Callable[..., Any]:
    def shrink(self: History) -> None:
        before = self.dropped
        self.dropped = LastOffsets(0)
        old(self)
        self.dropped = before

    return shrink


def takes_positions_of_torn_tails(old: Callable[..., int | None]) -> Callable[..., int | None]:
    def clamp(self: Epochs, name: str, offset: int) -> int | None:
        return None if old(self, name, offset) is None else offset

    return clamp


def enters_an_epoch_silently(old: Callable[..., None]) -> Callable[..., None]:
    def enter(feed: Feed, epoch: str, first: int, lane: Any, now: float) -> None:
        if feed.position < first:
            feed.epoch = feed.epoch or epoch

    return staticmethod(enter)  # type: ignore[return-value]


def confirms_a_cursor_before_it_is_stored(old: Callable[..., Any]) -> Callable[..., Any]:
    def write(self: Cursors, out: Any) -> None:
        old(self, out)
        if self._storing:
            self._storing[-1] = self._storing[-1]._replace(number=0)

    return write


def lets_a_cursor_step_back(old: Callable[..., Any]) -> Callable[..., Any]:
    def commit(self: Cursors, name: str, session: Session, commit: Commit) -> Any:
        return old(self, name, session, commit._replace(offset=max(0, commit.offset - 3)))

    return commit


def finds_every_comparison_right(old: Callable[..., Any]) -> Callable[..., Any]:
    def counted(self: History, filter: Filter, after: int, up_to: int) -> tuple[int, int] | None:
        return self.asked  # type: ignore[attr-defined, no-any-return]

    return counted


def fences_with_the_newest_number(old: Callable[..., None]) -> Callable[..., None]:
    def fence(self: Recovery, link: Any, prefix: bytes) -> None:
        before = self.sent_up_to
        self.sent_up_to = before + 1
        old(self, link, prefix)
        self.sent_up_to = before

    return fence


def ends_a_feed_one_too_early(old: Callable[..., None]) -> Callable[..., None]:
    def ask(self: Recovery, member: Any, ask: Any, now: float) -> None:
        if ask.until is not None and ask.until > ask.after + 1:
            ask = ask._replace(until=ask.until - 1)
        old(self, member, ask, now)

    return ask


def reads_past_what_was_deleted(old: Callable[..., Any]) -> Callable[..., Any]:
    def wanted(self: History, offset: int, *, exact: bool) -> Any:
        return old(self, offset, exact=True)

    return wanted


# ---- topics --------------------------------------------------------------------------


def hash_is_one_word_or_more(old: Callable[..., bool]) -> Callable[..., bool]:
    def matches(self: Filter, topic: str) -> bool:
        found = old(self, topic)
        return found and (self.everything or topic in self or f"{topic}.#" not in self)

    return matches


def subscribes_only_what_is_below(old: Callable[..., tuple[bytes, ...]]) -> Callable[..., tuple[bytes, ...]]:
    def prefixes(pattern: str) -> tuple[bytes, ...]:
        return old(pattern)[-1:]

    return prefixes


_ = (Audience, Feeder, Row)

MUTANTS = [
    *(
        Mutant(name, "pubsub", lambda owner=owner, method=method, make=make: replaced(owner, method, make))  # type: ignore[misc]
        for name, owner, method, make in (
            ("sends before it is stored", PublisherCore, "_take", sends_before_it_is_stored),
            ("says that nothing was before", LastOffsets, "put", says_that_nothing_was_before),
            ("hides what history let go", History, "hole", hides_what_history_let_go),
            ("forgets topics that are gone", History, "_shrink", forgets_topics_that_are_gone),
            ("takes positions of torn tails", Epochs, "clamp", takes_positions_of_torn_tails),
            ("enters an epoch silently", Feeder, "_enter", enters_an_epoch_silently),
            ("confirms a cursor before it is stored", Cursors, "write", confirms_a_cursor_before_it_is_stored),
            ("lets a cursor step back", Cursors, "commit", lets_a_cursor_step_back),
            ("fences with the newest number", Recovery, "_fence", fences_with_the_newest_number),
            ("ends a feed one too early", Recovery, "_ask", ends_a_feed_one_too_early),
            ("reads past what was deleted", History, "wanted", reads_past_what_was_deleted),
            ("takes # for one word or more", Filter, "matches", hash_is_one_word_or_more),
            ("subscribes only what is below", links, "wire_prefixes", subscribes_only_what_is_below),
        )
    ),
]
