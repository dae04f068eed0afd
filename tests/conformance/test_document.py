"""docs/protocol.md and the code say the same: sections cited, kinds, fields, constants."""

from __future__ import annotations

import re
from pathlib import Path

import msgpack
import pytest

from zmqkit.errors import DecodeError
from zmqkit.options import Heartbeat
from zmqkit.patterns.pipeline import puller, rows
from zmqkit.patterns.pipeline import wire as pipeline
from zmqkit.protocol import handshake, liveness, session, sessions, wire

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
            if path.is_relative_to(ROOT / "patterns") or path.name == "peer.py":
                cited |= set(re.findall(r"\(([2-8]\.\d)\)", path.read_text()))
    assert {"2.2", "3.1", "4", "5", "6", "7.1", "7.2", "8"} <= cited
    assert cited <= SECTIONS


def test_every_link_within_the_page_leads_to_a_heading() -> None:
    headings = re.findall(r"^##+ (.+)$", PAGE, re.M)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors


def test_the_table_of_kinds_is_the_codes() -> None:
    found = dict(re.findall(r"^\| (\d+) \| ([A-Z]+) \|", section("2.2"), re.M))
    assert {int(kind): name for kind, name in found.items()} == wire.NAMES
    pairs = re.findall(r"^\| (\d+) \| ([A-Z]+) \|", section("7"), re.M)
    kinds = {name: getattr(pipeline, name) for name in ("DELIVER", "SETTLE", "SETTLED", "HELD")}
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
    }
    for name, value in said.items():
        assert table[name] == value, name
    assert handshake.REDIAL.factor == 2.0


def test_the_logs_are_the_codes() -> None:
    assert {"messages", "marks", "dead"} == {rows.MESSAGES, rows.MARKS, rows.DEAD} <= set(first_column("8"))
    assert rows.FORMAT == 1
    assert str(rows.ROW_MESSAGES) in section("8")
