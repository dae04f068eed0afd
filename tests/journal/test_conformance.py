"""What every journal must do, over SQLite at both durabilities and over memory."""

from __future__ import annotations

import random
import threading

import pytest

from tests.journal.helpers import LAST, delete, everything, keys, put, puts
from zmqkit.errors import JournalError
from zmqkit.journal import Journal, MemoryJournal, Totals
from zmqkit.journal.changes import runs
from zmqkit.protocol.core import Read, Row, Write

EMPTY = Totals(0, 0, 0, 0)


def test_a_new_journal_is_empty(journal: Journal) -> None:
    for log in ("messages", "marks", "dead"):
        assert journal.totals(log) == EMPTY
        assert journal.highest(log) == 0
        assert everything(journal, log) == []


def test_it_has_an_identity(journal: Journal) -> None:
    for name in (journal.uuid, journal.epoch):
        assert len(name) == 32
        int(name, 16)
    assert journal.uuid != journal.epoch


def test_rows_come_back_as_they_were_put_in_the_order_of_their_keys(journal: Journal) -> None:
    big = bytes(range(256)) * 400
    journal.commit([put(7, b"seven", weight=3), put(2, b""), put(LAST, big, weight=256), put(5, b"\0\xff")])
    assert everything(journal) == [Row(2, 1, b""), Row(5, 1, b"\0\xff"), Row(7, 3, b"seven"), Row(LAST, 256, big)]
    assert journal.totals("messages") == Totals(4, 261, 2, LAST)


def test_logs_are_apart(journal: Journal) -> None:
    journal.commit([put(1, b"m"), put(1, b"d", log="dead", weight=9), put(2, b"k", log="marks")])
    assert everything(journal, "messages") == [Row(1, 1, b"m")]
    assert everything(journal, "dead") == [Row(1, 9, b"d")]
    assert everything(journal, "marks") == [Row(2, 1, b"k")]
    assert journal.totals("dead") == Totals(1, 9, 1, 1)


def test_the_last_write_of_a_key_wins_within_a_commit(journal: Journal) -> None:
    journal.commit([put(1, b"a"), put(2, b"b"), put(1, b"c", weight=5), delete(2), delete(3), put(3, b"d")])
    assert everything(journal) == [Row(1, 5, b"c"), Row(3, 1, b"d")]
    assert journal.totals("messages") == Totals(2, 6, 1, 3)


def test_the_last_write_of_a_key_wins_across_commits(journal: Journal) -> None:
    journal.commit([put(1, b"a", weight=10), put(2, b"b")])
    journal.commit([put(1, b"longer than before", weight=3)])
    journal.commit([delete(2)])
    assert everything(journal) == [Row(1, 3, b"longer than before")]
    assert journal.totals("messages") == Totals(1, 3, 1, 1)


def test_deleting_what_is_not_there_is_harmless(journal: Journal) -> None:
    journal.commit([put(3)])
    journal.commit([delete(1), delete(2), delete(9)])
    assert keys(journal) == [3]
    assert journal.totals("messages") == Totals(1, 1, 3, 3)


def test_an_empty_commit_changes_nothing(journal: Journal) -> None:
    journal.commit([])
    assert journal.totals("messages") == EMPTY


def test_a_key_that_was_deleted_can_be_put_again(journal: Journal) -> None:
    journal.commit(puts(range(1, 200)))
    journal.commit([delete(key) for key in range(1, 150)])
    journal.commit([put(77, b"again", weight=4)])
    assert journal.read(Read("messages", 1, 150, 1)) == [Row(77, 4, b"again")]
    assert journal.totals("messages") == Totals(51, 54, 77, 199)


def test_the_highest_key_survives_deletes(journal: Journal) -> None:
    journal.commit(puts(range(1, 11)))
    journal.commit([delete(key) for key in range(1, 11)])
    assert journal.totals("messages") == EMPTY
    assert journal.highest("messages") == 10
    journal.commit([put(12), delete(12)])
    assert journal.highest("messages") == 12
    journal.commit([put(4)])
    assert journal.highest("messages") == 12
    assert journal.highest("dead") == 0


def test_many_rows_in_one_commit(journal: Journal) -> None:
    journal.commit([put(key, b"%d" % key, weight=key) for key in range(1, 2001)])
    assert journal.totals("messages") == Totals(2000, sum(range(1, 2001)), 1, 2000)
    assert everything(journal) == [Row(key, key, b"%d" % key) for key in range(1, 2001)]
    journal.commit([delete(key) for key in range(1, 2001) if key % 3])
    assert keys(journal) == list(range(3, 2001, 3))


# ---- reading ---------------------------------------------------------------------


def test_a_read_includes_both_ends_of_its_span(journal: Journal) -> None:
    journal.commit(puts(range(1, 10)))
    assert [row.key for row in journal.read(Read("messages", 3, 6, 1000))] == [3, 4, 5, 6]
    assert [row.key for row in journal.read(Read("messages", 4, 4, 1000))] == [4]
    assert journal.read(Read("messages", 6, 3, 1000)) == []


def test_a_read_stops_after_the_row_that_reaches_its_size(journal: Journal) -> None:
    journal.commit(puts(range(1, 10), b"0123456789"))
    for size_bytes, expected in [(1, 1), (10, 1), (11, 2), (20, 2), (21, 3), (1000, 9)]:
        assert [row.key for row in journal.read(Read("messages", 1, LAST, size_bytes))] == list(range(1, expected + 1))


