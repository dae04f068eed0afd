"""What the user of a pipeline did and was told, step by step, and what a disk may look like after that.

The judge: it knows what anybody may read, rows of the journal and of the user's database, and no state of a core. A
message is its body, and no two bodies are alike.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgpack

from zmqkit.journal import Journal
from zmqkit.patterns.pipeline.dedupe import IDS, unpack_id
from zmqkit.patterns.pipeline.lanes import LANES
from zmqkit.patterns.pipeline.rows import DEAD, MARKS, MESSAGES, DeadRow, Row
from zmqkit.protocol.core import Read
from zmqkit.protocol.core import Row as JournalRow

ALL = (1 << 62) - 1

What = Literal[
    "send", "stored", "refused", "outbox", "outboxed", "rolled back", "ack", "acked", "effect", "effected", "nack",
    "reject", "dead", "expired", "retry", "drop", "dropped",
]  # fmt: skip
"""``send``, ``outbox``, ``ack``, ``effect``, ``nack``, ``reject``, ``retry`` and ``drop`` are begun: whether they
happened is not known. The others were told: they are facts."""


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """Something that a user did, or was told, about one message."""

    what: What
    name: str
    text: str = ""
    """An id, or a reason."""
    key: str = ""
    ttl: bool = False
    of: str = ""
    """The message within whose transaction it was sent."""


@dataclasses.dataclass(slots=True)
class Facts:
    """All that is known of one message by some step."""

    name: str
    number: int
    key: str = ""
    ttl: bool = False
    of: str = ""
    ids: set[str] = dataclasses.field(default_factory=set)
    did: set[str] = dataclasses.field(default_factory=set)
    reasons: set[str] = dataclasses.field(default_factory=set)

    @property
    def confirmed(self) -> bool:
        """It must not be lost."""
        return bool(self.did & {"stored", "outboxed"})

    @property
    def may_be_gone(self) -> bool:
        """It may have settled without an effect."""
        return self.ttl or bool(self.did & {"ack", "drop"})


def known(steps: Sequence[Step]) -> dict[str, Facts]:
    """What all of these steps together tell."""
    found: dict[str, Facts] = {}
    for step in steps:
        facts = found.get(step.name)
        if facts is None:
            facts = found[step.name] = Facts(step.name, len(found))
        facts.did.add(step.what)
        if step.what in ("send", "outbox"):
            facts.key, facts.ttl, facts.of = step.key, step.ttl, step.of
        if step.what in ("nack", "reject"):
            facts.reasons.add(step.text)
        elif step.text:
            facts.ids.add(step.text)
    return found


@dataclasses.dataclass(slots=True)
class Disk:
    """What lies there: of the journal and of the user's database.

    Attributes:
        waiting: bodies of messages that are not settled, with their ids; a body may stand there twice.
        dead: letters by body.
        outbox: bodies that wait in the user's database, with their ids.
        effects: bodies that had their effect, in order, with their ids.
        records: ids that the inbox has recorded.
    """

    waiting: list[tuple[str, str]]
    dead: dict[str, DeadRow]
    outbox: list[tuple[str, str]]
    effects: list[tuple[str, str]]
    records: set[str]


def rows_of(journal: Journal, log: str) -> list[JournalRow]:
    """All rows of a log."""
    return journal.read(Read(log, 1, ALL, ALL))


def read(journal: Journal, database: Path) -> Disk:
    """Read all of it, and see that the logs fit each other."""
    marks = {each.key: each for each in rows_of(journal, MARKS)}
    lanes = {each.key for each in rows_of(journal, LANES)}
    messages = [(each, Row.unpack(each.key, each.value)) for each in rows_of(journal, MESSAGES)]
    found = Disk([], {}, [], [], set())
    for each, row in messages:
        assert each.weight == row.count, f"row {each.key} weighs {each.weight}, and holds {row.count} messages"
        if row.key in marks:
            row.unpack_marks(marks[row.key].value)
            assert marks[row.key].weight == row.done.bit_count(), f"the marks of row {row.key} have a wrong weight"
        assert row.done != row.all, f"row {row.key} is settled, and still there"
        assert row.special == (row.key in lanes), f"row {row.key} is special, or in lanes, and not both"
        found.waiting += [(body_of(row.body(at)), row.id(at)) for at in range(row.count) if not row.done >> at & 1]
    keys = {row.key for _, row in messages}
    assert keys >= marks.keys(), f"marks of rows that are gone: {marks.keys() - keys}"
    assert keys >= lanes, f"lanes of rows that are gone: {lanes - keys}"
    for each in rows_of(journal, DEAD):
        letter = DeadRow.unpack(each.value)
        name = body_of(letter.body)
        assert name not in found.dead, f"{name} is dead twice"
        found.dead[name] = letter
    ids = [unpack_id(each.value)[0] for each in rows_of(journal, IDS)]
    assert len(ids) == len(set(ids)), f"an id stands there twice: {ids}"
    _read_database(found, database)
    return found


def _read_database(found: Disk, database: Path) -> None:
    if not database.exists():
        return
    connection = sqlite3.connect(database, isolation_level=None)
    try:
        tables = {name for (name,) in connection.execute("select name from sqlite_master")}
        if "effects" in tables:
            found.effects = connection.execute("select name, id from effects order by n").fetchall()
        if "zmqkit_inbox_jobs" in tables:
            found.records = {id for (id,) in connection.execute("select id from zmqkit_inbox_jobs")}
        if "zmqkit_outbox" in tables:
            rows = connection.execute("select body, id from zmqkit_outbox order by n")
            found.outbox = [(body_of(body), id) for body, id in rows]
    finally:
        connection.close()


def body_of(data: bytes) -> str:
    """A message's body."""
    found: Any = msgpack.unpackb(data)
    assert isinstance(found, str), f"a body that nobody sent: {found!r}"
    return found


