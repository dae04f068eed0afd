"""The judge of publish-subscribe: reads what publishers and subscribers wrote for themselves, and says what was hidden.

It imports nothing of zmqkit, and shares no code with what it judges; it knows the lines that
`tests.chaos.pubsub.roles` writes and, from docs/protocol.md, two tables of a publisher's journal.

The folder of a run holds ``memory-0.1.history`` (role, index, life) of each life, ``live-0.1.received`` of each life of
a subscriber, what the inboxes hold in ``inbox-0.sqlite``, ``journalled-0.journal``, and ``controller.history``, which
says who took part.

A *line* is what has one row of offsets: one life of a publisher without a journal, all lives of one that has one. A
message's name says where it is in its life; without a journal that is its offset, with one the journal says it.
"""

from __future__ import annotations

import dataclasses
import itertools
import sqlite3
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgpack

from tests.chaos.pubsub.plan import HISTORY, PATTERNS, PUBLISHERS, SUBSCRIBERS, members
from tests.chaos.reader import SHOWN, last_stats, lines, lives


@dataclasses.dataclass
class Verdict:
    """What the reader found.

    Attributes:
        violations: what must not be, in words; empty when all is well.
        published: messages that a publish returned for.
        unconfirmed: messages that were being published when the publisher died.
        received: by role of the subscriber, doubles of cursors included.
        applied: rows in the inboxes.
        replayed: messages that came from a history.
        twice: messages that came to a cursor again.
        losses: `MessagesLost` that were raised...
        lost: ...and messages that are missing because of them.
        tails: lines whose tail was said to be unknown.
        owed: messages that subscribers had to get or be told of, which is what was judged.
        stats: the last counters of every process, summed: ``live.gaps_found``...
    """

    violations: list[str] = dataclasses.field(default_factory=list)
    published: int = 0
    unconfirmed: int = 0
    received: Counter[str] = dataclasses.field(default_factory=Counter)
    applied: int = 0
    replayed: int = 0
    twice: int = 0
    losses: int = 0
    lost: int = 0
    tails: int = 0
    owed: int = 0
    stats: Counter[str] = dataclasses.field(default_factory=Counter)


def judge(folder: Path) -> Verdict:
    """Read a whole run.

    Args:
        folder: of the run, which is over, or at rest: nothing is published any more.
    """
    return _Reader(folder).verdict


def lets_in(pattern: str, topic: str) -> bool:
    """Whether a pattern lets a topic in, as the documentation has it."""
    want, have = pattern.split("."), topic.split(".")
    if want[-1] == "#":
        want = want[:-1]
        if len(have) < len(want):
            return False
        have = have[: len(want)]
    return len(want) == len(have) and all(w in ("*", h) for w, h in zip(want, have, strict=True))


class _Line:
    """One row of offsets.

    Attributes:
        key: "memory-0.3", or "journalled-0".
        durable: it has a journal.
        offsets: of what certainly was published, in order.
        topics, names: by offset, of all that may have been.
        newest: the highest offset that may have been given out.
    """

    def __init__(self, key: str, *, durable: bool) -> None:
        self.key = key
        self.durable = durable
        self.offsets: list[int] = []
        self.topics: dict[int, str] = {}
        self.names: dict[int, str] = {}
        self.newest = 0
        self._wanted: dict[str, list[int]] = {}

    @property
    def publisher(self) -> str:
        """Whose."""
        return self.key.split(".")[0]

    @property
    def life(self) -> int:
        """Of the publisher, if it has no journal."""
        return int(self.key.partition(".")[2])

    def wanted(self, subscriber: str) -> list[int]:
        """The offsets of what certainly was published and a subscriber wants, in order."""
        found = self._wanted.get(subscriber)
        if found is None:
            kept = {topic: wants(subscriber, topic) for topic in set(self.topics.values())}
            found = self._wanted[subscriber] = [each for each in self.offsets if kept[self.topics[each]]]
        return found


def wants(subscriber: str, topic: str) -> bool:
    """Whether a subscriber subscribes a topic."""
    return any(lets_in(each, topic) for each in PATTERNS[subscriber])


@dataclasses.dataclass
class _Life:
    """What one life of a subscriber had of one line."""

    line: _Line
    base: int = 0
    """The first offset that is owed; 0: none yet."""
    last: int = 0
    """The newest that came."""
    upto: int = 0
    """How far in `_Line.wanted` all has been looked at."""
    told: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    """What was said to be lost."""


