"""The judge itself: it passes what is sound, and finds what is lost, doubled or invented, whichever way."""

from __future__ import annotations

import ast
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgpack
import pytest

from tests.chaos import reader
from tests.chaos.plan import CREW, plan
from tests.chaos.reader import judge

LOG = "(key INTEGER PRIMARY KEY, weight INTEGER NOT NULL, crc INTEGER NOT NULL, value BLOB NOT NULL)"


EFFECTS = (
    ("id-a/0", "a", 0), ("id-a/1", "a", 1), ("b/0", "b", 0), ("id-u/0", "unknown", 0), ("c/0", "c", 0), ("o/0", "o", 0),
)  # fmt: skip


def sound(folder: Path) -> Path:
    """The files of a small run in which all is well, though a pusher and a sink were killed, and a journal restored."""
    write(
        folder / "pusher-0.1.history",
        "opened tcp://127.0.0.1:1",
        "sending a 2 - k",
        "confirmed a",
        "acked a 2",
        "settled 0 0",
        "sending b 1 own k",
        "sending poison 0 - -",
        "confirmed b",
        "confirmed poison",
        "sending full 1 - -",
        "refused full",
        "sending unknown 1 - -",
        'stats {"redelivered": 3}',
        "sending cut",
        end="",
    )
    write(
        folder / "pusher-0.2.history",
        "opened tcp://127.0.0.1:2",
        "sending c 1 own -",
        "unsure c",
        "repeating c",
        "again c",
        'stats {"redelivered": 1, "acked": 2}',
        "settled 2 1",
    )
    write(folder / "pusher-1.1.history", "opened tcp://127.0.0.1:3", "drained 0 0")
    write(folder / "pusher-1.2.history", "sending gone 2 - -", "confirmed gone", "sending kept 0 own -")
    write(
        folder / "pusher-1.3.history",
        "rolledback 1 on 7",
        "abandoned gone",
        "again kept",
        "drained 0 1",
    )
    write(folder / "pusher-0.3.history", "rolledback 2 back 3", "drained 0 0")
    write(folder / "sender-0.1.history", "sending o 1 own -", "sending p 1 - -", "refused p", "sending q 3 - -")
    write(folder / "sender-0.2.history", "drained 0 0")
    write(folder / "sink-0.1.history", "counts alone", "counted id-a/0 a 0", "counted id-a/1 a 1", "counted b", end="")
    write(
        folder / "sink-0.2.history",
        "counted b/0 b 0",
        "late b/0 b 0",
        "counted id-u/0 unknown 0",
        'stats {"duplicates_dropped": 2, "duplicates_late": 1}',
    )
    run_sql(
        folder / "effects.db",
        "create table effects(n integer primary key, id text, item text, place integer)",
        "create table zmqkit_inbox_jobs(id text primary key)",
        *[f"insert into effects (id, item, place) values {each}" for each in EFFECTS],
        "insert into zmqkit_inbox_jobs select id from effects",
    )
    run_sql(
        folder / "sender-0.db",
        "create table orders(item text, outputs integer)",
        "create table zmqkit_outbox(n integer primary key)",
        "insert into orders values ('o', 1)",
    )
    journal(folder, dead=["poison"])
    journal(folder, dead=["kept"], name="pusher-1")
    journal(folder, dead=[], name="sender-0")
    return folder


def run_sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for each in ("pragma synchronous = off", "pragma journal_mode = memory", "begin", *statements):
            connection.execute(each)


def sql(name: str, *statements: str) -> Callable[[Path], None]:
    return lambda folder: run_sql(folder / name, *statements)


def count(id: str, item: str, place: int) -> Callable[[Path], None]:
    """Let a result be counted, with its record if there is none."""
    return sql(
        "effects.db",
        f"insert into effects (id, item, place) values ('{id}', '{item}', {place})",
        f"insert or ignore into zmqkit_inbox_jobs values ('{id}')",
    )


def uncount(id: str) -> Callable[[Path], None]:
    return sql(
        "effects.db", f"delete from effects where id = '{id}'", f"delete from zmqkit_inbox_jobs where id = '{id}'"
    )


def write(path: Path, *lines: str, end: str = "\n") -> None:
    path.write_text("\n".join(lines) + end)


def journal(folder: Path, *, dead: list[str], waiting: int = 0, name: str = "pusher-0") -> None:
    """A journal as docs/journal-format.md describes it, as far as the reader looks."""
    path = folder / f"{name}.journal"
    path.unlink(missing_ok=True)
    run_sql(path, *[f"CREATE TABLE log_{name}{LOG}" for name in ("messages", "marks", "dead")])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("pragma synchronous = off")
        letters = [msgpack.packb([1, {"body": msgpack.packb({"item": item})}]) for item in dead]
        connection.executemany("INSERT INTO log_dead VALUES(?, 1, 0, ?)", enumerate(letters))
        connection.executemany("INSERT INTO log_messages VALUES(?, 1, 0, '')", [(key,) for key in range(waiting)])