def check(steps: Sequence[Step], disk: Disk, *, over: bool = False) -> None:
    """Whether this disk may be what is left after these steps.

    Args:
        steps: in their order.
        disk: what is there.
        over: all was delivered since: nothing may wait any more.
    """
    facts = known(steps)
    waiting = Counter(name for name, _ in disk.waiting)
    outbox = Counter(name for name, _ in disk.outbox)
    effects = Counter(name for name, _ in disk.effects)
    letters = [(name, letter.id) for name, letter in disk.dead.items()]
    for name, id in (*disk.waiting, *disk.outbox, *disk.effects, *letters):
        assert name in facts, f"{name} is there, and nobody sent it"
        ids = facts[name].ids
        assert not ids or id in ids, f"{name} has the id {id}, and was sent as {ids}"
    for each in facts.values():
        _check_one(each, waiting[each.name], outbox[each.name], effects[each.name], disk.dead.get(each.name))
        if each.of and "outbox" in each.did:
            _check_together(each, effects[each.of], waiting[each.name] + outbox[each.name] + effects[each.name])
    ids = {id for _, id in disk.effects}
    assert ids == disk.records, f"an effect without its record, or a record without its effect: {ids ^ disk.records}"
    if over:
        left = [*disk.waiting, *disk.outbox]
        assert not left, f"left: {left}"
        _check_order(facts, disk)


def _check_one(each: Facts, waiting: int, outbox: int, effects: int, letter: DeadRow | None) -> None:
    name, did = each.name, each.did
    dead = letter is not None
    assert effects <= 1, f"{name} had its effect {effects} times"
    assert not effects or "effect" in did, f"{name} had an effect that nobody made"
    assert effects or "effected" not in did, f"the effect of {name} was committed, and is gone"
    # From the journal's commit until the row of the outbox goes a message is in both; a crash there sends it again.
    assert waiting + dead <= (2 if "outbox" in did else 1), f"{name}: {waiting} times waiting, dead: {dead}"
    if did & {"refused", "rolled back"}:
        assert waiting + dead + outbox + effects == 0, f"{name} was refused, and is there"
    if each.confirmed and not (waiting or dead or outbox):
        assert effects or each.may_be_gone, f"{name} was confirmed, and is nowhere"
    if did & {"acked", "expired", "dropped"} and "outbox" not in did:
        assert waiting + dead == 0, f"{name} was said to be settled, and is there"
    if letter is not None:
        assert letter.reason in each.reasons, f"{name} is dead of {letter.reason!r}"
    elif "dead" in did:
        assert did & {"retry", "drop"}, f"{name} was said to be dead, and there is no letter"


def _check_together(each: Facts, effects: int, there: int) -> None:
    """It was sent in the transaction of another message's effect: both happened, or neither."""
    if effects:
        assert there or each.may_be_gone, f"{each.of} had its effect, and {each.name}, sent with it, is nowhere"
    else:
        assert not there, f"{each.name} is there, and the effect of {each.of}, with which it was sent, is not"


def _check_order(facts: dict[str, Facts], disk: Disk) -> None:
    # What an outbox holds comes to the journal later, and may be passed by what is sent meanwhile.
    by_key: dict[tuple[str, bool], list[int]] = {}
    for name, _ in disk.effects:
        each = facts[name]
        if each.key and not each.did & {"dead", "reject", "nack"}:
            by_key.setdefault((each.key, "outbox" in each.did), []).append(each.number)
    for (key, _), numbers in by_key.items():
        assert numbers == sorted(numbers), f"messages of key {key} had their effects in another order: {numbers}"
