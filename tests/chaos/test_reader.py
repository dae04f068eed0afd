"""The judge itself: it passes what is sound, and finds what is lost, doubled or invented, whichever way."""

from __future__ import annotations

import ast
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest

from tests.chaos import reader
from tests.chaos.plan import CREW, plan
from tests.chaos.reader import judge

LOG = "(key INTEGER PRIMARY KEY, weight INTEGER NOT NULL, crc INTEGER NOT NULL, value BLOB NOT NULL)"


def sound(folder: Path) -> Path:
    """The files of a small run in which all is well, though a pusher and a sink were killed."""
    write(
        folder / "pusher-0.1.history",
        "opened tcp://127.0.0.1:1",
        "sending a 2",
        "confirmed a",
        "acked a 22",
        "settled 0 0",
        "sending b 1",
        "sending poison 0",
        "confirmed b",
        "confirmed poison",
        "sending full 1",
        "refused full",
        "sending unknown 1",
        'stats {"redelivered": 3}',
        "sending cut",
        end="",
    )
    write(
        folder / "pusher-0.2.history",
        "opened tcp://127.0.0.1:2",
        "sending c 1",
        "unsure c",
        'stats {"redelivered": 1, "acked": 2}',
        "drained 2 1",
    )
    write(folder / "ledger", "id-a/0 a 0", "id-a/1 a 1", "id-b/0 b 0", "id-u/0 unknown 0")
    write(
        folder / "sink-0.1.history", "counts alone", "counted id-a/0 a 0", "counted id-a/1 a 1", "counted id-b", end=""
    )
    write(
        folder / "sink-0.2.history",
        "duplicate id-a/1 a 1",
        "duplicate id-b/0 b 0",
        "late id-b/0 b 0",
        "counted id-u/0 unknown 0",
    )
    journal(folder, dead=["poison"])
    return folder


def write(path: Path, *lines: str, end: str = "\n") -> None:
    path.write_text("\n".join(lines) + end)


def journal(folder: Path, *, dead: list[str], waiting: int = 0) -> None:
    """A journal as docs/protocol.md describes it, as far as the reader looks."""
    path = folder / "pusher-0.journal"
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    with connection:
        for name in ("messages", "marks", "dead"):
            connection.execute(f"CREATE TABLE log_{name}{LOG}")
        letters = [msgpack.packb([1, {"body": msgpack.packb({"item": item})}]) for item in dead]
        connection.executemany("INSERT INTO log_dead VALUES(?, 1, 0, ?)", enumerate(letters))
        connection.executemany("INSERT INTO log_messages VALUES(?, 1, 0, '')", [(key,) for key in range(waiting)])
    connection.close()


def drop(name: str, line: str, instead: str = "") -> Callable[[Path], None]:
    def doctor(folder: Path) -> None:
        before, there, after = (folder / name).read_text().partition(f"{line}\n")
        assert there
        (folder / name).write_text(f"{before}{instead}\n{after}" if instead else before + after)

    return doctor


def add(name: str, line: str) -> Callable[[Path], None]:
    def doctor(folder: Path) -> None:
        text = (folder / name).read_text()
        (folder / name).write_text(f"{line}\n{text}" if name.startswith("pusher") else f"{text}{line}\n")

    return doctor


def both(*doctors: Callable[[Path], None]) -> Callable[[Path], None]:
    def doctor(folder: Path) -> None:
        for each in doctors:
            each(folder)

    return doctor


def test_a_sound_run_passes_and_is_counted(tmp_path: Path) -> None:
    verdict = judge(sound(tmp_path))
    assert verdict.violations == []
    assert (verdict.confirmed, verdict.unconfirmed, verdict.refused) == (3, 2, 1)
    assert (verdict.counted, verdict.duplicates, verdict.dead) == (4, 2, 1)
    assert (verdict.watched, verdict.late) == (1, 1)
    assert verdict.stats == {"pusher.redelivered": 4, "pusher.acked": 2}