def drop(name: str, line: str, instead: str = "") -> Callable[[Path], None]:
    def doctor(folder: Path) -> None:
        before, there, after = (folder / name).read_text().partition(f"{line}\n")
        assert there
        (folder / name).write_text(f"{before}{instead}\n{after}" if instead else before + after)

    return doctor


def add(name: str, line: str) -> Callable[[Path], None]:
    def doctor(folder: Path) -> None:
        text = (folder / name).read_text()
        first = name.startswith(("pusher", "sender"))
        (folder / name).write_text(f"{line}\n{text}" if first else f"{text}{line}\n")

    return doctor


def add_last(name: str, line: str) -> Callable[[Path], None]:
    def doctor(folder: Path) -> None:
        (folder / name).write_text(f"{(folder / name).read_text()}{line}\n")

    return doctor


def both(*doctors: Callable[[Path], None]) -> Callable[[Path], None]:
    def doctor(folder: Path) -> None:
        for each in doctors:
            each(folder)

    return doctor


def test_a_sound_run_passes_and_is_counted(tmp_path: Path) -> None:
    verdict = judge(sound(tmp_path))
    assert verdict.violations == []
    assert (verdict.confirmed, verdict.unconfirmed, verdict.refused) == (5, 4, 2)
    assert (verdict.abandoned, verdict.came, verdict.again, verdict.ordered) == (1, 2, 2, 1)
    assert verdict.restored == {"on": 1, "back": 1}
    assert (verdict.counted, verdict.duplicates, verdict.dead) == (6, 3, 2)
    assert (verdict.watched, verdict.late, verdict.keyed) == (1, 1, 1)
    assert verdict.stats["pusher.redelivered"] == 4
    assert verdict.stats["pusher.acked"] == 2


def test_what_was_about_to_be_sent_again_may_have_come_behind_others_of_its_key(tmp_path: Path) -> None:
    folder = sound(tmp_path)
    sql("effects.db", "update effects set n = 0 where id = 'b/0'")(folder)
    add("pusher-0.2.history", "repeating b")(folder)
    assert judge(folder).violations == []


