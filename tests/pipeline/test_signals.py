"""`stop_on_signals`, entered by several at a time."""

from __future__ import annotations

import contextlib
import signal

import pytest

import zmqkit

LOCAL = "tcp://127.0.0.1:5557"


@pytest.fixture
def peers() -> list[zmqkit.Puller[object]]:
    return [zmqkit.Puller(LOCAL) for _ in range(2)]


def test_the_first_signal_stops_the_peers_of_all(peers: list[zmqkit.Puller[object]]) -> None:
    with zmqkit.stop_on_signals(peers[0]), zmqkit.stop_on_signals(peers[1]):
        signal.raise_signal(signal.SIGINT)
        assert all(peer._stopped for peer in peers)
        with pytest.raises(KeyboardInterrupt):  # the second acts as it did before
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_whoever_leaves_first_the_handlers_come_back(
    peers: list[zmqkit.Puller[object]], order: tuple[int, int]
) -> None:
    """Tasks of one loop leave in any order."""
    entered = [contextlib.ExitStack() for _ in peers]
    for stack, peer in zip(entered, peers, strict=True):
        stack.enter_context(zmqkit.stop_on_signals(peer))
    entered[order[0]].close()
    assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    signal.raise_signal(signal.SIGTERM)
    assert [peer._stopped for peer in peers] == [order[0] != 0, order[0] != 1]
    entered[order[1]].close()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_that_was_installed_meanwhile_stays(peers: list[zmqkit.Puller[object]]) -> None:
    def own(number: int, frame: object) -> None:
        raise AssertionError

    with zmqkit.stop_on_signals(peers[0]):
        signal.signal(signal.SIGINT, own)
    assert signal.getsignal(signal.SIGINT) is own
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_it_begins_anew_after_a_signal(peers: list[zmqkit.Puller[object]]) -> None:
    for peer in peers:
        with zmqkit.stop_on_signals(peer):
            assert not peer._stopped
            signal.raise_signal(signal.SIGINT)
            assert peer._stopped
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
