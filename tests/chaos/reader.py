"""The judge: reads what the processes of a run wrote for themselves, and says what was lost, doubled or invented.

It imports nothing of zmqkit, and shares no code with what it judges; it knows the lines that `tests.chaos.roles`
writes and, from docs/protocol.md, the tables of a journal.

The folder of a run holds ``pusher-0.1.history`` (role, index, life), likewise for workers and sinks; ``ledger``, what
the sinks counted; and ``pusher-0.journal``.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgpack

SHOWN = 5
"""So many violations of a kind are spelled out."""


@dataclasses.dataclass
class Verdict:
    """What the reader found.

    Attributes:
        violations: what must not be, in words; empty when all is well.
        confirmed: items that a send returned for.
        unconfirmed: items that were being sent when the pusher died, or the send ran out of time.
        refused: items that a send said it had not stored.
        counted: results in the ledger.
        dead: dead letters in all journals.
        duplicates: results that came to a sink that knew them already.
        watched: items that a pusher saw settle, each by itself.
        late: acks that a sink was told to have come too late.
        stats: the last counters of every process, summed: ``pusher.redelivered``, ``worker.source_received``...
    """

    violations: list[str] = dataclasses.field(default_factory=list)
    confirmed: int = 0
    unconfirmed: int = 0
    refused: int = 0
    counted: int = 0
    dead: int = 0
    duplicates: int = 0
    watched: int = 0
    late: int = 0
    stats: Counter[str] = dataclasses.field(default_factory=Counter)


@dataclasses.dataclass
class _Sent:
    """What the pushers said."""

    outputs: dict[str, int] = dataclasses.field(default_factory=dict)
    """How many results each item has, by its name; 0: it is poison."""
    said: dict[str, str] = dataclasses.field(default_factory=dict)
    """"confirmed", "refused" or "unsure"; nothing of those that were being sent when the pusher died."""


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
        self.sent = _Sent()
        self._kinds: Counter[str] = Counter()
        self._sent_by: Counter[str] = Counter()
        self._settled_by: Counter[str] = Counter()
        self._acked: dict[str, int] = {}
        """Items that pushers saw settle, and the size of the ledger then."""
        self._where: dict[tuple[str, int], int] = {}
        """Where in the ledger the record of each result ends."""
        for path in lives(folder, "pusher"):
            self._read_pusher(path)
        for name, settled in self._settled_by.items():
            if settled > self._sent_by[name]:
                self._violated("settled", f"{name} saw {settled} messages settle and sent {self._sent_by[name]}")
        counted = self._read_ledger()
        self._read_sinks(counted)
        for role in ("pusher", "worker", "sink", "streamer"):
            for path in lives(folder, role):
                self.verdict.stats.update({f"{role}.{name}": value for name, value in last_stats(path).items()})
        self._compare(counted)
        self.verdict.watched = len(self._acked)
        self._read_journals()
        for kind, count in self._kinds.items():
            if count > SHOWN:
                self.verdict.violations.append(f"{kind}: {count} in all")

    def _violated(self, kind: str, what: str) -> None:
        self._kinds[kind] += 1
        if self._kinds[kind] <= SHOWN:
            self.verdict.violations.append(f"{kind}: {what}")

    # ---- pushers -------------------------------------------------------------------

    def _read_pusher(self, path: Path) -> None:
        sent, verdict = self.sent, self.verdict
        mine = set()
        before = (0, 0)
        for kind, *rest in lines(path):
            if kind == "sending":
                item, outputs = rest
                if item in sent.outputs:
                    self._violated("history", f"{path.name} sends {item} twice")
                sent.outputs[item] = int(outputs)
                mine.add(item)
            elif kind in ("confirmed", "refused", "unsure"):
                if rest[0] not in mine:
                    self._violated("history", f"{path.name}: {kind} {rest[0]}, which it never sent")
                sent.said[rest[0]] = kind
            elif kind in ("settled", "drained"):
                now = (int(rest[0]), int(rest[1]))
                if now[0] < before[0] or now[1] < before[1]:
                    self._violated("settled", f"{path.name}: counts fell from {before} to {now}")
                before = now
            elif kind in ("acked", "dead"):
                if rest[0] not in mine:
                    self._violated("history", f"{path.name}: {kind} {rest[0]}, which it never sent")
                elif (kind == "dead") != (sent.outputs[rest[0]] == 0):
                    self._violated("settled", f"{path.name} was told that {rest[0]} is {kind}")
                elif kind == "acked":
                    self._acked[rest[0]] = int(rest[1])
            elif kind not in ("opened", "stats"):
                self._violated("history", f"{path.name} has a line of kind {kind!r}")
        name = path.name.split(".")[0]
        self._sent_by[name] += len(mine)
        self._settled_by[name] += sum(before)
        said = Counter(sent.said.get(name) for name in mine)
        verdict.confirmed += said["confirmed"]
        verdict.refused += said["refused"]
        verdict.unconfirmed += said["unsure"] + said[None]

    # ---- sinks ---------------------------------------------------------------------

    def _read_ledger(self) -> dict[tuple[str, int], str]:
        """What was counted: item and index of each result, and the id under which it was."""
        found: dict[tuple[str, int], str] = {}
        ids: set[str] = set()
        size = 0
        for name, item, index in lines(self.folder / "ledger"):
            result = (item, int(index))
            size += len(f"{name} {item} {index}\n")
            self._where.setdefault(result, size)
            if item not in self.sent.outputs:
                self._violated("invented", f"{item} was counted and never sent")
            elif not 0 <= result[1] < self.sent.outputs[item]:
                self._violated("invented", f"result {index} of {item}, which has {self.sent.outputs[item]}")
            elif self.sent.said.get(item) == "refused":
                self._violated("invented", f"{item} was counted, and its sender was told that it was not stored")
            if result in found:
                self._violated("doubled", f"result {index} of {item} was counted as {found[result]} and as {name}")
            elif name in ids:
                self._violated("doubled", f"id {name} was counted for more than one result")
            found[result] = name
            ids.add(name)
        self.verdict.counted = len(found)
        return found

    def _read_sinks(self, counted: dict[tuple[str, int], str]) -> None:
        claimed: dict[str, str] = {}
        for path in lives(self.folder, "sink"):
            for kind, *rest in lines(path):
                if kind in ("counts", "stats"):
                    continue
                name, item, index = rest
                if counted.get((item, int(index))) != name:
                    self._violated("lost", f"{path.name} {kind} result {index} of {item}; the ledger has it not")
                if kind == "late":
                    self.verdict.late += 1
                elif kind == "duplicate":
                    self.verdict.duplicates += 1
                elif name in claimed:
                    self._violated("doubled", f"id {name} was counted by {claimed[name]} and by {path.name}")
                else:
                    claimed[name] = path.name

    def _compare(self, counted: dict[tuple[str, int], str]) -> None:
        for name, outputs in self.sent.outputs.items():
            there = [index for index in range(outputs) if (name, index) in counted]
            if len(there) == outputs:
                continue
            if self.sent.said.get(name) == "confirmed":
                self._violated("lost", f"{name} was confirmed; of its {outputs} results only {there} were counted")
            elif there:
                self._violated("lost", f"{name} was stored, as was seen; of its {outputs} results only {there} came")
        for name, size in self._acked.items():
            if any(self._where.get((name, index), size + 1) > size for index in range(self.sent.outputs[name])):
                self._violated("settled", f"{name} was said to have settled before all its results were counted")
        if not self.verdict.confirmed or not counted:
            self._violated("history", "nothing was confirmed, or nothing was counted")

    # ---- journals ------------------------------------------------------------------

    def _read_journals(self) -> None:
        pushers = sorted({path.name.split(".")[0] for path in lives(self.folder, "pusher")})
        dead: Counter[str] = Counter()
        for pusher in pushers:
            found = [path for path in lives(self.folder, "pusher") if path.name.split(".")[0] == pusher]
            if not any(kind == "drained" for kind, *_ in lines(found[-1])):
                self._violated("not drained", f"{found[-1].name} never saw all settle")
            dead += self._read_journal(self.folder / f"{pusher}.journal")
        self.verdict.dead = dead.total()
        for name, count in dead.items():
            if self.sent.outputs.get(name) != 0:
                self._violated("dead", f"{name} is a dead letter, and is not poison")
            elif self.sent.said.get(name) == "refused":
                self._violated("dead", f"{name} is a dead letter, and its sender was told that it was not stored")
            if count > 1:
                self._violated("dead", f"{name} is a dead letter {count} times")
        for name, outputs in self.sent.outputs.items():
            if outputs == 0 and self.sent.said.get(name) == "confirmed" and name not in dead:
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
        connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
        try:
            for name in ("messages", "marks"):
                rows, weight = connection.execute(f"SELECT count(*), sum(weight) FROM log_{name}").fetchone()
                if rows:
                    self._violated("journal", f"{path.name}: {rows} rows ({weight} messages) are left in {name}")
            for (value,) in connection.execute("SELECT value FROM log_dead"):
                _, letter = msgpack.unpackb(value, strict_map_key=False)
                found[msgpack.unpackb(letter["body"])["item"]] += 1
        except sqlite3.Error as error:
            self._violated("journal", f"{path.name}: {error}")
        finally:
            connection.close()
        return found


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
