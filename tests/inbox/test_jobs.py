"""Records of jobs: who was first, and for how long that is remembered."""

from __future__ import annotations

import itertools
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from zmqkit.inbox import Inbox, JobRecord, JobRecords, record_of
from zmqkit.inbox.jobs import NOTHING, PRUNE_AT_ONCE, PRUNE_EVERY, Known

ORIGIN = "0123456789abcdef-01234567"
DAY = 86_400.0


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path / "state.db")


def do(records: JobRecords, inbox: Inbox, *jobs: JobRecord) -> Known:
    """What a transaction of these jobs would find, committed if that is nothing."""
    transaction = inbox.begin()
    assert transaction is not None
    try:
        known = records.record(transaction, jobs)
        if known is NOTHING:
            transaction.commit()
        return known
    finally:
        transaction.rollback()


def job(number: int, sent: float) -> JobRecord:
    return record_of(f"{ORIGIN}-{number}", ORIGIN, int(sent * 1e6))


def count(inbox: Inbox) -> int:
    (found,) = inbox.connection().execute("select count(*) from zmqkit_inbox_jobs").fetchone()
    return int(found)


def test_the_first_one_is_recorded_and_the_second_one_told(inbox: Inbox) -> None:
    records = JobRecords(inbox)
    assert do(records, inbox, job(1, 5.0), job(2, 5.0)) is NOTHING
    assert do(records, inbox, job(2, 5.0), job(3, 5.0)).done == {job(2, 5.0).id}
    assert count(inbox) == 2
    assert records.look_up([job(number, 5.0) for number in range(4)]).done == {job(1, 5.0).id, job(2, 5.0).id}


def test_more_ids_than_one_statement_takes_are_looked_up(inbox: Inbox) -> None:
    records = JobRecords(inbox)
    jobs = [job(number, 5.0) for number in range(1201)]
    assert do(records, inbox, *jobs[::2]) is NOTHING
    assert records.look_up(jobs).done == {each.id for each in jobs[::2]}


def test_within_a_transaction_nothing_is_taken_for_done_that_is_not_committed(inbox: Inbox) -> None:
    records = JobRecords(inbox)
    transaction = inbox.begin()
    assert transaction is not None
    records.record(transaction, [job(1, 5.0)])
    assert records.look_up([job(1, 5.0)]) is NOTHING
    transaction.rollback()
    assert records.look_up([job(1, 5.0)]) == NOTHING


def test_the_ids_of_users_and_of_workers_are_remembered_for_ever() -> None:
    derived = f"{ORIGIN}-7"
    assert record_of(derived, ORIGIN, 5).sent == 5
    assert record_of(f"{ORIGIN[:16]}-{'a' * 24}", ORIGIN, 5).sent == 5, "from an outbox"
    for id in ("order 7", f"{derived}/0", f"{derived}/0/1", f"x{derived}", f"{derived}\n", ""):
        assert record_of(id, ORIGIN, 5).sent is None


@pytest.mark.slow
def test_without_a_limit_nothing_is_removed(inbox: Inbox) -> None:
    now = 0.0
    records = JobRecords(inbox, clock=lambda: now)
    for number in range(3 * PRUNE_EVERY):
        now += DAY
        assert do(records, inbox, job(number, now)) is NOTHING
    assert count(inbox) == 3 * PRUNE_EVERY


@pytest.mark.slow
def test_what_is_old_is_removed_and_its_return_is_not_taken_for_new(inbox: Inbox) -> None:
    now = 0.0
    records = JobRecords(inbox, keep=50 * DAY, clock=lambda: now)
    total = 3 * PRUNE_EVERY
    for number in range(total):
        now += DAY
        assert do(records, inbox, job(number, now)) is NOTHING
    left = count(inbox)
    assert 50 <= left <= 50 + PRUNE_EVERY
    for number in range(total):
        known = records.look_up([job(number, (number + 1) * DAY)])
        assert known == do(records, inbox, job(number, (number + 1) * DAY)), "both ways tell the same"
        assert len(known.done) + len(known.forgotten) == 1, "it would be done twice"
    assert count(inbox) == left
    assert records.look_up([job(total, 3 * DAY)]).forgotten, "it may have been done"
    assert do(records, inbox, job(total, now)) is NOTHING


@pytest.mark.slow
def test_no_clock_that_is_set_makes_a_record_be_forgotten_silently(inbox: Inbox) -> None:
    now = 100 * DAY
    records = JobRecords(inbox, keep=DAY, clock=lambda: now)
    for number in range(PRUNE_EVERY):
        do(records, inbox, job(number, now))
    now = 10_000 * DAY  # everything is old now
    for number in range(PRUNE_EVERY):
        do(records, inbox, job(1000 + number, now))
    assert count(inbox) <= PRUNE_EVERY
    now = 100 * DAY  # and put right
    fresh = JobRecords(inbox, keep=DAY, clock=lambda: now)
    for number in range(PRUNE_EVERY):
        known = do(fresh, inbox, job(number, now))
        assert known.done or known.forgotten


@pytest.mark.slow
def test_not_too_much_is_removed_with_one_commit(inbox: Inbox) -> None:
    now = 0.0
    records = JobRecords(inbox, keep=DAY, clock=lambda: now)
    old = [job(number, number) for number in range(3 * PRUNE_AT_ONCE)]
    assert do(records, inbox, *old) is NOTHING
    now = 10 * DAY
    sizes = []
    for number in range(4 * PRUNE_EVERY):
        do(records, inbox, job(10_000 + number, now))
        sizes.append(count(inbox))
    assert min(after - before for before, after in itertools.pairwise(sizes)) == 1 - PRUNE_AT_ONCE
    assert sizes[-1] <= 4 * PRUNE_EVERY


def test_the_table_is_for_users_too(tmp_path: Path) -> None:
    """What `Job.claim` makes in a file, an inbox there takes for its own."""
    from zmqkit.inbox.jobs import TABLE

    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(TABLE)
        db.execute("insert into zmqkit_inbox_jobs values ('a', 'x', 1, null)")
    inbox = Inbox(path)
    assert JobRecords(inbox).look_up([JobRecord("a", "x", None)]).done == {"a"}
    inbox.close()
