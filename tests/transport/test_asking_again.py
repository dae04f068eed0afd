"""Whose connection of a bound socket broke: the core is told again until that is found. No socket, and no clock."""

from __future__ import annotations

from collections.abc import Iterable

from tests.transport.raw import Disturbed, Down, RawCore
from zmqkit.options import Heartbeat, Limits
from zmqkit.transport.connections import AGAIN_SECONDS, DISTURBED_SECONDS, Connections
from zmqkit.transport.links import Listener
from zmqkit.transport.sockets import DISCONNECTED, HANDSHAKE_FAILED, HANDSHAKE_SUCCEEDED
from zmqkit.transport.timers import Alarms

AT = "tcp://127.0.0.1:5555"
GROUP = ("b", AT)


class Socket(Listener):
    """One whose monitor tells what a test says."""

    def __init__(self) -> None:
        super().__init__(AT, Heartbeat(), Limits())
        self.told: list[int] = []

    def events(self, limit: int = 10_000) -> list[int]:
        told, self.told = self.told, []
        return told


class Watched:
    """A bound socket, its connections, and a core that hears of them."""

    def __init__(self) -> None:
        self.core, self.alarms, self.socket = RawCore(), Alarms(), Socket()
        self.connections = Connections(self.core, {}, self.alarms, self._bug, lambda *_: None, lambda: None)
        self._watch = self.connections.watcher(self.socket)

    def _bug(self, name: str) -> None:
        raise AssertionError(name)

    def tell(self, events: Iterable[int], now: float) -> None:
        """This is what the monitor tells."""
        self.socket.told += events
        self._watch(now)

    def asked(self, until: float) -> list[float]:
        """When the core was told that connections broke, up to a time."""
        found = [0.0] if self._took() else []
        while (due := self.alarms.next()) is not None and due <= until:
            self.alarms.run(due)
            found += [round(due, 6)] * self._took()
        return found

    def _took(self) -> int:
        items, self.core.out.items = self.core.out.items, []
        assert all(each == Disturbed(GROUP) or isinstance(each, Down) for each in items)
        return items.count(Disturbed(GROUP))


def test_it_is_told_again_and_again_and_then_no_more() -> None:
    watched = Watched()
    watched.tell([HANDSHAKE_SUCCEEDED, DISCONNECTED], 0.0)
    assert watched.asked(60.0) == [0.0, *AGAIN_SECONDS]
    assert watched.alarms.next() is None


def test_it_is_told_no_more_when_as_many_links_are_down_as_connections_broke() -> None:
    watched = Watched()
    watched.tell([HANDSHAKE_SUCCEEDED] * 3 + [DISCONNECTED] * 2, 0.0)
    watched.connections.tell_down((*GROUP, b"first"), 0.0)
    assert watched.asked(AGAIN_SECONDS[0]) == [0.0, AGAIN_SECONDS[0]], "one is not found"
    watched.connections.tell_down((*GROUP, b"second"), AGAIN_SECONDS[0])
    assert watched.asked(60.0) == []


def test_one_that_breaks_when_all_before_were_found_is_asked_for_at_the_next_of_these_times() -> None:
    watched = Watched()
    watched.tell([HANDSHAKE_SUCCEEDED] * 2 + [DISCONNECTED], 0.0)
    watched.connections.tell_down((*GROUP, b"first"), 0.0)
    first, second = AGAIN_SECONDS[:2]
    assert watched.asked(first) == [0.0]
    watched.tell([DISCONNECTED], (first + second) / 2)
    assert watched.asked(second) == [second]


def test_who_never_was_a_peer_is_not_asked_for_again() -> None:
    watched = Watched()
    watched.tell([HANDSHAKE_SUCCEEDED, HANDSHAKE_FAILED & -HANDSHAKE_FAILED, DISCONNECTED], 0.0)
    assert watched.asked(60.0) == [0.0]


def test_one_that_breaks_while_another_is_looked_for_is_asked_for_at_the_next_time_and_for_as_long() -> None:
    watched = Watched()
    watched.tell([HANDSHAKE_SUCCEEDED] * 2 + [DISCONNECTED], 0.0)
    assert watched.asked(0.0) == [0.0]
    watched.tell([DISCONNECTED], 0.001)
    early = [each for each in AGAIN_SECONDS if each < DISTURBED_SECONDS]
    late = [round(DISTURBED_SECONDS + each, 6) for each in AGAIN_SECONDS]
    assert watched.asked(60.0) == [*early, DISTURBED_SECONDS, *late]


def test_links_of_other_sockets_that_go_down_are_not_taken_for_those_that_are_looked_for() -> None:
    watched = Watched()
    watched.tell([HANDSHAKE_SUCCEEDED, DISCONNECTED], 0.0)
    watched.connections.tell_down(("b", "tcp://127.0.0.1:5556", b"other"), 0.0)
    watched.connections.tell_down(("c", AT), 0.0)
    assert watched.asked(60.0) == [0.0, *AGAIN_SECONDS]
