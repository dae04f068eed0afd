"""A position and the effects up to it are one commit, and it never steps back."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from zmqkit.errors import CommitIndeterminate, Duplicate, UsageError
from zmqkit.inbox import Inbox, Position, Positions, Transaction

A, B = "a" * 32, "b" * 32
FIRST, SECOND = "1" * 32, "2" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def opened(path: Path) -> tuple[Inbox, Positions]:
    inbox = Inbox(path)
    return inbox, Positions(inbox)


def begin(inbox: Inbox) -> Transaction:
    transaction = inbox.begin()
    assert transaction is not None
    return transaction


def effects(path: Path) -> int:
    db = sqlite3.connect(path)
    try:
        return int(db.execute("select count(*) from effects").fetchone()[0])
    finally:
        db.close()


def apply(inbox: Inbox, positions: Positions, position: Position) -> None:
    transaction = begin(inbox)
    try:
        transaction.connection.execute("create table if not exists effects (offset integer)")
        positions.advance(transaction, position, "id")
        transaction.connection.execute("insert into effects values (?)", (position.offset,))
        transaction.commit()
    finally:
        transaction.rollback()


def test_effect_and_position_are_there_together(path: Path) -> None:
    inbox, positions = opened(path)
    assert positions.find(A) is None
    apply(inbox, positions, Position(A, FIRST, 7))
    again = Positions(Inbox(path))
    assert again.all() == [Position(A, FIRST, 7)]
    assert effects(path) == 1


def test_a_position_never_steps_back_and_nothing_is_applied_twice(path: Path) -> None:
    inbox, positions = opened(path)
    apply(inbox, positions, Position(A, FIRST, 7))
    for offset in (7, 3):
        with pytest.raises(Duplicate, match="dealt with before"):
            apply(inbox, positions, Position(A, FIRST, offset))
    assert positions.find(A) == Position(A, FIRST, 7)
    assert effects(path) == 1


def test_a_later_epoch_is_further_though_it_uses_offsets_again_and_an_earlier_one_never_comes_back(path: Path) -> None:
    inbox, positions = opened(path)
    apply(inbox, positions, Position(A, FIRST, 7))
    apply(inbox, positions, Position(A, SECOND, 3))
    assert positions.find(A) == Position(A, SECOND, 3)
    for position in (Position(A, FIRST, 8), Position(A, SECOND, 3)):
        with pytest.raises(Duplicate, match="dealt with before"):
            apply(inbox, positions, position)
    assert Positions(Inbox(path)).all() == [Position(A, SECOND, 3)]
    assert effects(path) == 2


def test_a_transaction_that_is_rolled_back_moves_nothing(path: Path) -> None:
    inbox, positions = opened(path)
    transaction = begin(inbox)
    positions.advance(transaction, Position(A, FIRST, 9), "id")
    transaction.rollback()
    assert positions.all() == []


def test_each_publisher_has_a_position_of_its_own_and_a_newer_epoch_goes_on_in_it(path: Path) -> None:
    inbox, positions = opened(path)
    apply(inbox, positions, Position(A, FIRST, 7))
    apply(inbox, positions, Position(B, FIRST, 2))
    apply(inbox, positions, Position(A, SECOND, 8))
    assert sorted(positions.all()) == [Position(A, SECOND, 8), Position(B, FIRST, 2)]


def test_of_two_that_share_the_file_the_second_is_told_that_it_is_a_duplicate(path: Path) -> None:
    ours, theirs = opened(path), opened(path)
    apply(*ours, Position(A, FIRST, 5))
    with pytest.raises(Duplicate):
        apply(*theirs, Position(A, FIRST, 5))
    apply(*theirs, Position(A, FIRST, 6))
    assert ours[1].find(A) == Position(A, FIRST, 6)


def test_a_position_alone_can_be_stored_and_never_steps_back(path: Path) -> None:
    _, positions = opened(path)
    positions.store(Position(A, FIRST, 5), "id")
    positions.store(Position(A, FIRST, 4), "id")
    assert positions.find(A) == Position(A, FIRST, 5)


def test_it_stands_beside_an_inbox_that_was_made_before_there_were_positions(path: Path) -> None:
    old = Inbox(path)
    transaction = begin(old)
    assert transaction.record("a", "origin")
    transaction.commit()
    old.close()
    inbox, positions = opened(path)
    assert inbox.find("a") is not None
    assert positions.all() == []


def test_after_the_users_own_commit_no_position_is_moved(path: Path) -> None:
    inbox, positions = opened(path)
    transaction = begin(inbox)
    transaction.connection.execute("commit")
    with pytest.raises(UsageError, match="of the handler's own"):
        positions.advance(transaction, Position(A, FIRST, 9), "id")
    assert positions.find(A) is None


def test_a_commit_that_failed_and_shows_is_indeterminate_and_names_the_message(path: Path) -> None:
    inbox, positions = opened(path)
    transaction = begin(inbox)
    positions.advance(transaction, Position(A, FIRST, 9), "the message")
    transaction.connection.execute("commit")  # it is there, and the commit that follows is taken for a failed one
    with pytest.raises(CommitIndeterminate) as caught:
        inbox._commit(_Failing(transaction.connection), transaction._proofs)  # type: ignore[arg-type]
    assert caught.value.id == "the message"


class _Failing:
    """A connection whose commit fails after the fact."""

    in_transaction = False

    def __init__(self, real: sqlite3.Connection) -> None:
        self._real = real

    def execute(self, statement: str, *args: object) -> sqlite3.Cursor:
        if statement == "commit":
            raise sqlite3.OperationalError("disk I/O error")
        return self._real.execute(statement, *args)  # type: ignore[arg-type]

    def cursor(self) -> sqlite3.Cursor:
        return self._real.cursor()
