"""Golden vectors of publish-subscribe: bytes that no version 1 may ever read or write otherwise (docs/protocol.md)."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import msgpack
import pytest

from tests.conformance.plain import load
from zmqkit.errors import DecodeError
from zmqkit.patterns.pubsub import talk, topics, wire

PUBSUB = load("pubsub")
MADE = {
    "TOPICS": talk.Topics, "JOINED": talk.Joined, "LEFT": talk.Left, "SEEN": talk.Seen, "FEED": talk.Feed,
    "STOP": talk.Stop, "COMMIT": talk.Commit, "CHECK": talk.Check, "VALUES": talk.Values, "BLOCK": talk.Block,
    "BEGUN": talk.Begun, "DONE": talk.Done, "HOLE": talk.Hole, "EPOCH": talk.Epoch, "COMMITTED": talk.Committed,
    "CHECKED": talk.Checked, "REFUSED": talk.Refused, "LEAVE": talk.Leave,
}  # fmt: skip
READERS = {"subscriber": talk.read_from_subscriber, "publisher": talk.read_from_publisher}


def named(vectors: list[dict[str, Any]]) -> Any:
    return pytest.mark.parametrize("vector", vectors, ids=[vector["name"] for vector in vectors])


def fields(found: Any) -> dict[str, Any]:
    """What was read, as vectors tell it: bodies one by one."""
    told: dict[str, Any] = found._asdict()
    if "blob" in told:
        lengths, blob = told.pop("lengths"), told.pop("blob")
        ends = list(accumulate(lengths, initial=0))
        told["bodies"] = [blob[start:end] for start, end in pairwise(ends)]
        told["offsets"] = list(told["offsets"])
    return told


def given(meant: dict[str, Any]) -> dict[str, Any]:
    """The reverse."""
    if "bodies" not in meant:
        return dict(meant)
    bodies = meant["bodies"]
    rest = {name: each for name, each in meant.items() if name != "bodies"}
    return {**rest, "lengths": list(map(len, bodies)), "blob": b"".join(bodies)}


# ---- the data plane ------------------------------------------------------------------------


def message_of(vector: dict[str, Any]) -> Any:
    """What a frame of the data plane means."""
    meant = given(vector["message"])
    kind = meant.pop("kind")
    if kind == "mixed":
        return wire.Mixed(prefix=meant.pop("topic"), **meant)
    return {"data": wire.Data, "beat": wire.Beat, "fence": wire.Fence}[kind](**meant)


@named(PUBSUB["data"])
def test_a_frame_of_the_data_plane_is_read_as_it_is_meant(vector: dict[str, Any]) -> None:
    found, meant = wire.read(vector["frame"]), message_of(vector)
    assert type(found) is type(meant)
    assert fields(found) == fields(meant)


@named(PUBSUB["data"])
def test_a_frame_of_the_data_plane_is_written_so(vector: dict[str, Any]) -> None:
    assert message_of(vector).pack() == vector["frame"]


@named(PUBSUB["data"])
def test_what_a_later_version_adds_to_a_frame_of_the_data_plane_is_skipped(vector: dict[str, Any]) -> None:
    frame, kind = vector["frame"], vector["message"]["kind"]
    if kind in ("data", "mixed"):
        at = frame.index(0) + 13
        size = int.from_bytes(frame[at - 4 : at], "big")
        head = msgpack.unpackb(frame[at : at + size], strict_map_key=False)
        head[6]["later"] = {"more": [1]}
        if kind == "data":
            head += [None, None]  # where a mixed frame has its topics
        packed = msgpack.packb([*head, "later"])
        frame = frame[: at - 4] + len(packed).to_bytes(4, "big") + packed + frame[at + size :]
    else:
        at = 9 if kind == "beat" else frame.index(0) + 1
        head = msgpack.unpackb(frame[at:])
        if kind == "fence" and len(head) < 8:
            head.append("")  # where a forwarder says the seat
        frame = frame[:at] + msgpack.packb([*head, "later", {}])
    assert wire.read(frame) == wire.read(vector["frame"])


def test_neighbours_may_be_named_one_by_one() -> None:
    head = msgpack.packb([[5, 6], 4, 6, 0, "raw", [1, 1], {}])
    found = wire.read(b"da\0" + bytes(8) + len(head).to_bytes(4, "big") + head + b"xy")
    assert isinstance(found, wire.Data)
    assert found.offsets == range(5, 7)


@named(PUBSUB["bad_data"])
def test_a_bad_frame_of_the_data_plane_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        wire.read(vector["frame"])


def test_a_fence_of_another_version_is_not_read_any_further() -> None:
    frame = b"pname\0" + msgpack.packb([2, {"all": "else"}])
    assert wire.read(frame) == wire.OtherVersion("name", 2)


@named(PUBSUB["subscriptions"])
def test_a_pattern_subscribes_what_it_is_meant_to(vector: dict[str, Any]) -> None:
    assert topics.wire_prefixes(vector["pattern"]) == tuple(vector["prefixes"])


def test_there_is_a_vector_for_every_kind_of_frame() -> None:
    assert {vector["message"]["kind"] for vector in PUBSUB["data"]} == {"data", "mixed", "beat", "fence"}


# ---- the recovery channel ------------------------------------------------------------------


def read(vector: dict[str, Any], frames: list[bytes]) -> Any:
    return READERS[vector["message"]["from"]](frames)


@named(PUBSUB["recovery"])
def test_a_message_of_the_recovery_channel_is_read_as_it_is_meant(vector: dict[str, Any]) -> None:
    found, meant = read(vector, vector["frames"]), vector["message"]
    assert type(found) is MADE[meant["name"]]
    assert fields(found) == meant["fields"]


@named(PUBSUB["recovery"])
def test_a_message_of_the_recovery_channel_is_written_so(vector: dict[str, Any]) -> None:
    meant = vector["message"]
    assert list(MADE[meant["name"]](**given(meant["fields"])).pack()) == vector["frames"]


@named(PUBSUB["recovery"])
def test_what_a_later_version_adds_to_a_message_of_the_recovery_channel_is_skipped(vector: dict[str, Any]) -> None:
    head = msgpack.unpackb(vector["frames"][0], strict_map_key=False)
    if vector["message"]["name"] == "BLOCK":
        head[9]["more of later"] = [1]
    frames = [msgpack.packb([*head, "later", {}]), *vector["frames"][1:], b"later"]
    assert read(vector, frames) == read(vector, vector["frames"])


@named(PUBSUB["bad_recovery"])
def test_a_bad_message_of_the_recovery_channel_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        READERS[vector["from"]](vector["frames"])


def test_there_is_a_vector_for_every_message_of_the_recovery_channel() -> None:
    found = {(vector["message"]["from"], vector["message"]["name"]) for vector in PUBSUB["recovery"]}
    kinds = {name: getattr(talk, name) for name in MADE}
    assert found == {("subscriber" if kind < 20 else "publisher", name) for name, kind in kinds.items()}
