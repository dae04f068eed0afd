"""Who is suspected when a puller dies, and who is kept for suspects."""

from __future__ import annotations

from zmqkit.patterns.pipeline.leases import Holder, Lot
from zmqkit.patterns.pipeline.rows import Row
from zmqkit.patterns.pipeline.runs import Run
from zmqkit.patterns.pipeline.suspects import ENOUGH, Suspects, suspected
from zmqkit.protocol.session import Session
from zmqkit.protocol.wire import Hello


def holder(held: int, *, first: int = 1) -> Holder:
    """One that holds a row of so many messages, by as many leases; sequences and leases begin at `first`."""
    made = Holder(
        Session(
            Hello(role="pull", instance=b"i" * 16, session=b"sessions", credit_messages=9, credit_bytes=9), "link",
            dialled=False,
        )
    )  # fmt: skip
    if held:
        made.lease(Lot(first, Run(Row(first, "o", 0, "raw", [0] * held, b"", {}, {}), 0, held, False), 1))
    return made


def waits(suspects: Suspects, sequence: int) -> None:
    suspects.deaths[sequence] = ENOUGH
    suspects.waiting.append((Row(sequence, "o", 0, "raw", [0], b"", {}, {}), 0))


def test_any_may_have_been_started_by_one_that_never_told() -> None:
    assert suspected(holder(5)) == {1: 0b11111}


def test_those_that_were_started_are_suspected_and_as_many_more_as_ended_by_its_last_word() -> None:
    one = holder(8)
    one.started, one.stride = 2, 1
    assert suspected(one) == {1: 0b111}
    one.stride = 4
    assert suspected(one) == {1: 0b111111}
    for _ in one.end(1, 3):
        pass
    one.stride = 1
    assert suspected(one) == {1: 0b1000}, "what is started and settled is not there any more: the next one is"


def test_two_starts_or_four_deaths_beside_them_are_enough() -> None:
    suspects = Suspects()
    one = holder(3)
    one.started = 1
    one.stride = 0  # as if it had told this very moment
    assert [suspects.died(one) for _ in range(4)] == [0, 1, 0, 2]
    suspects.settled(next(iter(one.lots.values())).row, 0b101)
    assert suspects.deaths == {2: 4}


def test_half_of_the_pullers_are_kept_at_most_and_one_at_least() -> None:
    for pullers, most in ((1, 1), (2, 1), (3, 1), (4, 2), (7, 3)):
        suspects = Suspects()
        for sequence in range(100, 120):
            waits(suspects, sequence)
        holders = [holder(2) for _ in range(pullers)]
        for _ in range(20):
            assert suspects.lendings(holders) == [], "they hold something"
        assert sum(each.kept for each in holders) == most


def test_the_emptiest_is_kept_and_gets_one_when_it_is_empty_and_is_free_again_afterwards() -> None:
    suspects = Suspects()
    waits(suspects, 100)
    long, short = holder(5), holder(1)
    assert suspects.lendings([long, short]) == []
    assert short.kept
    assert not long.kept
    for _ in short.end(1, 1):
        pass
    assert suspects.lendings([long, short]) == [short]
    row, _ = suspects.waiting.popleft()
    short.lease(Lot(9, Run(row, 0, 1, True), 2))
    assert suspects.lendings([long, short]) == []
    assert short.kept, "it has a suspect in hand"
    for _ in short.end(9, 9):
        pass
    assert suspects.lendings([long, short]) == []
    assert not short.kept


def test_who_is_kept_and_not_needed_any_more_works_on() -> None:
    suspects = Suspects()
    waits(suspects, 100)
    one = holder(3)
    assert suspects.lendings([one]) == []
    assert one.kept
    suspects.waiting.clear()
    assert suspects.lendings([one]) == []
    assert not one.kept
