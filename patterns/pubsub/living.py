"""The subscriber's core, fourth part: what comes over the data plane (docs/protocol.md, 14.2 and 14.6).

Pure. A frame is handed on if its stream is live and nothing is missing before it; else it is held, or the hole is told.
A stream compares with its publisher, now and then, whether that was all.
"""

from __future__ import annotations

from typing import Final

from zmqkit.patterns.pubsub import talk
from zmqkit.patterns.pubsub.fetching import COMPARED, Fetching
from zmqkit.patterns.pubsub.groups import ends_group
from zmqkit.patterns.pubsub.seen import FLOOR_SPAN, GENERATION, Span
from zmqkit.patterns.pubsub.streams import FEED, FEEDING, LIVE, Stream, Task
from zmqkit.patterns.pubsub.wire import Beat, Data, Mixed
from zmqkit.protocol.session import Session

SEEN_BYTES: Final = 512 * 1024
"""After so much a beat is answered at once..."""

SEEN_SECONDS: Final = 0.25
"""...else no more often than this."""

COMPARE_FROM: Final = 5.0
COMPARE_TO: Final = 10.0
"""Heartbeat intervals between two comparisons, at least and at most."""

QUIET_BEATS: Final = 2
"""After so many beats without a message it is compared, once."""

TOPICS_SEEN: Final = 1_000_000
"""So many topics of all streams are remembered, about; see `Seen`."""