@pytest.mark.parametrize(
    ("doctor", "found"),
    [
        (drop("ledger", "id-b/0 b 0"), "lost: b was confirmed"),
        (both(drop("ledger", "id-a/1 a 1"), drop("sink-0.1.history", "counted id-a/1 a 1")), "lost: a was confirmed"),
        (drop("ledger", "id-u/0 unknown 0"), "lost: sink-0.2.history counted result 0 of unknown"),
        (both(add("pusher-0.1.history", "sending half 2"), add("ledger", "x/0 half 0")), "lost: half was stored"),
        (add("pusher-0.2.history", "confirmed c"), "history: pusher-0.2.history: confirmed c, which it never sent"),
        (drop("pusher-0.2.history", "drained 2 1"), "not drained: pusher-0.2.history"),
        (add("ledger", "id-a/1 a 1"), "doubled: result 1 of a was counted as id-a/1 and as id-a/1"),
        (add("ledger", "id-again/1 a 1"), "doubled: result 1 of a was counted as id-a/1 and as id-again/1"),
        (both(add("pusher-0.1.history", "sending d 1"), add("ledger", "id-b/0 d 0")), "doubled: id id-b/0"),
        (add("sink-0.2.history", "counted id-a/1 a 1"), "doubled: id id-a/1 was counted by sink-0.1.history and by"),
        (add("ledger", "id-n/0 nobody 0"), "invented: nobody was counted and never sent"),
        (add("ledger", "id-b/1 b 1"), "invented: result 1 of b, which has 1"),
        (add("ledger", "id-p/0 poison 0"), "invented: result 0 of poison, which has 0"),
        (add("ledger", "id-f/0 full 0"), "invented: full was counted, and its sender was told"),
        (add("pusher-0.2.history", "sending a 2"), "history: pusher-0.2.history sends a twice"),
        (add("pusher-0.2.history", "settled 3 0"), "settled: pusher-0.2.history: counts fell"),
        (
            both(drop("pusher-0.2.history", "drained 2 1"), add("pusher-0.2.history", "drained 9 1")),
            "settled: pusher-0",
        ),
        (drop("pusher-0.1.history", "acked a 22", "acked a 21"), "settled: a was said to have settled before"),
        (drop("pusher-0.1.history", "acked a 22", "dead a 22"), "settled: pusher-0.1.history was told that a is dead"),
        (drop("pusher-0.1.history", "acked a 22", "acked z 0"), "history: pusher-0.1.history: acked z, which it never"),
        (add("pusher-0.2.history", "what 1"), "history: pusher-0.2.history has a line of kind 'what'"),
        (lambda folder: journal(folder, dead=["poison"], waiting=2), "journal: pusher-0.journal: 2 rows (2 messages)"),
        (lambda folder: journal(folder, dead=[]), "lost: poison was confirmed; it is poison"),
        (lambda folder: journal(folder, dead=["poison", "a"]), "dead: a is a dead letter, and is not poison"),
        (lambda folder: journal(folder, dead=["poison"] * 2), "dead: poison is a dead letter 2 times"),
        (lambda folder: (folder / "pusher-0.journal").unlink(), "journal: pusher-0.journal is not there"),
        (lambda folder: write(folder / "pusher-0.journal", "no"), "journal: pusher-0.journal: file is not a database"),
        (lambda folder: write(folder / "pusher-0.journal-wal", "x"), "journal: pusher-0.journal was not closed"),
        (lambda folder: (folder / "ledger").unlink(), "history: nothing was confirmed, or nothing was counted"),
    ],
)
def test_a_doctored_run_does_not_pass(tmp_path: Path, doctor: Callable[[Path], None], found: str) -> None:
    doctor(sound(tmp_path))
    violations = judge(tmp_path).violations
    assert any(each.startswith(found) for each in violations), violations


def test_many_violations_of_a_kind_are_not_all_spelled_out_but_counted(tmp_path: Path) -> None:
    sound(tmp_path)
    for number in range(40):
        add("ledger", f"id-{number} nobody {number}")(tmp_path)
    violations = judge(tmp_path).violations
    assert len(violations) == reader.SHOWN + 1
    assert violations[-1] == "invented: 40 in all"


def test_the_judge_shares_nothing_with_what_it_judges() -> None:
    tree = ast.parse(Path(reader.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} - sys.stdlib_module_names == {"msgpack"}


def test_a_plan_of_a_hundred_kills_harms_every_role_and_follows_from_its_seed() -> None:
    steps = plan(100, 7)
    assert steps == plan(100, 7) != plan(100, 8)
    for role in CREW:
        assert len([each for each in steps if each.role == role and each.kind == "kill"]) >= 20
        assert any(each.role == role and each.kind == "stop" for each in steps)
