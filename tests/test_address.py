"""Addresses are read, given back, and judged."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zmqkit.address import Address, bare, is_loopback, nth, parse, parse_several, require_secure
from zmqkit.errors import AddressError, InsecureAddress

GOOD = [
    "tcp://127.0.0.1:5555",
    "tcp://*:5555",
    "tcp://localhost:*",
    "tcp://[::1]:5555",
    "tcp://[fe80::1%eth0]:5555",
    "tcp://jobs.example.org:80",
    "tcp://my_service:80",
    "ipc:///tmp/jobs",
    "ipc://@abstract",
    "ipc:///tmp/with blank",
    "inproc://jobs/1",
    "zeroconf://calc",
    "static://a:1,b:2",
    "static://a:1,ipc:///tmp/x",
    "env://CALC_ADDRESS",
]

BAD = [
    "",
    "127.0.0.1:5555",
    "http://a:1",
    "tcp://",
    "tcp://a",
    "tcp://:5",
    "tcp://a:",
    "tcp://a:65536",
    "tcp://a:-1",
    "tcp://a:+1",
    "tcp://a:²",
    "tcp://::1:5",
    "tcp://[::1:5",
    "tcp://[nonsense]:5",
    "tcp://127.0.0.300:5",
    "tcp://a b:5",
    "tcp://a/b:5",
    "tcp://a:1,b:2",
    "tcp://a:1;b:2",
    "tcp://-a:1",
    "ipc://" + "x" * 108,
    "ipc://a\0b",
    "zeroconf://two words",
    "zeroconf://a,b",
    "static://a:1,,b:2",
    "static://a",
    "static://zeroconf://a",
    "env://not-a-name",
    "env://1A",
]


@pytest.mark.parametrize("text", GOOD)
def test_a_good_address_is_given_back_as_it_was_written(text: str) -> None:
    assert str(parse(text)) == text
    assert parse(str(parse(text))) == parse(text)
    assert parse(parse(text)) is not None


@pytest.mark.parametrize("text", BAD)
def test_a_bad_address_is_named_together_with_what_works(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse(text)
    assert repr(text) in str(caught.value)
    assert "ipc://" in str(caught.value)


def test_a_port_that_is_none_is_told_which_are() -> None:
    assert parse("tcp://a:0").port == parse("tcp://a:*").port == 0
    with pytest.raises(AddressError, match=r"'65536' is not a port: 1 to 65535, or to bind a free one \* or 0"):
        parse("tcp://a:65536")


def test_what_is_not_text_is_refused() -> None:
    with pytest.raises(AddressError, match="an address is text"):
        parse(5555)  # type: ignore[arg-type]


def test_the_parts_of_an_address_are_read() -> None:
    assert parse("TCP://[::1]:7") == Address("tcp", "[::1]:7", "::1", 7)
    assert parse("tcp://*:*").port == 0
    assert parse("static://a:1,ipc:///x").members == (parse("tcp://a:1"), parse("ipc:///x"))
    assert parse("zeroconf://a").looked_up
    assert not parse("tcp://a:1").looked_up
    assert [parse(f"tcp://{host}:1").wildcard for host in ("*", "0.0.0.0", "[::]", "10.0.0.1")] == [True] * 3 + [False]


def test_several_addresses_are_separated_by_commas_or_blanks() -> None:
    expected = (parse("tcp://a:1"), parse("static://b:2,c:3"), parse("zeroconf://d"))
    assert parse_several("tcp://a:1, static://b:2,c:3 zeroconf://d") == expected
    assert parse_several(" tcp://a:1,static://b:2,c:3,\nzeroconf://d,") == expected
    with pytest.raises(AddressError, match="no address"):
        parse_several(" , ")


@pytest.mark.parametrize(
    "text",
    [
        "tcp://127.0.0.1:1",
        "tcp://127.9.9.9:1",
        "tcp://[::1]:1",
        "tcp://[::ffff:127.0.0.1]:1",
        "tcp://localhost:1",
        "tcp://LOCALHOST.:1",
        "ipc:///tmp/x",
        "inproc://x",
        "static://127.0.0.1:1,localhost:2",
    ],
)
def test_loopback_addresses_need_no_permission(text: str) -> None:
    assert is_loopback(parse(text))
    require_secure(parse(text), False, "bind")


@pytest.mark.parametrize(
    "text",
    [
        "tcp://*:1",
        "tcp://0.0.0.0:1",
        "tcp://[::]:1",
        "tcp://10.0.0.1:1",
        "tcp://localhost.example.org:1",
        "tcp://127.0.0.1.example.org:1",
        "static://127.0.0.1:1,10.0.0.1:2",
    ],
)
def test_other_addresses_need_permission(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZMQKIT_INSECURE", raising=False)
    assert not is_loopback(parse(text))
    with pytest.raises(InsecureAddress, match="insecure=True"):
        require_secure(parse(text), False, "connect")
    require_secure(parse(text), True, "connect")
    monkeypatch.setenv("ZMQKIT_INSECURE", "1")
    require_secure(parse(text), False, "connect")


def test_what_is_yet_to_be_found_is_judged_when_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZMQKIT_INSECURE", raising=False)
    require_secure(parse("zeroconf://a"), False, "connect")
    require_secure(parse("env://A"), False, "connect")


@settings(deadline=None)
@given(st.text(max_size=40) | st.builds("{}://{}".format, st.sampled_from(["tcp", "ipc", "static", "env"]), st.text()))
def test_any_text_is_read_or_refused_by_name(text: str) -> None:
    try:
        address = parse(text)
    except AddressError:
        return
    assert parse(str(address)) == address


@given(st.sampled_from([each for each in GOOD if "*" not in each]), st.integers(2, 300))
def test_a_further_connection_has_a_name_that_is_no_address_and_tells_where_it_leads(address: str, n: int) -> None:
    name = nth(address, n)
    assert name != address
    assert bare(name) == address
    assert nth(name, n + 1) == nth(address, n + 1) != name
    with pytest.raises(AddressError):
        parse(name)


@given(st.text())
def test_what_nth_did_not_name_is_bare_already(text: str) -> None:
    assert bare(text) == text or "\t#" in text
    assert nth(text, 1) == bare(text)
