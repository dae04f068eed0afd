"""What users of simulated subscribers do, and what is held against those: order, holes, doubles, positions.

Knows parcels as they come out of a mailbox, the verbs of a subscriber's core, and `tests.simulation.published`.
"""

from __future__ import annotations

import dataclasses
import operator
from collections import Counter
from collections.abc import Callable

from tests.simulation.published import Book, Hearing, Line, Message, lets_in
from tests.simulation.users import Told
from zmqkit import events
from zmqkit.errors import MessagesLost
from zmqkit.inbox import Position
from zmqkit.options import Limits, OnGap, OnSlow, Start
from zmqkit.patterns.pubsub.parcels import Gone, Parcel
from zmqkit.patterns.pubsub.positions import Progress
from zmqkit.testing.peers import SimPeer


@dataclasses.dataclass(slots=True, eq=False)
class Kept:
    """What a durable subscriber keeps over its incarnations.

    Attributes:
        positions: in an inbox: by publisher, committed together with what was applied.
        applied: in an inbox: what was applied, in this order; at a cursor: what was handled, each once.
        confirmed: at a cursor: by publisher, the place of the newest message whose commit was confirmed.
    """

    positions: dict[str, Position] = dataclasses.field(default_factory=dict)
    applied: dict[Message, None] = dataclasses.field(default_factory=dict)
    confirmed: dict[str, int] = dataclasses.field(default_factory=dict)
    posted: set[str] = dataclasses.field(default_factory=set)
    """At a cursor: publishers where a commit was asked for."""
    bases: dict[str, int] = dataclasses.field(default_factory=dict)
    """By publisher: the place from which on all is owed."""
    lost: list[Hearing] = dataclasses.field(default_factory=list)
    """What was told to be lost, by each incarnation and line."""


