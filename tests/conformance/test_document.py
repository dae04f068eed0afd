"""docs/protocol.md and the code say the same: sections cited, kinds, fields, constants."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.reqrep.serving import EPOCH, Serving
from zmqkit.errors import DecodeError
from zmqkit.options import Heartbeat, Limits
from zmqkit.patterns.pipeline import puller, rows
from zmqkit.patterns.pipeline import wire as pipeline
from zmqkit.patterns.reqrep import calls, dispatch, outcomes, plain, plain_calls, server, window
from zmqkit.patterns.reqrep import wire as reqrep
from zmqkit.protocol import handshake, links, liveness, session, sessions, wire

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text()
SECTIONS = set(re.findall(r"^###? (\d+(?:\.\d+)?)\.? ", PAGE, re.M))


def section(number: str) -> str:
    """The text of one section, without what comes after."""
    begin = re.search(rf"^(##+) {re.escape(number)}\.? .*$", PAGE, re.M)
    assert begin is not None
    end = re.search(rf"^#{{2,{len(begin[1])}}} ", PAGE[begin.end() :], re.M)
    return PAGE[begin.end() : begin.end() + end.start()] if end else PAGE[begin.end() :]


def first_column(number: str) -> list[str]:
    return [name.strip("`") for name in re.findall(r"^\| *(\S+) *\|", section(number), re.M)]


def test_every_section_that_the_code_cites_is_there() -> None:
    cited = set()
    for folder in ("zmqkit", "patterns", "tests/conformance", "tests/protocol"):
        for path in (ROOT / folder).rglob("*.py"):
            for citation in re.findall(r"docs/protocol\.md,? sections? ([\d., and]+(?: to \d+)?)", path.read_text()):
                cited |= set(re.findall(r"\d+(?:\.\d+)?", citation))
            if path.is_relative_to(ROOT / "patterns") or path.name in ("peer.py", "caller.py"):
                cited |= set(re.findall(r"\(((?:[2-8]|12)\.\d)\)", path.read_text()))
    assert {"2.2", "3.1", "4", "5", "6", "7.1", "7.2", "8", "12", "13"} <= cited
    assert cited <= SECTIONS


def test_every_link_within_the_page_leads_to_a_heading() -> None:
    headings = re.findall(r"^##+ (.+)$", PAGE, re.M)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors


def test_the_table_of_kinds_is_the_codes() -> None:
    found = dict(re.findall(r"^\| (\d+) \| ([A-Z]+) \|", section("2.2"), re.M))
    assert {int(kind): name for kind, name in found.items()} == wire.NAMES
    pairs = re.findall(r"^\| (\d+) \| ([A-Z]+) \|", section("7"), re.M)
    kinds = {
        name: getattr(pipeline, name)
        for name in ("DELIVER", "SETTLE", "SETTLED", "HELD", "RECALL", "KNOWN", "PRESENT", "TAKEN")
    }
    assert {name: int(kind) for kind, name in pairs if name in kinds} == kinds
    found = dict(re.findall(r"^\| (\d+) \| ([A-Z]+) \|", section("7.3"), re.M))
    assert {name: int(kind) for kind, name in found.items()} == {
        name: getattr(pipeline, name) for name in ("NACK", "REJECT", "RELEASE", "ISOLATE")
    }


def test_the_table_of_hello_has_every_field_and_its_default() -> None:
    hello = wire.Hello(role="echo", instance=b"i" * 16, session=b"sessions")
    said = msgpack.unpackb(hello.pack(wire.HELLO))[1]
    assert first_column("3.1")[2:] == list(said)
    missing = dict(re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", section("3.1"), re.M))
    for name in said:
        without = {key: value for key, value in said.items() if key != name}
        if missing[name] == "bad":
            with pytest.raises(DecodeError):
                wire.read_hello(without)
        else:
            wire.read_hello(without)
    assert missing["busy"] == str(int(hello.busy_bound))
    assert missing["frame"] == str(hello.frame_bytes)


def test_the_constants_are_the_codes() -> None:
    table = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \| [\d.]+ \|$", section("11"), re.M))
    first, last = handshake.REDIAL.first, handshake.REDIAL.cap
    refused = handshake.REFUSED_FACTOR * last
    head = f"{wire.MAX_HEADER_BYTES >> 20} MiB; {wire.MAX_CONTAINERS:,}"
    said = {
        "version": f"{wire.VERSION}",
        "largest header of a session frame": f"{wire.MAX_SESSION_HEADER_BYTES:,} bytes",
        "largest head of the pipeline; arrays and maps in it": head,
        "HELLO again": f"{first} s, doubling to {last:.0f} s, drawn from the upper half",
        "HELLO after REFUSED": f"{refused / 2} to {refused:.0f} s",
        "sessions; ended ids remembered": f"{handshake.MAX_SESSIONS:,}; {handshake.MAX_PAST:,}",
        "STATE": f"after {sessions.STATE_DELAY * 1000:.0f} ms, {session.STATE_EVERY} messages, "
        f"{session.STATE_BYTES >> 20} MiB",
        "interval, liveness, by default": f"{Heartbeat().interval:.0f} s, {Heartbeat().liveness}",
        "longest interval and bound": f"{wire.MAX_BOUND_SECONDS:.0f} s",
        "idle factor": f"{liveness.IDLE_FACTOR}",
        "open pings remembered": f"{session.MAX_PINGS_OUT}",
        "looks for a process": ", ".join(f"{delay * 1000:.0f}" for delay in liveness.PROBE_DELAYS) + " ms",
        "HELD": f"every {puller.HELD_EVERY} intervals",
        "records and bytes of small bodies in a message of request-reply": f"{reqrep.MAX_RECORDS}; "
        f"{reqrep.MAX_BLOB >> 20} MiB",
        "bodies that are frames of their own": f"from {reqrep.LARGE >> 10} KiB",
        "method; id; codec": f"{reqrep.MAX_METHOD}; {reqrep.MAX_ID:,}; {reqrep.MAX_CODEC} characters",
        "code; message or reason": f"{reqrep.MAX_CODE}; {reqrep.MAX_MESSAGE:,} characters",
        "calls that wait for one request id": f"{server.MAX_OTHERS}",
        "requests open on a plain connection": f"{plain_calls.MAX_OPEN}",
        "connections to one address, by MORE": f"{wire.MAX_CONNECTIONS}",
        "connections of no more use are left after": f"{links.FEWER_DELAY:.0f} s",
    }
    for name, value in said.items():
        assert table[name] == value, name
    assert handshake.REDIAL.factor == 2.0


def test_the_logs_are_the_codes() -> None:
    assert {"messages", "marks", "dead"} == {rows.MESSAGES, rows.MARKS, rows.DEAD} <= set(first_column("8"))
    assert rows.FORMAT == 1
    assert str(rows.ROW_MESSAGES) in section("8")


# ---- request-reply -------------------------------------------------------------------------


def test_the_table_of_records_is_the_codes() -> None:
    table = re.findall(r"^\| (\d+) \| ([A-Z]+) \| (client|server|both) \| ([^|]*)\|$", section("12.1"), re.M)
    assert {int(op): name for op, name, _, _ in table} == dict(enumerate(reqrep.NAMES[1:], 1))
    assert {int(op) for op, _, side, _ in table if side != "server"} == reqrep.FROM_CLIENT
    assert {int(op) for op, _, side, _ in table if side != "client"} == reqrep.FROM_SERVER
    for op, _, _, fields in table:
        assert 3 + len(re.findall(r"\w+", fields)) == reqrep.FIELDS[int(op)]
    sizes = re.search(r"up to (\d+)\s+records or (\d) MiB.*Bodies of (\d+) KiB or more", section("12.1"), re.S)
    assert sizes is not None
    assert sizes.groups() == (str(reqrep.MAX_RECORDS), str(reqrep.MAX_BLOB >> 20), str(reqrep.LARGE >> 10))


def test_the_tables_of_a_call_are_the_codes() -> None:
    table = dict(re.findall(r"^\| `?(\w+)`? \| (.+) \|.*\|$", section("12.2"), re.M))
    said = re.findall(r"^\| 1 \| CALL \| client \| (.+) \|$", section("12.1"), re.M)[0].split(", ")
    more = [name for name in table if name not in (*said, "if", "field", "key")]
    assert list(reqrep.CallFields._fields) == [*said[:-1], *more]
    limits = {"method": reqrep.MAX_METHOD, "id": reqrep.MAX_ID, "codec": reqrep.MAX_CODEC}
    for name, limit in limits.items():
        assert re.search(r"to (\d+)", table[name])[1] == str(limit), name  # type: ignore[index]
    record = [reqrep.CALL, 1, 0, "add", None, 0, None]
    full = {"id": "i", "attempt": 2, "headers": {"k": "v"}, "codec": "json", "items": 1, "uploads": [0]}
    assert list(full) == more
    read = reqrep.call([*record[:6], full])
    assert dict(zip(read._fields[3:], read[3:], strict=True)) == {**full, "uploads": (0,)}
    assert reqrep.call(record) == reqrep.call([*record[:6], {}])


def codes_in(name: str) -> list[str]:
    """The codes that a row of section 12.3 names, those kept for later left out."""
    row = re.search(rf"^\| {name} \|.*Codes: (.+)$", section("12.3"), re.M)
    assert row is not None
    return re.findall(r"`(\w+)`", row[1].partition("Others")[0].replace("`authorised`", ""))


def test_the_codes_of_refusals_and_of_unknown_outcomes_are_the_codes() -> None:
    refused = codes_in("REFUSED")
    counted = {name.removeprefix("calls_refused_") for name in dispatch.COUNTERS if name.startswith("calls_refused_")}
    assert set(refused) == counted - {"other"}
    folder = ROOT / "patterns" / "reqrep"
    sources = [path.read_text() for path in folder.glob("*.py")]
    said = {code for source in sources for code in re.findall(r"\brefused\(\s*\"(\w+)\"", source)}
    said |= {code for source in sources for code in re.findall(r"\b_refuse(?:_waiting)?\([^\n]*, \"(\w+)\", ", source)}
    assert said <= set(refused)
    named = {getattr(outcomes, name) for name in vars(outcomes) if name.startswith("CODE_")}
    assert named <= {*refused, *codes_in("UNKNOWN")}
    # What ends an upload goes to a handler, and what a client says to itself to its user: neither is on the wire.
    elsewhere = {"streaming.py", "client.py", "placing.py", "returning.py", "keeping.py"}
    sources = [path.read_text() for path in folder.glob("*.py") if path.name not in elsewhere]
    unknown = {code for source in sources for code in re.findall(r"\bunknown\(\s*\"(\w+)\"", source)}
    unknown |= {code for source in sources for code in re.findall(r"UNKNOWN,\s*code=\"(\w+)\"", source)}
    assert unknown <= set(codes_in("UNKNOWN")) <= unknown | named
    assert {window.DROPPED.code, server.EXPIRED.code, server.CROWDED.code, dispatch.BEFORE.code} <= unknown


def test_the_server_looks_at_a_call_in_the_documents_order() -> None:
    """Each call gives the reason for one row of the table, and for each row below it that goes together with it."""
    serving = Serving(capacity=1)
    serving.call(1, "one", id="known")
    serving.call(2, "add", remaining=1.0)  # from here on all clocks are known to agree
    late: dict[str, Any] = {"remaining": 0.0}
    told = []

    def ask(number: int, method: str, *, epoch: bytes = EPOCH, **more: Any) -> None:
        serving.send([serving.record(number, method, **more)], epoch=epoch)
        (answer,) = serving.take()
        told.append(answer[2])

    ask(9, "no such", epoch=b"", attempt=-1, **late)
    ask(1, "no such", epoch=b"", **late)
    ask(1, "no such", **late)
    ask(9, "no such", id="known", **late)
    ask(9, "no such", **late)
    ask(9, "one", **late)
    ask(9, "one")
    serving.core.drain(serving.pair.now)
    serving.pair.flow()
    serving.take()
    ask(10, "no such", **late)
    serving.floor = 9
    serving.send([[reqrep.CANCEL, 1000, None]])
    ask(8, "no such", **late)
    assert told == ["record", "epoch", "id", "id", "method", "late", "overloaded", "draining", "expired"]
    table = re.findall(r"^\| [^|]+ \| (?:REFUSED|UNKNOWN) `(\w+)`.*\|$", section("12.2"), re.M)
    assert table == ["record", "epoch", "id", "expired", "draining", "method", "late", "overloaded"]


def test_the_codes_for_plain_clients_are_the_codes() -> None:
    table = {
        int(code): executed for code, executed in re.findall(r"^\| (-32\d+) \|.*\| (\w+) \|$", section("13"), re.M)
    }
    no = {
        plain.PARSE_ERROR, plain.INVALID_REQUEST, plain.NO_METHOD, plain.BAD_PARAMS, plain.OVERLOADED, plain.LATE,
        plain.REFUSED,
    }  # fmt: skip
    assert table == dict.fromkeys(no, "no") | {plain.FAILED: "yes", plain.INTERNAL: "perhaps"}
    assert set(plain.CODES.values()) < no
    assert set(plain.CODES) <= set(codes_in("REFUSED"))
    sent = plain.answer(plain.Plain("link", (), "json", 7), outcomes.unknown("stopped", "why"), Limits())
    assert sent == [b'{"jsonrpc":"2.0","error":{"code":-32603,"message":"why","data":{"code":"stopped"}},"id":7}']
    assert f"At most {plain_calls.MAX_OPEN} requests of one connection" in section("13")


def test_the_first_frames_of_plain_clients_are_as_the_document_says() -> None:
    firsts = [byte for byte in range(256) if plain.is_plain([bytes([byte])])]
    assert firsts == sorted([*b"{[ \t\r\n", *range(0x80, 0x90), 0xDE, 0xDF])
    assert plain.is_plain([b"", b"anything"])
    assert not plain.is_plain([b"{}", b"more"])


def test_how_a_call_ends_is_one_of_the_documents_endings() -> None:
    endings = re.findall(r"^\| ([A-Z]+) \|", section("12.3"), re.M)
    assert set(endings) == {"RESULT", "END", "ERROR", "REFUSED", "UNKNOWN"}
    kinds = {name.name for name in calls.Kind}
    assert set(endings) - {"END"} <= kinds
