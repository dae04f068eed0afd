"""Sides of a device: what stands in front of an address, what goes together, and what is refused and how."""

from __future__ import annotations

from typing import Any

import pytest

from zmqkit.address import parse
from zmqkit.devices import Forwarder, Proxy, Queue, Side, Streamer
from zmqkit.devices.sides import HIGH_WATER_MARK, check, high_water_mark, read, resolved, same
from zmqkit.errors import AddressError, DiscoveryError, InsecureAddress, UsageError
from zmqkit.options import Limits

HERE = "tcp://127.0.0.1:5557"
THERE = "tcp://127.0.0.1:5558"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (HERE, Side(bind=[HERE])),
        (f"@{HERE}", Side(bind=HERE)),
        (f">{HERE}", Side(connect=[HERE])),
        ([HERE, f">{THERE}"], Side(bind=(HERE,), connect=(THERE,))),
        ("zeroconf://jobs", Side(connect="zeroconf://jobs")),
        ("@zeroconf://jobs", Side(announce="jobs")),
        ("static://127.0.0.1:1,127.0.0.1:2", Side(connect="static://127.0.0.1:1,127.0.0.1:2")),
        ("@static://127.0.0.1:1,127.0.0.1:2", Side(bind=["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"])),
        ("env://JOBS", Side(connect="env://JOBS")),
        ("@env://JOBS", Side(bind="env://JOBS")),
        ("ipc://@abstract", Side(bind="ipc://@abstract")),
        (Side(bind=HERE, announce="jobs"), Side(bind=HERE, announce="jobs")),
    ],
)
def test_a_mark_says_whether_an_address_is_bound_or_connected_to(given: Any, expected: Side) -> None:
    assert read("frontend", given) == expected


def test_a_name_alone_is_announced_for_a_free_port_of_this_host() -> None:
    assert Side(announce="jobs").bind == ("tcp://127.0.0.1:*",)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ("tcp:/127.0.0.1:1", AddressError, "is not an address"),
        ("@", AddressError, "is not an address"),
        ("><", AddressError, "is not an address"),
        ([], UsageError, "frontend: a side of a device needs an address"),
        (">tcp://*:5557", UsageError, "frontend: .* nobody can connect to it: name a host"),
        (">tcp://127.0.0.1:*", UsageError, "frontend: .* nobody can connect to it: name a port"),
        (["@zeroconf://a", "@zeroconf://b"], UsageError, "two names for one side"),
        (5557, TypeError, "frontend must be an address"),
        ([5557], AddressError, "an address is text"),
        (b"tcp://127.0.0.1:1", TypeError, "frontend must be an address"),
        (None, UsageError, "frontend: a side of a device needs an address"),
    ],
)
def test_what_can_be_no_side_is_refused_by_name(given: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Queue(given, "inproc://behind", plain=True)


@pytest.mark.parametrize(
    "given", [{"announce": 5}, {"limits": 5}, {"bind": 5}, {"bind": HERE, "limits": {"queued_messages": 5}}]
)
def test_a_side_of_wrong_types_is_refused(given: Any) -> None:
    with pytest.raises(TypeError):
        Side(**given)


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (HERE, HERE, True),
        (HERE, THERE, False),
        (HERE, "tcp://localhost:5557", True),
        (HERE, "tcp://*:5557", True),
        ("tcp://127.0.0.1:*", "tcp://127.0.0.1:*", False),
        ("ipc:///tmp/a", "ipc:///tmp/a", True),
        ("ipc://*", "ipc://*", False),
        ("inproc://a", "ipc://a", False),
        ("zeroconf://a", "zeroconf://a", True),
    ],
)
def test_addresses_that_lead_to_one_place_are_known(one: str, other: str, alike: bool) -> None:
    assert same(parse(one), parse(other)) is same(parse(other), parse(one)) is alike


@pytest.mark.parametrize(
    ("frontend", "backend"),
    [
        (HERE, HERE),
        (HERE, f">{HERE}"),
        (f">{HERE}", f">{HERE}"),
        ([THERE, HERE], "tcp://localhost:5557"),
        ("@zeroconf://jobs", "zeroconf://jobs"),
        ("@static://127.0.0.1:1,127.0.0.1:2", ">tcp://127.0.0.1:2"),
    ],
)
@pytest.mark.parametrize("kind", [Queue, Forwarder, Streamer, Proxy])
def test_both_sides_at_one_address_are_refused(kind: Any, frontend: Any, backend: Any) -> None:
    with pytest.raises(UsageError, match=r"frontend and backend are both at .*: give each side an address of its own"):
        kind(frontend, backend)


@pytest.mark.parametrize("address", ["tcp://*:5557", ">tcp://example.com:5557", "@static://10.0.0.1:1"])
def test_what_others_on_the_network_could_reach_has_to_be_allowed(address: str) -> None:
    with pytest.raises(InsecureAddress):
        Queue(address, HERE[:-1] + "9", plain=True)
    assert not Queue(address, HERE[:-1] + "9", plain=True, insecure=True).closed


def test_what_a_variable_says_is_read_when_the_side_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOBS", raising=False)  # `make test JOBS=2` hands it on
    side = read("frontend", "@env://JOBS")
    with pytest.raises(DiscoveryError, match="JOBS is not set"):
        resolved(side, False)
    monkeypatch.setenv("JOBS", f"{HERE}, {THERE}")
    assert list(map(str, resolved(side, False))) == [HERE, THERE]
    monkeypatch.setenv("JOBS", "tcp://*:1")
    with pytest.raises(InsecureAddress):
        resolved(side, False)
    monkeypatch.setenv("JOBS", "zeroconf://a")
    with pytest.raises(UsageError, match="cannot be bound"):
        resolved(side, False)


def test_limits_are_zeromqs_own_until_they_are_given() -> None:
    assert high_water_mark(None) == HIGH_WATER_MARK == 1000
    assert high_water_mark(Limits(queued_messages=7)) == 7


def test_three_sides_are_looked_at_together() -> None:
    with pytest.raises(UsageError, match="frontend and plain_frontend are both at"):
        check({"frontend": Side(bind=HERE), "backend": Side(bind=THERE), "plain_frontend": Side(bind=HERE)}, False)
