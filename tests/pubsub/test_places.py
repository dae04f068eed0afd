"""Where recovery is bound, and what is told of it."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from zmqkit.address import parse
from zmqkit.patterns.pubsub.places import beside, told


@pytest.fixture
def two_ports() -> int:
    """A port that is free, and so is the next one."""
    while True:
        with closing(socket.socket()) as first, closing(socket.socket()) as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
        return port


def test_recovery_is_one_port_above_if_that_is_free(two_ports: int) -> None:
    assert beside([parse(f"tcp://127.0.0.1:{two_ports}")]) == [f"tcp://127.0.0.1:{two_ports + 1}"]


def test_recovery_is_at_any_port_if_the_next_one_is_taken(two_ports: int) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", two_ports + 1))
        taken.listen()
        assert beside([parse(f"tcp://127.0.0.1:{two_ports}")]) == ["tcp://127.0.0.1:*"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("tcp://127.0.0.1:*", "tcp://127.0.0.1:*"),
        ("tcp://127.0.0.1:65535", "tcp://127.0.0.1:*"),
        ("tcp://[::1]:*", "tcp://[::1]:*"),
        ("ipc:///tmp/prices", "ipc:///tmp/prices.recovery"),
        ("ipc://@prices", "ipc://@prices.recovery"),
        ("ipc://*", "ipc://*"),
        ("inproc://prices", "inproc://prices.recovery"),
        ("tcp://no-such-device:5556", "tcp://no-such-device:*"),
    ],
)
def test_each_kind_of_address_has_a_place_beside_it(data: str, expected: str) -> None:
    assert beside([parse(data)]) == [expected]


@pytest.mark.parametrize(
    ("data", "recovery", "expected"),
    [
        (["tcp://127.0.0.1:5556"], ["tcp://127.0.0.1:5557"], [":5557"]),
        (["tcp://0.0.0.0:5556"], ["tcp://0.0.0.0:7"], [":7"]),
        (["tcp://127.0.0.1:5556"], ["tcp://0.0.0.0:7"], [":7"]),
        (["tcp://10.0.0.1:5556"], ["tcp://10.0.0.2:7"], [""]),
        (["ipc:///a"], ["ipc:///a.recovery"], ["ipc:///a.recovery"]),
        (["tcp://127.0.0.1:1", "ipc:///a"], ["tcp://127.0.0.1:2", "ipc:///b"], [":2", "ipc:///b"]),
        (["tcp://127.0.0.1:1", "ipc:///a"], ["tcp://127.0.0.1:2"], [":2", ""]),
        (["tcp://0.0.0.0:1"], ["tcp://10.0.0.1:2"], [":2"]),
        (["ipc:///a"], ["tcp://0.0.0.0:2"], [""]),
        (["tcp://127.0.0.1:1"], [], [""]),
        ([], [], []),
    ],
)
def test_a_port_is_told_where_the_host_is_the_same_and_nothing_where_nobody_would_go(
    data: list[str], recovery: list[str], expected: list[str]
) -> None:
    assert list(told(data, recovery).values()) == expected
