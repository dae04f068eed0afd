"""Bugs planted into publish-subscribe: the publisher's core, its history and offsets, topics, the subscriber's core."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from tests.simulation.mutants import Mutant, replaced
from tests.simulation.pubsub import PubsubScenario
from zmqkit.patterns.pubsub import links
from zmqkit.patterns.pubsub.committing import Committing
from zmqkit.patterns.pubsub.cursors import Cursors
from zmqkit.patterns.pubsub.delivering import Delivering
from zmqkit.patterns.pubsub.feeds import Feed, Feeder
from zmqkit.patterns.pubsub.fetching import Fetching
from zmqkit.patterns.pubsub.history import History
from zmqkit.patterns.pubsub.joining import Joining
from zmqkit.patterns.pubsub.living import Living
from zmqkit.patterns.pubsub.offsets import LastOffsets
from zmqkit.patterns.pubsub.plane import Plane
from zmqkit.patterns.pubsub.publisher import PublisherCore
from zmqkit.patterns.pubsub.recovery import Recovery
from zmqkit.patterns.pubsub.seen import Seen
from zmqkit.patterns.pubsub.streams import Stream, Task
from zmqkit.patterns.pubsub.talk import Commit, Committed
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


def enters_an_epoch_silently(old: Callable[..., None]) -> Callable[..., None]:
    def enter(feed: Feed, epoch: str, first: int, lane: Any, now: float) -> None:
        if feed.position < first:
            feed.epoch = feed.epoch or epoch

    return staticmethod(enter)


def confirms_a_cursor_before_it_is_stored(old: Callable[..., Any]) -> Callable[..., Any]:
    def commit(self: Cursors, name: str, session: Session, commit: Commit) -> Any:
        answer = old(self, name, session, commit._replace(ask=0))
        return Committed(commit.ask) if answer is None else answer

    return commit


def lets_a_cursor_step_back(old: Callable[..., Any]) -> Callable[..., Any]:
    def commit(self: Cursors, name: str, session: Session, commit: Commit) -> Any:
        return old(self, name, session, commit._replace(offset=max(0, commit.offset - 3)))

    return commit


def fences_with_the_newest_number(old: Callable[..., None]) -> Callable[..., None]:
    def fence(self: Plane, link: Any, prefix: bytes) -> None:
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
    def wanted(self: History, *more: Any, **named: Any) -> Any:
        read = old(self, *more, **named)
        return read if read is None or read.first >= read.last else read._replace(first=read.first + 1)

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


# ---- the subscriber ------------------------------------------------------------------


def takes_what_it_fetched_for_new(old: Callable[..., Any]) -> Callable[..., Any]:
    def chosen(self: Fetching, stream: Stream, *more: Any) -> Any:
        seen, stream.seen = stream.seen, Seen()
        try:
            return old(self, stream, *more)
        finally:
            stream.seen = seen

    return chosen


def overlooks_gaps(old: Callable[..., bool]) -> Callable[..., bool]:
    def gap(self: Living, stream: Stream, data: Any, seen: int, group: Any, now: float) -> bool:
        return False

    return gap


def believes_a_beat_while_it_fetches(old: Callable[..., None]) -> Callable[..., None]:
    def take(self: Living, stream: Stream, beat: Any, size: int, now: float) -> None:
        old(self, stream, beat, size, now)
        if stream.position is not None and stream.task is None:
            stream.arrive(beat.offset, stream.epoch)

    return take


def joins_without_what_it_missed(old: Callable[..., Any]) -> Callable[..., Any]:
    def first(self: Joining, stream: Stream, fence: int) -> Task | None:
        task: Task | None = old(self, stream, fence)
        if task is not None and task.why == "catch up" and task.kind == "after" and stream.lossy:
            stream.arrive(fence, stream.epoch)
            return None
        return task

    return first


def keeps_its_position_over_a_torn_tail(old: Callable[..., None]) -> Callable[..., None]:
    def turn(self: Stream, offset: int, epoch: str) -> None:
        if self.position is None or offset >= self.position:
            old(self, offset, epoch)
        else:
            self.position_epoch = epoch

    return turn


def gives_no_credit_for_what_it_knew(old: Callable[..., None]) -> Callable[..., None]:
    def give(self: Delivering, session: Session, messages: int, size_bytes: int) -> None:
        old(self, session, 0, size_bytes)

    return give


def commits_what_is_not_dealt_with(old: Callable[..., None]) -> Callable[..., None]:
    def commit(self: Committing, publisher: str, epoch: str, offset: int, ticket: Any, now: float) -> None:
        stream = self.streams.get(publisher)
        ahead = stream.position if stream is not None and stream.position is not None else offset
        old(self, publisher, epoch, max(offset, ahead), ticket, now)

    return commit


def never_compares(old: Callable[..., None]) -> Callable[..., None]:
    def compare(self: Fetching, stream: Stream, now: float, most: int = 0) -> None:
        pass

    return compare


def forgets_a_publisher_that_moved(old: Callable[..., Any]) -> Callable[..., Any]:
    def begin(self: Joining, link: Any, fence: Any, now: float) -> Stream | None:
        before: Stream | None = link.before
        if before is not None and self.streams.get(before.publisher) is before:
            before.durable = False
        found: Stream | None = old(self, link, fence, now)
        if before is not None:
            self._left.pop(before.publisher, None)
        return found

    return begin


def tells_beats_of_another_opening(old: Callable[..., None]) -> Callable[..., None]:
    def attach(self: Living, stream: Stream, session: Session, now: float) -> None:
        beat = stream.seen_beat
        old(self, stream, session, now)
        stream.seen_beat = beat

    return attach


def hands_a_group_on_topic_by_topic(old: Callable[..., None]) -> Callable[..., None]:
    def group(self: Delivering, stream: Stream, frames: list[Any], now: float) -> None:
        for data in frames:
            self.hand_on_live(stream, data, None, now)

    return group


FAULTS = PubsubScenario.faults

SETTINGS: dict[str, dict[str, Any]] = {
    "joins without what it missed": {"forwarders": 1.0},
    "keeps its position over a torn tail": {
        "journals": ("process",), "undone": (60,), "forwarders": 0.0, "faults": dataclasses.replace(FAULTS, crash_s=0.5)
    },
    "tells beats of another opening": {
        "journals": (False,), "forwarders": 0.0, "faults": dataclasses.replace(FAULTS, restore_s=0.5)
    },
}  # fmt: skip
"""Bugs that do harm in few worlds only, and what makes these frequent."""

MUTANTS = [
    *(
        Mutant(
            name,
            "pubsub",
            lambda owner=owner, method=method, make=make: replaced(owner, method, make),  # type: ignore[misc]
            settings=SETTINGS.get(name, {}),
        )
        for name, owner, method, make in (
            ("sends before it is stored", PublisherCore, "_take", sends_before_it_is_stored),
            ("says that nothing was before", LastOffsets, "put", says_that_nothing_was_before),
            ("hides what history let go", History, "hole", hides_what_history_let_go),
            ("forgets topics that are gone", History, "_shrink", forgets_topics_that_are_gone),
            ("enters an epoch silently", Feeder, "_enter", enters_an_epoch_silently),
            ("confirms a cursor before it is stored", Cursors, "commit", confirms_a_cursor_before_it_is_stored),
            ("lets a cursor step back", Cursors, "commit", lets_a_cursor_step_back),
            ("fences with the next number", Plane, "_fence", fences_with_the_newest_number),
            ("ends a feed one too early", Recovery, "_ask", ends_a_feed_one_too_early),
            ("reads past what was deleted", History, "wanted", reads_past_what_was_deleted),
            ("takes # for one word or more", Filter, "matches", hash_is_one_word_or_more),
            ("subscribes only what is below", links, "wire_prefixes", subscribes_only_what_is_below),
            ("takes what it fetched for new", Fetching, "_chosen", takes_what_it_fetched_for_new),
            ("overlooks gaps", Living, "_gap", overlooks_gaps),
            ("believes a beat whatever it held", Living, "take_beat", believes_a_beat_while_it_fetches),
            ("joins without what it missed", Joining, "_first_task", joins_without_what_it_missed),
            ("keeps its position over a torn tail", Stream, "turn_over", keeps_its_position_over_a_torn_tail),
            ("gives no credit back", Delivering, "give_credit", gives_no_credit_for_what_it_knew),
            ("commits what is not dealt with", Committing, "commit", commits_what_is_not_dealt_with),
            ("never compares", Fetching, "compare_soon", never_compares),
            ("forgets a publisher that moved", Joining, "_begin_stream", forgets_a_publisher_that_moved),
            ("tells beats of another opening", Living, "attach", tells_beats_of_another_opening),
            ("hands a group on topic by topic", Delivering, "hand_on_group", hands_a_group_on_topic_by_topic),
        )
    ),
]
