"""The judge itself: it passes what is sound, and finds what is lost in silence, doubled, swapped or invented."""

from __future__ import annotations

import ast
import itertools
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest

from tests.chaos.plan import Step
from tests.chaos.pubsub import plan as plans
from tests.chaos.pubsub import reader
from tests.chaos.pubsub.plan import CREW, SMALL_CREW, LinkStep, members, plan, short_plan
from tests.chaos.pubsub.reader import judge, lets_in
from tests.chaos.reader import SHOWN

LOG = "(key INTEGER PRIMARY KEY, weight INTEGER NOT NULL, crc INTEGER NOT NULL, value BLOB NOT NULL)"
STORED = ["a", "b.x", "b", "a", "a.x"]
"""Topics in the journal, from offset 1 on; the fourth was being published when the publisher was killed."""
NAMES = [f"journalled-0.1.{number}" for number in range(1, 5)] + ["journalled-0.2.1"]
PUBLISHED = ["b.x", *["a"] * 200, "b.x"]
"""Topics of the first life without a journal; its history holds the last 60."""


def got(publisher: str, epoch: str, offset: int, topic: str, name: str, how: str = "live") -> str:
    return f"got {publisher} {epoch} {offset} {topic} {name} {how}"


def stored(offset: int) -> str:
    return got("J", "J1" if offset < 5 else "J2", offset, STORED[offset - 1], NAMES[offset - 1])


def remembered(offset: int) -> str:
    return got("M1", "E1", offset, PUBLISHED[offset - 1], f"memory-0.1.{offset}")


AGAIN = [got("M2", "E2", 1, "a", "memory-0.2.1"), got("M2", "E2", 2, "b.x", "memory-0.2.2")]


def sound(folder: Path) -> Path:
    """The files of a small run in which all is well, though publishers and subscribers were killed."""
    names = [each for each in members(CREW) if each != "journalled-1"]
    write(folder / "controller.history", *[f"start {name} 1 0.0" for name in names], "kill live-1 1 0.1")
    write(
        folder / "journalled-0.1.history",
        "publishing 1 a",
        "published 1 1",
        "publishing 2 b.x,b",
        "published-many 2 2",
        "publishing 4 a",
        "publishing 5",
        end="",
    )
    write(
        folder / "journalled-0.2.history",
        "sees cursor-0.2,live-1.2",
        "publishing 1 a.x",
        "published 1 5",
        'stats {"published": 1}',
    )
    write(
        folder / "memory-0.1.history",
        "sees live-0.1,live-2.1",
        "publishing 1 b.x",
        "published 1 1",
        f"publishing 2 {','.join(['a'] * 200)}",
        "published-many 2 200",
        "publishing 202 b.x",
        "published 202 202",
    )
    write(folder / "memory-0.2.history", "publishing 1 a,b.x", "published-many 1 2")
    journal(
        folder / "journalled-0.journal",
        (1, STORED[:1], NAMES[:1]),
        (2, STORED[1:4], NAMES[1:4]),
        (5, ["a.x"], NAMES[4:]),
    )
    write(
        folder / "live-0.1.received",
        remembered(1),
        "lost M1 E1 2 50 -",
        *[remembered(offset) for offset in range(51, 203)],
        *AGAIN,
    )
    write(folder / "live-0.1.history", "epoch M2 E2 202 unknown", 'stats {"gaps_found": 2}')
    write(folder / "live-1.1.received", stored(1), "got J J1 4", end="")
    write(folder / "live-1.2.received", stored(1), stored(4), stored(5))
    write(folder / "live-1.2.history", "epoch J J2 4 known")
    write(folder / "live-2.1.received", remembered(1), AGAIN[1])
    write(folder / "live-2.1.history", "epoch M2 E2 201 unknown")
    write(folder / "cursor-0.1.received", stored(2), "committed J J1 2", stored(3))
    write(folder / "cursor-0.2.received", stored(3))
    write(folder / "inbox-0.1.received", stored(1), stored(2))
    write(folder / "inbox-0.2.received", stored(4), stored(5), *AGAIN)
    write(folder / "inbox-1.1.received", stored(1), stored(2), stored(4))
    inbox(folder / "inbox-0.sqlite", *[stored(offset) for offset in range(1, 6)], *AGAIN)
    inbox(folder / "inbox-1.sqlite", stored(1), stored(2), stored(4))
    return folder


def write(path: Path, *lines: str, end: str = "\n") -> None:
    path.write_text("\n".join(lines) + end)