def test_a_read_gives_at_least_one_row_however_large(journal: Journal) -> None:
    journal.commit([put(5, bytes(100_000)), put(6)])
    assert [row.key for row in journal.read(Read("messages", 1, LAST, 1))] == [5]


def test_a_read_of_empty_values_ends_too(journal: Journal) -> None:
    journal.commit(puts(range(1, 101), b""))
    assert len(journal.read(Read("messages", 1, LAST, 10))) == 10


def test_reading_in_steps_gives_all_rows_once(journal: Journal) -> None:
    journal.commit([put(key, bytes(key % 50)) for key in range(3, 900, 7)])
    found: list[int] = []
    while rows := journal.read(Read("messages", found[-1] + 1 if found else 1, LAST, 200)):
        found += [row.key for row in rows]
    assert found == list(range(3, 900, 7))


def test_a_read_sees_only_its_span_when_rows_around_it_are_deleted(journal: Journal) -> None:
    journal.commit(puts(range(1, 300)))
    journal.commit([delete(key) for key in range(1, 300) if key not in (10, 20, 30)])
    assert [row.key for row in journal.read(Read("messages", 11, 29, 1000))] == [20]
    assert journal.read(Read("messages", 21, 29, 1000)) == []
    assert journal.totals("messages") == Totals(3, 3, 10, 30)


# ---- misuse ----------------------------------------------------------------------


def test_an_unknown_log_is_a_mistake_that_changes_nothing(journal: Journal) -> None:
    with pytest.raises(ValueError, match="no log is named 'other'"):
        journal.commit([put(1), put(1, log="other")])
    with pytest.raises(ValueError, match="no log is named 'other'"):
        journal.read(Read("other", 1, 2, 3))
    with pytest.raises(ValueError, match="no log is named 'other'"):
        journal.totals("other")
    with pytest.raises(ValueError, match="no log is named 'other'"):
        journal.highest("other")
    assert everything(journal) == []


@pytest.mark.parametrize("write", [put(0), put(-1), put(LAST + 1), delete(0), put(1, weight=-1)], ids=str)
def test_keys_and_weights_out_of_range_are_mistakes_that_change_nothing(journal: Journal, write: Write) -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        journal.commit([put(1), write])
    assert everything(journal) == []
    assert journal.highest("messages") == 0
    journal.commit([put(1)])
    assert keys(journal) == [1]


def test_a_closed_journal_says_so(journal: Journal) -> None:
    journal.close()
    journal.close()
    for use in (
        lambda: journal.commit([put(1)]),
        lambda: journal.read(Read("messages", 1, 2, 3)),
        lambda: journal.totals("messages"),
        lambda: journal.highest("messages"),
    ):
        with pytest.raises(JournalError, match="closed"):
            use()


# ---- threads ---------------------------------------------------------------------


def test_threads_share_a_journal(journal: Journal) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(25):
                key = step * 4 + number
                journal.commit([put(key, b"%d" % key)])
                assert journal.read(Read("messages", key, key, 1)) == [Row(key, 1, b"%d" % key)]
                assert journal.totals("messages").rows > step
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert keys(journal) == list(range(1, 101))


# ---- against a model -------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_it_agrees_with_a_dict_whatever_is_done(journal: Journal, seed: int) -> None:
    chance = random.Random(seed)
    model: dict[str, dict[int, Row]] = {"messages": {}, "marks": {}, "dead": {}}
    highest = dict.fromkeys(model, 0)
    for _ in range(60):
        writes = []
        for _ in range(chance.choice([1, 1, 5, 150])):
            log = chance.choice(["messages", "messages", "marks", "dead"])
            key = chance.choice([highest[log] + 1, chance.randint(1, highest[log] + 3), chance.randint(1, 40)])
            value = None if chance.random() < 0.45 else chance.randbytes(chance.choice([0, 1, 30, 3000]))
            writes.append(Write(log, key, chance.randint(0, 300), value))
            highest[log] = max(highest[log], key)
        journal.commit(writes)
        for log, key, weight, value in writes:
            if value is None:
                model[log].pop(key, None)
            else:
                model[log][key] = Row(key, weight, value)
        for log, rows in model.items():
            expected = [rows[key] for key in sorted(rows)]
            first, last = (expected[0].key, expected[-1].key) if expected else (0, 0)
            assert journal.totals(log) == Totals(len(rows), sum(row.weight for row in expected), first, last)
            assert journal.highest(log) == highest[log]
            low = chance.randint(1, highest[log] + 1)
            high = low + chance.randint(0, 50)
            assert journal.read(Read(log, low, high, 1 << 20)) == [row for row in expected if low <= row.key <= high]
    for log, rows in model.items():
        assert everything(journal, log) == [rows[key] for key in sorted(rows)]


def test_runs_are_the_spans_of_consecutive_keys() -> None:
    assert runs([]) == []
    assert runs([5]) == [(5, 5)]
    assert runs([3, 1, 2]) == [(1, 3)]
    assert runs([9, 1, 2, 4, 8]) == [(1, 2), (4, 4), (8, 9)]


def test_a_journal_in_memory_does_not_keep_the_keys_of_what_is_gone() -> None:
    journal = MemoryJournal()
    for first in range(1, 100_000, 100):
        journal.commit(puts(range(first, first + 100)))
        journal.commit([delete(key) for key in range(first, first + 100)])
    assert journal.totals("messages") == EMPTY
    assert len(journal._logs["messages"].keys) < 1000
