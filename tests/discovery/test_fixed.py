"""Addresses given by hand: plain, static:// and env://."""

from __future__ import annotations

import pytest

from tests.discovery.helpers import Seen
from zmqkit import discovery
from zmqkit.discovery import Found
from zmqkit.errors import AddressError, DiscoveryError


def by_hand(*addresses: str) -> frozenset[Found]:
    return frozenset(Found(address, None, address) for address in addresses)


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("tcp://a:1", ["tcp://a:1"]),
        ("inproc://x", ["inproc://x"]),
        ("static://a:1,b:2,ipc:///tmp/x", ["tcp://a:1", "tcp://b:2", "ipc:///tmp/x"]),
        ("static://a:1,a:1", ["tcp://a:1"]),
    ],
)
def test_fixed_addresses_are_told_before_watch_returns(url: str, addresses: list[str], seen: Seen) -> None:
    with discovery.watch(url, on_change=seen, roles={"push"}) as watch:
        assert seen.told == [by_hand(*addresses)]
        assert watch.found == seen.now
    assert len(seen.told) == 1


@pytest.mark.parametrize("value", ["tcp://a:1, static://b:2,c:3", "tcp://a:1 tcp://b:2 tcp://c:3"])
def test_an_environment_variable_holds_any_other_addresses(
    value: str, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZMQKIT_TEST_JOBS", value)
    with discovery.watch("env://ZMQKIT_TEST_JOBS", on_change=seen):
        monkeypatch.setenv("ZMQKIT_TEST_JOBS", "tcp://later:1")
    assert seen.told == [by_hand("tcp://a:1", "tcp://b:2", "tcp://c:3")]


def test_a_variable_that_is_not_set_or_wrong_is_named(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZMQKIT_TEST_JOBS", raising=False)
    with pytest.raises(DiscoveryError, match=r"ZMQKIT_TEST_JOBS is not set; .*ZMQKIT_TEST_JOBS=tcp://"):
        discovery.watch("env://ZMQKIT_TEST_JOBS", on_change=seen)
    monkeypatch.setenv("ZMQKIT_TEST_JOBS", " ")
    with pytest.raises(DiscoveryError, match="is empty"):
        discovery.watch("env://ZMQKIT_TEST_JOBS", on_change=seen)
    monkeypatch.setenv("ZMQKIT_TEST_JOBS", "a:1")
    with pytest.raises(AddressError, match=r"env://ZMQKIT_TEST_JOBS: 'a:1' is not an address"):
        discovery.watch("env://ZMQKIT_TEST_JOBS", on_change=seen)
    monkeypatch.setenv("ZMQKIT_TEST_JOBS", "env://HOME")
    with pytest.raises(AddressError, match="another variable"):
        discovery.watch("env://ZMQKIT_TEST_JOBS", on_change=seen)
    assert seen.told == []


def test_what_on_change_raises_is_logged_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(found: frozenset[Found]) -> None:
        raise RuntimeError("not today")

    with discovery.watch("tcp://a:1", on_change=fail) as watch:
        assert watch.found == by_hand("tcp://a:1")
    assert "not today" in caplog.text
