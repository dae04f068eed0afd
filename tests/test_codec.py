"""Bodies come back as they went, and what cannot travel is named."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zmqkit import codec
from zmqkit.errors import DecodeError, EncodeError, UsageError
from zmqkit.options import Limits

LIMITS = Limits()


def nested(depth: int) -> Any:
    body: Any = []
    for level in range(depth - 1):
        body = [body] if level % 2 else {"below": body}
    return body


def there_and_back(body: object, name: str = "msgpack") -> object:
    return codec.decode(codec.encode(body, name, limits=LIMITS), name, limits=LIMITS)


# ---- round trips -----------------------------------------------------------------

json_leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
# As fixed offsets: Python itself holds a time in a zone's missing hour to be unequal to every other (PEP 495).
moments = st.datetimes(datetime.datetime(1, 1, 3), datetime.datetime(9999, 12, 29)).flatmap(
    lambda moment: st.integers(-1439, 1439).map(
        lambda minutes: moment.replace(tzinfo=datetime.timezone(datetime.timedelta(minutes=minutes)))
    )
)
leaves = json_leaves | st.binary() | moments
keys = st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary() | st.tuples(st.integers(0, 9), st.tuples(st.text()))
bodies = st.recursive(leaves, lambda below: st.lists(below) | st.dictionaries(keys, below), max_leaves=20)
json_bodies = st.recursive(
    json_leaves.filter(lambda leaf: leaf not in (float("inf"), float("-inf"))),
    lambda below: st.lists(below) | st.dictionaries(st.text(), below),
    max_leaves=20,
)


@settings(deadline=None)
@given(bodies)
def test_a_msgpack_body_comes_back_as_it_went(body: object) -> None:
    assert there_and_back(body) == body


@settings(deadline=None)
@given(json_bodies)
def test_a_json_body_comes_back_as_it_went(body: object) -> None:
    assert there_and_back(body, "json") == body


@settings(deadline=None)
@given(st.binary())
def test_raw_bytes_come_back_as_they_went(body: bytes) -> None:
    assert there_and_back(body, "raw") == body


@settings(deadline=None)
@given(st.lists(bodies, max_size=40), st.sampled_from(["msgpack", "json", "raw"]))
def test_a_batch_is_its_bodies_one_by_one(many: list[object], name: str) -> None:
    if name == "json":
        many = [json.loads(json.dumps(repr(body))) for body in many]
    elif name == "raw":
        many = [repr(body).encode() for body in many]
    lengths, blob = codec.encode_many(many, name, limits=LIMITS)
    alone = [codec.encode(body, name, limits=LIMITS) for body in many]
    assert (lengths, blob) == ([len(data) for data in alone], b"".join(alone))
    assert codec.decode_many(lengths, blob, name, limits=LIMITS) == many


def test_what_the_codec_promises_by_name_holds() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=zone)
    body = {1: "a", b"raw": b"\x00\xff", "when": moment, (1, (2, "x")): [1, 2]}
    back = there_and_back(body)
    assert back == body
    assert isinstance(back, dict)
    assert back["when"].tzinfo is not None
    assert there_and_back((1, (2,))) == [1, [2]]
    assert there_and_back(OrderedDict(a=1)) == {"a": 1}
    assert there_and_back(datetime.datetime.max.replace(tzinfo=datetime.UTC)) == datetime.datetime.max.replace(
        tzinfo=datetime.UTC
    )
    assert there_and_back(float("inf")) == float("inf")


# ---- what cannot travel ----------------------------------------------------------


class Colour(enum.Enum):
    RED = 1


@dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("body", "place", "advice"),
    [
        ({"when": datetime.datetime(2026, 1, 1)}, 'body["when"]', "timezone.utc"),
        ([1, 2, 3, {"x": uuid.uuid4()}], 'body[3]["x"]', "str(it)"),
        ({"a": {7: {1, 2}}}, 'body["a"][7]', "send a list"),
        (decimal.Decimal(1), "body is", "str(it)"),
        ({"big": 2**64}, 'body["big"]', "64 bits"),
        ({"day": datetime.date(2026, 1, 1)}, 'body["day"]', "isoformat"),
        ({"c": (0, Colour.RED)}, 'body["c"][1]', ".value"),
        ([Point(1)], "body[0]", "asdict"),
        (["\ud800"], "body[0]", "surrogate"),
        ({uuid.UUID(int=1): 1}, "the key UUID(", "str(it)"),
        ([object()], "body[0] is of type object", "send None, bool"),
    ],
)
def test_what_cannot_travel_is_named_with_its_place_and_what_to_do(body: object, place: str, advice: str) -> None:
    with pytest.raises(EncodeError) as caught:
        codec.encode(body, limits=LIMITS)
    assert place in str(caught.value)
    assert advice in str(caught.value)
    assert caught.value.index is None
    with pytest.raises(EncodeError) as caught:
        codec.encode_many([1, {"good": True}, body, object()], limits=LIMITS)
    assert place in str(caught.value)
    assert caught.value.index == 2


def test_what_the_body_itself_raises_while_it_is_packed_is_an_encode_error() -> None:
    class Broken(dict[str, int]):
        def items(self) -> Any:
            raise RuntimeError("no items today")

    with pytest.raises(EncodeError, match="no items today"):
        codec.encode([Broken(a=1)], limits=LIMITS)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"a": [{1: 2}]}, 'body["a"][0] has the key 1'),
        ({"a": b"x"}, 'body["a"] is of type bytes'),
        ([float("nan")], "body[0] is nan"),
        ([-float("inf")], "body[0] is -inf"),
        (["\ud800"], "surrogates"),
        (nested(33), "nests deeper than 32"),
    ],
)
def test_json_refuses_what_would_not_come_back(body: object, says: str) -> None:
    with pytest.raises(EncodeError) as caught:
        codec.encode_many([1, body], "json", limits=LIMITS)
    assert says in str(caught.value)
    assert caught.value.index == 1


def test_raw_takes_bytes_only() -> None:
    with pytest.raises(EncodeError, match="takes bytes"):
        codec.encode("text", "raw", limits=LIMITS)


# ---- limits ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["msgpack", "json"])
def test_nesting_is_bounded_at_both_ends_and_not_one_level_sooner(name: str) -> None:
    wide = Limits(nesting=500)
    for beside in ([], [{"flat": [1, 2]}] * 50):
        good, bad = [*beside, nested(32), *beside], [*beside, nested(33), *beside]
        lengths, blob = codec.encode_many(good, name, limits=LIMITS)
        assert codec.decode_many(lengths, blob, name, limits=LIMITS) == good
        with pytest.raises(EncodeError, match="nests deeper than 32") as caught:
            codec.encode_many(bad, name, limits=LIMITS)
        assert caught.value.index == len(beside)
        lengths, blob = codec.encode_many(bad, name, limits=wide)
        decoded = codec.decode_many(lengths, blob, name, limits=LIMITS)
        spoiled = decoded.pop(len(beside))
        assert isinstance(spoiled, DecodeError)
        assert "nests deeper than 32" in str(spoiled)
        assert decoded == [*beside, *beside]
    with pytest.raises(EncodeError, match="nests deeper"):
        codec.encode(nested(33), name, limits=LIMITS)
    with pytest.raises(DecodeError, match="nests deeper"):
        codec.decode(codec.encode(nested(33), name, limits=wide), name, limits=LIMITS)


@given(bodies, st.integers(1, 6), st.binary(max_size=2), st.integers(0, 40))
def test_what_is_stepped_over_is_whole_and_no_deeper_than_it_may_be(
    body: Any, nesting: int, other: bytes, at: int
) -> None:
    data = codec.encode(body, limits=LIMITS)
    for changed in (data, data[:at] + other + data[at + len(other) :], data[:-1], data + other):
        if codec._is_few(changed, 1, nesting):
            try:
                found = msgpack.unpackb(changed, raw=True, strict_map_key=False, timestamp=3)
            except TypeError:  # keys that are lists
                continue
            assert not codec._too_deep(found, nesting)


def test_large_texts_and_bytes_are_stepped_over() -> None:
    assert codec._is_few(msgpack.packb([[b"x" * 100_000], {"text": "y" * 100_000}]), 1, 2)
    assert not codec._is_few(msgpack.packb([[b"x" * 100_000], {"text": "y" * 100_000}]), 1, 1)


def test_wide_bodies_are_not_deep_ones() -> None:
    body = {"rows": [[index, {"x": []}] for index in range(1000)], "noise": bytes(range(256)) * 10}
    lengths, blob = codec.encode_many([body] * 3, limits=LIMITS)
    assert codec.decode_many(lengths, blob, limits=LIMITS) == [body] * 3


@pytest.mark.parametrize("name", ["msgpack", "json"])
def test_a_body_that_holds_itself_is_refused(name: str) -> None:
    body: list[Any] = [1]
    body.append(body)
    with pytest.raises(EncodeError, match="nests deeper"):
        codec.encode(body, name, limits=LIMITS)


def test_nesting_is_refused_whatever_the_lengths_of_a_batch_claim() -> None:
    deep = b"\x91" * 100 + b"\x90"
    blob = deep + b"\x01" * 19
    decoded = codec.decode_many([6] * 20, blob, limits=LIMITS)
    assert len(decoded) == 20
    assert isinstance(decoded[0], DecodeError)


def test_a_body_that_fits_no_frame_is_refused_with_its_index() -> None:
    limits = Limits(frame_bytes=200_000)
    room = 200_000 - 65536
    for name, overhead in (("msgpack", 5), ("raw", 0)):
        assert len(codec.encode(bytes(room - overhead), name, limits=limits)) == room
        codec.encode_many([bytes(room - overhead)] * 3, name, limits=limits)
        with pytest.raises(EncodeError, match="frame_bytes") as caught:
            codec.encode_many([b"", bytes(room - overhead + 1)], name, limits=limits)
        assert caught.value.index == 1


# ---- bytes from strangers --------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\xa5abc",
        b"\x01\x02",
        b"\xa1\xff",
        b"\xdd\xff\xff\xff\xff" + b"\x00" * 10,
        b"\xdd\x00\x0f\xff\xff" * 300 + b"\x00",
        b"\xdf\xff\xff\xff\xff\x01",
        b"\xc6\xff\xff\xff\xff\x01",
        b"\x91" * 2000,
        b"\x81\x80\x01",
        msgpack.packb(msgpack.ExtType(5, b"x")),
        b"\xc7\x0c\xff" + b"\xff" * 12,
    ],
)
def test_bad_msgpack_is_a_decode_error_and_spoils_only_itself(data: bytes) -> None:
    with pytest.raises(DecodeError):
        codec.decode(data, limits=LIMITS)
    good = msgpack.packb({"a": 1})
    decoded = codec.decode_many([len(good), len(data), len(good)], good + data + good, limits=LIMITS)
    assert decoded[0] == decoded[2] == {"a": 1}
    assert isinstance(decoded[1], DecodeError)


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\xff", b"NaN", b"[1", b"[" * 100_000, b"9" * 5000])
def test_bad_json_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        codec.decode(data, "json", limits=LIMITS)


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["msgpack", "json"]))
def test_any_bytes_are_a_body_or_a_decode_error(data: bytes, name: str) -> None:
    (body,) = codec.decode_many([len(data)], data, name, limits=LIMITS)
    if not isinstance(body, DecodeError):
        codec.encode_many([body], limits=Limits(nesting=500))


@settings(deadline=None)
@given(st.lists(st.binary(max_size=30), max_size=40))
def test_a_batch_decodes_as_its_slices_do(slices: list[bytes]) -> None:
    together = codec.decode_many([len(data) for data in slices], b"".join(slices), limits=LIMITS)
    alone = [codec.decode_many([len(data)], data, limits=LIMITS)[0] for data in slices]
    assert len(together) == len(slices)
    if DecodeError not in map(type, alone):
        assert repr(together) == repr(alone)  # nan is not nan


@pytest.mark.parametrize("lengths", [[1], [1, 3], [-1, 4], [4, -1]])
def test_lengths_that_do_not_add_up_are_refused(lengths: list[int]) -> None:
    with pytest.raises(DecodeError, match="add up"):
        codec.decode_many(lengths, b"\x01\x02" if lengths != [1, 3] else b"\x01", limits=LIMITS)


def test_batches_of_any_size_come_back() -> None:
    many: list[object] = list(range(20_000))
    lengths, blob = codec.encode_many(many, limits=LIMITS)
    assert codec.decode_many(lengths, blob, limits=LIMITS) == many
    large = [{"text": "x" * size, "more": [1, [size]]} for size in (0, 65000, 65536, 131072, 1_000_000)]
    lengths, blob = codec.encode_many(large, limits=LIMITS)
    assert codec.decode_many(lengths, blob, limits=LIMITS) == large
    assert there_and_back(large) == large
    assert codec.encode_many([], limits=LIMITS) == ([], b"")
    assert codec.decode_many([], b"", limits=LIMITS) == []


# ---- registered codecs -----------------------------------------------------------


def to_bytes(body: object) -> bytes:
    return str(body).encode("ascii")


def from_bytes(data: bytes) -> object:
    return data.decode("ascii")


def test_a_registered_codec_is_used_and_its_errors_are_ours() -> None:
    codec.register("test.text", to_bytes, from_bytes)
    codec.register("test.text", to_bytes, from_bytes)
    assert there_and_back("abc", "test.text") == "abc"
    with pytest.raises(EncodeError, match=r"test\.text") as caught:
        codec.encode_many(["a", "ä"], "test.text", limits=LIMITS)
    assert caught.value.index == 1
    first, second = codec.decode_many([1, 1], b"a\xff", "test.text", limits=LIMITS)
    assert first == "a"
    assert isinstance(second, DecodeError)
    with pytest.raises(UsageError, match="taken"):
        codec.register("test.text", to_bytes, repr)
    with pytest.raises(UsageError, match="taken"):
        codec.register("json", to_bytes, from_bytes)
    with pytest.raises(UsageError, match="1 to 32"):
        codec.register("No Name", to_bytes, from_bytes)


def test_an_unknown_codec_is_the_callers_fault_when_sending_and_the_senders_when_receiving() -> None:
    with pytest.raises(UsageError, match="msgpack, json, raw"):
        codec.encode(1, "pickle", limits=LIMITS)
    with pytest.raises(UsageError, match="pickle"):
        codec.encode_many([1], "pickle", limits=LIMITS)
    assert [type(body) for body in codec.decode_many([1, 1], b"ab", "pickle", limits=LIMITS)] == [DecodeError] * 2