class _Reader:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.verdict = verdict = Verdict()
        self._kinds: Counter[str] = Counter()
        self.lines: dict[str, _Line] = {}
        self.offset_of: dict[str, int] = {}
        """By name, of all that certainly was published."""
        self.sees: defaultdict[str, dict[str, int]] = defaultdict(dict)
        """By subscriber's life and line: the first offset that was published after its publisher had seen it there."""
        self.of_publisher: dict[str, str] = {}
        """Publisher's id -> key of the line."""
        self.of_epoch: dict[tuple[str, str], str] = {}
        """(publisher's id, epoch) -> name and life of the publisher."""
        there = {words[1] for words in lines(folder / "controller.history") if words[0] == "start"}
        for publisher in sorted(there.intersection(members(PUBLISHERS))):
            self._read_publisher(publisher)
        subscribers = sorted(there.intersection(members(SUBSCRIBERS)))
        for subscriber in subscribers:
            self._learn_ids(subscriber)
        for subscriber in subscribers:
            self._judge_subscriber(subscriber)
        for role in (*PUBLISHERS, *SUBSCRIBERS):
            for path in lives(folder, role):
                verdict.stats.update({f"{role}.{name}": value for name, value in last_stats(path).items()})
        silent = [name for name in subscribers if not any(path.stat().st_size for path in self._lives(name))]
        if silent:
            self._violated("history", f"nothing came to {', '.join(silent)}")
        if not verdict.published or not verdict.applied:
            self._violated("history", "nothing was published, or nothing applied")
        for kind, count in self._kinds.items():
            if count > SHOWN:
                verdict.violations.append(f"{kind}: {count} in all")

    def _violated(self, kind: str, what: str) -> None:
        self._kinds[kind] += 1
        if self._kinds[kind] <= SHOWN:
            self.verdict.violations.append(f"{kind}: {what}")

    # ---- what was published ----------------------------------------------------------

    def _read_publisher(self, publisher: str) -> None:
        journalled = publisher not in HISTORY
        if journalled:
            self.lines[publisher] = self._read_journal(publisher)
        for path in lives(self.folder, publisher.rpartition("-")[0]):
            if path.name.startswith(f"{publisher}."):
                self._read_life(path, path.name.removesuffix(".history"), journalled=journalled)

    def _read_life(self, path: Path, opening: str, *, journalled: bool) -> None:
        if not journalled:
            self.lines[opening] = _Line(opening, durable=False)
        line = self.lines[opening.split(".")[0] if journalled else opening]
        topics: dict[int, str] = {}
        confirmed: set[int] = set()
        looks: list[tuple[int, Sequence[str]]] = []
        offsets: dict[int, int] = {}
        for kind, *rest in lines(path):
            if kind == "publishing":
                first = int(rest[0])
                if first != len(topics) + 1:
                    self._violated("history", f"{path.name} publishes {first} after {len(topics)}")
                topics.update(enumerate(rest[1].split(","), first))
            elif kind == "published":
                confirmed.add(int(rest[0]))
                offsets[int(rest[0])] = int(rest[1])
            elif kind == "published-many":
                confirmed.update(range(int(rest[0]), int(rest[0]) + int(rest[1])))
            elif kind == "sees":
                looks.append((len(topics) + 1, rest[0].split(",")))
            elif kind != "stats":
                self._violated("history", f"{path.name} has a line of kind {kind!r}")
        if confirmed != set(range(1, len(confirmed) + 1)):
            self._violated("history", f"{path.name} published with holes")
        self.verdict.published += len(confirmed)
        self.verdict.unconfirmed += len(topics) - len(confirmed)
        if journalled:
            self._compare(line, opening, topics, confirmed)
        else:
            line.topics = topics
            line.names = {number: f"{opening}.{number}" for number in topics}
            line.offsets = sorted(confirmed)
            line.newest = len(topics)
            self.offset_of.update((f"{opening}.{number}", number) for number in confirmed)
        for number, offset in offsets.items():
            if self.offset_of.get(f"{opening}.{number}") != offset:
                self._violated("offset", f"{opening}.{number} was given {offset}")
        for number, there in looks:
            # Numbers follow each other, so the next one that was stored was published later.
            after = next((at for at in range(number, len(topics) + 1) if f"{opening}.{at}" in self.offset_of), None)
            if after is not None:
                for each in there:
                    self.sees[each].setdefault(line.key, self.offset_of[f"{opening}.{after}"])

    def _compare(self, line: _Line, opening: str, topics: dict[int, str], confirmed: set[int]) -> None:
        """What a life published with what its journal holds."""
        for number in confirmed:
            if f"{opening}.{number}" not in self.offset_of:
                self._violated("journal", f"{opening}.{number} was published, and is not in the journal")
        here = [name for name in line.names.values() if name.rpartition(".")[0] == opening]
        if here != [f"{opening}.{number}" for number in range(1, len(here) + 1)]:
            self._violated("journal", f"what {opening} published is in another order in its journal, or twice")
        for name in here:
            if topics.get(int(name.rpartition(".")[2])) != line.topics[self.offset_of[name]]:
                self._violated("journal", f"{name} has another topic in the journal")

    def _read_journal(self, publisher: str) -> _Line:
        line = _Line(publisher, durable=True)
        path = self.folder / f"{publisher}.journal"
        if not path.exists():
            self._violated("journal", f"{path.name} is not there")
            return line
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            for key, value in connection.execute("SELECT key, value FROM log_messages ORDER BY key"):
                size = int.from_bytes(value[:4], "big")
                _, _, _, _, topics, indexes, lengths, *_ = msgpack.unpackb(value[4 : 4 + size], strict_map_key=False)
                at = 4 + size
                for index, length in enumerate(lengths):
                    name = msgpack.unpackb(value[at : at + length])
                    at += length
                    line.offsets.append(key + index)
                    line.topics[key + index] = topics[indexes[index] if indexes else 0]
                    line.names[key + index] = name
                    if name in self.offset_of:
                        self._violated("journal", f"{name} is in {path.name} twice")
                    self.offset_of[name] = key + index
        except sqlite3.Error as error:
            self._violated("journal", f"{path.name}: {error}")
        finally:
            connection.close()
        if line.offsets != sorted(set(line.offsets)):
            self._violated("journal", f"the offsets in {path.name} do not rise")
        line.newest = max(line.offsets, default=0)
        return line

    # ---- who is who ------------------------------------------------------------------

    def _lives(self, subscriber: str) -> list[Path]:
        found = self.folder.glob(f"{subscriber}.*.received")
        return sorted(found, key=lambda path: int(path.name.split(".")[1]))

    def _learn_ids(self, subscriber: str) -> None:
        """Each line has one publisher's id, and each life of a publisher one epoch."""
        rows = [rest for path in self._lives(subscriber) for kind, *rest in lines(path) if kind == "got"]
        for id, epoch, _, _, name, *_ in [*rows, *self._applied(subscriber)]:
            opening = name.rpartition(".")[0]
            key = opening if opening in self.lines else opening.split(".")[0]
            if (
                self.of_publisher.setdefault(id, key) != key
                or self.of_epoch.setdefault((id, epoch), opening) != opening
            ):
                self._violated(
                    "mixed up", f"{subscriber} got {name} of publisher {id}, epoch {epoch}, which is another"
                )
        if len(set(self.of_publisher.values())) != len(self.of_publisher):
            self._violated("mixed up", "a publisher has two ids")
        if len(set(self.of_epoch.values())) != len(self.of_epoch):
            self._violated("mixed up", "an epoch of a publisher has two ids")

    def _line_of(self, id: str) -> _Line | None:
        return self.lines.get(self.of_publisher.get(id, ""))

    # ---- what came -------------------------------------------------------------------

    def _judge_subscriber(self, subscriber: str) -> None:
        role = subscriber.rpartition("-")[0]
        paths = self._lives(subscriber)
        came: defaultdict[str, set[int]] = defaultdict(set)
        committed: dict[str, int] = {}
        lost: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for path in paths:
            self._judge_life(subscriber, path, role, path == paths[-1], came, committed, lost)
        if role == "inbox":
            self._judge_inbox(subscriber, came, lost)
        elif role == "cursor":
            for line in self.lines.values():
                if line.durable:
                    self._complete(subscriber, line, sorted(came[line.key]))

    def _judge_life(
        self,
        subscriber: str,
        path: Path,
        role: str,
        is_last: bool,
        came: defaultdict[str, set[int]],
        committed: dict[str, int],
        lost: defaultdict[str, list[tuple[int, int]]],
    ) -> None:
        verdict = self.verdict
        opening = path.name.removesuffix(".received")
        had: dict[str, _Life] = {}
        changes, unreachable = self._events(path.with_suffix(".history"))
        for kind, *rest in lines(path):
            line = self._line_of(rest[0])
            if kind == "got":
                _, _, offset, topic, name, how = rest
                verdict.received[role] += 1
                verdict.replayed += how == "replayed"
                if line is None or line.names.get(int(offset)) != name or line.topics[int(offset)] != topic:
                    self._violated(
                        "invented", f"{opening} got {name} of {topic} at {offset}, which was never published"
                    )
                    continue
                if not wants(subscriber, topic):
                    self._violated("invented", f"{opening} got {name} of {topic}, which it does not subscribe")
                life = self._life(had, line, opening, role, changes)
                self._got(life, int(offset), opening, hears_all=role != "inbox")
                if int(offset) <= committed.get(line.key, 0):
                    self._violated("cursor", f"{opening} got {name}, and its cursor had been stored beyond that")
                verdict.twice += role == "cursor" and int(offset) in came[line.key]
                came[line.key].add(int(offset))
            elif kind == "lost":
                first, last = int(rest[2]), int(rest[3])
                verdict.losses += 1
                if line is None:
                    continue  # nobody ever got anything of it
                self._judge_loss(line, first, last, opening, unreachable)
                self._life(had, line, opening, role, changes).told.append((first, last))
                lost[line.key].append((first, last))
            elif kind == "committed":
                if line is not None:
                    committed[line.key] = max(committed.get(line.key, 0), int(rest[2]))
            elif kind == "not-committed":
                if line is not None and line.durable:
                    self._violated(
                        "cursor", f"{opening} could not commit {rest[2]} at {line.key}, which is still there"
                    )
            else:
                self._violated("history", f"{path.name} has a line of kind {kind!r}")
        if is_last and role != "inbox":
            for key in set(self.sees[opening]) - set(had):
                self._life(had, self.lines[key], opening, role, changes)
            for life in had.values():
                self._end(life, opening, changes)

    def _events(self, path: Path) -> tuple[list[tuple[str, int, bool]], bool]:
        """What a life was told beside: publisher, last offset and whether the tail is unknown of each new epoch."""
        changes = []
        unreachable = False
        for kind, *rest in lines(path):
            if kind == "epoch":
                changes.append((rest[0], int(rest[2]), rest[3] == "unknown"))
                self.verdict.tails += rest[3] == "unknown"
            unreachable = unreachable or kind == "unreachable"
        return changes, unreachable

    def _life(
        self, had: dict[str, _Life], line: _Line, opening: str, role: str, changes: list[tuple[str, int, bool]]
    ) -> _Life:
        """Of a line; and from which offset on all of it is owed, if that is known beforehand."""
        life = had.get(line.key)
        if life is None:
            life = had[line.key] = _Life(line, self.sees[opening].get(line.key, 0))
            if not line.durable and role != "inbox" and line.newest <= HISTORY[line.publisher]:
                # Nothing was let go. So who reads it from its beginning gets all.
                ids = [id for id, _, _ in changes]
                if any(self.of_publisher.get(id) == line.key for id in ids):
                    life.base = 1
        return life

    def _got(self, life: _Life, offset: int, opening: str, *, hears_all: bool) -> None:
        line = life.line
        if offset <= life.last:
            self._violated("order", f"{opening} got {line.names[offset]} at {offset} after {life.last}")
            return
        life.last = offset
        if not hears_all:
            return
        wanted = line.wanted(opening.split(".")[0])
        if not life.base or offset < life.base:
            life.base = offset
        self._look(life, wanted, bisect_left(wanted, offset), opening, f"before it got {line.names[offset]}")
        life.upto = max(life.upto, bisect_left(wanted, offset + 1))

    def _look(self, life: _Life, wanted: list[int], until: int, opening: str, when: str) -> None:
        """All that is owed up to an index came, or was said to be lost."""
        life.upto = max(life.upto, bisect_left(wanted, life.base))
        for offset in wanted[life.upto : until]:
            if any(first <= offset <= last for first, last in life.told):
                self.verdict.lost += 1
            else:
                self._violated("hole", f"{opening} neither got {life.line.names[offset]} nor was told, {when}")
        self.verdict.owed += max(0, until - life.upto) + 1
        life.upto = max(life.upto, until)

    def _end(self, life: _Life, opening: str, changes: list[tuple[str, int, bool]]) -> None:
        """It was told to finish when all was at rest: what is owed has come, or its publisher died in between."""
        if not life.base:
            return
        line = life.line
        wanted = line.wanted(opening.split(".")[0])
        until = len(wanted)
        if not line.durable:
            # The first one that took its place: from what had come until then on, the tail is unknown.
            after = [before for id, before, unknown in changes if unknown and self._follows(line, id)]
            after += [before for id, before, unknown in changes if unknown and id not in self.of_publisher]
            if after:
                until = max(life.upto, bisect_left(wanted, after[0] + 1))
        self._look(life, wanted, until, opening, "until all was at rest")

    def _follows(self, line: _Line, id: str) -> bool:
        """Whether this publisher is a later life of that line's."""
        name, _, life = self.of_publisher.get(id, "").partition(".")
        return name == line.publisher and int(life) > line.life

    def _judge_loss(self, line: _Line, first: int, last: int, opening: str, unreachable: bool) -> None:
        told = f"{opening} was told that {first} to {last} of {line.key} are lost"
        if not 0 < first <= last <= line.newest:
            self._violated("invented", f"{told}, which has {line.newest}")
        elif unreachable:
            return
        elif line.durable:
            self._violated("needless", f"{told}, and the journal has them")
        elif last > line.newest - HISTORY[line.publisher]:
            self._violated("needless", f"{told}, and its history had them to the end, at {line.newest}")

    # ---- what must be whole ----------------------------------------------------------

    def _complete(self, subscriber: str, line: _Line, came: list[int]) -> None:
        missing = sorted(set(line.wanted(subscriber)) - set(came))
        self.verdict.owed += len(line.wanted(subscriber))
        for offset in missing:
            self._violated("lost", f"{subscriber} never got {line.names[offset]} at {offset} of {line.key}")

    def _applied(self, subscriber: str) -> list[list[str]]:
        path = self.folder / f"{subscriber}.sqlite"
        if not subscriber.startswith("inbox") or not path.exists():
            return []
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            found = connection.execute("SELECT publisher, epoch, offset, topic, name FROM applied ORDER BY rowid")
            return [[str(each) for each in row] for row in found]
        except sqlite3.Error as error:
            self._violated("history", f"{path.name}: {error}")
            return []
        finally:
            connection.close()

    def _judge_inbox(
        self, subscriber: str, came: defaultdict[str, set[int]], lost: defaultdict[str, list[tuple[int, int]]]
    ) -> None:
        """Each message once, and in order, over all lives; of a line without a journal what was not called lost."""
        rows: defaultdict[str, list[int]] = defaultdict(list)
        for id, _, offset, topic, name in self._applied(subscriber):
            line = self._line_of(id)
            self.verdict.applied += 1
            if line is None or line.names.get(int(offset)) != name or line.topics[int(offset)] != topic:
                self._violated("invented", f"{subscriber} applied {name} of {topic}, which was never published")
            elif not wants(subscriber, topic):
                self._violated("invented", f"{subscriber} applied {name} of {topic}, which it does not subscribe")
            else:
                rows[line.key].append(int(offset))
        for key, line in self.lines.items():
            offsets = rows[key]
            for name in [line.names[offset] for offset, count in Counter(offsets).items() if count > 1]:
                self._violated("doubled", f"{subscriber} applied {name} more than once")
            for before, after in itertools.pairwise(offsets):
                if after < before:
                    self._violated("order", f"{subscriber} applied {line.names[after]} after {line.names[before]}")
            for gone in came[key] - set(offsets):
                self._violated("lost", f"{subscriber} applied {line.names[gone]}, and its effect is not there")
            if line.durable:
                self._complete(subscriber, line, offsets)
            elif offsets:
                self._account(subscriber, line, offsets, lost[key])

    def _account(self, subscriber: str, line: _Line, applied: list[int], told: Sequence[tuple[int, int]]) -> None:
        """Without a journal: from the first one on, to the last, or to the end if its publisher still lives."""
        living = all(each.life <= line.life for each in self.lines.values() if each.publisher == line.publisher)
        first = 1 if line.newest <= HISTORY[line.publisher] else min(applied)
        wanted, had = line.wanted(subscriber), set(applied)
        until = len(wanted) if living else bisect_left(wanted, max(applied))
        for offset in wanted[bisect_left(wanted, first) : until]:
            if offset in had:
                continue
            if any(first <= offset <= last for first, last in told):
                self.verdict.lost += 1
            else:
                self._violated("hole", f"{subscriber} neither applied {line.names[offset]} nor was told of it")
