"""One publisher, as a subscriber sees it: where it stands, and what it must fetch.

Pure values and bookkeeping; what makes them change is in `fetching`, `living` and `joining`. A stream outlives its
connections and sessions, and the openings of its publisher's journal.

======== ================================== ============== =====================================================
state    meaning                            data frames    goes over
======== ================================== ============== =====================================================
WAITING  no fence: what comes is not whole  dropped        a fence: FEEDING, or LIVE where nothing is to be fetched
FEEDING  behind a fence, and something      held           fetched, or given up: LIVE. Too much is held: FEED
         before it is missing                              The connection breaks: WAITING, with what is to be fetched
LIVE     behind a fence, and nothing is     handed on      a gap, or a comparison that fails: FEEDING. The connection
         missing                                           breaks: WAITING. The user is slow, or the publisher says so:
                                                           FEED
FEED     not on the data plane: the history dropped        durable: never. Else, when it has caught up: the link is
         is followed                                       joined anew, and its fence leads to FEEDING
======== ================================== ============== =====================================================

What is to be fetched is a `Task`, at most one at a time. It waits while there is no session, begins anew where it was
when there is one again, and is given up (never by a durable subscriber) when there was none for too long.

Order: `position` never steps back within an epoch. A message is handed on only if its offset is above what was seen of
its topic (`Seen`); and only if nothing of its topic is missing before it, or the loss of that was told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

from zmqkit.patterns.pubsub.groups import Groups
from zmqkit.patterns.pubsub.seen import Seen, Span, Tally
from zmqkit.patterns.pubsub.talk import Kind
from zmqkit.patterns.pubsub.topics import Filter
from zmqkit.patterns.pubsub.wire import Data
from zmqkit.protocol.session import Session

if TYPE_CHECKING:
    from zmqkit.patterns.pubsub.links import DataLink

WAITING: Final = "waiting"
FEEDING: Final = "feeding"
LIVE: Final = "live"
FEED: Final = "feed"

State = Literal["waiting", "feeding", "live", "feed"]

Why = Literal["catch up", "values", "gap", "compare", "repair", "follow"]
"""catch up: all up to the fence. values: the last values as of the fence. gap: what a topic misses. compare: whether
all has come, before something is decided. repair: what a comparison says is missing. follow: all there is and will
be."""


class Task:
    """Something to be fetched, or asked, over the recovery channel.

    Attributes:
        why: see `Why`.
        kind: where it begins; see `talk.Kind`. "after" once it has begun.
        epoch: of `after`.
        after: after this offset; rises with what came.
        until: the last offset wanted; None: go on for ever.
        ask: its number in the session; 0: not asked in this one.
        whole: it begins where all topics are seen, so that its progress is that of all.
        topic: of a gap.
        span: of a comparison, or what it said of a repair.
        told: how many messages it brought in all, and in `news` how many of them had not come.
        begun: the publisher said where it begins.
        doubtful: of a repair: it is not known whether anything is missing.
        caught_up: one that goes on for ever came to the newest message.
    """

    __slots__ = (
        "after", "ask", "begun", "caught_up", "doubtful", "epoch", "holes", "kind", "news", "span", "told", "topic",
        "tries", "until", "whole", "why",
    )  # fmt: skip

    def __init__(
        self,
        why: Why,
        kind: Kind,
        epoch: str,
        after: int,
        until: int | None,
        *,
        whole: bool = True,
        topic: str = "",
        span: Span | None = None,
    ) -> None:
        self.why = why
        self.kind: Kind = kind
        self.epoch = epoch
        self.after = after
        self.until = until
        self.ask = 0
        self.whole = whole
        self.topic = topic
        self.span = span
        self.told = self.news = 0
        self.holes = False
        self.doubtful = False
        self.begun = False
        self.caught_up = False
        self.tries = 0


class Stream:
    """What is known of one publisher, and of the way to it.

    Attributes:
        publisher: its id.
        name: of its present opening: the 8 bytes that its frames bear.
        epoch: of its present opening.
        state: see above.
        link: the data link that it comes over; None: not any more.
        home: the one that it came over last.
        fence: the offset of its fence, and in `number` which.
        address: that its recovery channel is dialled at; "": it dials, or is not known.
        seat: at a forwarder, see `wire.Fence`; "" if there is none between.
        session: the recovery channel; None: there is none.
        since: since when there is none.
        unreachable: that was told.
        filter: the topics in force; another object than the subscriber's, while a change of those is on its way.
        told: the topics that the session knows; None: none yet.
        position: all up to this offset was handed on, or told to be lost; None: it is not known where to begin.
        position_epoch: of it.
        seen, tally: of what came.
        groups: the group that is coming.
        held: groups that wait for the task; an empty one is where `pending` topics begin.
        task: what is fetched.
    """

    __slots__ = (
        "address", "adopting", "anew", "announced", "asked", "cursor_since", "cursor_told", "durable", "epoch",
        "fence", "filter", "groups", "held", "held_bytes", "held_messages", "home", "link", "lossy", "met", "name",
        "number", "numbers", "pending", "position", "position_epoch", "publisher", "quiet", "quiet_asked",
        "released_bytes", "released_messages", "seat", "seen", "seen_at", "seen_beat", "session", "shorter", "since",
        "state", "tally", "task", "told", "told_seen", "unreachable", "unseen_bytes",
    )  # fmt: skip

    def __init__(self, publisher: str, name: bytes, epoch: str, filter: Filter, now: float) -> None:
        self.publisher = publisher
        self.name = name
        self.epoch = epoch
        self.state: State = WAITING
        self.link: DataLink | None = None
        self.home: DataLink | None = None
        self.fence = 0
        self.number = 0
        self.address = ""
        self.seat = ""
        self.session: Session | None = None
        self.since = now
        self.unreachable = False
        self.filter = filter
        self.told: Filter | None = None
        self.position: int | None = None
        self.position_epoch = epoch
        self.lossy = False
        """Something between loses frames: what was not compared may not be whole."""
        self.durable = False
        """It has a journal: it may come back, at another address, too."""
        self.met: tuple[str, int] | None = None
        """Where it was when its first fence came: epoch and offset. What came after that is missing if it is gone."""
        self.anew = False
        """It began after us: it is read from its beginning."""
        self.pending: tuple[Filter, int] | None = None
        """Topics that will be in force, and the fence from which on."""
        self.adopting = False
        """They are, when the task is done."""
        self.seen = Seen()
        self.tally = Tally()
        self.groups = Groups()
        self.held: deque[list[Data]] = deque()
        self.held_messages = self.held_bytes = 0
        self.task: Task | None = None
        self.numbers = 0
        self.asked: tuple[int, Span] | None = None
        """A comparison that holds nothing up: the question's number and its span."""
        self.shorter = 0
        """How long the next comparison may be, where a longer one could not be made."""
        self.quiet = 0
        """Beats since the last data frame."""
        self.quiet_asked = False
        self.unseen_bytes = 0
        """That came over the data plane since SEEN was last told..."""
        self.seen_at = 0.0
        """...at this time..."""
        self.told_seen = 0
        """...with this beat."""
        self.seen_beat = 0
        self.released_messages = self.released_bytes = 0
        """Of the session's credit, what the user took."""
        self.cursor_since: float | None = None
        """Since when our cursor is said to be in use; None: it is not."""
        self.cursor_told = False
        self.announced = ""
        """The newest epoch whose beginning was told."""

    def number_next(self) -> int:
        """A number for a feed or a question, fresh in the session."""
        self.numbers += 1
        return self.numbers

    @property
    def safe(self) -> int | None:
        """All up to this offset was handed on, of every topic, whatever is being fetched."""
        task = self.task
        if task is not None and task.why in ("gap", "repair", "compare") and self.position is not None:
            return min(task.after, self.position)
        return self.position

    @property
    def behind_fence(self) -> bool:
        """What comes over the data plane is whole."""
        return self.state is FEEDING or self.state is LIVE

    def hold(self, group: list[Data]) -> None:
        """Keep a group until the task is done."""
        self.held.append(group)
        for data in group:
            self.held_messages += len(data.lengths)
            self.held_bytes += len(data.blob)

    def take_held(self) -> list[Data]:
        """The oldest group that is kept."""
        group = self.held.popleft()
        for data in group:
            self.held_messages -= len(data.lengths)
            self.held_bytes -= len(data.blob)
        return group

    def hold_again(self, group: list[Data]) -> None:
        """Keep a group as the oldest one."""
        self.held.appendleft(group)
        for data in group:
            self.held_messages += len(data.lengths)
            self.held_bytes += len(data.blob)

    def drop_held(self) -> None:
        """Forget what is kept, and the group that is coming."""
        self.held.clear()
        self.held_messages = self.held_bytes = 0
        self.groups.take()

    def arrive(self, offset: int, epoch: str) -> None:
        """All up to this offset is handed on, of every topic."""
        if self.position is None or offset > self.position:
            self.position = offset
        self.position_epoch = epoch
        self.seen.rise(offset)

    def arrive_at(self, offset: int) -> None:
        """All up to this offset is handed on; of some topics perhaps not in their order."""
        if self.position is None or offset > self.position:
            self.position = offset

    def turn_over(self, offset: int, epoch: str) -> None:
        """Another epoch begins after this offset, which may be lower than what an earlier one had used."""
        self.position, self.position_epoch = offset, epoch
        self.seen.restart(offset)
        self.tally.restart(offset)

    def new(self, offsets: Sequence[int], topic: str) -> list[int] | None:
        """The indexes of those messages of a topic that were not seen; None: all."""
        seen = self.seen.of(topic)
        if offsets[0] > seen:
            return None
        return [index for index, offset in enumerate(offsets) if offset > seen]
