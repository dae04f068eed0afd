"""What happened to each message of a simulated pipeline, and what of it may not be.

The judge: it knows rows of the journal and deliveries, as anybody may read them, and no state of a core. A message is
its body, and no two bodies are alike.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from weakref import WeakKeyDictionary

from zmqkit.patterns.pipeline.puller import Parcel
from zmqkit.patterns.pipeline.rows import DEAD, MARKS, MESSAGES, DeadRow, Row
from zmqkit.testing.journal import Disk

LONELY = "the puller died holding this job alone"
"""How the reason begins of a failure that no handler told."""

OVERDUE = "held longer than max_lease"
"""How the reason begins of one that a puller's core told."""


@dataclasses.dataclass(slots=True)
class Opening:
    """One incarnation of a pusher.

    Attributes:
        name: of the pusher.
        number: rises with each opening of this pusher.
        first: the first sequence that it gives out.
        epoch, origin: of its journal.
        found: messages that waited in the journal.
        ended: it runs no longer.
    """

    name: str
    number: int
    epoch: bytes
    origin: str
    first: int
    next: int
    found: int
    ended: bool = False
    leases: dict[int, bytes] = dataclasses.field(default_factory=dict)
    """Which message each lease number that arrived anywhere was given to."""


@dataclasses.dataclass(slots=True)
class Message:
    """One message, from `append` on.

    Attributes:
        state: ``posted``; then ``confirmed``, ``refused`` (certainly not stored) or ``unknown``.
        acked: some puller's user acked it, whether or not the pusher heard.
        rejects, nacks: the reasons that some puller's user gave.
        failures: how many `JobFailed` told of it.
        told: "acked" or "dead", once the pusher said so.
        told_in, told_at: in which opening, and the lease number that was next then.
        again_in, again_at, again_from: not to be delivered in that opening, by that lease or a later one, before then.
        held: the sessions in which a puller's user has it in hand, by epoch and lease.
        shaky: a power cut may have undone what was said of it.
        gone: it was in a memory that is gone.
    """

    name: bytes
    opening: Opening
    sequence: int
    state: str = "posted"
    acked: bool = False
    rejects: set[str] = dataclasses.field(default_factory=set)
    nacks: set[str] = dataclasses.field(default_factory=set)
    failures: int = 0
    arrived: bool = False
    told: str = ""
    told_in: Opening | None = None
    told_at: int = 0
    again_in: Opening | None = None
    again_at: int = 0
    again_from: float = 0.0
    held: dict[tuple[bytes, int], bytes] = dataclasses.field(default_factory=dict)
    shaky: bool = False
    gone: bool = False
    own_id: str = ""
    overdue: bool = False
    """Some puller's core took it back."""

    def may_fail(self, reason: str) -> bool:
        """Whether somebody said so."""
        return reason in self.nacks or reason.startswith(LONELY) or (self.overdue and reason.startswith(OVERDUE))

    @property
    def id(self) -> str:
        """Its own, else as the pusher derives it."""
        return self.own_id or f"{self.opening.origin}-{self.sequence}"


