"""Leases against a naive model: a dict from lease to what is lent."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from zmqkit.patterns.pipeline.leases import Holder, Lot
from zmqkit.patterns.pipeline.rows import Row
from zmqkit.patterns.pipeline.runs import Run
from zmqkit.patterns.pipeline.wire import to_ranges
from zmqkit.protocol.session import Session
from zmqkit.protocol.wire import Hello

bounded = settings(max_examples=200, deadline=None, derandomize=True)

lots = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3)), min_size=1, max_size=8)
spans = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=12)


def holder_of(counts: list[tuple[int, int]]) -> tuple[Holder, dict[int, tuple[Row, int]]]:
    """A holder of neighbouring lots, with gaps between their leases; and the model: lease -> (row, index)."""
    session = Session(Hello(role="pull", instance=b"i" * 16, session=b"sessions"), "link", dialled=False)
    holder = Holder(session)
    model: dict[int, tuple[Row, int]] = {}
    lease = 1
    for number, (count, skipped) in enumerate(counts, 1):
        lease += skipped
        row = Row(number * 100, "o", 0, "raw", [0] * (count + 2), b"", {}, {})
        holder.lease(Lot(lease, Run(row, 1, count, False), number))
        model.update((lease + at, (row, 1 + at)) for at in range(count))
        lease += count
    return holder, model


@bounded
@given(lots, spans)
def test_ending_leases_gives_each_once_and_to_the_right_message(
    counts: list[tuple[int, int]], spans: list[tuple[int, int]]
) -> None:
    holder, model = holder_of(counts)
    for first, more in spans:
        ended = {}
        for lot, bits in holder.end(first, first + more):
            for at in range(lot.last - lot.first + 1):
                if bits >> at & 1:
                    ended[lot.first + at] = (lot.row, lot.index + at)
        expected = {lease: model.pop(lease) for lease in list(model) if first <= lease <= first + more}
        assert ended == expected
        assert holder.held == len(model)
        assert all(lot.open for lot in holder.lots.values())
        held = {(row.key, at) for row, bits in holder.rows() for at in range(row.count) if bits >> at & 1}
        assert held == {(row.key, at) for row, at in model.values()}


@bounded
@given(lots, spans, st.integers(0, 45), st.sets(st.integers(0, 45)))
def test_what_is_not_listed_is_missing(
    counts: list[tuple[int, int]], spans: list[tuple[int, int]], up_to: int, listed: set[int]
) -> None:
    holder, model = holder_of(counts)
    for first, more in spans[:3]:
        for _ in holder.end(first, first + more):
            pass
        for lease in list(model):
            if first <= lease <= first + more:
                del model[lease]
    ranges = holder.missing(up_to, to_ranges(sorted(listed)))
    missing = [lease for at in range(0, len(ranges), 2) for lease in range(ranges[at], ranges[at + 1] + 1)]
    assert missing == sorted(lease for lease in model if lease <= up_to and lease not in listed)


@bounded
@given(st.sets(st.integers(0, 60)))
def test_numbers_become_ranges_and_back(numbers: set[int]) -> None:
    ranges = to_ranges(sorted(numbers))
    assert {each for at in range(0, len(ranges), 2) for each in range(ranges[at], ranges[at + 1] + 1)} == numbers
    assert all(ranges[at] + 1 < ranges[at + 1] for at in range(1, len(ranges) - 1, 2))


def test_lots_arrive_with_the_messages_that_carried_them() -> None:
    holder, _ = holder_of([(2, 0), (1, 0), (3, 0)])
    assert [lot.number for lot in holder.arrived(2)] == [1, 2]
    assert [lot.number for lot in holder.arrived(2)] == []
    assert [lot.number for lot in holder.arrived(9)] == [3]
