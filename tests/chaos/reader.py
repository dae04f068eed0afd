"""The judge: reads what the processes of a run wrote for themselves, and says what was lost, doubled or invented.

It imports nothing of zmqkit, and shares no code with what it judges; it knows the lines that `tests.chaos.roles`
writes and, from docs/journal-format.md, the tables of journals, inboxes and outboxes.

The folder of a run holds ``pusher-0.1.history`` (role, index, life), likewise for senders, workers and sinks;
``effects.db``, where the sinks counted; ``sender-0.db``, what a sender ordered; ``pusher-0.journal``.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack

SHOWN = 5
"""So many violations of a kind are spelled out."""
SENDING = ("pusher", "sender")
ROLES = (*SENDING, "worker", "sink", "streamer")


@dataclasses.dataclass
class Verdict:
    """What the reader found.

    Attributes:
        violations: what must not be, in words; empty when all is well.
        kinds: how many violations there are, by kind: "lost", "doubled", "invented"...
        confirmed: items that a send returned for.
        ordered: items of senders whose transaction was committed.
        unconfirmed: items that were being sent when the pusher died, or the send ran out of time; in doubt until it is
            seen whether they were counted.
        abandoned: items that were in doubt when a journal was restored: they had been stored in what was lost with it,
            and had no id under which they could have been sent again.
        came: of the unconfirmed and abandoned, those that were counted.
        again: items that were sent again under their ids.
        refused: items that a send said it had not stored, or whose transaction was taken back.
        restored: how often a journal was found to be an older copy, by what was done: "back" or "on".
        keyed: items that followed another one of the same key.
        counted: results among the effects.
        dead: dead letters in all journals.
        duplicates: results that came to a sink whose inbox knew them already.
        watched: items that a pusher saw settle, each by itself.
        late: acks that a sink was told to have come too late.
        stats: the last counters of every process, summed: ``pusher.redelivered``, ``worker.source_received``...
    """

    violations: list[str] = dataclasses.field(default_factory=list)
    kinds: Counter[str] = dataclasses.field(default_factory=Counter)
    confirmed: int = 0
    ordered: int = 0
    unconfirmed: int = 0
    abandoned: int = 0
    came: int = 0
    again: int = 0
    refused: int = 0
    restored: Counter[str] = dataclasses.field(default_factory=Counter)
    keyed: int = 0
    counted: int = 0
    dead: int = 0
    duplicates: int = 0
    watched: int = 0
    late: int = 0
    stats: Counter[str] = dataclasses.field(default_factory=Counter)


@dataclasses.dataclass
class _Item:
    """What a pusher said of one item."""

    sender: str
    life: int
    outputs: int
    """How many results it has; 0: it is poison."""
    own: bool
    """It has an id of its own."""
    key: str
    said: str | None = None
    """"confirmed", "refused" or "unsure"; nothing of those that were being sent when the pusher died."""
    again: bool = False
    repeated: bool = False
    """It was about to be sent again: if it was not stored before, its turn is that of the repetition."""
    abandoned: bool = False

    @property
    def due(self) -> bool:
        """It must come through."""
        return (self.said == "confirmed" and not self.abandoned) or self.again


def judge(folder: Path) -> Verdict:
    """Read a whole run.

    Args:
        folder: of the run, which is over: no process writes there any more.
    """
    return _Reader(folder).verdict


class _Reader:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.verdict = Verdict()
        self.items: dict[str, _Item] = {}
        self._lost_lives: defaultdict[str, set[int]] = defaultdict(set)
        """Of each pusher, lives whose commits went with a journal."""
        self._sent_by: Counter[str] = Counter()
        self._settled_by: Counter[str] = Counter()
        self._acked: dict[str, int] = {}
        """Items that pushers saw settle, and the number of the last effect then."""
        self._where: dict[tuple[str, int], int] = {}
        """The number of the effect of each result."""
        for role in SENDING:
            for path in lives(folder, role):
                self._read_pusher(path)
        for name, settled in self._settled_by.items():
            # What was settled, and then waited again in an older copy, is settled twice.
            if settled > self._sent_by[name] and not self._lost_lives[name]:
                self._violated("settled", f"{name} saw {settled} messages settle and sent {self._sent_by[name]}")
        counted = self._read_effects()
        self._read_sinks(counted)
        for role in ROLES:
            for path in lives(folder, role):
                self.verdict.stats.update({f"{role}.{name}": value for name, value in last_stats(path).items()})
        self.verdict.duplicates = sum(self.verdict.stats[f"sink.duplicates_{what}"] for what in ("dropped", "late"))
        self._read_orders(counted)
        self._compare(counted)
        self._compare_keys()
        self._read_journals()
        self._count(counted)
        for kind, count in self.verdict.kinds.items():
            if count > SHOWN:
                self.verdict.violations.append(f"{kind}: {count} in all")

    def _violated(self, kind: str, what: str) -> None:
        self.verdict.kinds[kind] += 1
        if self.verdict.kinds[kind] <= SHOWN:
            self.verdict.violations.append(f"{kind}: {what}")

    def _count(self, counted: dict[tuple[str, int], str]) -> None:
        verdict, items = self.verdict, self.items.values()
        came = {name for name, _ in counted}
        verdict.confirmed = sum(item.said == "confirmed" for item in items)
        verdict.refused = sum(item.said == "refused" for item in items)
        verdict.unconfirmed = sum(item.said in (None, "unsure") for item in items)
        verdict.abandoned = sum(item.abandoned for item in items)
        verdict.again = sum(item.again for item in items)
        verdict.watched = len(self._acked)
        for name, item in self.items.items():
            verdict.came += (item.said in (None, "unsure") or item.abandoned) and name in came

    # ---- pushers -------------------------------------------------------------------

    def _read_pusher(self, path: Path) -> None:
        name, life = path.name.split(".")[0], int(path.name.split(".")[1])
        mine = set()
        before = (0, 0)
        for kind, *rest in lines(path):
            if kind == "sending":
                item, outputs, own, key = rest
                if item in self.items:
                    self._violated("history", f"{path.name} sends {item} twice")
                self.items[item] = _Item(name, life, int(outputs), own == "own", key)
                mine.add(item)
                self._sent_by[name] += 1
            elif kind in ("confirmed", "refused", "unsure"):
                if rest[0] not in mine:
                    self._violated("history", f"{path.name}: {kind} {rest[0]}, which it never sent")
                else:
                    self.items[rest[0]].said = kind
            elif kind in ("settled", "drained"):
                now = (int(rest[0]), int(rest[1]))
                if now[0] < before[0] or now[1] < before[1]:
                    self._violated("settled", f"{path.name}: counts fell from {before} to {now}")
                before = now
            elif kind in ("acked", "dead"):
                if rest[0] not in mine:
                    self._violated("history", f"{path.name}: {kind} {rest[0]}, which it never sent")
                elif (kind == "dead") != (self.items[rest[0]].outputs == 0):
                    self._violated("settled", f"{path.name} was told that {rest[0]} is {kind}")
                elif kind == "acked":
                    self._acked[rest[0]] = int(rest[1])
            elif kind in ("repeating", "again", "abandoned"):
                self._read_amends(path.name, name, kind, rest[0])
            elif kind in ("rolledback", "unnoticed"):
                self._read_restore(path.name, name, life, kind, rest)
            elif kind not in ("opened", "stats"):
                self._violated("history", f"{path.name} has a line of kind {kind!r}")
        self._settled_by[name] += sum(before)

    def _read_amends(self, where: str, name: str, kind: str, what: str) -> None:
        """An item was sent again, or given up because it cannot be."""
        item = self.items.get(what)
        if item is None or item.sender != name or item.own != (kind != "abandoned"):
            self._violated("history", f"{where}: {kind} {what}, which it cannot say")
        elif kind == "repeating":
            item.repeated = True
        elif kind == "again":
            item.again = True
            self._sent_by[name] += 1
        elif item.life not in self._lost_lives[name]:
            self._violated("history", f"{where}: abandoned {what}, which no journal was lost with")
        else:
            item.abandoned = True

    def _read_restore(self, where: str, name: str, life: int, kind: str, rest: list[str]) -> None:
        """An older copy was in the journal's place. All that was stored since must be missed there."""
        lost = set(range(int(rest[0]) + 1, life))
        if kind == "unnoticed":
            stored = [each for each, item in self.items.items() if item.sender == name and item.life in lost]
            stored = [each for each in stored if self.items[each].said == "confirmed"]
            if stored:
                self._violated("unnoticed", f"{where}: {stored[0]} and others were stored since the copy was made")
            return
        self.verdict.restored[rest[1]] += 1
        if rest[1] == "on":
            self._lost_lives[name] |= lost

    # ---- sinks ---------------------------------------------------------------------

    def _read_effects(self) -> dict[tuple[str, int], str]:
        """What was counted: item and place of each result, and the id under which it was."""
        found: dict[tuple[str, int], str] = {}
        ids: set[str] = set()
        path = self.folder / "effects.db"
        for number, name, item, place in self._rows(path, "select n, id, item, place from effects order by n"):
            result = (item, place)
            self._where.setdefault(result, number)
            sent = self.items.get(item)
            if sent is None:
                self._violated("invented", f"{item} was counted and never sent")
            elif not 0 <= place < sent.outputs:
                self._violated("invented", f"result {place} of {item}, which has {sent.outputs}")
            elif sent.said == "refused" and not sent.again:
                self._violated("invented", f"{item} was counted, and its sender was told that it was not stored")
            if result in found:
                self._violated("doubled", f"result {place} of {item} was counted as {found[result]} and as {name}")
            elif name in ids:
                self._violated("doubled", f"id {name} was counted for more than one result")
            found[result] = name
            ids.add(name)
        records = {name for (name,) in self._rows(path, "select id from zmqkit_inbox_jobs")}
        for name in sorted(ids - records):
            self._violated("records", f"id {name} was counted, and has no record")
        for name in sorted(records - ids):
            self._violated("records", f"id {name} has a record, and was not counted")
        self.verdict.counted = len(found)
        return found

    def _read_sinks(self, counted: dict[tuple[str, int], str]) -> None:
        claimed: dict[str, str] = {}
        for path in lives(self.folder, "sink"):
            for kind, *rest in lines(path):
                if kind in ("counts", "stats"):
                    continue
                name, item, place = rest
                if counted.get((item, int(place))) != name:
                    self._violated("lost", f"{path.name} {kind} result {place} of {item}; it is not among the effects")
                if kind == "late":
                    self.verdict.late += 1
                elif name in claimed:
                    self._violated("doubled", f"id {name} was counted by {claimed[name]} and by {path.name}")
                else:
                    claimed[name] = path.name

    # ---- against each other --------------------------------------------------------

    def _read_orders(self, counted: dict[tuple[str, int], str]) -> None:
        """What a sender committed was sent, and nothing else."""
        for name in sorted({path.name.split(".")[0] for path in lives(self.folder, "sender")}):
            path = self.folder / f"{name}.db"
            rows = self._rows(path, "select item, count(*) from orders group by item")
            ordered: dict[str, int] = dict(rows)
            self.verdict.ordered += len(ordered)
            tables = self._rows(path, "select 1 from sqlite_master where name = 'zmqkit_outbox'")
            left = self._rows(path, "select count(*) from zmqkit_outbox") if tables else [(0,)]
            if left[0][0]:
                self._violated("lost", f"{path.name}: {left[0][0]} messages are left in the outbox")
            for item, count in ordered.items():
                sent = self.items.get(item)
                if sent is None or sent.sender != name or count > 1:
                    self._violated("history", f"{path.name} has {count} orders of {item}")
                elif sent.said == "refused":
                    self._violated("invented", f"{item} is ordered in {path.name}, and was taken back")
                elif sent.said is None:
                    sent.said = "confirmed"  # it was committed, and its sender killed before it could say so
            for item, sent in self.items.items():
                if sent.sender == name and item not in ordered:
                    if sent.said == "confirmed":
                        self._violated("lost", f"{item} was confirmed, and is not among the orders in {path.name}")
                    elif any((item, place) in counted for place in range(sent.outputs)):
                        self._violated("invented", f"{item} was counted, and is not among the orders in {path.name}")

    def _compare(self, counted: dict[tuple[str, int], str]) -> None:
        for name, item in self.items.items():
            there = [place for place in range(item.outputs) if (name, place) in counted]
            if len(there) == item.outputs:
                continue
            if item.due:
                self._violated("lost", f"{name} was confirmed; of its {item.outputs} results only {there} were counted")
            elif there and not item.abandoned:
                self._violated(
                    "lost", f"{name} was stored, as was seen; of its {item.outputs} results only {there} came"
                )
        for name, number in self._acked.items():
            results = range(self.items[name].outputs)
            if any(self._where.get((name, place), number + 1) > number for place in results):
                self._violated("settled", f"{name} was said to have settled before all its results were counted")
        if not any(item.said == "confirmed" for item in self.items.values()) or not counted:
            self._violated("history", "nothing was confirmed, or nothing was counted")

    def _compare_keys(self) -> None:
        """Of one key, one item after another, as they were sent. What was sent again came behind."""
        last: dict[tuple[str, str], tuple[str, int]] = {}
        for name, item in self.items.items():
            found = [self._where[name, place] for place in range(item.outputs) if (name, place) in self._where]
            if item.key == "-" or item.again or item.repeated or not found:
                continue
            before = last.get((item.sender, item.key))
            if before is not None:
                self.verdict.keyed += 1
                if min(found) < before[1]:
                    self._violated("order", f"{name} was counted before {before[0]}, of the same key, was done")
            last[item.sender, item.key] = (name, max(found))

    # ---- journals ------------------------------------------------------------------

    def _read_journals(self) -> None:
        dead: Counter[str] = Counter()
        for role in SENDING:
            for pusher in sorted({path.name.split(".")[0] for path in lives(self.folder, role)}):
                found = [path for path in lives(self.folder, role) if path.name.split(".")[0] == pusher]
                if not any(kind == "drained" for kind, *_ in lines(found[-1])):
                    self._violated("not drained", f"{found[-1].name} never saw all settle")
                dead += self._read_journal(self.folder / f"{pusher}.journal")
        self.verdict.dead = dead.total()
        for name, count in dead.items():
            item = self.items.get(name)
            if item is None or item.outputs:
                self._violated("dead", f"{name} is a dead letter, and is not poison")
            elif item.said == "refused" and not item.again:
                self._violated("dead", f"{name} is a dead letter, and its sender was told that it was not stored")
            if count > 1:
                self._violated("dead", f"{name} is a dead letter {count} times")
        for name, item in self.items.items():
            if not item.outputs and item.due and name not in dead:
                self._violated("lost", f"{name} was confirmed; it is poison, and no dead letter")

    def _read_journal(self, path: Path) -> Counter[str]:
        """Nothing may wait in it. Returns the items that are dead letters."""
        found: Counter[str] = Counter()
        log = Path(f"{path}-wal")
        if not path.exists():
            self._violated("journal", f"{path.name} is not there")
            return found
        if log.exists() and log.stat().st_size:
            self._violated("journal", f"{path.name} was not closed in good order: {log.name} is there")
        for name in ("messages", "marks"):
            for rows, weight in self._rows(path, f"SELECT count(*), sum(weight) FROM log_{name}"):
                if rows:
                    self._violated("journal", f"{path.name}: {rows} rows ({weight} messages) are left in {name}")
        for (value,) in self._rows(path, "SELECT value FROM log_dead"):
            _, letter = msgpack.unpackb(value, strict_map_key=False)
            found[msgpack.unpackb(letter["body"])["item"]] += 1
        return found

    def _rows(self, path: Path, query: str) -> list[tuple[Any, ...]]:
        """What is in a database that nobody has open. A killed writer may have left a log to be played."""
        if not path.exists():
            self._violated("journal", f"{path.name} is not there")
            return []
        way = "mode=ro&immutable=1" if path.suffix == ".journal" else "mode=rw"
        try:
            with closing(sqlite3.connect(f"file:{path}?{way}", uri=True)) as connection:
                return connection.execute(query).fetchall()
        except sqlite3.Error as error:
            self._violated("journal", f"{path.name}: {error}")
            return []


def last_stats(path: Path) -> dict[str, int]:
    """The last counters that a life wrote down."""
    last: dict[str, int | float] = {}
    for line in lines(path):
        if line[0] == "stats":
            last = json.loads(" ".join(line[1:]))
    return {name: value for name, value in last.items() if isinstance(value, int)}


def lives(folder: Path, role: str) -> list[Path]:
    """Histories of a role, each process's lives in their order."""
    found = folder.glob(f"{role}-*.*.history")
    return sorted(found, key=lambda path: (path.name.split(".")[0], int(path.name.split(".")[1])))


def lines(path: Path) -> Iterator[list[str]]:
    """The records of a file, as words. A last line without its end was cut off, and is none."""
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    for line in whole.decode().splitlines():
        yield line.split(" ")
