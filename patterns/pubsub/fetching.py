"""The subscriber's core, third part: what is fetched over the recovery channel (docs/protocol.md, 14.4 to 14.6).

Pure. Does a stream's `Task`: asks, takes what comes, begins anew over the next session, or gives up. What follows when
a task is done is decided by the parts above.
"""

from __future__ import annotations

import random
from typing import Any, Final

from zmqkit.errors import DecodeError
from zmqkit.events import EpochChanged, RecoveryUnreachable, SubscriptionsRefused
from zmqkit.patterns.pubsub import talk
from zmqkit.patterns.pubsub.committing import Committing
from zmqkit.patterns.pubsub.seen import MARK_EVERY, Span
from zmqkit.patterns.pubsub.settings import SubscriberSettings
from zmqkit.patterns.pubsub.streams import FEEDING, LIVE, Stream, Task
from zmqkit.patterns.pubsub.talk import CHUNK_TOPICS, RIGHT, WRONG, Block
from zmqkit.protocol.core import Frames
from zmqkit.protocol.local import Local
from zmqkit.protocol.session import Session

COMPARED: Final = 100_000
"""So many offsets are compared at once at most."""

COMPARE_PAUSE: Final = 0.1
COMPARE_TRIES: Final = 2
"""A comparison that could not be made is asked for again after so many seconds, so often: there may be too many."""

AGAIN_SECONDS: Final = 1.0
"""After a refusal that may pass, it is asked again."""


