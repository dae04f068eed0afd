"""Announcements are packed, read with suspicion, and the best address is taken."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zmqkit.address import parse
from zmqkit.discovery.records import Record, best_address, check_name, check_word, to_announce
from zmqkit.errors import DiscoveryError

GOOD = Record("jobs", "push", "ab" * 16, "a müller", "cd" * 16, 77, ("tcp://127.0.0.1:5557", "ipc:///tmp/x"))


def as_bytes(record: Record, **changes: bytes | None) -> dict[bytes, bytes | None]:
    properties: dict[bytes, bytes | None] = {key.encode(): value for key, value in record.encode().items()}
    properties.update({key.encode(): value for key, value in changes.items()})
    return properties


def test_a_record_comes_back_as_it_went() -> None:
    assert Record.decode(as_bytes(GOOD)) == GOOD


@pytest.mark.parametrize(
    "change",
    [
        {"v": b"2"},
        {"v": None},
        {"name": b"two words"},
        {"name": b"\xff"},
        {"role": b""},
        {"role": b"pu\nsh"},
        {"id": b"x" * 65},
        {"host": b""},
    ],
)
def test_what_cannot_be_read_is_no_record(change: dict[str, bytes | None]) -> None:
    assert Record.decode(as_bytes(GOOD, **change)) is None


def test_addresses_that_nobody_can_connect_to_are_left_out() -> None:
    decoded = Record.decode(
        as_bytes(GOOD, a1=b"inproc://x", a2=b"tcp://*:5", a3=b"tcp://a:0", a4=b"nonsense", a5=b"tcp://a:1")
    )
    assert decoded is not None
    assert decoded.addresses == ("tcp://127.0.0.1:5557", "tcp://a:1")
    decoded = Record.decode(as_bytes(GOOD, peer=b"\x1b[31m", pid=b"-1"))
    assert decoded is not None
    assert (decoded.peer_name, decoded.pid) == ("", 0)


@settings(deadline=None)
@given(st.dictionaries(st.binary(max_size=8), st.none() | st.binary(max_size=40)))
def test_any_properties_are_a_record_or_none(properties: dict[bytes, bytes | None]) -> None:
    for base in ({}, as_bytes(GOOD)):
        decoded = Record.decode({**base, **properties})
        assert decoded is None or isinstance(decoded, Record)


def test_an_address_that_fits_no_record_is_refused() -> None:
    with pytest.raises(DiscoveryError, match="too long"):
        Record("jobs", "push", "a", "", "b", 1, ("tcp://" + "a." * 120 + "b:1",)).encode()


@pytest.mark.parametrize("name", ["a", "calc", "Calc-2", "a" * 63])
def test_dns_labels_are_names_in_any_case(name: str) -> None:
    assert check_name(name) == name.lower()


@pytest.mark.parametrize("name", ["", "-a", "a-", "my_service", "a.b", "a" * 64, "zwölf", "a b"])
def test_other_names_are_refused_with_one_that_would_do(name: str) -> None:
    with pytest.raises(DiscoveryError) as caught:
        check_name(name)
    would_do = re.findall(r"'([^']*)' would do", str(caught.value))[0]
    assert check_name(would_do) == would_do


def test_roles_and_ids_are_words() -> None:
    assert check_word("push", "a role") == "push"
    with pytest.raises(DiscoveryError, match="a role"):
        check_word("", "a role")


@pytest.mark.parametrize(
    ("bound", "here", "network"),
    [
        ("tcp://127.0.0.1:5", ["tcp://127.0.0.1:5"], []),
        ("tcp://localhost:5", ["tcp://localhost:5"], []),
        ("ipc:///tmp/x", ["ipc:///tmp/x"], []),
        ("tcp://*:5", ["tcp://127.0.0.1:5"], ["tcp://10.0.0.1:5", "tcp://10.1.0.1:5"]),
        ("tcp://0.0.0.0:5", ["tcp://127.0.0.1:5"], ["tcp://10.0.0.1:5", "tcp://10.1.0.1:5"]),
        ("tcp://10.0.0.1:5", ["tcp://10.0.0.1:5"], ["tcp://10.0.0.1:5"]),
    ],
)
def test_bound_addresses_are_announced_as_those_who_connect_call_them(
    bound: str, here: list[str], network: list[str]
) -> None:
    assert to_announce([parse(bound)], ["10.0.0.1", "10.1.0.1"]) == (tuple(here), tuple(network))


def test_tcp_goes_before_ipc() -> None:
    here, _ = to_announce([parse("ipc:///tmp/x"), parse("tcp://127.0.0.1:5")], [])
    assert here == ("tcp://127.0.0.1:5", "ipc:///tmp/x")


@pytest.mark.parametrize(
    ("bound", "says"), [("inproc://x", "nobody else"), ("tcp://127.0.0.1:*", "before it is bound")]
)
def test_what_cannot_be_announced_is_refused(bound: str, says: str) -> None:
    with pytest.raises(DiscoveryError, match=says):
        to_announce([parse(bound)], [])


def test_loopback_addresses_count_only_from_this_host_and_heard_on_loopback() -> None:
    def best(addresses: tuple[str, ...], *, host: str, heard_on_loopback: bool) -> str | None:
        record = Record("jobs", "push", "a", "", host, 1, addresses)
        subnets = [ipaddress.IPv4Network("10.1.0.0/16")]
        return best_address(record, heard_on_loopback=heard_on_loopback, host="here", subnets=subnets)

    loopback, network = ("tcp://127.0.0.1:5",), ("tcp://10.0.0.1:5", "tcp://10.1.0.1:5")
    assert best(loopback, host="here", heard_on_loopback=True) == loopback[0]
    assert best(loopback, host="there", heard_on_loopback=True) is None
    assert best(loopback, host="here", heard_on_loopback=False) is None
    assert best(("ipc:///tmp/x",), host="here", heard_on_loopback=False) is None
    assert best(network, host="there", heard_on_loopback=False) == network[1]
    assert best(network[:1], host="there", heard_on_loopback=False) == network[0]
    assert best(("tcp://a.example:5",), host="there", heard_on_loopback=False) == "tcp://a.example:5"
    assert best(loopback + network, host="there", heard_on_loopback=False) == network[1]
    assert best((), host="here", heard_on_loopback=True) is None
