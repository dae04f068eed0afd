"""Jobs as they were delivered, and the pushers that they came from, as a puller's core sees them. Pure."""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import Any, NamedTuple

from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.prefetching import Prefetch
from zmqkit.patterns.pipeline.returning import ABOUT as JOURNAL
from zmqkit.protocol.session import Session


class Parcel:
    """A run of jobs as it was delivered. The user's threads add to `acked` and `doubted`, and raise `commits`; all
    else belongs to the core.

    Attributes:
        delivery: the message.
        session: whose it is; in a core without sessions, what it has instead.
        acked: indexes that the user acked and the core has not seen yet.
        commits: how many the inbox had when the last of them was found in it; 0: there is none.
        doubted: indexes of which the user's commit may have gone wrong.
        told: the core has been told to look at `acked`.
        lost: the session is gone; whoever holds these jobs now, it is not us.
        open: bits of the jobs that are not settled, as far as the core knows.
        bodies: decoded, by the face, when the first of them is taken.
        spoiled: some body could not be decoded; a `DecodeError` stands in its place.
        claims: gives out the indexes, each once, up to `offered`.
        gone: bits of jobs that are not ours any more, where others of the parcel still are.
        went_on: a later opening of its pusher leases it than delivered it; that took nothing of the credit.
        overdue: bits of jobs that were held for too long, and are somebody else's.
        through: indexes of jobs that the user has handled, and will settle when something else is done.
        size: bytes of all its frames: what it took of the credit.
    """

    __slots__ = (
        "acked", "bodies", "claims", "commits", "delivery", "doubted", "gone", "lost", "offered", "open", "overdue",
        "session", "size", "spoiled", "through", "told", "went_on",
    )  # fmt: skip

    def __init__(self, delivery: wire.Deliver, session: Any, size: int = 0) -> None:
        self.delivery = delivery
        self.session = session
        self.acked: deque[int] = deque()
        self.told = False
        self.lost = False
        self.open = (1 << len(delivery.lengths)) - 1
        self.bodies: list[Any] | None = None
        self.spoiled = False
        self.offered = len(delivery.lengths)
        self.claims: Any = iter(range(self.offered))
        self.overdue = 0
        self.gone = 0
        self.went_on = False
        self.through: set[int] = set()
        self.size = size or len(delivery.blob)
        self.commits = 0
        self.doubted: set[int] | None = None

    @property
    def parcel(self) -> Parcel:
        """Itself; what the face takes jobs from has one."""
        return self

    @property
    def key(self) -> int:
        """What it is found by among those of its pusher."""
        return -id(self) if self.went_on else self.delivery.lease

    @property
    def started(self) -> int:
        """How many of its jobs the user has claimed, the first ones."""
        return self.offered - int(self.claims.__length_hint__())

    def take_back(self) -> list[int]:
        """What nobody has claimed is nobody's from now on. Returns its indexes."""
        left = list(self.claims)  # all at once: each index goes to the user or to us
        if left:
            self.offered = left[0]
        return left

    def __len__(self) -> int:
        return len(self.delivery.lengths)


class Look(NamedTuple):
    """Among the parcels: a pusher knows so many commits of the inbox, and lends nothing until it hears of as many.

    Whoever takes it looks into the inbox, and tells what it holds by `PullerCore.inbox_at`.
    """

    known: int


class Asked(NamedTuple):
    """An ack of which somebody waits to hear that it is stored."""

    parcel: Parcel
    at: int
    """Its index there."""
    ticket: Any


class Told(NamedTuple):
    """What a SETTLE told."""

    number: int
    """Of the session's message."""
    acks: list[tuple[Parcel, int]]
    others: list[tuple[Parcel, int, wire.Unsettled]]


class Source:
    """One pusher, as its puller sees it."""

    __slots__ = (
        "asked", "asks", "behind", "ended", "epoch", "highest", "journal", "newest", "other_of", "others", "parcels",
        "prefetch", "released_bytes", "released_messages", "reported", "session", "started", "target", "unheard",
        "unstarted",
    )  # fmt: skip

    def __init__(self, session: Session, epoch: bytes, target: int, prefetch: Prefetch | None) -> None:
        self.session = session
        self.epoch = epoch
        self.target = target
        """How many of its jobs may be here."""
        self.prefetch = prefetch
        """What sets the target; None: it is fixed."""
        self.reported = 0
        """Of `released_messages`, what the last report told."""
        self.newest: Parcel | None = None
        self.unstarted: deque[Parcel] = deque()
        """Parcels of which some job was not started when it was looked last, in order."""
        self.started = 0
        """The highest lease that was started then."""
        self.parcels: dict[int, Parcel] = {}
        self.highest = 0
        self.behind = 0
        """So many commits of the inbox this pusher knows, and wants to hear of."""
        self.released_messages = 0
        self.released_bytes = 0
        self.others: list[wire.Unsettled] = []
        self.other_of: list[tuple[Parcel, int]] = []
        """Of each of these: parcel and index."""
        self.asks: dict[int, list[Asked]] = {}
        self.asked: list[Asked] = []
        """Settles in this turn that want an answer."""
        journal = session.peer.about.get(JOURNAL)
        self.journal = journal if type(journal) is bytes and len(journal) == 16 else b""
        """Of its pusher; empty: its leases do not go on when that is opened anew, and the rest is not kept."""
        self.ended: list[tuple[Parcel, int]] = []
        """Parcels, and bits of their jobs that were acked and are not told."""
        self.unheard: deque[Told] = deque()
        """What was told, and is not known to have been heard."""

    def look(self) -> int:
        """The highest lease that the user has started."""
        waiting = self.unstarted
        while waiting:
            parcel = waiting[0]
            started, offered = parcel.started, parcel.offered
            if started:
                self.started = max(self.started, parcel.delivery.lease + started - 1)
            if started < offered:
                break
            waiting.popleft()
        return self.started

    def told(self, number: int, others: list[wire.Unsettled], *, acks: bool = True) -> Told:
        """What a message of this number tells: the next of the others, and whatever was acked."""
        ended: list[tuple[Parcel, int]] = []
        if acks:
            ended, self.ended = self.ended, []
        if not others:
            return Told(number, ended, [])
        of, self.other_of = self.other_of[: len(others)], self.other_of[len(others) :]
        return Told(number, ended, [(*place, other) for place, other in zip(of, others, strict=True)])

    def heard(self) -> None:
        """Forget what was told and heard."""
        while self.unheard and self.unheard[0].number <= self.session.heard_by_peer:
            self.unheard.popleft()

    def rehome(self, parcel: Parcel, base: int, bits: int) -> None:
        """These of a parcel are leased by this pusher now; `base` is what the first one's lease would be."""
        parcel.delivery = dataclasses.replace(parcel.delivery, lease=base)
        parcel.session = self.session
        parcel.open = bits
        parcel.went_on = True
        self.parcels[parcel.key] = parcel
        self.started = max(self.started, base + bits.bit_length() - 1)

    @property
    def ran_empty(self) -> bool:
        """The pusher used all the credit that it has, and nothing of it is left for the user to take."""
        return self.session.spent and (self.newest is None or self.newest.started == self.newest.offered)
