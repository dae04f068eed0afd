"""Bugs planted into the ping cores, one for each way of catching one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.simulation.mutants import Mutant, replaced
from tests.simulation.ping import PingClient, PingScenario, PingServer
from zmqkit.protocol.core import Frames, Link, Read, Row
from zmqkit.testing.peers import SimPeer
from zmqkit.testing.tickets import SimTicket


def confirms_before_stored(old: Callable[..., None]) -> Callable[..., None]:
    def ask(self: PingClient, ticket: SimTicket, now: float) -> None:
        key, self.next_key = self.next_key, self.next_key + 1
        number = self.out.write("messages", key, 1, b"ping")
        self.out.replies.append((ticket, key))
        self.unstored[number] = (key, SimTicket())

    return ask


def forgets_what_is_on_disk(old: Callable[..., None]) -> Callable[..., None]:
    def loaded(self: PingClient, read: Read, rows: list[Row], now: float) -> None: ...

    return loaded


def reuses_keys(old: Callable[..., PingClient]) -> Callable[..., PingClient]:
    def make_client(self: PingScenario, peer: SimPeer) -> PingClient:
        assert peer.journal is not None
        last = peer.journal.totals("messages").last_key
        return PingClient(last + 1, last)

    return make_client


def never_asks_again(old: Callable[..., None]) -> Callable[..., None]:
    def handle_timer(self: PingClient, now: float) -> None:
        self.again_at = None

    return handle_timer


def spins_on_its_deadline(old: Callable[..., None]) -> Callable[..., None]:
    def handle_timer(self: PingClient, now: float) -> None:
        if len(self.open) != 3:
            old(self, now)

    return handle_timer


def counts_who_asks(old: Callable[..., float | None]) -> Callable[..., float | None]:
    def next_deadline(self: PingClient) -> float | None:
        self.count("asked")
        return old(self)

    return next_deadline


def forgets_a_failed_delete(old: Callable[..., None]) -> Callable[..., None]:
    def store_failed(self: PingClient, up_to: int, error: Exception, now: float) -> None:
        self.undeleted.clear()
        old(self, up_to, error, now)

    return store_failed


def answers_with_text(old: Callable[..., None]) -> Callable[..., None]:
    def receive_message(self: PingServer, link: Link, frames: Frames, now: float) -> None:
        body: Any = frames[0].decode()
        self.out.sends.append((link, [body]))

    return receive_message


def raises_on_a_stranger(old: Callable[..., None]) -> Callable[..., None]:
    def receive_message(self: PingClient, link: Link, frames: Frames, now: float) -> None:
        self.open.remove(int(frames[0]))
        self.undeleted[self.out.write("messages", int(frames[0]), 0, None)] = int(frames[0])

    return receive_message


MUTANTS = [
    Mutant("confirms before it is stored", "ping", lambda: replaced(PingClient, "ask", confirms_before_stored)),
    Mutant("forgets what is on the disk", "ping", lambda: replaced(PingClient, "loaded", forgets_what_is_on_disk)),
    Mutant("uses a key again after a restart", "ping", lambda: replaced(PingScenario, "make_client", reuses_keys)),
    Mutant("never asks again", "ping", lambda: replaced(PingClient, "handle_timer", never_asks_again)),
    Mutant("spins on its deadline", "ping", lambda: replaced(PingClient, "handle_timer", spins_on_its_deadline)),
    Mutant("counts who asks", "ping", lambda: replaced(PingClient, "next_deadline", counts_who_asks)),
    Mutant("forgets a failed delete", "ping", lambda: replaced(PingClient, "store_failed", forgets_a_failed_delete)),
    Mutant("sends text for bytes", "ping", lambda: replaced(PingServer, "receive_message", answers_with_text)),
    Mutant("raises", "ping", lambda: replaced(PingClient, "receive_message", raises_on_a_stranger), raises=True),
]