def journal(path: Path, *rows: tuple[int, list[str], list[str]]) -> None:
    """A journal as docs/protocol.md describes it, as far as the reader looks."""
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(f"CREATE TABLE log_messages{LOG}")
        for key, topics, names in rows:
            table = sorted(set(topics))
            indexes = [table.index(topic) for topic in topics] if len(table) > 1 else None
            bodies = [msgpack.packb(name) for name in names]
            head = msgpack.packb([1, 0, 0, "msgpack", table, indexes, [len(body) for body in bodies], {}])
            value = len(head).to_bytes(4, "big") + head + b"".join(bodies)
            connection.execute("INSERT INTO log_messages VALUES(?, ?, 0, ?)", (key, len(topics), value))
    connection.close()


def inbox(path: Path, *received: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("CREATE TABLE applied (publisher text, epoch text, offset int, topic text, name text)")
        connection.executemany(
            "INSERT INTO applied VALUES (?, ?, ?, ?, ?)", [each.split(" ")[1:6] for each in received]
        )
    connection.close()


def in_inbox(statement: str) -> Callable[[Path], None]:
    def doctor(folder: Path) -> None:
        connection = sqlite3.connect(folder / "inbox-0.sqlite")
        with connection:
            assert connection.execute(statement).rowcount > 0
        connection.close()

    return doctor


def swap(name: str, line: str, *instead: str) -> Callable[[Path], None]:
    def doctor(folder: Path) -> None:
        before, there, after = (folder / name).read_text().partition(f"{line}\n")
        assert there
        (folder / name).write_text("".join([before, *(f"{each}\n" for each in instead), after]))

    return doctor


def test_a_sound_run_passes_and_is_counted(tmp_path: Path) -> None:
    verdict = judge(sound(tmp_path))
    assert verdict.violations == []
    assert (verdict.published, verdict.unconfirmed) == (3 + 1 + 202 + 2, 1)
    assert verdict.received == Counter(live=1 + 152 + 2 + 1 + 3 + 2, inbox=2 + 4 + 3, cursor=3)
    assert (verdict.applied, verdict.twice) == (10, 1)
    assert (verdict.losses, verdict.lost, verdict.tails) == (1, 49, 2)
    assert verdict.owed > 200
    assert verdict.stats == {"journalled.published": 1, "live.gaps_found": 2}


@pytest.mark.parametrize(
    ("doctor", "found"),
    [
        # Without a position that survives: every hole has its name, before anything later.
        (swap("live-0.1.received", remembered(77)), "hole: live-0.1 neither got memory-0.1.77 nor was told, before it"),
        (swap("live-0.1.received", "lost M1 E1 2 50 -"), "hole: live-0.1 neither got memory-0.1.2 nor was told"),
        (swap("live-0.1.received", "lost M1 E1 2 50 -", "lost M1 E1 2 49 -"), "hole: live-0.1 neither got memory-0.1."),
        (
            swap("live-0.1.received", f"{remembered(51)}\n{remembered(52)}", remembered(52), "lost M1 E1 51 51 -"),
            "hole: live-0.1 neither got memory-0.1.51 nor was told, before it got memory-0.1.52",
        ),
        (swap("live-0.1.received", remembered(1)), "hole: live-0.1 neither got memory-0.1.1 nor was told"),
        (swap("live-0.1.received", AGAIN[0]), "hole: live-0.1 neither got memory-0.2.1 nor was told"),
        (swap("live-0.1.received", AGAIN[1]), "hole: live-0.1 neither got memory-0.2.2 nor was told, until all was"),
        (swap("live-0.1.received", remembered(202)), "hole: live-0.1 neither got memory-0.1.202 nor was told, until"),
        (swap("live-2.1.received", remembered(1)), "hole: live-2.1 neither got memory-0.1.1 nor was told, until all"),
        (swap("live-2.1.history", "epoch M2 E2 201 unknown"), "hole: live-2.1 neither got memory-0.1.202 nor was told"),
        (
            swap("live-2.1.history", "epoch M2 E2 201 unknown", "epoch M2 E2 201 known"),
            "hole: live-2.1 neither got memory-0.1.202 nor was told",
        ),
        (
            swap("live-2.1.history", "epoch M2 E2 201 unknown", "epoch M2 E2 202 unknown"),
            "hole: live-2.1 neither got memory-0.1.202 nor was told",
        ),
        (swap("live-1.2.received", stored(4)), "hole: live-1.2 neither got journalled-0.1.4 nor was told, before it g"),
        (swap("live-1.2.received", stored(5)), "hole: live-1.2 neither got journalled-0.2.1 nor was told, until all"),
        # With one: all that the journal holds.
        (in_inbox("DELETE FROM applied WHERE name = 'journalled-0.1.3'"), "lost: inbox-0 never got journalled-0.1.3 a"),
        (in_inbox("DELETE FROM applied WHERE name = 'journalled-0.2.1'"), "lost: inbox-0 never got journalled-0.2.1 a"),
        (in_inbox("DELETE FROM applied WHERE name = 'memory-0.2.2'"), "lost: inbox-0 applied memory-0.2.2, and its ef"),
        (in_inbox("DELETE FROM applied WHERE name = 'memory-0.2.2'"), "hole: inbox-0 neither applied memory-0.2.2 nor"),
        (
            in_inbox("INSERT INTO applied SELECT * FROM applied WHERE name = 'journalled-0.1.3'"),
            "doubled: inbox-0 applied journalled-0.1.3 more than once",
        ),
        (
            in_inbox("UPDATE applied SET rowid = CASE name WHEN 'journalled-0.1.3' THEN 99 ELSE rowid END"),
            "order: inbox-0 applied journalled-0.1.3 after journalled-0.2.1",
        ),
        (in_inbox("UPDATE applied SET topic = 'b' WHERE topic = 'b.x'"), "invented: inbox-0 applied journalled-0.1.2"),
        (swap("cursor-0.1.received", stored(2)), "lost: cursor-0 never got journalled-0.1.2 at 2 of journalled-0"),
        (swap("cursor-0.2.received", stored(3), stored(2), stored(3)), "cursor: cursor-0.2 got journalled-0.1.2, and"),
        (
            swap("cursor-0.1.received", "committed J J1 2", "not-committed J J1 2"),
            "cursor: cursor-0.1 could not commit 2 at journalled-0, which is still there",
        ),
        # Order, in each life.
        (swap("live-1.2.received", stored(4), stored(4), stored(4)), "order: live-1.2 got journalled-0.1.4 at 4 after"),
        (
            swap("live-1.2.received", f"{stored(4)}\n{stored(5)}", stored(5), stored(4)),
            "order: live-1.2 got journalled-0.1.4 at 4 after 5",
        ),
        (swap("inbox-1.1.received", stored(4), stored(4), stored(2)), "order: inbox-1.1 got journalled-0.1.2 at 2 aft"),
        # What never was.
        (
            swap("live-0.1.received", AGAIN[1], AGAIN[1], got("M2", "E2", 3, "a", "memory-0.2.3")),
            "invented: live-0.1 got memory-0.2.3 of a at 3, which was never published",
        ),
        (
            swap("live-1.2.received", stored(4), got("J", "J1", 4, "a.x", "journalled-0.1.4")),
            "invented: live-1.2 got journalled-0.1.4 of a.x at 4",
        ),
        (swap("live-1.2.received", stored(4), stored(2), stored(4)), "invented: live-1.2 got journalled-0.1.2 of b.x,"),
        (swap("live-0.1.received", AGAIN[1], AGAIN[1], "lost M2 E2 3 3 -"), "invented: live-0.1 was told that 3 to 3"),
        (
            swap("live-1.2.received", stored(4), got("M1", "J1", 4, "a", "journalled-0.1.4")),
            "mixed up: live-1 got journalled-0.1.4 of publisher M1, epoch J1, which is another",
        ),
        (
            swap("live-1.2.received", stored(4), got("J", "J2", 4, "a", "journalled-0.1.4")),
            "mixed up: live-1 got journalled-0.1.4 of publisher J, epoch J2, which is another",
        ),
        # What need not have been lost.
        (
            swap("live-1.2.received", stored(4), "lost J J1 4 4 -"),
            "needless: live-1.2 was told that 4 to 4 of journalled-0 are lost, and the journal has them",
        ),
        (
            swap("live-0.1.received", remembered(190), "lost M1 E1 190 190 -"),
            "needless: live-0.1 was told that 190 to 190 of memory-0.1 are lost, and its history had them",
        ),
        # Publishers.
        (swap("journalled-0.1.history", "published 1 1", "published 1 2"), "offset: journalled-0.1.1 was given 2"),
        (swap("memory-0.1.history", "published 1 1", "published 1 2"), "offset: memory-0.1.1 was given 2"),
        (swap("memory-0.2.history", "publishing 1 a,b.x", "publishing 2 a,b.x"), "history: memory-0.2.history publish"),
        (
            lambda folder: journal(folder / "journalled-0.journal", (1, STORED[:2], NAMES[:2])),
            "journal: journalled-0.1.3 was published, and is not in the journal",
        ),
        (
            lambda folder: journal(folder / "journalled-0.journal", (1, STORED, [NAMES[1], NAMES[0], *NAMES[2:]])),
            "journal: what journalled-0.1 published is in another order",
        ),
        (lambda folder: (folder / "journalled-0.journal").unlink(), "journal: journalled-0.journal is not there"),
        (lambda folder: write(folder / "journalled-0.journal", "no"), "journal: journalled-0.journal: file is not"),
        # Files.
        (lambda folder: (folder / "live-2.1.received").unlink(), "history: nothing came to live-2"),
        (lambda folder: (folder / "inbox-1.sqlite").unlink(), "lost: inbox-1 never got journalled-0.1.1 at 1"),
        (swap("live-1.2.received", stored(4), stored(4), "what J"), "history: live-1.2.received has a line of kind 'w"),
        (swap("memory-0.2.history", "published-many 1 2", "what 1"), "history: memory-0.2.history has a line of kind"),
    ],
)  # fmt: skip
def test_a_doctored_run_does_not_pass(tmp_path: Path, doctor: Callable[[Path], None], found: str) -> None:
    doctor(sound(tmp_path))
    violations = judge(tmp_path).violations
    assert any(each.startswith(found) for each in violations), violations


def test_what_is_lost_because_recovery_was_told_to_be_unreachable_is_excused(tmp_path: Path) -> None:
    sound(tmp_path)
    swap("live-1.2.received", stored(4), "lost J J1 4 4 -")(tmp_path)
    write(tmp_path / "live-1.2.history", "epoch J J2 4 known", "unreachable J")
    assert judge(tmp_path).violations == []


def test_an_empty_run_does_not_pass(tmp_path: Path) -> None:
    assert "history: nothing was published" in judge(tmp_path).violations[-1]


def test_many_violations_of_a_kind_are_not_all_spelled_out_but_counted(tmp_path: Path) -> None:
    sound(tmp_path)
    for offset in range(100, 140):
        swap("live-0.1.received", remembered(offset))(tmp_path)
    violations = judge(tmp_path).violations
    assert len(violations) == SHOWN + 1
    assert violations[-1] == "hole: 40 in all"


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("a", "a", True),
        ("a", "a.x", False),
        ("a", "ab", False),
        ("a.#", "a", True),
        ("a.#", "a.x.y", True),
        ("a.#", "ab", False),
        ("*.x", "b.x", True),
        ("*.x", "x", False),
        ("c.*.y", "c.x.y", True),
        ("c.*.y", "c.x.z", False),
        ("#", "whatever.there.is", True),
    ],
)
def test_the_judge_has_its_own_idea_of_which_topics_a_pattern_lets_in(
    pattern: str, topic: str, *, expected: bool
) -> None:
    assert lets_in(pattern, topic) is expected