@dataclasses.dataclass(slots=True, eq=False)
class Reader:
    """A subscriber's user: what it wants, over all incarnations; and what this incarnation got.

    Attributes:
        patterns: that it subscribes now; `was`: that it ever did.
        start: "latest", "earliest", a time in microseconds, or None.
        kept: what survives, of a subscriber with ``cursor=`` or ``inbox=``.
        eager: takes at once what comes.
        hearings: by line, of this incarnation.
        held: how many messages wait in the mailbox.
    """

    peer: SimPeer
    book: Book
    counts: Counter[str]
    patterns: list[str]
    start: Start | int | None
    cursor: str | None
    inbox: bool
    on_gap: OnGap
    on_slow: OnSlow
    eager: bool
    lossy: bool
    holds: Callable[[Message], bool]
    """Whether the history of a living publisher has a message."""
    stands: Callable[[Message], bool]
    """Whether what lies on a disk says that somebody's cursor stands there, or beyond; without a disk: True."""
    plenty: Callable[[Line], bool]
    """Whether a living publisher holds all of a line."""
    valued: Callable[[Line], bool]
    """Whether the last value of each topic of a line is kept by a living publisher."""
    kept: Kept = dataclasses.field(default_factory=Kept)
    was: list[str] = dataclasses.field(default_factory=list)
    hearings: dict[str, Hearing] = dataclasses.field(default_factory=dict)
    progress: Progress | None = None
    unreachable: set[str] = dataclasses.field(default_factory=set)
    """Publishers whose recovery channel was said to be unreachable: what is missing of them may be given up."""
    limits: Limits = Limits()
    ended: bool = False
    shaken: bool = False
    """A publisher may have lost what it confirmed: its power failed."""
    changed: set[str] = dataclasses.field(default_factory=set)
    """Patterns that were subscribed or unsubscribed in this incarnation: of their topics some may be passed over."""
    gaps: list[tuple[str, int, int]] = dataclasses.field(default_factory=list)
    """Publisher, first and last offset of gaps that it found and means to recover."""
    known: set[str] = dataclasses.field(default_factory=set)
    """Publishers that it is known to be owed something by."""
    epochs_told: set[tuple[str, str]] = dataclasses.field(default_factory=set)
    met: set[str] = dataclasses.field(default_factory=set)
    """Publishers that it follows, or whose place it knows."""
    came_anew: set[str] = dataclasses.field(default_factory=set)
    """Publishers that it was told of as having come in another's place."""

    @property
    def durable(self) -> bool:
        """Its position survives."""
        return self.inbox or self.cursor is not None

    @property
    def about(self) -> str:
        """For the readable trace."""
        where = "inbox" if self.inbox else self.cursor or f"start {self.start}"
        return (
            f"{self.patterns}, {where}, on_gap {self.on_gap}, on_slow {self.on_slow}, eager {self.eager}, "
            f"lossy {self.lossy}"
        )

    @property
    def whole(self) -> bool:
        """It is owed each message of its topics."""
        return self.on_slow != "conflate"

    def wants(self, topic: str) -> bool:
        """Whether one of its patterns lets the topic in."""
        return any(lets_in(pattern, topic) for pattern in self.patterns)

    def sure(self, topic: str) -> bool:
        """Whether it has wanted the topic all the time."""
        return any(lets_in(each, topic) for each in self.patterns if each not in self.changed)

    def change(self, pattern: str) -> None:
        """Its user subscribes one topic more, or one less."""
        self.changed.add(pattern)
        if pattern not in self.patterns:
            self.patterns.append(pattern)
            self.was.append(pattern)
            self.peer.post("subscribe", [pattern])
        elif len(self.patterns) > 1:
            self.patterns.remove(pattern)
            self.peer.post("unsubscribe", [pattern])

    # ---- an incarnation --------------------------------------------------------------

    def begin(self) -> list[Position]:
        """A new incarnation. Returns the positions of its inbox."""
        self.hearings = {}
        self.was = list(self.patterns)
        self.ended = False
        self.unreachable = set()
        self.epochs_told = set()
        self.met = set()
        self.came_anew = set()
        self.known = set()
        self.changed = set()
        self.gaps = []
        known = list(self.kept.positions.values())
        stays = self.kept.positions.keys() | self.kept.confirmed.keys()
        self.kept.bases = {id: base for id, base in self.kept.bases.items() if id in stays}
        self.progress = Progress(known) if self.durable else None
        return known

    def hearing(self, line: Line) -> Hearing:
        """What this incarnation has of a line."""
        known = self.hearings.get(line.id)
        if known is None:
            known = self.hearings[line.id] = Hearing(
                line, self._base(line), self.start if isinstance(self.start, int) else 0
            )
            self.kept.lost.append(known)
        return known

    def _base(self, line: Line) -> int | None:
        position = self.kept.positions.get(line.id)
        return None if position is None else line.after(position.epoch, position.offset)

    @property
    def follows(self) -> bool:
        """It begins with what comes, and not with what there is."""
        return self.start in (None, "latest") and not self.durable

    def joined(self, line: Line) -> None:
        """Its publisher has it among those who live on the data plane: what is published from now on is owed."""
        if self.follows:
            self._owed_from(line, len(line.messages))

    def begun(self, line: Line, epoch: str, offset: int, met: tuple[str, int] | None, *, anew: bool) -> None:
        """Its publisher told where it begins: with all that there is, if its position is not known.

        Args:
            line: what of.
            epoch, offset: where.
            met: where the publisher was when it was first heard of; what came after that may not be gone in silence.
            anew: it came in the place of another, and had never been open before: nothing of it may.
        """
        held = next((each.place for each in line.messages if self.holds(each)), len(line.messages))
        if anew and line.id in self.came_anew:
            held = 0
        elif met is not None and (line.id in self.came_anew or self.inbox or self.start == "earliest"):
            held = min(held, line.after(*met))
        self._owed_from(line, min(held, line.after(epoch, offset)))

    def _owed_from(self, line: Line, place: int) -> None:
        hearing = self.hearing(line)
        if line.id in self.kept.posted:
            pass  # its cursor may stand anywhere up to there: the first that comes shows where
        elif hearing.base is None:
            hearing.base = place
        if hearing.base is not None:
            self.kept.bases.setdefault(line.id, hearing.base)
            self.known.add(line.id)

    def forgotten_by(self, line: Line) -> None:
        """A publisher without a journal is gone, and with it the cursor that it had in memory. If it is restored from a
        snapshot, with the same id, the next incarnation begins there with the earliest that it finds."""
        if self.cursor is not None:
            self.kept.confirmed.pop(line.id, None)

    # ---- taking ----------------------------------------------------------------------

    def take(self, most: int) -> None:
        """The user takes up to so many messages and deals with them."""
        peer = self.peer
        mailbox = peer.mailbox
        while most > 0 and mailbox:
            item = mailbox[0]
            if isinstance(item, Gone):
                mailbox.popleft()
                self.lose(item)
                continue
            assert isinstance(item, Parcel)
            assert not self.ended, f"{peer.name} gets something after its end"
            for index in item.claims:
                self._deal(item, index)
                most -= 1
                if most <= 0:
                    break
            if not operator.length_hint(item.claims):
                mailbox.popleft()
                peer.post("consumed", item)

    def _deal(self, parcel: Parcel, index: int) -> None:
        offset = parcel.offsets[index]
        message = self.book.find(parcel.publisher, parcel.epoch, offset)
        ends = [0]
        for length in parcel.lengths:
            ends.append(ends[-1] + length)
        body = parcel.blob[ends[index] : ends[index + 1]]
        assert body == message.body, f"{self.peer.name} got {body!r} as {message}"
        topic = parcel.topic_of(index)
        assert topic == message.topic, f"{self.peer.name} got {message} as one of {topic}"
        sent_at = parcel.sent_at_of(index)
        fine = sent_at == message.sent_at if parcel.replayed else sent_at <= message.sent_at
        assert fine, f"{self.peer.name} got {message}, sent at {sent_at} and not {message.sent_at}"
        if self.progress is not None and not self.progress.take(parcel.publisher, parcel.epoch, offset):
            self.counts["passed over as dealt with"] += 1
            return
        self.counts["delivered, replayed" if parcel.replayed else "delivered, live"] += 1
        self._check(message, replayed=parcel.replayed)
        if self.inbox:
            self._apply(message)
        elif self.cursor is not None:
            self._handle(message)

    def _check(self, message: Message, *, replayed: bool) -> None:
        name = self.peer.name
        assert any(lets_in(pattern, message.topic) for pattern in self.was), f"{name} never wanted {message}"
        hearing = self.hearing(message.opening.line)
        assert message.place not in hearing.seen, f"{name} got {message} twice"
        assert self.on_gap == "report" or not hearing.is_lost(message), (
            f"{name} got {message} after it was told that it is lost"
        )
        if not self.lossy and self.whole and not self.changed:  # else topic by topic, as `came` finds
            assert message.place > hearing.newest, f"{name} got {message} after {hearing.line.messages[hearing.newest]}"
        if replayed:
            self._fill(message)
        missing = hearing.came(message, begins=self.durable or not replayed or self.start not in (None, "latest"))
        if self.durable and hearing.base is not None:
            bases = self.kept.bases
            bases[hearing.line.id] = min(hearing.base, bases.get(hearing.line.id, hearing.base))
        if missing is not None and self.whole and self.sure(missing.topic) and not self._may_miss(missing):
            raise AssertionError(f"{name} got {message}, and neither got {missing} before nor was told of it")

    def _may_miss(self, message: Message) -> bool:
        """What nobody can find, or the face takes for dealt with: see docs/guarantees.md."""
        if self.durable and message.reused:
            return True
        # With hardly any history nobody can tell whether a message came, where some are dropped.
        return self.lossy and not self.plenty(message.opening.line)

    def _fill(self, message: Message) -> None:
        for gap in self.gaps:
            publisher, first, last = gap
            if publisher == message.opening.line.id and first <= message.offset <= last:
                self.counts["gaps filled"] += 1
                self.gaps.remove(gap)
                return

    def _apply(self, message: Message) -> None:
        """Effect and position in one commit."""
        applied, line = self.kept.applied, message.opening.line
        assert message not in applied, f"{self.peer.name} applied {message} twice"
        applied[message] = None
        before = self.kept.positions.get(line.id)
        assert before is None or line.after(before.epoch, before.offset) <= message.place, (
            f"{self.peer.name}: a position steps back from {before} to {message}"
        )
        self.kept.positions[line.id] = Position(line.id, message.opening.epoch, message.offset)
        assert self.progress is not None
        self.progress.done(line.id, message.opening.epoch, message.offset)

    def _handle(self, message: Message) -> None:
        kept, line = self.kept, message.opening.line
        kept.applied.setdefault(message)
        confirmed = kept.confirmed.get(line.id, -1)
        assert message.place > confirmed or self.shaken, (
            f"{self.peer.name} got {message}, and its cursor was stored beyond that"
        )
        assert self.progress is not None
        position = self.progress.done(line.id, message.opening.epoch, message.offset)
        if position is not None and len(kept.applied) % 3 == 0:
            ticket = Told(("commit", message.body), lambda result: self._committed(message, result))
            kept.posted.add(line.id)
            self.peer.post("commit", position.publisher, position.epoch, position.offset, ticket)

    def _committed(self, message: Message, result: object) -> None:
        if isinstance(result, BaseException):
            self.counts[f"commit refused: {type(result).__name__}"] += 1
            return
        self.counts["cursor confirmed"] += 1
        line = message.opening.line
        assert self.stands(message), f"the cursor of {self.peer.name} is said to stand at {message}, and does not"
        self.kept.confirmed[line.id] = max(self.kept.confirmed.get(line.id, -1), message.place)

    # ---- what it is told -------------------------------------------------------------

    def lose(self, gone: Gone) -> None:
        """An error is raised at its place."""
        error = gone.error
        self.counts[f"raised: {type(error).__name__}"] += 1
        self.ended = self.ended or gone.final
        if isinstance(error, MessagesLost):
            excused = gone.final or self.on_gap == "raise"
            for topic in error.topics or ("",):
                self.is_lost(error.publisher, error.first, error.last, topic, excused=excused)

    def is_lost(self, publisher: str, first: int, last: int, topic: str = "", *, excused: bool) -> None:
        """It was told that these are lost. Nothing of it may be in the history, unless that is excused."""
        line = self.book.lines[publisher]
        hearing = self.hearing(line)
        for message in line.messages:
            if first <= message.offset <= last and message.due and self.sure(message.topic):
                if message.place in hearing.seen or topic not in ("", message.topic):
                    continue
                self.counts["messages told to be lost"] += 1
                assert excused or publisher in self.unreachable or not self.holds(message), (
                    f"{self.peer.name} is told that {first} to {last} are lost, and the history holds {message}"
                )
        hearing.lose(first, last, topic)

    def on_event(self, event: object) -> None:
        """An event of its core."""
        if isinstance(event, events.GapFound) and self.on_gap == "report":
            if event.publisher in self.book.lines:
                self.is_lost(event.publisher, event.first, event.last, event.topic, excused=True)
        elif isinstance(event, events.GapFound) and self.on_gap == "recover":
            self.gaps.append((event.publisher, event.first, event.last))
        elif isinstance(event, events.RecoveryUnreachable):
            self.unreachable.add(event.publisher)
        elif isinstance(event, events.EpochChanged):
            self.epochs_told.add((event.publisher, event.epoch))
            if not self.durable:
                if event.publisher in self.met:
                    self.hearing(self.book.lines[event.publisher]).changed(event.epoch, event.last)
                else:  # `last` is where the one before it was, in whose place it came
                    self.came_anew.add(event.publisher)

    # ---- what it is owed -------------------------------------------------------------

    def owed(self) -> Message | None:
        """A message that is due to it now, and neither came nor was called lost."""
        if not self.whole:
            return None
        for hearing in self.hearings.values():
            if hearing.base is not None and not self.durable:
                for message in hearing.line.messages[hearing.base :]:
                    if not self.sure(message.topic) or not hearing.owes(message):
                        continue
                    if not self._may_miss(message):
                        return message
            if self.follows and hearing.base is not None and self.valued(hearing.line):
                for topic, messages in hearing.line.by_topic.items():
                    last = next((each for each in reversed(messages) if each.due), None)
                    if last is None or not self.sure(topic) or last.place in hearing.seen:
                        continue
                    if not hearing.is_lost(last):
                        return last
        if self.durable:
            for line in self.book.lines.values():
                for message in line.messages[self.kept.bases.get(line.id, len(line.messages)) :]:
                    if self.lacks(message):
                        return message
        return None

    def lacks(self, message: Message) -> bool:
        """Whether it wants a message that was published after all the faults, and has not got it."""
        if not self.wants(message.topic) or not self.whole or not message.due or (self.durable and message.reused):
            return False
        if self.durable:
            kept, line = self.kept, message.opening.line
            lost = any(each.line is line and each.is_lost(message) for each in kept.lost)
            return message not in kept.applied and not lost
        hearing = self.hearings.get(message.opening.line.id)
        return hearing is None or (message.place not in hearing.seen and not hearing.is_lost(message))
