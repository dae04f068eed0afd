"""Frames and messages of publish-subscribe: what was packed comes back, and bad bytes raise only `DecodeError`."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqkit.errors import DecodeError
from zmqkit.patterns.pubsub import talk, wire
from zmqkit.patterns.pubsub.topics import private_topic

STREAM = b"12345678"
ID, EPOCH = "a" * 32, "0123456789abcdef" * 2

DATA_FRAMES: list[Any] = [
    wire.Data("a.b", STREAM, range(5, 8), 2, 9, 123, "msgpack", [1, 0, 2], b"abc", {1: {"k": "v"}}),
    wire.Data("é", STREAM, [1, 5, 9], 0, 9, 0, "raw", [1, 1, 1], b"abc"),
    wire.Mixed("a.", STREAM, range(5, 8), [1, 2], 9, 1, "raw", [1, 1, 1], b"abc", {}, ["a.b", "a.c"], [0, 1, 0]),
    wire.Beat(STREAM, 7, 1),
    wire.Fence(wire.private_name(b"i" * 16, 3, ":99"), STREAM, ID, EPOCH, "2" * 32, 77, "tcp://10.0.0.1:5"),
]
FROM_SUBSCRIBER: list[Any] = [
    talk.Topics(True, ["a", "b.*", "#"], ["c"], False),
    talk.Joined(3, 12),
    talk.Left(),
    talk.Seen(8),
    talk.Feed(1, ID, EPOCH, 5, 9, "after"),
    talk.Feed(2, "", "", 0, None, "earliest"),
    talk.Feed(2, "", "", 1_700_000_000_000_000, None, "time"),
    talk.Stop(2),
    talk.Commit(EPOCH, 5, 1),
    talk.Check(1, 2, 9, 3, 15),
    talk.Values(4, 10),
]
FROM_PUBLISHER: list[Any] = [
    talk.Block(1, EPOCH, range(3, 6), ["a"], None, 5, "raw", [1, 1, 1], b"abc", {0: {"k": "v"}}),
    talk.Block(1, EPOCH, [3, 9], ["a", "b"], [0, 1], 5, "raw", [1, 2], b"abc", {}, [0, 7]),
    talk.Begun(1, EPOCH, 4),
    talk.Done(1, EPOCH, 4),
    talk.Hole(1, EPOCH, 4, 9, ["a"]),
    talk.Epoch(1, EPOCH, 4),
    talk.Committed(1, "full"),
    talk.Checked(1, talk.UNKNOWN),
    talk.Refused("cursor in use", "by another", 0),
    talk.Leave("too slow"),
]


@pytest.mark.parametrize("frame", DATA_FRAMES, ids=lambda each: type(each).__name__)
def test_a_data_frame_comes_back_as_it_was(frame):
    assert wire.read(frame.pack()) == frame


@pytest.mark.parametrize("message", FROM_SUBSCRIBER, ids=lambda each: type(each).__name__)
def test_what_a_subscriber_says_comes_back_as_it_was(message):
    assert talk.read_from_subscriber(message.pack()) == message
    with pytest.raises(DecodeError):
        talk.read_from_publisher(message.pack())


@pytest.mark.parametrize("message", FROM_PUBLISHER, ids=lambda each: type(each).__name__)
def test_what_a_publisher_says_comes_back_as_it_was(message):
    assert talk.read_from_publisher(message.pack()) == message
    with pytest.raises(DecodeError):
        talk.read_from_subscriber(message.pack())


def test_a_fence_of_another_version_is_told_apart():
    private = wire.private_name(b"i" * 16, 1)
    frame = private_topic(private) + msgpack.packb([2, "what", "ever"])
    assert wire.read(frame) == wire.OtherVersion(private, 2)


def test_a_private_name_tells_whose_it_is():
    name = private_topic(wire.private_name(b"i" * 16, 12, "ipc:///tmp/x"))
    assert wire.read_private(name) == wire.Private(b"i" * 16, 12, "ipc:///tmp/x")


@given(st.binary(max_size=300))
def test_whatever_bytes_come_only_a_decode_error_is_raised(data):
    for kind in (b"", b"d", b"b", b"p", b"da\0" + STREAM + b"\0\0\0\x08"):
        with contextlib.suppress(DecodeError):
            wire.read(kind + data)
    for read in (wire.read_subscription, wire.read_private):
        with contextlib.suppress(DecodeError):
            read(data)
    for frames in ([], [data], [data, data]):
        for reader in (talk.read_from_subscriber, talk.read_from_publisher):
            with contextlib.suppress(DecodeError):
                reader(frames)


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        st.text(max_size=5),
        st.binary(max_size=5),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.one_of(st.text(), st.integers()), inner)),
    max_leaves=6,
)


@given(st.integers(0, 30), st.lists(VALUES, max_size=11), st.binary(max_size=8))
def test_whatever_fields_come_only_a_decode_error_is_raised(kind, fields, blob):
    with contextlib.suppress(OverflowError):
        head = msgpack.packb([kind, *fields])
        for reader in (talk.read_from_subscriber, talk.read_from_publisher):
            with contextlib.suppress(DecodeError):
                reader([head, blob])
    with contextlib.suppress(OverflowError):
        head = msgpack.packb(fields)
        for name in (b"da\0", b"d\0", b"da.\0"):
            with contextlib.suppress(DecodeError):
                wire.read(name + STREAM + len(head).to_bytes(4, "big") + head + blob)
        for prefix in (b"b" + STREAM, b"p" + wire.private_name(b"i" * 16, 1).encode() + b"\0"):
            with contextlib.suppress(DecodeError):
                wire.read(prefix + head)


@given(st.integers(0, 2**32))
def test_one_changed_byte_is_read_or_refused(seed):
    """Good messages with a flipped byte: closer to the truth than random ones."""
    rng = random.Random(seed)
    frame = bytearray(rng.choice(DATA_FRAMES).pack())
    frame[rng.randrange(len(frame))] = rng.randrange(256)
    with contextlib.suppress(DecodeError):
        wire.read(bytes(frame))
    for messages, read in ((FROM_SUBSCRIBER, talk.read_from_subscriber), (FROM_PUBLISHER, talk.read_from_publisher)):
        head, *blobs = rng.choice(messages).pack()
        changed = bytearray(head)
        changed[rng.randrange(len(changed))] = rng.randrange(256)
        with contextlib.suppress(DecodeError):
            read([bytes(changed), *blobs])


@pytest.mark.parametrize(
    "frame",
    [
        wire.Data("a", STREAM, [3, 3], 0, 9, 1, "raw", [0, 0], b""),
        wire.Data("a", STREAM, [3, 5], 3, 9, 1, "raw", [0, 0], b""),
        wire.Data("a", STREAM, [3, 5], 0, 4, 1, "raw", [0, 0], b""),
        wire.Data("a", STREAM, [3, 5], 0, 9, 1, "raw", [0, 1], b""),
        wire.Data("a", STREAM, [3, 5], 0, 9, 1, "raw", [0], b""),
        wire.Data("a..b", STREAM, [3], 0, 9, 1, "raw", [0], b""),
        wire.Data("a", STREAM, [3], 0, 9, 1 << 60, "raw", [0], b""),
        wire.Data("a", b"short", [3], 0, 9, 1, "raw", [0], b""),
    ],
)
def test_data_frames_that_contradict_themselves_are_refused(frame):
    with pytest.raises(DecodeError):
        wire.read(frame.pack())


@pytest.mark.parametrize(
    "message",
    [
        talk.Topics(True, ["x"] * (talk.CHUNK_TOPICS + 1), [], True),
        talk.Topics(True, ["a.#.b"], [], True),
        talk.Feed(0, "", "", 0, None, "earliest"),
        talk.Feed(1, "", "", 0, None, "after"),
        talk.Feed(1, "", "", 1 << 63, None, "time"),
        talk.Check(1, 5, 4, 0, 0),
    ],
)
def test_requests_that_make_no_sense_are_refused(message):
    with pytest.raises(DecodeError):
        talk.read_from_subscriber(message.pack())