def test_the_judge_shares_nothing_with_what_it_judges() -> None:
    for module in (reader, plans):
        tree = ast.parse(Path(str(module.__file__)).read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert {each for each in names if each.partition(".")[0] not in sys.stdlib_module_names} <= {
            "msgpack",
            "tests.chaos.plan",
            "tests.chaos.pubsub.plan",
            "tests.chaos.reader",
        }


def test_a_round_of_the_plan_kills_everybody_once_and_follows_from_its_seed() -> None:
    size = sum(CREW.values()) * 3 + sum(CREW.values()) // 2
    rounds = list(itertools.islice(plan(7, (0.1, 0.2)), 3 * size))
    assert rounds == list(itertools.islice(plan(7, (0.1, 0.2)), 3 * size))
    assert rounds != list(itertools.islice(plan(8, (0.1, 0.2)), 3 * size))
    for at in range(0, len(rounds), size):
        one = rounds[at : at + size]
        killed = [f"{step.role}-{step.index}" for step in one if isinstance(step, Step) and step.kind == "kill"]
        assert sorted(killed) == sorted(members(CREW))
        assert sum(isinstance(step, LinkStep) for step in one) == 2 * sum(CREW.values())


def test_a_short_plan_kills_one_of_each_role() -> None:
    steps = short_plan(7, (0.1, 0.2))
    assert steps == short_plan(7, (0.1, 0.2))
    assert sorted(step.role for step in steps if isinstance(step, Step) and step.kind == "kill") == sorted(SMALL_CREW)