class Living(Fetching):
    """The data frames of a subscriber's core."""

    held_messages = 0
    held_bytes = 0

    # ---- frames ----------------------------------------------------------------------

    def take_data(self, stream: Stream, data: Data, size: int, now: float) -> None:
        """A data frame of a stream came over its link."""
        stream.unseen_bytes += size
        stream.quiet = 0
        stream.quiet_asked = False
        if stream.state is LIVE and not stream.groups.frames and ends_group(data):
            # What is nearly always so, without detours: the frame is a group by itself, and nothing holds it up.
            topic, seen = data.topic, stream.seen
            newest = seen.of(topic)
            offsets = data.offsets
            if data.previous <= newest < offsets[0] and stream.filter.matches(topic):
                last = data.group_last
                seen.put(topic, last)
                stream.position = last
                stream.tally.count(offsets, last)
                if stream.filter is self.filter or self.filter.matches(topic):
                    self.hand_on_live(stream, data, None, now)
                    if self.room.full:
                        self.too_slow(now)
                return
        if not stream.behind_fence:
            self.counters["frames_unknown"] += 1
            return
        for group in stream.groups.add(data):
            self._complete(stream, group, now)

    def take_mixed(self, stream: Stream, mixed: Mixed, size: int, now: float) -> None:
        """A data frame with messages of several topics; it is a group by itself."""
        stream.unseen_bytes += size
        stream.quiet = 0
        stream.quiet_asked = False
        if not stream.behind_fence:
            self.counters["frames_unknown"] += 1
            return
        waiting = stream.groups.take()
        if waiting:
            self._complete(stream, waiting, now)
        filter, seen, topics, offsets = stream.filter, stream.seen, mixed.topics, mixed.offsets
        if (
            stream.state is LIVE
            and filter is self.filter
            and offsets[0] > (stream.position or 0)
            and (filter.covers(mixed.prefix) or all(map(filter.matches, topics)))
            and seen.misses_none(topics, mixed.previous)
        ):
            stream.position = last = offsets[-1]
            seen.put_all(dict(zip(map(topics.__getitem__, mixed.indexes), offsets, strict=True)))
            stream.tally.count(offsets, last)
            self.hand_on_mixed(stream, mixed, now)
            if self.room.full:
                self.too_slow(now)
        else:
            self._complete(stream, mixed.parts(), now)

    def take_beat(self, stream: Stream, beat: Beat, size: int, now: float) -> None:
        """A beat of a stream came over its link."""
        stream.unseen_bytes += size
        stream.seen_beat = max(stream.seen_beat, beat.number)
        group = stream.groups.beat(beat.offset)
        if group:
            self._complete(stream, group, now)
        if stream.state is LIVE and not stream.groups.frames and beat.offset > (stream.position or 0):
            stream.position = beat.offset
            stream.tally.pass_on(beat.offset)
        stream.quiet += 1
        if stream.quiet >= QUIET_BEATS and not stream.quiet_asked and stream.state is LIVE:
            stream.quiet_asked = True
            self.compare_soon(stream, now)
        self._tell_seen(stream, now)

    def _tell_seen(self, stream: Stream, now: float) -> None:
        if stream.session is None or stream.seen_beat <= stream.told_seen or not stream.behind_fence:
            return
        if stream.unseen_bytes >= SEEN_BYTES or now >= stream.seen_at + SEEN_SECONDS:
            self.tell_seen_now(stream, now)
        else:
            self._timers.sooner(("seen", stream.publisher), stream.seen_at + SEEN_SECONDS)

    def tell_seen_now(self, stream: Stream, now: float) -> None:
        """Tell the publisher which beat was the newest one."""
        self._timers.cancel(("seen", stream.publisher))
        if stream.session is not None and stream.seen_beat > stream.told_seen and stream.behind_fence:
            stream.told_seen, stream.seen_at, stream.unseen_bytes = stream.seen_beat, now, 0
            self._say(stream, talk.Seen(stream.seen_beat), now)

    # ---- groups ----------------------------------------------------------------------

    def _complete(self, stream: Stream, group: list[Data], now: float) -> None:
        """A group is complete: hand it on, or hold it; or drop it, if the one before it was too much for the user."""
        if stream.state is LIVE:
            self._take_group(stream, group, now)
        elif stream.state is FEEDING:
            self._hold(stream, group)
            limits = self.settings.limits
            if self.held_messages > limits.queued_messages or self.held_bytes > limits.queued_bytes:
                self.held_too_much(stream, now)

    def held_too_much(self, stream: Stream, now: float) -> None:
        """A hook: it takes too long until what was before has been fetched."""

    def _hold(self, stream: Stream, group: list[Data]) -> None:
        before = stream.held_messages, stream.held_bytes
        stream.hold(group)
        self._count_held(stream, before)

    def _count_held(self, stream: Stream, before: tuple[int, int]) -> None:
        self.held_messages += stream.held_messages - before[0]
        self.held_bytes += stream.held_bytes - before[1]

    def drop_held(self, stream: Stream) -> None:
        """Forget what is held: it will be fetched."""
        before = stream.held_messages, stream.held_bytes
        stream.drop_held()
        self._count_held(stream, before)

    def let_go_held(self, stream: Stream, now: float) -> None:
        """Hand on what is held, as far as nothing is missing."""
        while stream.held and stream.state is LIVE:
            before = stream.held_messages, stream.held_bytes
            group = stream.take_held()
            self._count_held(stream, before)
            if group:
                self._take_group(stream, group, now)
            elif stream.pending is not None:
                self.change_topics(stream, now)

    def _take_group(self, stream: Stream, group: list[Data], now: float) -> None:
        """A complete group of a stream that is live."""
        matches = stream.filter.matches
        frames = [data for data in group if matches(data.topic)]
        newest: dict[str, int] = {}
        for data in frames:
            seen = newest.get(data.topic) or stream.seen.of(data.topic)
            if data.previous > seen and self._gap(stream, data, seen, group, now):
                return
            newest[data.topic] = data.offsets[-1]
        last = max([data.offsets[-1] for data in group])
        self._pass_on(stream, frames, now)
        for topic, offset in newest.items():
            stream.seen.put(topic, max(offset, stream.seen.of(topic)))
        if last > (stream.position or 0):
            stream.position = last
            stream.tally.pass_on(last)
        if self.room.full:
            self.too_slow(now)

    def _pass_on(self, stream: Stream, frames: list[Data], now: float) -> None:
        """Hand on what was not seen of these frames."""
        news: list[Data] = []
        for data in frames:
            chosen = stream.new(data.offsets, data.topic)
            if chosen is None:
                stream.tally.count(data.offsets, 0)
                news.append(data)
                continue
            self.counters["messages_repeated_here"] += len(data.offsets) - len(chosen)
            if chosen:
                stream.tally.count([data.offsets[at] for at in chosen], 0)
                news.append(rest_of(data, len(data.offsets) - len(chosen)))
        if stream.filter is not self.filter:
            news = [data for data in news if self.filter.matches(data.topic)]
        if len(news) == 1:
            self.hand_on_live(stream, news[0], None, now)
        elif news:
            self.hand_on_group(stream, news, now)

    # ---- gaps ------------------------------------------------------------------------

    def _gap(self, stream: Stream, data: Data, seen: int, group: list[Data], now: float) -> bool:
        """Something seems to be missing before a frame. True: its group is held until that is settled."""
        topic, known = data.topic, stream.seen.knows(data.topic)
        mode = self.settings.on_gap
        until = max(data.previous, group[0].offsets[0] - 1, stream.position or 0)
        assert stream.position is not None
        if not known and data.offsets[0] - data.previous >= FLOOR_SPAN:
            # It may be that the publisher has forgotten when the topic's last message was.
            if stream.session is None and stream.unreachable:
                self.counters["gaps_doubtful"] += 1
                stream.seen.put(topic, data.previous)
                return False
            span = stream.tally.span(stream.position, 1 << 62)
            span = span._replace(end=span.end._replace(offset=until))
            task = Task("compare", "after", stream.epoch, span.after, until, topic=topic, span=span)
        else:
            self.gap_found(stream, topic, seen + 1, data.previous)
            if mode != "recover":
                if mode == "raise":
                    why = "on_gap says that nothing is recovered"
                    self.tell_lost(stream, stream.epoch, (topic,), seen + 1, data.previous, why)
                stream.seen.put(topic, data.previous)
                return False
            task = Task("gap", "after", stream.epoch, seen, until, whole=not known, topic=topic)
        before = stream.held_messages, stream.held_bytes
        stream.hold_again(group)
        self._count_held(stream, before)
        stream.state = FEEDING
        self.begin(stream, task, now)
        return True

    def repair(self, stream: Stream, span: Span, now: float) -> None:
        """See `Fetching`: messages are missing that nothing newer of their topics followed."""
        if stream.state is not LIVE or stream.task is not None or stream.position is None:
            return
        tally = stream.tally
        messages = span.messages + tally.messages - span.end.messages
        span = span._replace(messages=messages, end=span.end._replace(offset=stream.position))
        self.gap_found(stream, "", span.after + 1, span.up_to)
        if self.settings.on_gap != "recover":
            if self.settings.on_gap == "raise":
                why = "on_gap says that nothing is recovered"
                self.tell_lost(stream, stream.epoch, (), span.after + 1, span.up_to, why)
            stream.seen.rise(stream.position)
            stream.tally.restart(stream.position)
            return
        stream.state = FEEDING
        self.begin(stream, Task("repair", "after", stream.epoch, span.after, span.up_to, span=span), now)

    def done_with(self, stream: Stream, task: Task, now: float) -> None:
        """See `Fetching`."""
        past = task.why in ("values", "compare", "repair")
        if stream.state is FEED and past:
            self.follow_on(stream, now)
        if stream.state is not FEEDING:
            return
        assert stream.position is not None
        if past and (stream.position < stream.fence or stream.position_epoch != stream.epoch):
            # That was about what came before the connection broke; now for what was published since then.
            catch_up = Task("catch up", "after", stream.position_epoch, stream.position, stream.fence)
            self.begin(stream, catch_up, now)
            return
        if stream.adopting and [] in stream.held:
            stream.adopting = False  # still others were wanted meanwhile: they begin there
        elif stream.adopting:
            self.adopt(stream, now)
        stream.state = LIVE
        stream.position_epoch = stream.epoch
        self.goes_live(stream, now)
        self.let_go_held(stream, now)

    def follow_on(self, stream: Stream, now: float) -> None:
        """A hook: what was in doubt is settled, now all that comes is read from the history."""

    # ---- other topics ----------------------------------------------------------------

    def change_topics(self, stream: Stream, now: float) -> None:
        """A live stream is where other topics begin: compare first what came of the old ones."""
        assert stream.pending is not None
        assert stream.position is not None
        _, fence = stream.pending
        until = max(fence, stream.position)
        stream.adopting = True
        span = stream.tally.span(stream.position, COMPARED)
        if stream.session is None or span.after >= until:
            self.adopt(stream, now)
            return
        span = span._replace(end=span.end._replace(offset=until))
        stream.state = FEEDING
        self.begin(stream, Task("compare", "after", stream.epoch, span.after, until, span=span), now)

    def adopt(self, stream: Stream, now: float) -> None:
        """The other topics are in force, from their fence on."""
        assert stream.pending is not None
        stream.filter, fence = stream.pending
        stream.pending, stream.adopting = None, False
        stream.arrive_at(fence)
        stream.seen.rise(fence)
        stream.tally.restart(stream.position or 0)
        stream.asked = None
        self.tell_topics(stream, now)

    # ---- comparing -------------------------------------------------------------------

    def goes_live(self, stream: Stream, now: float) -> None:
        """A stream is whole: from now on it is handed on as it comes."""
        key = ("compare", stream.publisher)
        if key not in self._timers:
            self._timers.set(key, now + self._compare_after())

    def _compare_after(self) -> float:
        factor = COMPARE_FROM + (COMPARE_TO - COMPARE_FROM) * self.rng.random()
        return self.local.heartbeat.interval * factor

    def compare_in_time(self, stream: Stream, now: float) -> None:
        """The period of comparisons is over."""
        if stream.state is LIVE:
            self.compare_soon(stream, now)
            self._timers.set(("compare", stream.publisher), now + self._compare_after())

    def compare_less(self, stream: Stream, now: float) -> None:
        """A comparison could not be made, or not then: try a shorter one."""
        if stream.state is LIVE and stream.asked is None:
            self.compare_soon(stream, now, stream.shorter)

    def share_memory(self) -> None:
        """Bound the topics that are remembered, by all streams together."""
        literals = len(self.filter)
        generation = max(100, min(max(GENERATION, literals), TOPICS_SEEN // (2 * max(1, len(self.streams)))))
        for stream in self.streams.values():
            stream.seen.generation = generation
            stream.groups.share(len(self.streams))

    def attach(self, stream: Stream, session: Session, now: float) -> None:
        """See `Fetching`."""
        super().attach(stream, session, now)
        stream.told_seen = stream.seen_beat = 0  # its publisher may be another one, restored under the same name


def rest_of(data: Data, start: int) -> Data:
    """A frame without its first messages."""
    skipped = sum(data.lengths[:start])
    headers = {index - start: each for index, each in data.headers.items() if index >= start}
    return data._replace(
        offsets=data.offsets[start:], lengths=data.lengths[start:], blob=data.blob[skipped:], headers=headers
    )