@pytest.mark.parametrize(
    ("doctor", "found"),
    [
        (uncount("b/0"), "lost: b was confirmed"),
        (both(uncount("id-a/1"), drop("sink-0.1.history", "counted id-a/1 a 1")), "lost: a was confirmed"),
        (uncount("id-u/0"), "lost: sink-0.2.history counted result 0 of unknown"),
        (uncount("c/0"), "lost: c was confirmed"),
        (both(add("pusher-0.1.history", "sending half 2 - -"), count("x/0", "half", 0)), "lost: half was stored"),
        (both(uncount("o/0"), count("q/0", "q", 0)), "lost: o was confirmed"),
        (sql("sender-0.db", "insert into zmqkit_outbox values (7)"), "lost: sender-0.db: 1 messages are left"),
        (add("sender-0.1.history", "confirmed q"), "history: sender-0.1.history: confirmed q, which it never sent"),
        (add_last("sender-0.1.history", "confirmed q"), "lost: q was confirmed, and is not among the orders"),
        (count("q/0", "q", 0), "invented: q was counted, and is not among the orders"),
        (sql("sender-0.db", "insert into orders values ('p', 1)"), "invented: p is ordered in sender-0.db, and was"),
        (sql("sender-0.db", "insert into orders values ('a', 2)"), "history: sender-0.db has 1 orders of a"),
        (sql("sender-0.db", "insert into orders values ('o', 2)"), "history: sender-0.db has 2 orders of o"),
        (add("pusher-0.2.history", "confirmed c"), "history: pusher-0.2.history: confirmed c, which it never sent"),
        (drop("pusher-0.3.history", "drained 0 0"), "not drained: pusher-0.3.history"),
        (count("id-a/1", "a", 1), "doubled: result 1 of a was counted as id-a/1 and as id-a/1"),
        (count("id-again/1", "a", 1), "doubled: result 1 of a was counted as id-a/1 and as id-again/1"),
        (both(add("pusher-0.1.history", "sending d 1 - -"), count("b/0", "d", 0)), "doubled: id b/0"),
        (add("sink-0.2.history", "counted id-a/1 a 1"), "doubled: id id-a/1 was counted by sink-0.1.history and by"),
        (count("id-n/0", "nobody", 0), "invented: nobody was counted and never sent"),
        (count("b/1", "b", 1), "invented: result 1 of b, which has 1"),
        (count("id-p/0", "poison", 0), "invented: result 0 of poison, which has 0"),
        (count("id-f/0", "full", 0), "invented: full was counted, and its sender was told"),
        (sql("effects.db", "delete from zmqkit_inbox_jobs where id = 'b/0'"), "records: id b/0 was counted, and has"),
        (sql("effects.db", "insert into zmqkit_inbox_jobs values ('z')"), "records: id z has a record, and was not"),
        (sql("effects.db", "update effects set n = 0 where id = 'b/0'"), "order: b was counted before a, of the same"),
        (drop("pusher-1.3.history", "rolledback 1 on 7"), "history: pusher-1.3.history: abandoned gone, which no"),
        (drop("pusher-1.3.history", "abandoned gone"), "lost: gone was confirmed"),
        (add_last("pusher-1.3.history", "again gone"), "history: pusher-1.3.history: again gone, which it cannot say"),
        (add_last("pusher-1.3.history", "repeating gone"), "history: pusher-1.3.history: repeating gone, which it"),
        (add_last("pusher-1.3.history", "abandoned kept"), "history: pusher-1.3.history: abandoned kept, which it"),
        (add_last("pusher-1.3.history", "abandoned a"), "history: pusher-1.3.history: abandoned a, which it cannot"),
        (drop("pusher-1.3.history", "rolledback 1 on 7", "unnoticed 1"), "unnoticed: pusher-1.3.history: gone and"),
        (add("pusher-0.2.history", "sending a 2 - -"), "history: pusher-0.2.history sends a twice"),
        (add("pusher-0.2.history", "settled 3 0"), "settled: pusher-0.2.history: counts fell"),
        (drop("pusher-0.2.history", "settled 2 1", "settled 9 1"), "settled: pusher-0 saw 10 messages settle and"),
        (drop("pusher-0.1.history", "acked a 2", "acked a 1"), "settled: a was said to have settled before"),
        (drop("pusher-0.1.history", "acked a 2", "dead a 2"), "settled: pusher-0.1.history was told that a is dead"),
        (drop("pusher-0.1.history", "acked a 2", "acked z 0"), "history: pusher-0.1.history: acked z, which it never"),
        (add("pusher-0.2.history", "what 1"), "history: pusher-0.2.history has a line of kind 'what'"),
        (lambda folder: journal(folder, dead=["poison"], waiting=2), "journal: pusher-0.journal: 2 rows (2 messages)"),
        (lambda folder: journal(folder, dead=[]), "lost: poison was confirmed; it is poison"),
        (lambda folder: journal(folder, dead=["poison", "a"]), "dead: a is a dead letter, and is not poison"),
        (lambda folder: journal(folder, dead=["poison"] * 2), "dead: poison is a dead letter 2 times"),
        (lambda folder: (folder / "pusher-0.journal").unlink(), "journal: pusher-0.journal is not there"),
        (lambda folder: write(folder / "pusher-0.journal", "no"), "journal: pusher-0.journal: file is not a database"),
        (lambda folder: write(folder / "pusher-0.journal-wal", "x"), "journal: pusher-0.journal was not closed"),
        (sql("effects.db", "delete from effects"), "history: nothing was confirmed, or nothing was counted"),
        (lambda folder: (folder / "effects.db").unlink(), "journal: effects.db is not there"),
    ],
)
def test_a_doctored_run_does_not_pass(tmp_path: Path, doctor: Callable[[Path], None], found: str) -> None:
    doctor(sound(tmp_path))
    violations = judge(tmp_path).violations
    assert any(each.startswith(found) for each in violations), violations


def test_many_violations_of_a_kind_are_not_all_spelled_out_but_counted(tmp_path: Path) -> None:
    sound(tmp_path)
    for number in range(40):
        count(f"id-{number}", "nobody", number)(tmp_path)
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
    assert sum(step.kind == "kill" for step in steps) == 100
    for role in CREW:
        assert len([each for each in steps if each.role == role and each.kind == "kill"]) == 100 // len(CREW)
        assert any(each.role == role and each.kind == "stop" for each in steps)


def test_each_journal_is_copied_and_put_back_in_turn() -> None:
    disks: dict[str, list[str]] = {}
    for step in plan(200, 7):
        if step.kind == "kill":
            disks.setdefault(f"{step.role}-{step.index}", []).append(step.disk)
    assert disks["pusher-0"][:8] == ["copy", "", "on", "", "copy", "", "back", ""]
    assert disks["pusher-1"][:8] == ["copy", "", "back", "", "copy", "", "on", ""]
    assert disks["sender-0"][:8] == ["copy", "", "back", "", "copy", "", "back", ""]
    assert set(disks["worker-0"]) == set(disks["sink-0"]) == {""}
