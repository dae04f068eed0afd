"""Rows: to the journal and back, and cut into deliveries."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zmqkit.errors import DecodeError
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.hands import Arrival, merge
from zmqkit.patterns.pipeline.rows import DeadRow, Pack, Row
from zmqkit.protocol import wire as session_wire

bounded = settings(max_examples=150, deadline=None, derandomize=True)

text = st.text(max_size=6)
bodies = st.lists(st.binary(max_size=6), min_size=1, max_size=9)


@st.composite
def packs(draw: st.DrawFn) -> Pack:
    parts = draw(bodies)
    index = st.integers(0, len(parts) - 1)
    ids = draw(st.dictionaries(index, st.text(min_size=1, max_size=6), max_size=3))
    headers = draw(st.dictionaries(index, st.dictionaries(text, text, max_size=2), max_size=3))
    return Pack("raw", draw(st.integers(0, 2**50)), list(map(len, parts)), b"".join(parts), ids, headers)


def row_of(pack: Pack, key: int = 70_000) -> Row:
    return Row(key, "origin", pack.sent_at, pack.codec, pack.lengths, pack.blob, pack.ids, pack.headers)


@bounded
@given(packs(), st.data())
def test_a_row_comes_back_from_the_journal_as_it_went(pack: Pack, data: st.DataObject) -> None:
    row = row_of(pack)
    row.done = data.draw(st.integers(0, row.all))
    row.failures = data.draw(st.dictionaries(st.integers(0, row.count - 1), st.integers(1, 9)))
    back = Row.unpack(row.key, row.pack())
    for name in ("key", "origin", "sent_at", "codec", "lengths", "blob", "ids", "headers", "count"):
        assert getattr(back, name) == getattr(row, name)
    weight, value = row.pack_marks()
    back.unpack_marks(value)
    assert (weight, back.done, back.kept, back.failures) == (row.done.bit_count(), row.done, row.done, row.failures)


@bounded
@given(packs(), st.data())
def test_a_delivery_of_a_part_carries_that_part(pack: Pack, data: st.DataObject) -> None:
    row = row_of(pack)
    row.failures = data.draw(st.dictionaries(st.integers(0, row.count - 1), st.integers(1, 9)))
    row.deliveries = data.draw(st.dictionaries(st.integers(0, row.count - 1), st.integers(1, 9)))
    index = data.draw(st.integers(0, row.count - 1))
    count = data.draw(st.integers(1, row.count - index))
    read = wire.read(row.deliver(500, index, count, alone=count == 1).pack())
    assert isinstance(read, wire.Deliver)
    assert (read.lease, read.sequence, read.alone) == (500, row.key + index, count == 1)
    at = 0
    for each, length in enumerate(read.lengths):
        assert read.blob[at : at + length] == row.body(index + each)
        at += length
        for name in ("ids", "headers", "failures", "deliveries"):
            assert getattr(read, name).get(each) == getattr(row, name).get(index + each)
        assert row.id(index + each) == read.ids.get(each, f"origin-{read.sequence + each}")
    assert len(read.lengths) == count


@bounded
@given(st.lists(packs(), min_size=1, max_size=5))
def test_neighbours_merge_into_one_row_that_has_all_of_each(several: list[Pack]) -> None:
    group, first = [], 10
    for pack in several:
        group.append(Arrival(pack, first, None, False, None))
        first += len(pack)
    row = merge(group, "origin")
    at = 0
    for pack in several:
        alone = row_of(pack)
        for index in range(len(pack)):
            assert row.body(at) == alone.body(index)
            assert row.ids.get(at) == pack.ids.get(index)
            assert row.headers.get(at) == pack.headers.get(index)
            at += 1
    assert (row.key, row.count, row.sent_at) == (10, at, several[0].sent_at)


@bounded
@given(st.binary(max_size=9), st.dictionaries(text, text, max_size=2), text, st.integers(0, 2**50))
def test_a_dead_letter_comes_back_as_it_went(body: bytes, headers: dict[str, str], reason: str, at: int) -> None:
    letter = DeadRow("id", "raw", body, headers, reason, "trace", 3, 7, at)
    assert DeadRow.unpack(letter.pack()) == letter


def test_a_dead_letter_keeps_key_and_priority_and_one_of_before_them_is_read() -> None:
    letter = DeadRow("id", "raw", b"x", {}, "", "", 0, 0, 0, "k", -3)
    assert DeadRow.unpack(letter.pack()) == letter
    plain = DeadRow("id", "raw", b"x", {}, "", "", 0, 0, 0)
    assert b"key" not in plain.pack()
    for name, value in (("key", 7), ("priority", "high"), ("priority", True)):
        bad = session_wire.unpack(letter.pack())
        bad[1][name] = value
        with pytest.raises(DecodeError, match="makes no sense"):
            DeadRow.unpack(session_wire.pack(bad))


def test_a_dead_letter_may_be_larger_than_a_header() -> None:
    letter = DeadRow("id", "raw", b"." * (8 << 20), {}, "", "", 0, 0, 0)
    assert DeadRow.unpack(letter.pack()) == letter


@pytest.mark.parametrize("cut", [0, 3, 5, 20, -1])
def test_a_row_that_was_cut_is_named(cut: int) -> None:
    value = row_of(Pack("raw", 0, [3, 4], b"abcdefg")).pack()[:cut]
    with pytest.raises(DecodeError):
        Row.unpack(1, value)


def test_a_row_of_another_format_is_refused() -> None:
    head = session_wire.pack([2, "o", 0, "raw", [1], {}])
    with pytest.raises(DecodeError, match="format"):
        Row.unpack(1, len(head).to_bytes(4, "big") + head + b"x")


def test_the_largest_row_of_headers_and_ids_can_be_read_again() -> None:
    """As much as sends accept: 256 messages, each with 8 KiB of headers and an id of 1,000 characters."""
    headers = {index: {"k": "é" * 4000} for index in range(256)}
    ids = dict.fromkeys(range(256), "i" * wire.MAX_ID)
    row = row_of(Pack("raw", 0, [1] * 256, b"." * 256, ids, headers))
    assert Row.unpack(row.key, row.pack()).headers == headers
    read = wire.read(row.deliver(1, 0, 256, alone=False).pack())
    assert isinstance(read, wire.Deliver)
    assert read.headers == headers
