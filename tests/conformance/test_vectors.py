"""Golden vectors: bytes that no version 1 may ever read or write otherwise (docs/protocol.md)."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgpack
import pytest

from tests.conformance import transcript
from tests.conformance.plain import load
from tests.protocol.pair import Side
from zmqkit.errors import DecodeError
from zmqkit.patterns.pipeline import rows, wire
from zmqkit.protocol import wire as session_wire
from zmqkit.protocol.core import Link, Outputs
from zmqkit.protocol.session import Session

SESSION, PIPELINE, JOURNAL = load("session"), load("pipeline"), load("journal")


def named(vectors: list[dict[str, Any]]) -> Any:
    return pytest.mark.parametrize("vector", vectors, ids=[vector["name"] for vector in vectors])


# ---- the session layer ------------------------------------------------------------------


@named(SESSION["vectors"])
def test_a_session_frame_is_read_as_it_is_meant(vector: dict[str, Any]) -> None:
    header = session_wire.unpack(vector["frames"][0])
    assert header == vector["header"]
    assert session_wire.NAMES[header[0]] == vector["kind"]
    assert vector["frames"][1:] + (header[7:] if header[0] == session_wire.DATA else []) == vector["body"]
    if vector["kind"] in ("HELLO", "WELCOME"):
        said = vector["header"][1]
        hello = session_wire.read_hello(header[1])
        assert list(hello.versions) == said["zmqkit"]
        for name in ("role", "instance", "session", "attempt", "resume", "replaces", "heard", "sent", "name", "host"):
            assert getattr(hello, name) == said[name]
        assert [hello.credit_messages, hello.credit_bytes] == said["credit"]
        assert [hello.interval, hello.liveness] == said["heartbeat"]
        assert (hello.busy_bound, hello.frame_bytes) == (said["busy"], said["frame"])
        assert [hello.pid, hello.started] == said["process"]
        assert (list(hello.features), hello.about) == (said["features"], said["about"])


@named([vector for vector in SESSION["vectors"] if "note" not in vector])
def test_a_session_frame_is_written_so(vector: dict[str, Any]) -> None:
    frames, header, kind = vector["frames"], vector["header"], vector["header"][0]
    if kind in (session_wire.HELLO, session_wire.WELCOME):
        assert [session_wire.read_hello(header[1]).pack(kind)] == frames
        return
    if kind in (session_wire.REFUSED, session_wire.LOST):
        assert [session_wire.pack(header)] == frames
        return
    if kind >= session_wire.GONE:
        say = {session_wire.GONE: session_wire.gone, session_wire.LISTEN: session_wire.listen}
        assert [say[kind]() if kind in say else session_wire.more(header[1])] == frames
        return
    out = Outputs()
    peer = session_wire.Hello(role="push", instance=b"i" * 16, session=header[1])
    session = Session(peer, "link", dialled=True)
    _, _, session.heard, session.limit_messages, session.limit_bytes, *more = header
    if kind == session_wire.DATA:
        session.sent = more[0] - 1
        session.send(out, vector["body"], more[1])
    else:
        session.tell(out, kind, *more)
    assert [list(sent) for _, sent in out.sends] == [frames]


@named(SESSION["bad"])
def test_a_bad_session_frame_is_dropped_and_counted(vector: dict[str, Any]) -> None:
    side = Side("b", role="push", accepts=frozenset({"pull"}))
    link: Link = ("b", "x", 1)
    opening = SESSION["vectors"][0]["frames"]
    if "to" in vector:
        link = ("c", "x")
        side.sessions.link_up(link, 0.0)
        asked = session_wire.unpack(side.out.sends.pop()[1][0])[1]
        said = session_wire.read_hello(session_wire.unpack(opening[0])[1])
        answer = dataclasses.replace(said, session=asked["session"], attempt=asked["attempt"], resume=True)
        opening = [answer.pack(session_wire.WELCOME)]
    side.sessions.receive_message(link, opening, 0.0)
    side.out.sends.clear()
    if vector["name"].startswith("a session"):
        link = ("b", "x", 2)  # where it would be asked whether it is known
    side.sessions.receive_message(link, vector["frames"], 0.0)
    side.take_events()
    assert side.counters["frames_bad"] == 1
    assert side.kinds() == ["PeerFound", "BadFrame"]
    assert not side.out.sends
    assert not side.out.dials
    assert not side.out.disconnects
    assert len(side.sessions) == 1


def test_a_whole_conversation_goes_as_it_was_written_down() -> None:
    recorded = load("transcript")["steps"]
    for at, (played, written) in enumerate(zip(transcript.play(), recorded, strict=True)):
        assert msgpack.packb(played) == msgpack.packb(written), f"step {at}: {played} was {written}"


# ---- the pipeline -----------------------------------------------------------------------


def message_of(meant: dict[str, Any]) -> Any:
    kind = meant["kind"]
    if kind == "DELIVER":
        lengths = list(map(len, meant["bodies"]))
        fields = {name: meant[name] for name in ("lease", "sequence", "origin", "sent_at", "codec")}
        return wire.Deliver(**fields, lengths=lengths, blob=b"".join(meant["bodies"]), **meant["more"])
    if kind == "SETTLE":
        others = [wire.Unsettled(*other) for other in meant["others"]]
        more = {name: meant.get(name, 0) for name in ("commits", "started")}
        return wire.Settle(meant["epoch"], meant["acks"], others, meant["ask"], **more)
    if kind == "KNOWN":
        return wire.Known(meant["inbox"], meant["commits"])
    if kind == "RECALL":
        return wire.Recall(meant["most"])
    if kind == "PRESENT":
        return wire.Present(meant["epoch"], meant["runs"])
    if kind == "TAKEN":
        return wire.Taken(meant["epoch"], meant["runs"], meant["more"])
    if kind == "SETTLED":
        return wire.Settled(meant["ask"], meant["stale"])
    return wire.Held(meant["epoch"], meant["up_to"], meant["leases"])


@named(PIPELINE["vectors"])
def test_a_message_of_the_pipeline_is_read_and_written_so(vector: dict[str, Any]) -> None:
    meant = message_of(vector["message"])
    assert wire.read(vector["frames"]) == meant
    assert list(meant.pack()) == vector["frames"]


@named(PIPELINE["vectors"])
def test_what_a_later_version_adds_to_the_pipeline_is_skipped(vector: dict[str, Any]) -> None:
    head = msgpack.unpackb(vector["frames"][0], strict_map_key=False)
    if vector["message"]["kind"] == "SETTLE":
        head += [None] * (7 - len(head))  # its last two may be missing
    head += ["later", {"more": [1]}]
    if vector["message"]["kind"] == "DELIVER":
        head[7]["later"] = {0: 1}
    frames = [msgpack.packb(head), *vector["frames"][1:], b"a later frame"]
    assert wire.read(frames) == message_of(vector["message"])


@named(PIPELINE["bad"])
def test_a_bad_message_of_the_pipeline_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        wire.read(vector["frames"])


# ---- the journal ------------------------------------------------------------------------


@named(JOURNAL["vectors"])
def test_a_row_of_the_journal_is_read_and_written_so(vector: dict[str, Any]) -> None:
    meant, key = vector["meaning"], vector["key"]
    if vector["log"] == rows.MESSAGES:
        lengths = list(map(len, meant["bodies"]))
        row = rows.Row.unpack(key, vector["value"])
        assert (row.key, row.origin, row.sent_at, row.codec) == (key, meant["origin"], meant["sent_at"], meant["codec"])
        assert (row.lengths, row.blob, row.count) == (lengths, b"".join(meant["bodies"]), vector["weight"])
        assert (row.ids, row.headers) == (meant["more"].get("ids", {}), meant["more"].get("headers", {}))
        assert row.pack() == vector["value"]
    elif vector["log"] == rows.MARKS:
        row = rows.Row(key, "o", 0, "raw", [0] * meant["count"], b"", {}, {})
        row.unpack_marks(vector["value"])
        assert [index for index in range(row.count) if row.done >> index & 1] == meant["done"]
        assert row.failures == meant["failures"]
        assert row.pack_marks() == (vector["weight"], vector["value"])
    else:
        letter = rows.DeadRow.unpack(vector["value"])
        assert dataclasses.asdict(letter) == {"inbox": 0, "key": None, "priority": 0, **meant}
        assert letter.pack() == vector["value"]


def test_there_is_a_vector_for_every_kind() -> None:
    assert {vector["kind"] for vector in SESSION["vectors"]} == set(session_wire.NAMES.values())
    kinds = {vector["message"]["kind"] for vector in PIPELINE["vectors"]}
    assert kinds == {"DELIVER", "SETTLE", "SETTLED", "HELD", "RECALL", "KNOWN", "PRESENT", "TAKEN"}
    assert {vector["log"] for vector in JOURNAL["vectors"]} == {rows.MESSAGES, rows.MARKS, rows.DEAD}
    outcomes = {other[1] for vector in PIPELINE["vectors"] for other in vector["message"].get("others", [])}
    assert outcomes == {wire.NACK, wire.REJECT, wire.RELEASE, wire.ISOLATE}
