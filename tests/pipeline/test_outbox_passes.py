"""What one pass of an outbox's relay reads, hands over and removes. No journal."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from zmqkit.errors import JournalError, ZmqkitError
from zmqkit.inbox import outbox as files
from zmqkit.inbox.outbox import AT_ONCE, OutboxFile, Outgone
from zmqkit.patterns.pipeline.outbox import REMOVE_AFTER, Relay


class File:
    """So many messages, numbered from 1."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.removed: list[list[int]] = []

    def read(self, after: int = 0) -> list[Outgone]:
        last = min(self.count, after + AT_ONCE)
        return [Outgone(n, f"id {n}", "raw", 1, {}, b"x") for n in range(after + 1, last + 1)]

    def remove(self, messages: Sequence[Outgone]) -> None:
        self.removed.append([each.n for each in messages])


class Passing(Relay):
    """One whose journal stores messages up to a number."""

    def __init__(self, folder: Path, good: int = 1 << 60) -> None:
        super().__init__(self, str(folder / "journal.db"), "0" * 32)
        self.good = good
        self.stored: list[int] = []

    def _hand_over(self, messages: Sequence[Outgone]) -> tuple[list[Outgone], ZmqkitError | None]:
        stored = [each for each in messages if each.n <= self.good]
        self.stored += [each.n for each in stored]
        return stored, None if len(stored) == len(messages) else JournalError("full")


def move(relay: Relay, file: Any) -> int:
    return relay._move(file)


def test_each_message_is_handed_over_once_and_removed_with_thousands_of_others(tmp_path: Path) -> None:
    relay, file = Passing(tmp_path), File(2 * REMOVE_AFTER + 1)
    assert move(relay, file) == file.count
    assert relay.stored == list(range(1, file.count + 1))
    assert [len(each) for each in file.removed] == [REMOVE_AFTER, REMOVE_AFTER, 1]
    assert [n for each in file.removed for n in each] == relay.stored


def test_what_was_stored_before_something_failed_is_removed(tmp_path: Path) -> None:
    relay, file = Passing(tmp_path, good=2 * AT_ONCE + 7), File(5 * AT_ONCE)
    with pytest.raises(JournalError, match="full"):
        move(relay, file)
    assert file.removed == [relay.stored] == [list(range(1, 2 * AT_ONCE + 8))]


def test_a_relay_that_ends_removes_what_it_has_handed_over(tmp_path: Path) -> None:
    class Ending(Passing):
        def _hand_over(self, messages: Sequence[Outgone]) -> tuple[list[Outgone], ZmqkitError | None]:
            self._ending = True
            return super()._hand_over(messages)

    relay, file = Ending(tmp_path), File(2 * AT_ONCE)
    assert move(relay, file) == AT_ONCE
    assert [len(each) for each in file.removed] == [AT_ONCE]


def test_nothing_is_removed_from_a_file_that_was_put_in_the_place_of_the_one_that_was_read(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with closing(files.connect(tmp_path / name)) as db:
            files.begin(db, name, wait=True)
            files.make_table(db, name)
            files.put(db, name, "pusher", Outgone(0, f"of the {name} one", "raw", 1, {}, b"x"))
            files.commit(db, name)
    file = OutboxFile(str(tmp_path / "old"), "pusher")
    with closing(file):
        (first,) = file.read()
        (tmp_path / "new").replace(tmp_path / "old")
        assert file.read(first.n) == []
        file.remove([first])
        assert [(each.n, each.id) for each in file.read()] == [(first.n, "of the new one")]
