"""The face of a peer for threads: the waiting that all patterns share."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from zmqkit import checks
from zmqkit.errors import WaitTimeout
from zmqkit.peer.base import DRAIN, PeerBase, check_timeout
from zmqkit.transport.tickets import Ticket, WaitExpired, wait

log = logging.getLogger("zmqkit")


class Peer(PeerBase):
    """What Pusher, Puller and all other peers have in common.

    Constructing does no I/O: ``with``, `open`, ``run`` or the first verb opens. Every method may be called from any
    thread.

    Attributes:
        name: in logs, threads and events.
    """

    def open(self) -> Self:
        """Bind, connect and start. Done by ``with`` and by the first verb, too.

        Raises:
            AddressInUse: somebody else is bound there.
            JournalError: the journal cannot be opened; the subclass and the message say why.
            DiscoveryError: a name cannot be looked up or announced.
            Closed: it was closed before.
        """
        self._start()
        return self

    def close(self, timeout: float | None = -1.0) -> None:
        """Serve what waits for `linger`, say goodbye, and give everything back.

        While another thread is at it, this waits for its end, as long as it would have taken itself. Later, it does
        nothing.

        Args:
            timeout: seconds, instead of `linger`; None: until all is settled.
        """
        check_timeout(timeout)
        linger = self._linger if timeout == -1.0 else timeout
        self._check_close(linger)
        if self._begin_close():
            try:
                self._close(linger)
            finally:
                self._close_ended.resolve(None)
        else:
            self._await_end(linger)

    def wait_for_peers(self, count: int = 1, *, timeout: float | None = None) -> None:
        """Block until so many others are in session with this peer.

        Raises:
            WaitTimeout: they were not within `timeout` seconds.
        """
        checks.count("count", count)
        check_timeout(timeout)
        self._check_wait()
        self._start()
        ticket = self._ask(self._core.wait_for_sessions, count)
        try:
            self._wait_or_forget(ticket, timeout, self._core.forget_sessions)
        except WaitExpired:
            raise WaitTimeout(self._too_few(count, timeout)) from None

    def _wait(self, ticket: Ticket, timeout: float | None) -> Any:
        assert self._driver is not None  # who has a ticket of it has opened it
        return self._driver.wait(ticket, timeout)

    def _wait_or_forget(self, ticket: Ticket, timeout: float | None, forget: Callable[..., None]) -> Any:
        """Wait, and let nothing of it be left behind. Out of time, the I/O thread has the last word."""
        try:
            return self._wait(ticket, timeout)
        except WaitExpired:
            # It may be that the I/O thread had no time to answer: timeout=0 is to tell how it is.
            self._wait(self._ask(forget, ticket), None)
            return self._wait(ticket, 0)
        except BaseException:
            self._tell_soon(forget, ticket, None)
            raise

    def _await_end(self, patience: float | None) -> None:
        """Another thread closes this peer, or has: wait for its end, so long at most."""
        with contextlib.suppress(WaitExpired):
            for ended, seconds in self._being_closed(patience, by_threads=True):
                wait(ended, seconds)

    def _close(self, linger: float | None) -> None:
        assert self._driver is not None
        self._driver.close(1.0)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def run_threads(loop: Callable[[], None], threads: int, *peers: PeerBase) -> None:
    """Run `loop` in so many threads, this one included. The first error stops all and is raised."""
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            loop()
        except BaseException as error:
            errors.append(error)
            for peer in peers:
                peer.stop()

    others = [threading.Thread(target=guarded, name=f"zmqkit-handler-{at}", daemon=True) for at in range(1, threads)]
    for each in others:
        each.start()
    guarded()
    deadline = time.monotonic() + DRAIN
    for each in others:
        each.join(max(0.0, deadline - time.monotonic()))
        if each.is_alive():
            log.warning("a handler still runs %s s after the stop; what it has in hand is given back", DRAIN)
    if errors:
        raise errors[0]
