"""Golden vectors of request-reply: bytes that no version 1 may ever read or write otherwise (docs/protocol.md)."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest

from tests.conformance.plain import load
from tests.reqrep.serving import EPOCH, Serving
from zmqkit.errors import DecodeError
from zmqkit.options import Limits
from zmqkit.patterns.reqrep import plain, wire
from zmqkit.patterns.reqrep.calls import Answer, Kind

REQREP, PLAIN, SESSION = load("reqrep"), load("plain_clients"), load("session")
OPS = {"client": wire.FROM_CLIENT, "server": wire.FROM_SERVER}


def named(vectors: list[dict[str, Any]]) -> Any:
    return pytest.mark.parametrize("vector", vectors, ids=[vector["name"] for vector in vectors])


def fields_of(record: wire.Record, body: bytes) -> object:
    """Read what the record says beyond its layout, as a peer does. Raises `DecodeError`."""
    op = record[0]
    if op == wire.CALL:
        return wire.call(record)
    if op == wire.RESULT:
        return wire.codec(record[3])
    if op == wire.ITEM:
        return (record[3], wire.codec(record[4]))
    if op in (wire.REFUSED, wire.UNKNOWN):
        return wire.refusal(record)
    if op == wire.METHODS:
        return wire.names(body)
    return record[3 : wire.FIELDS[op]]


@named(REQREP["vectors"])
def test_a_message_of_request_reply_is_read_as_it_is_meant(vector: dict[str, Any]) -> None:
    meant = vector["message"]
    epoch, floor, records = wire.read(vector["frames"], OPS[meant["from"]])
    assert (epoch, floor) == (meant["epoch"], meant["floor"])
    found = [
        {"op": wire.NAMES[record[0]], "number": record[1], "body": record[2], "fields": record[3:]}
        for record in records
    ]
    assert found == [{**record, "body": record["body"] or b""} for record in meant["records"]]
    assert sum(record[0] == wire.CALL for record in records) == vector["messages"]
    for record in records:
        fields_of(record, record[2])


@named([vector for vector in REQREP["vectors"] if "note" not in vector])
def test_a_message_of_request_reply_is_written_so(vector: dict[str, Any]) -> None:
    meant, packer = vector["message"], wire.Packer()
    for record in meant["records"]:
        packer.add([wire.NAMES.index(record["op"]), record["number"], None, *record["fields"]], record["body"])
    assert packer.calls == vector["messages"]
    assert list(packer.pack(meant["epoch"], meant["floor"])) == vector["frames"]


@named([vector for vector in REQREP["vectors"] if vector["message"]["records"]])
def test_what_a_later_version_adds_to_request_reply_is_skipped(vector: dict[str, Any]) -> None:
    epoch, floor, records = msgpack.unpackb(vector["frames"][0])
    for record in records:
        record.append("later")
        if record[0] == wire.CALL:
            record[6] = {**(record[6] or {}), "later": {"more": [1]}}
    frames = [msgpack.packb([epoch, floor, records, "later", {}]), *vector["frames"][1:]]
    ops = OPS[vector["message"]["from"]]
    now, then = wire.read(frames, ops), wire.read(vector["frames"], ops)
    for ours, theirs in zip(now[2], then[2], strict=True):
        body = ours[2]
        assert body == theirs[2]
        assert fields_of(ours, body) == fields_of(theirs, body)


@named([vector for vector in REQREP["vectors"] if vector["messages"]])
def test_the_map_of_a_call_is_read_as_it_is_meant(vector: dict[str, Any]) -> None:
    for record in vector["message"]["records"]:
        if record["op"] != "CALL":
            continue
        method, remaining, stamp, more = record["fields"]
        more = more or {}
        read = wire.call([wire.CALL, record["number"], None, method, remaining, stamp, more])
        assert (read.method, read.remaining, read.stamp) == (method, remaining, stamp)
        assert (read.id, read.attempt) == (more.get("id", ""), more.get("attempt", 1))
        assert (read.headers, read.codec) == (more.get("headers", {}), more.get("codec", "msgpack"))
        assert (read.items, list(read.uploads)) == (more.get("items"), more.get("uploads", []))


@named(REQREP["bad"])
def test_a_bad_message_of_request_reply_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        wire.read(vector["frames"], OPS[vector["from"]])


@named([vector for vector in REQREP["bad"] if vector["from"] == "client"])
def test_a_server_drops_a_bad_message_and_counts_it(vector: dict[str, Any]) -> None:
    serving = Serving()
    (session,) = serving.hand.core.sessions
    serving.hand.core.sessions.send(session, vector["frames"], 1, 0.0)
    serving.pair.flow()
    assert serving.count("frames_bad") == 1
    assert not serving.items()
    assert not serving.take()
    serving.call(1)
    assert len(serving.items()) == 1


@named([vector for vector in REQREP["bad_records"] if vector["from"] == "client"])
def test_a_server_executes_no_bad_call_and_goes_on_with_the_next(vector: dict[str, Any]) -> None:
    serving = Serving()
    (session,) = serving.hand.core.sessions
    _, floor, (record,) = msgpack.unpackb(vector["frames"][0])
    head = [EPOCH, floor, [record, [wire.CALL, 2, b"", "add", None, 0, None]]]
    serving.hand.core.sessions.send(session, [msgpack.packb(head), *vector["frames"][1:]], 2, 0.0)
    serving.pair.flow()
    assert serving.count("frames_bad") == 1
    assert [execution.number for execution in serving.items()] == [2]
    assert [each[:3] for each in serving.take()] == [("REFUSED", 1, "record")]


@named(REQREP["bad_records"])
def test_a_bad_record_of_request_reply_spoils_only_itself(vector: dict[str, Any]) -> None:
    _, _, (record,) = wire.read(vector["frames"], OPS[vector["from"]])
    with pytest.raises(DecodeError):
        fields_of(record, record[2])


def test_there_is_a_vector_for_every_record() -> None:
    found = {
        (vector["message"]["from"], record["op"])
        for vector in REQREP["vectors"]
        for record in vector["message"]["records"]
    }
    assert found == {(side, wire.NAMES[op]) for side, ops in OPS.items() for op in ops}


# ---- plain clients (section 13) ------------------------------------------------------------


@named(PLAIN["requests"])
def test_a_plain_request_is_read_as_it_is_meant(vector: dict[str, Any]) -> None:
    frames, meant = vector["frames"], vector["call"]
    assert plain.is_plain(frames)
    origin, call = plain.read(plain.origin("link", frames), frames, Limits())
    assert origin == plain.Plain("link", () if frames[0] else (b"",), vector["encoding"], vector["id"])
    assert (call.method, call.timeout) == (meant["method"], meant["timeout"])
    assert msgpack.unpackb(call.body) == [meant["args"], meant["kwargs"]]


@named(PLAIN["bad"])
def test_what_is_no_plain_request_is_answered_with_the_code_that_says_why(vector: dict[str, Any]) -> None:
    frames = vector["frames"]
    assert plain.is_plain(frames)
    origin = plain.origin("link", frames)
    assert origin.encoding == vector["encoding"]
    with pytest.raises(plain.BadPlain) as caught:
        plain.read(origin, frames, Limits())
    assert (caught.value.code, caught.value.id) == (vector["code"], vector["id"])


@pytest.mark.parametrize("delimited", [True, False])
@pytest.mark.parametrize("encoding", ["json", "msgpack"])
@named(PLAIN["replies"])
def test_a_plain_reply_is_what_its_client_reads(vector: dict[str, Any], encoding: str, delimited: bool) -> None:
    meant = vector["answer"]
    answer = Answer(Kind[meant["kind"]], meant["body"], code=meant["code"], message=meant["message"])
    for id in (1, "seven", None):
        frames = plain.answer(plain.Plain("link", (b"",) if delimited else (), encoding, id), answer, Limits())
        assert frames[:-1] == ([b""] if delimited else [])
        read = json.loads(frames[-1]) if encoding == "json" else msgpack.unpackb(frames[-1])
        assert read == {**vector["reply"], "id": id}


@named(SESSION["vectors"])
def test_no_frame_of_a_session_is_taken_for_a_plain_request(vector: dict[str, Any]) -> None:
    assert not plain.is_plain(vector["frames"])