class Fetching(Committing):
    """The recovery channels of a subscriber's core."""

    def __init__(self, local: Local, rng: random.Random, settings: SubscriberSettings) -> None:
        super().__init__(local, rng, settings)
        self._by_session: dict[bytes, Stream] = {}
        bound = local.heartbeat.bound
        self.unreachable_after = max(10.0, 4 * bound) if settings.unreachable is None else settings.unreachable

    # ---- hooks of the parts above ----------------------------------------------------

    def done_with(self, stream: Stream, task: Task, now: float) -> None:
        """A task is done, or given up; its stream has none now."""

    def caught_up(self, stream: Stream, now: float) -> None:
        """A feed that goes on for ever came to the newest message."""

    def repair(self, stream: Stream, span: Span, now: float) -> None:
        """A comparison went wrong, of a stream that has no task."""

    def told_to_leave(self, stream: Stream, reason: str, now: float) -> None:
        """The publisher does not want the stream on its data plane any more."""

    # ---- sessions --------------------------------------------------------------------

    def attach(self, stream: Stream, session: Session, now: float) -> None:
        """The stream's recovery channel stands."""
        stream.session = session
        stream.unreachable = False
        stream.told = None
        stream.asked = None
        self._timers.cancel(("reach", stream.publisher))
        self._by_session[session.id] = stream
        self._released.setdefault(session.id, [0, 0])
        self.tell_topics(stream, now)
        if stream.behind_fence:
            self._say(stream, talk.Joined(stream.number, stream.fence), now)
        self.commit_again(stream, now)
        if stream.task is not None:
            self.ask(stream, now)

    def detach(self, session: Session, now: float) -> Stream | None:
        """The session is gone, or not the stream's any more. Returns its stream."""
        stream = self._by_session.pop(session.id, None)
        if stream is None or stream.session is not session:
            return None
        stream.session = None
        stream.told = None
        stream.asked = None
        stream.since = now
        self._timers.cancel(("again", stream.publisher))
        if stream.task is not None:
            self._stop_feed(stream.task, session, now)
            stream.task.ask = 0
        if stream.link is not None:
            self.await_session(stream, now)
        return stream

    def await_session(self, stream: Stream, now: float) -> None:
        """Tell, after a while, that there is none."""
        if stream.session is None and not stream.unreachable:
            self._timers.sooner(("reach", stream.publisher), now + self.unreachable_after)

    def tell_topics(self, stream: Stream, now: float) -> None:
        """Tell the session which topics are in force."""
        if stream.session is None or stream.told is stream.filter:
            return
        old: set[str] = set() if stream.told is None else set(stream.told)
        new = set(stream.filter)
        changes = [(True, each) for each in sorted(new - old)] + [(False, each) for each in sorted(old - new)]
        reset = stream.told is None
        for at in range(0, max(1, len(changes)), CHUNK_TOPICS):
            chunk = changes[at : at + CHUNK_TOPICS]
            done = at + CHUNK_TOPICS >= len(changes)
            added, removed = [each for on, each in chunk if on], [each for on, each in chunk if not on]
            self._say(stream, talk.Topics(reset and not at, added, removed, done), now)
        stream.told = stream.filter

    def cannot_be_reached(self, stream: Stream, now: float) -> None:
        """There was no session for too long."""
        if stream.session is not None or stream.unreachable:
            return
        stream.unreachable = True
        reason = f"there was none for {self.unreachable_after:g} seconds"
        address = stream.address or (stream.link.address if stream.link is not None else "")
        self.out.events.append(RecoveryUnreachable(self.local.name, stream.publisher, address, reason))
        if stream.task is not None:
            self.give_up(stream, now)

    # ---- asking ----------------------------------------------------------------------

    def begin(self, stream: Stream, task: Task, now: float) -> None:
        """Give a stream a task, instead of what it had."""
        self.stop(stream, now)
        stream.task = task
        stream.asked = None
        if stream.session is not None:
            self.ask(stream, now)
        elif stream.unreachable:
            self.give_up(stream, now)
        else:
            self.await_session(stream, now)

    def stop(self, stream: Stream, now: float) -> None:
        """Take a stream's task from it. What is on its way is not taken any more."""
        task, stream.task = stream.task, None
        self._timers.cancel(("again", stream.publisher))
        if task is not None and stream.session is not None:
            self._stop_feed(task, stream.session, now)

    def _stop_feed(self, task: Task, session: Session, now: float) -> None:
        if task.ask and task.why != "compare" and not session.ended:
            self.sessions.send(session, talk.Stop(task.ask).pack(), 0, now)

    def ask(self, stream: Stream, now: float) -> None:
        """Say in the session what is wanted, from where it was on."""
        task, session = stream.task, stream.session
        assert task is not None
        assert session is not None
        if task.why == "values" and session.peer.about.get("last_value") is not True:
            self._finish(stream, task.until or 0, stream.epoch, now)
            return
        if task.kind == "earliest" and stream.anew and session.peer.about.get("last") == 0:
            # It began while we listened: what its history has let go since is missing, too.
            task.kind, task.epoch, task.after = "after", stream.epoch, 0
        task.ask = stream.number_next()
        if task.why == "values":
            assert task.until is not None
            self._say(stream, talk.Values(task.ask, task.until), now)
        elif task.why == "compare":
            assert task.span is not None
            self._compare(stream, task.ask, task.span, now)
        else:
            publisher = stream.publisher if task.kind == "after" else ""
            epoch = task.epoch if task.kind == "after" else ""
            self._say(stream, talk.Feed(task.ask, publisher, epoch, task.after, task.until, task.kind), now)
        self.sessions.owe(session, True, now)

    def _compare(self, stream: Stream, ask: int, span: Span, now: float) -> None:
        self.counters["comparisons"] += 1
        self._say(stream, talk.Check(ask, span.after, span.up_to, span.messages, span.total), now)

    def compare_soon(self, stream: Stream, now: float, most: int = COMPARED) -> None:
        """Ask whether all has come, and hold nothing up."""
        position = stream.position
        if stream.session is None or stream.task is not None or position is None or stream.tally.after >= position:
            return
        span = stream.tally.span(position, most)
        if span.after < position:
            number = stream.number_next()
            stream.asked = (number, span)
            self._compare(stream, number, span, now)

    # ---- what comes ------------------------------------------------------------------

    def received(self, session: Session, frames: Frames, messages: int, now: float) -> None:
        """A publisher tells something."""
        stream = self._by_session.get(session.id)
        if stream is None:
            self._received_of_none(session, frames, messages, now)
            return
        message = talk.read_from_publisher(frames)
        kind = type(message)
        if kind is Block:
            self._block(stream, message, frames, messages, now)  # type: ignore[arg-type]
            return
        if messages:
            raise DecodeError(f"{kind.__name__} counts no messages")
        if isinstance(message, talk.Committed):
            self.committed(stream, message)
        elif isinstance(message, talk.Checked):
            self._checked(stream, message, now)
        elif isinstance(message, talk.Leave):
            self.told_to_leave(stream, message.reason, now)
        elif isinstance(message, talk.Refused):
            self._refused(stream, message, now)
        else:
            task = stream.task
            assert isinstance(message, talk.Begun | talk.Done | talk.Hole | talk.Epoch)
            if task is not None and task.ask == message.feed:
                stream.cursor_since = None
                _BY_KIND[kind](self, stream, task, message, now)

    def _received_of_none(self, session: Session, frames: Frames, messages: int, now: float) -> None:
        """Something came in a session that is no stream's: not yet, as no fence came, or not any more."""
        if messages:
            self.give_credit(session, messages, sum(map(len, frames)))
            return
        message = talk.read_from_publisher(frames)
        if isinstance(message, talk.Refused) and message.code == "cursor in use" and self.settings.cursor:
            self.cursor_in_use(session, None, message.text, now)

    def _block(self, stream: Stream, block: Block, frames: Frames, messages: int, now: float) -> None:
        size = sum(map(len, frames))
        count = len(block.lengths)
        assert stream.session is not None
        if messages != count:
            raise DecodeError("BLOCK that counts otherwise than its session says")
        task = stream.task
        if task is None or task.ask != block.feed:
            self.give_credit(stream.session, count, size)
            return
        offsets = block.offsets
        last = offsets[-1]
        if offsets[0] <= task.after and task.why != "values":
            self.give_credit(stream.session, count, size)
            raise DecodeError("BLOCK of a feed that goes back")
        chosen = self._chosen(stream, task, block)
        new = count if chosen is None else len(chosen)
        self.counters["messages_repeated_here"] += count - new
        task.told += count
        task.news += new
        if task.why == "repair" and stream.filter is not self.filter:
            task.news += self._unwanted(stream, block)
        self._note(stream, task, block, chosen)
        if task.why != "values":
            task.after = last
            task.epoch = block.epoch
        self.hand_on_block(stream, block, chosen, size, now)

    def _chosen(self, stream: Stream, task: Task, block: Block) -> list[int] | None:
        """The indexes of the messages that the user wants and has not got; None: all."""
        if task.why == "values" and block.epoch == stream.epoch != stream.position_epoch:
            return []  # it was opened anew, and uses offsets again: these are no values of what was before
        wanted = list(map(self.filter.matches, block.topics))
        if task.why == "gap" and not task.whole:
            # Of other topics something older may be missing, too: they have gaps of their own.
            wanted = [topic == task.topic for topic in block.topics]
        offsets = block.offsets
        past = task.after if task.why == "values" else (stream.position or 0)
        # Where there was a gap, single topics may have been seen beyond the position.
        if False not in wanted and offsets[0] > past and (task.why == "values" or not stream.lossy):
            return None
        indexes = block.indexes or [0] * len(offsets)
        if task.why == "values":
            return [at for at, index in enumerate(indexes) if wanted[index] and offsets[at] > past]
        seen = [stream.seen.of(topic) for topic in block.topics]
        return [at for at, index in enumerate(indexes) if wanted[index] and offsets[at] > seen[index]]

    def _unwanted(self, stream: Stream, block: Block) -> int:
        """How many messages of a block had not come, of topics that are in force still but not wanted any more."""
        indexes = block.indexes or [0] * len(block.offsets)
        seen = [None if self.filter.matches(topic) else stream.seen.of(topic) for topic in block.topics]
        return sum(
            1
            for offset, index in zip(block.offsets, indexes, strict=True)
            if (newest := seen[index]) is not None and offset > newest
        )

    def _note(self, stream: Stream, task: Task, block: Block, chosen: list[int] | None) -> None:
        """Remember what came."""
        offsets, last = block.offsets, block.offsets[-1]
        if task.why in ("gap", "repair"):
            found = offsets if chosen is None else [offsets[at] for at in chosen]
            if found:
                stream.tally.late(found)
            indexes = block.indexes or [0] * len(offsets)
            newest: dict[str, int] = {}
            for at in range(len(offsets)) if chosen is None else chosen:
                newest[block.topics[indexes[at]]] = offsets[at]
            for topic, offset in newest.items():
                stream.seen.put(topic, offset)
        elif task.why == "values":
            task.after = max(task.after, last)
        else:
            if last < (stream.position or 0):
                found = offsets if chosen is None else [offsets[at] for at in chosen]
                if found:
                    stream.tally.late(found)
            else:
                stream.tally.restart(last)
            stream.arrive(last, block.epoch)

    def _begun(self, stream: Stream, task: Task, message: talk.Begun, now: float) -> None:
        if task.why in ("catch up", "follow"):
            if stream.position is None and task.kind == "earliest" and self._went_since_met(stream, message):
                self.stop(stream, now)
                epoch, after = stream.met or ("", 0)
                self.begin(stream, Task(task.why, "after", epoch, after, task.until), now)
                return
            if stream.position is None or message.after < task.after or self._lost_its_tail(stream, message):
                stream.turn_over(message.after, message.epoch)
            elif task.kind == "after" and message.after > task.after:
                self.tell_lost(stream, message.epoch, (), task.after + 1, message.after, "the publisher skipped them")
                stream.arrive(message.after, message.epoch)
            task.after, task.epoch, task.kind = message.after, message.epoch, "after"
        task.begun = True

    @staticmethod
    def _went_since_met(stream: Stream, message: talk.Begun) -> bool:
        """Whether the earliest message that there is comes after one that was published when we listened already."""
        return stream.met is not None and message.after > stream.met[1]

    @staticmethod
    def _lost_its_tail(stream: Stream, message: talk.Begun) -> bool:
        """Whether the publisher lost what we had of an epoch that it does not know, and used its offsets again.

        Else it does not know the epoch because all of that was let go: then its present one began after our position.
        """
        if message.epoch == stream.position_epoch or stream.session is None or stream.position is None:
            return False
        last = stream.session.peer.about.get("last")
        return type(last) is int and message.after < stream.position > last

    def _hole(self, stream: Stream, task: Task, hole: talk.Hole, now: float) -> None:
        first, last = max(hole.first, task.after + 1), hole.last
        if task.until is not None:
            last = min(last, task.until)
        if first > last:
            return
        topics = tuple(each for each in hole.topics if self.filter.matches(each))
        if task.why == "gap":
            hit = not hole.topics or len(hole.topics) >= talk.MAX_TOLD or task.topic in topics
            topics = (task.topic,)
        else:
            hit = bool(topics) or not hole.topics
            if topics and stream.lossy and len(hole.topics) < talk.MAX_TOLD and hole.epoch == stream.position_epoch:
                # Of each topic all had come up to the newest that was seen: a gap before it was settled, or told.
                newest = {each: stream.seen.of(each) for each in topics}
                topics = tuple(each for each in topics if newest[each] < last)
                hit = bool(topics)
                first = max(first, min((newest[each] + 1 for each in topics), default=first))
        if not stream.lossy and (task.doubtful or task.why in ("catch up", "follow")):
            # What is fetched again had come, as far as anybody knows.
            first = max(first, (stream.position or 0) + 1)
        if hit and first <= last:
            self.tell_lost(stream, hole.epoch, topics, first, last, "the publisher's history has let them go")
        task.after = last
        task.holes = True
        if task.why in ("catch up", "follow"):
            if last >= (stream.position or 0):
                stream.tally.restart(last)
            stream.arrive(last, hole.epoch)

    def _epoch(self, stream: Stream, task: Task, message: talk.Epoch, now: float) -> None:
        if task.why not in ("catch up", "follow"):
            return
        position = stream.position or 0
        if message.epoch not in (stream.announced, stream.position_epoch):
            stream.announced = message.epoch
            unknown = message.first <= position
            self.out.events.append(
                EpochChanged(self.local.name, stream.publisher, message.epoch, position, tail_unknown=unknown)
            )
        if message.first <= position:
            stream.turn_over(message.first - 1, message.epoch)
            task.after = message.first - 1
        # All of the epoch before came by this feed, or an earlier one: there is nothing to compare in it.
        stream.tally.restart(max(stream.position or 0, message.first - 1))
        task.epoch = stream.position_epoch = message.epoch

    def _done(self, stream: Stream, task: Task, message: talk.Done, now: float) -> None:
        if task.until is not None:
            self._finish(stream, min(message.offset, task.until), message.epoch, now)
            return
        task.after = max(task.after, message.offset)
        task.epoch = message.epoch
        stream.arrive(message.offset, message.epoch)
        stream.tally.restart(stream.position or 0)
        if not task.caught_up:
            task.caught_up = True
            self.caught_up(stream, now)

    def _finish(self, stream: Stream, offset: int, epoch: str, now: float) -> None:
        """A task that has an end is at it: all up to this offset is here, or told to be lost."""
        task = stream.task
        assert task is not None
        until = task.until or 0
        if task.why == "gap":
            if task.whole:
                stream.seen.rise(until)
            elif stream.seen.of(task.topic) < until:
                stream.seen.put(task.topic, until)
            stream.arrive_at(until)
        elif task.why == "repair":
            self._account(stream, task)
            if task.doubtful and task.news:
                assert task.span is not None
                self.gap_found(stream, "", task.span.after + 1, until)
            stream.arrive(until, stream.position_epoch)
            stream.tally.restart(until)
        else:
            if task.why in ("values", "compare"):
                offset, epoch = until, stream.position_epoch
            stream.arrive(offset, epoch)
            stream.tally.restart(stream.position or 0)
        self._end(stream, task, now)

    def _account(self, stream: Stream, task: Task) -> None:
        """A comparison said that messages are missing: as many must have come, or they cannot be told from others."""
        assert task.span is not None
        if not task.holes and task.told > task.span.messages + task.news:
            why = "they came after newer ones of their topics, and cannot be told from what was delivered"
            self.tell_lost(stream, stream.epoch, (), task.span.after + 1, task.until or 0, why)

    def _end(self, stream: Stream, task: Task, now: float) -> None:
        stream.task = None
        self._timers.cancel(("again", stream.publisher))
        if stream.session is not None:
            self.sessions.owe(stream.session, False, now)
        self.done_with(stream, task, now)

    def _checked(self, stream: Stream, message: talk.Checked, now: float) -> None:
        task = stream.task
        if task is not None and task.why == "compare" and task.ask == message.ask:
            self._decided(stream, task, message.verdict, now)
        elif stream.asked is not None and stream.asked[0] == message.ask:
            span = stream.asked[1]
            stream.asked = None
            if message.verdict == RIGHT:
                stream.tally.right(span)
                if not stream.tally.doubtful:
                    stream.seen.rise(span.up_to)
            elif message.verdict == WRONG:
                self.counters["comparisons_wrong"] += 1
                self.repair(stream, span, now)
            elif span.up_to - span.after > MARK_EVERY:
                stream.shorter = (span.up_to - span.after) // 2
                self._timers.set(("shorter", stream.publisher), now + COMPARE_PAUSE)

    def _decided(self, stream: Stream, task: Task, verdict: int, now: float) -> None:
        """What a comparison said that something waits for."""
        assert task.span is not None
        assert task.until is not None
        if verdict not in (WRONG, RIGHT) and task.tries < COMPARE_TRIES:
            task.tries += 1
            task.ask = 0
            self._timers.set(("again", stream.publisher), now + COMPARE_PAUSE)
            return
        if verdict not in (WRONG, RIGHT) and not task.topic and self.settings.on_gap == "recover":
            # It cannot be told: fetch it all. If nothing is new, nothing was missing.
            repair = Task("repair", "after", task.epoch, task.span.after, task.until, span=task.span)
            repair.doubtful = not stream.lossy
            self.begin(stream, repair, now)
            return
        if verdict != WRONG:
            if verdict != RIGHT:
                self.counters["gaps_doubtful"] += 1
                if stream.lossy and not task.topic:
                    why = "it cannot be told any more whether all of them came, and some before them had not"
                    self.tell_lost(stream, stream.epoch, (), task.span.after + 1, task.until, why)
            self._finish(stream, task.until, stream.epoch, now)
            return
        self.counters["comparisons_wrong"] += 1
        self.gap_found(stream, task.topic, task.span.after + 1, task.until)
        if self.settings.on_gap == "recover":
            repair = Task("repair", "after", task.epoch, task.span.after, task.until, span=task.span)
            self.begin(stream, repair, now)
            return
        if self.settings.on_gap == "raise":
            topics = (task.topic,) if task.topic else ()
            self.tell_lost(stream, stream.epoch, topics, task.span.after + 1, task.until, "on_gap is raise")
        self._finish(stream, task.until, stream.epoch, now)

    # ---- refusals --------------------------------------------------------------------

    def _refused(self, stream: Stream, message: talk.Refused, now: float) -> None:
        self.counters["publishers_refused"] += 1
        task = stream.task
        if message.code == "too many topics":
            self.out.events.append(SubscriptionsRefused(self.local.name, self.local.name, message.text))
            return
        if message.code == "cursor in use" and self.settings.cursor:
            assert stream.session is not None
            self.cursor_in_use(stream.session, stream, message.text, now)
            return
        if task is None or not message.feed or task.ask != message.feed:
            if not message.feed:
                self.drop_commits(stream.publisher, message.text)
                self.sessions.bad_frame(None, f"a publisher refused: {message.code}: {message.text}")
            return
        if task.why == "values":
            self._finish(stream, task.until or 0, stream.epoch, now)
        elif message.code in ("publisher", "epoch") and task.kind == "after":
            last = task.until or task.after + 1
            if last > task.after:
                why = f"the publisher does not know the position: {message.text}"
                self.tell_lost(stream, task.epoch, (), task.after + 1, last, why)
            self._from_earliest(stream, task, now)
        elif message.code == "no cursor" and task.kind == "resume":
            task.kind = "earliest"
            self.ask(stream, now)
        else:
            task.ask = 0
            self._timers.set(("again", stream.publisher), now + AGAIN_SECONDS * (1 + self.rng.random()))

    def _from_earliest(self, stream: Stream, task: Task, now: float) -> None:
        if task.why in ("catch up", "follow"):
            stream.position = None
            task.kind = "earliest"
            task.after = 0
            self.ask(stream, now)
        else:
            self._finish(stream, task.until or 0, stream.epoch, now)

    def ask_again(self, stream: Stream, now: float) -> None:
        """The time after a refusal is over."""
        if stream.task is not None and not stream.task.ask and stream.session is not None:
            self.ask(stream, now)

    # ---- giving up -------------------------------------------------------------------

    def give_up(self, stream: Stream, now: float) -> None:
        """There is no recovery channel: go on without, and name what is missing. Only what lives can go on."""
        task = stream.task
        if task is None or stream.state not in (FEEDING, LIVE):
            return
        why = "the publisher's recovery channel cannot be reached"
        if task.why == "gap" or task.why == "repair" or (task.why == "catch up" and task.kind == "after"):
            topics = (task.topic,) if task.topic else ()
            if task.until is not None and task.until > task.after:
                self.tell_lost(stream, stream.epoch, topics, task.after + 1, task.until, why)
            task.holes = True
        elif task.why == "catch up" or task.why == "follow":
            return  # where to begin is not known: wait
        elif task.why == "compare":
            self.counters["gaps_doubtful"] += 1
        self._finish(stream, task.until or 0, stream.epoch, now)


_BY_KIND: Final[dict[type[Any], Any]] = {
    talk.Begun: Fetching._begun,
    talk.Done: Fetching._done,
    talk.Hole: Fetching._hole,
    talk.Epoch: Fetching._epoch,
}