class History:
    """All messages of a world.

    Args:
        max_failures: of all pushers.
    """

    def __init__(self, max_failures: int) -> None:
        self.max_failures = max_failures
        self.messages: dict[bytes, Message] = {}
        self.by_pusher: dict[str, list[Message]] = {}
        self.by_id: dict[str, Message] = {}
        self.openings: dict[bytes, Opening] = {}

    # ---- what is done ----------------------------------------------------------------

    def opened(self, opening: Opening) -> None:
        """A pusher was opened."""
        self.openings[opening.epoch] = opening
        self.by_pusher.setdefault(opening.name, [])

    def posted(self, name: bytes, opening: Opening, sequence: int) -> Message:
        """A message is handed to a pusher."""
        message = self.messages[name] = Message(name, opening, sequence)
        self.by_pusher[opening.name].append(message)
        self.by_id[message.id] = message
        return message

    def went_down(self, opening: Opening, *, durable: bool, undone: bool) -> None:
        """A pusher's process ended; `undone`: a power cut may have taken commits back."""
        opening.ended = True
        for message in self.by_pusher[opening.name]:
            if message.state == "posted" and message.opening is opening:
                message.state = "unknown"
            if not durable:
                message.gone = True
            elif undone:
                message.shaky = True

    # ---- what is said ----------------------------------------------------------------

    def confirmed(self, message: Message, result: object, disk: Disk | None) -> None:
        """The ticket of a send was resolved."""
        assert message.state == "posted", f"{message.name!r} was {message.state}, and now its ticket says {result!r}"
        if result is None:
            message.state = "confirmed"
            if disk is not None:
                assert waits(disk, message.sequence), f"{message.name!r} is confirmed, and not in the journal"
        elif type(result).__name__ == "CommitIndeterminate":
            message.state = "unknown"
        else:
            assert isinstance(result, Exception), f"the ticket of {message.name!r} says {result!r}"
            message.state = "refused"

    def settled(
        self, message: Message, outcome: str, reason: str, opening: Opening, next_lease: int, disk: Disk | None
    ) -> None:
        """The pusher said that a message is settled."""
        if outcome == "acked":
            assert message.acked, f"{message.name!r} is said to be acked, and nobody acked it"
        else:
            assert outcome == "dead", f"{message.name!r} is said to be {outcome}"
            self._check_death(message, reason, opening)
        assert not message.told or message.told == outcome or message.shaky, (
            f"{message.name!r} was said to be {message.told}, and now {outcome}"
        )
        if disk is not None:
            assert not waits(disk, message.sequence), (
                f"{message.name!r} is said to be {outcome}, and waits in the journal"
            )
        if not message.told:
            message.told, message.told_in, message.told_at = outcome, opening, next_lease

    def arrived(self, parcel: Parcel, epoch: bytes, now: float) -> list[Message]:
        """A puller's user sees a delivery. Returns its messages."""
        delivery = parcel.delivery
        opening = self.openings[epoch]
        assert not delivery.alone or len(parcel) == 1, f"a batch of {len(parcel)} is called alone"
        found = []
        offset = 0
        for index, length in enumerate(delivery.lengths):
            name = delivery.blob[offset : offset + length]
            offset += length
            message = self.messages.get(name)
            assert message is not None, f"{name!r} was delivered, and nobody sent it"
            shown = delivery.ids.get(index) or f"{delivery.origin}-{delivery.sequence + index}"
            assert shown == message.id, f"{name!r} has the id {shown}, and was sent with {message.id}"
            assert message.opening.name == opening.name, f"{name!r} comes from {opening.name}, which did not send it"
            assert message.state != "refused", f"{name!r} was refused, and is delivered"
            self._check_lease(message, opening, delivery.lease + index, now)
            failures = delivery.failures.get(index, 0)
            assert failures < self.max_failures, f"{name!r} is delivered after {failures} failures"
            self._check_failures(message, failures, opening)
            message.arrived = True
            found.append(message)
        return found

    def _check_lease(self, message: Message, opening: Opening, lease: int, now: float) -> None:
        assert opening.leases.get(lease) is None, f"lease {lease} was given to {opening.leases[lease]!r} and now again"
        opening.leases[lease] = message.name
        if message.told and message.told_in is not None and not message.shaky and not message.gone:
            told = message.told_in
            later = opening.number > told.number or (opening is told and lease >= message.told_at)
            assert not later, f"{message.name!r} was said to be {message.told}, and is delivered again"
        if message.again_in is opening and lease >= message.again_at:
            assert now >= message.again_from - 1e-3, (
                f"{message.name!r} comes again {message.again_from - now:.3f} s before its delay is over"
            )

    def failed(self, id: str, reason: str, failures: int, opening: Opening) -> Message:
        """The pusher counted a failure."""
        message = self.by_id[id]
        assert message.may_fail(reason), f"{message.name!r} failed by {reason!r}; who said so?"
        message.failures += 1
        self._check_failures(message, failures, opening)
        return message

    @staticmethod
    def _check_failures(message: Message, failures: int, opening: Opening) -> None:
        # A crash between storing and telling swallows what would have been told.
        most = message.failures + opening.number - message.opening.number + opening.ended
        assert failures <= most, f"{message.name!r} shows {failures} failures; {message.failures} were told"

    def _check_death(self, message: Message, reason: str, opening: Opening, letter: DeadRow | None = None) -> None:
        if reason in message.rejects:
            return
        assert message.may_fail(reason), f"{message.name!r} is dead of {reason!r}"
        if letter is not None:
            failures = letter.failures
            self._check_failures(message, failures, opening)
        else:
            # In one turn replies are told before events.
            failures = message.failures + 1 + opening.number - message.opening.number
        assert failures >= self.max_failures, f"{message.name!r} is dead after {failures} failures"

    # ---- what lies on the disk ---------------------------------------------------------

    def audit(self, opening: Opening, disk: Disk) -> None:
        """Every confirmed message waits, is dead, or was acked: one of them."""
        pusher = opening.name
        waiting = {}
        for key in disk.table(MESSAGES).keys:
            row = read_row(disk, key)
            assert row.done != row.all, f"row {key} of {pusher} is settled, and still there"
            for index in range(row.count):
                if not row.done >> index & 1:
                    waiting[row.body(index)] = row.id(index)
        dead = {}
        for each in disk.rows(DEAD):
            letter = DeadRow.unpack(each.value)
            dead[letter.body] = letter
        for name, id in waiting.items():
            message = self.messages.get(name)
            assert message is not None, f"{pusher} holds {name!r}, and nobody sent it"
            assert id == message.id, f"{pusher} holds {name!r} under the id {id}; it was {message.id}"
            assert message.state != "refused", f"{name!r} was refused, and is in the journal"
            assert name not in dead, f"{name!r} waits, and is dead"
            assert not message.told or message.shaky, f"{name!r} is {message.told}, it was said, and waits"
        for name, letter in dead.items():
            message = self.messages[name]
            assert letter.id == message.id, f"the letter of {name!r} has another id"
            self._check_death(message, letter.reason, opening, letter)
            assert message.told != "acked" or message.shaky, f"{name!r} was said to be acked, and is dead"
        for message in self.by_pusher[pusher]:
            if message.state == "confirmed" and not message.shaky:
                name = message.name
                assert message.acked or name in waiting or name in dead, f"{name!r} was confirmed, and is nowhere"
                assert message.told != "dead" or name in dead, f"{name!r} is said to be dead, and there is no letter"


_READ: WeakKeyDictionary[Disk, dict[int, tuple[bytes, bytes | None, Row]]] = WeakKeyDictionary()
"""Rows as they were last read, by what was read: one that lies there unchanged is looked at again and again."""


def read_row(disk: Disk, key: int) -> Row:
    """A row of messages, with its marks. Not to be changed."""
    value, marks = disk.table(MESSAGES).rows[key].value, disk.table(MARKS).rows.get(key)
    marked = None if marks is None else marks.value
    known = _READ.setdefault(disk, {})
    found = known.get(key)
    if found is not None and found[0] is value and found[1] is marked:
        return found[2]
    row = Row.unpack(key, value)
    if marked is not None:
        row.unpack_marks(marked)
    known[key] = (value, marked, row)
    return row


def waits(disk: Disk, sequence: int) -> bool:
    """The journal holds this message, not settled."""
    table = disk.table(MESSAGES)
    at = bisect_right(table.keys, sequence) - 1
    if at < 0:
        return False
    row = read_row(disk, table.keys[at])
    return sequence <= row.last and not row.done >> (sequence - row.key) & 1
