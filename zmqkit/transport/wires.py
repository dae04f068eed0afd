"""All sockets of one driver, and what their monitors tell, as inputs of a core. Runs in the I/O thread.

Knows endpoints and the contract of a core; no journal, no user's thread. Nothing in here raises on what a peer does.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Hashable, Sequence
from time import monotonic
from typing import Any

import zmq

from zmqkit.errors import AddressError
from zmqkit.options import Heartbeat, Limits
from zmqkit.protocol.core import Core, Frames, Link
from zmqkit.transport.sockets import (
    DISCONNECTED,
    FD,
    HANDSHAKE_FAILED,
    HANDSHAKE_SUCCEEDED,
    READABLE,
    Dialer,
    Endpoint,
    Listener,
)
from zmqkit.transport.timers import Alarms

log = logging.getLogger("zmqkit.transport")

MESSAGES_A_TURN = 200
"""How many messages of one socket are received before the others, and the user's commands, have their turn."""

LAST_TURNS = 50
"""So many turns of it at most, where all that a gone peer said is to be heard: others may never pause."""

DISTURBED_SECONDS = 0.05
"""The core is told at most this often that connections of a bound socket broke."""

REDIAL_FIRST_SECONDS = 0.1
REDIAL_CAP_SECONDS = 5.0
FAILED_QUIET_SECONDS = 60.0
"""A failed handshake is logged at most this often: whoever knocks may do so for ever."""
FAILED_DIALS = 3
"""So many in a row are no accident, as a peer that ends in the middle of it is."""

STEADY_SECONDS = 1.0
"""A connection that stood for so long was a good one: a lost one is dialled again at once."""


class Wires:
    """The sockets of one driver.

    Args:
        core: gets link_up, link_down, links_disturbed, receive_message.
        alarms: the driver's; for redials.
        bug: called in an ``except`` block when the core raised, with the name of the input.
    """

    def __init__(
        self, core: Core, heartbeat: Heartbeat, limits: Limits, alarms: Alarms, bug: Callable[[str], None]
    ) -> None:
        self._core = core
        self._heartbeat = heartbeat
        self._limits = limits
        self._alarms = alarms
        self._bug = bug
        self._dialers: dict[str, Dialer] = {}
        self._by_link: dict[Link, Dialer] = {}
        self._listeners: dict[str, Listener] = {}
        self._disturbed: dict[str, float] = {}
        """Bound address -> when the core was, or will be, told of its broken connections."""
        self._handlers: dict[Any, Callable[[float], bool]] = {}
        self.pollset: list[tuple[Any, int]] = []
        """For zmq_poll: data before monitors, so that what a peer said is heard before that it left."""
        self.changes = 0
        """How often the sockets changed."""
        self.unread: list[Endpoint] | None = None
        """If a driver puts a list here: endpoints that may have messages of which their descriptors no longer tell,
        because sending took the notice, or because not all was received. See `reread`."""
        self.received = 0
        self.sent = 0
        self.dropped = 0
        """Messages to links that do not exist any more."""
        self.handshakes_failed = 0
        self._failed_told: dict[str, float] = {}
        """Address -> when it was logged that handshakes fail there."""
        self.broken = 0
        """Connections that broke, ours and others', whoever ended them: also those that sent too large a frame."""
        self.oversize = 0
        """Oversize messages of endpoints that are closed by now."""

    # ---- which sockets there are ----------------------------------------------------

    def bind(self, address: str) -> str:
        """Bind, and return the address with its port filled in. Raises AddressInUse, AddressError."""
        listener = Listener(address, self._heartbeat, self._limits)
        listener.open()
        self._listeners[listener.address] = listener
        self._changed()
        return listener.address

    def connect(self, address: str, now: float) -> None:
        """Connect, or count one more user of the address. Raises AddressError."""
        dialer = self._dialers.get(address)
        if dialer is not None:
            dialer.users += 1
            return
        dialer = Dialer(address, self._heartbeat, self._limits)
        dialer.open()
        self._dialers[address] = self._by_link[dialer.link] = dialer
        self._changed()
        if dialer.inproc:
            # No connection is made there that a monitor could tell of; from here on a message may be sent.
            self._alarms.at(now, self._dialled_inproc, dialer)

    def disconnect(self, address: str, now: float) -> None:
        """One user less; without any the connection is closed."""
        dialer = self._dialers.get(address)
        if dialer is None:
            return
        dialer.users -= 1
        if dialer.users == 0:
            del self._dialers[address], self._by_link[dialer.link]
            self._down(dialer, now)

    def addresses(self) -> tuple[str, ...]:
        """What is bound, ports filled in."""
        return tuple(self._listeners)

    def _changed(self) -> None:
        handlers: dict[Any, Callable[[float], bool]] = {}
        monitors: dict[Any, Callable[[float], bool]] = {}
        for endpoint in self._endpoints():
            if endpoint.socket is not None:
                handlers[endpoint.socket] = self._receiver(endpoint)
                monitors[endpoint.monitor] = self._watcher(endpoint)
        handlers.update(monitors)
        self._handlers = handlers
        self.changes += 1
        self.pollset = [(socket, 1) for socket in handlers]

    def _endpoints(self) -> list[Endpoint]:
        return [*self._dialers.values(), *self._listeners.values()]

    # ---- in -------------------------------------------------------------------------

    def handle(self, ready: Sequence[Any], now: float) -> bool:
        """Take what has come on sockets that the poll found ready. True if there may be more."""
        more = False
        handlers = self._handlers
        for socket in ready:
            handler = handlers.get(socket)
            if handler is not None and handler(now):
                more = True
        return more

    def _receiver(self, endpoint: Endpoint) -> Callable[[float], bool]:
        receive, hand_on = endpoint.receive, self._receive

        def handler(now: float) -> bool:
            if self.unread is None:
                return receive(MESSAGES_A_TURN, hand_on, now)
            # The question whether there is more is put off: it may be answered together with the one after sending.
            more = receive(MESSAGES_A_TURN, hand_on, now, not endpoint.unread)
            if more and not endpoint.unread:
                endpoint.unread = True
                self.unread.append(endpoint)
            return more

        return handler

    def reread(self, now: float) -> bool:
        """Look at the endpoints that are `unread`. True if there was something."""
        unread, self.unread = self.unread or [], []
        found = False
        for endpoint in unread:
            socket = endpoint.socket
            # Not `get`, which passes through enums.
            if socket is not None and zmq.zmq_poll([(socket, READABLE)], 0):
                found = True
                more = endpoint.receive(MESSAGES_A_TURN, self._receive, now)
                if more:
                    self.unread.append(endpoint)
                endpoint.unread = more
            else:
                endpoint.unread = False
        return found

    def descriptors(self) -> dict[int, Any]:
        """The descriptor that tells of each socket's news, data before monitors."""
        return {int(socket.get(FD)): socket for socket, _ in self.pollset}

    def _receive(self, link: Link, frames: list[bytes], now: float) -> None:
        self.received += 1
        try:
            # Not the time at which the turn began: a long commit, or SIGSTOP, may lie between. No message comes before
            # it was sent: who compares two clocks would take such a message for what these differ by, and all that
            # follow for late.
            self._core.receive_message(link, frames, monotonic())
        except Exception:
            self._bug("receive_message")

    def _watcher(self, endpoint: Endpoint) -> Callable[[float], bool]:
        if isinstance(endpoint, Dialer):
            dialer = endpoint
            return lambda now: self._watch_dialer(dialer, now)
        assert isinstance(endpoint, Listener)
        listener = endpoint
        return lambda now: self._watch_listener(listener, now)

    def _watch_dialer(self, dialer: Dialer, now: float) -> bool:
        for event in dialer.events():
            if event == HANDSHAKE_SUCCEEDED:
                self._up(dialer, now)
            elif event == DISCONNECTED or event & HANDSHAKE_FAILED:
                self.broken += event == DISCONNECTED
                # A peer of a wrong kind, or none of ZeroMQ's at all, just hangs up during the handshake.
                if not dialer.up:
                    self.handshakes_failed += 1
                    if dialer.failures >= FAILED_DIALS:
                        self._tell_failed(dialer.address, now)
                while dialer.receive(MESSAGES_A_TURN, self._receive, now):
                    pass  # all that came before it broke; no more can come
                self._down(dialer, now)
                break
        return False

    def _watch_listener(self, listener: Listener, now: float) -> bool:
        broken = False
        for event in listener.events():
            if event == DISCONNECTED:
                self.broken += 1
                broken = True
                if listener.failed:
                    listener.failed -= 1
                elif listener.greeted:
                    listener.greeted -= 1
                else:  # libzmq does not tell of each
                    self._failed(listener, now)
            elif event == HANDSHAKE_SUCCEEDED:
                listener.greeted += 1
            elif event & HANDSHAKE_FAILED:
                listener.failed += 1
                self._failed(listener, now)
        if broken:
            last = self._disturbed.get(listener.address)
            if last is None or now >= last + DISTURBED_SECONDS:
                self._tell_disturbed(listener, now)
            elif last <= now:
                when = self._disturbed[listener.address] = last + DISTURBED_SECONDS
                self._alarms.at(when, self._tell_disturbed, listener)
        return False

    def _failed(self, listener: Listener, now: float) -> None:
        self.handshakes_failed += 1
        self._tell_failed(listener.address, now)

    def _tell_failed(self, address: str, now: float) -> None:
        told = self._failed_told.get(address)
        if told is None or now >= told + FAILED_QUIET_SECONDS:
            self._failed_told[address] = now
            log.warning(
                "%s: a connection was made, and broken again during ZeroMQ's handshake: is another kind of socket at "
                "its other end (a plain PUSH, PULL, PUB or SUB), or no ZeroMQ at all?",
                address,
            )

    def _tell_disturbed(self, listener: Listener, now: float) -> None:
        self._disturbed[listener.address] = now
        try:
            self._core.links_disturbed(listener.group, now)
        except Exception:
            self._bug("links_disturbed")

    # ---- links of dialers --------------------------------------------------------------

    def _dialled_inproc(self, dialer: Dialer, now: float) -> None:
        if dialer.socket is not None:
            self._up(dialer, now)

    def _up(self, dialer: Dialer, now: float) -> None:
        if dialer.up:
            return
        dialer.up = True
        dialer.up_since = now
        try:
            self._core.link_up(dialer.link, now)
        except Exception:
            self._bug("link_up")

    def _down(self, dialer: Dialer, now: float) -> None:
        """The connection broke, or is of no use: drop it, and dial again if it still has users."""
        was_up, dialer.up = dialer.up, False
        self.oversize += dialer.oversize
        dialer.oversize = 0
        dialer.close()
        self._changed()
        if was_up:
            self._tell_down(dialer.link, now)
        if self._by_link.get(dialer.link) is not dialer:
            return
        if was_up and now - dialer.up_since >= STEADY_SECONDS:
            dialer.failures = 0
            self._alarms.at(now, self._redial, dialer)
        else:
            ceiling = min(REDIAL_FIRST_SECONDS * 2.0 ** min(dialer.failures, 32), REDIAL_CAP_SECONDS)
            dialer.failures += 1
            self._alarms.at(now + ceiling * random.uniform(0.5, 1.0), self._redial, dialer)

    def _redial(self, dialer: Dialer, now: float) -> None:
        if dialer.socket is not None or self._by_link.get(dialer.link) is not dialer:
            return
        try:
            dialer.open()
        except (AddressError, zmq.ZMQError) as error:  # for instance no descriptors left
            log.warning("cannot dial %s, will try again: %s", dialer.address, error)
            self._alarms.at(now + REDIAL_CAP_SECONDS, self._redial, dialer)
            return
        self._changed()
        if dialer.inproc:
            self._up(dialer, now)

    def _tell_down(self, link: Link, now: float) -> None:
        try:
            self._core.link_down(link, now)
        except Exception:
            self._bug("link_down")

    # ---- out ------------------------------------------------------------------------

    def send_all(self, sends: list[tuple[Link, Frames]], now: float) -> bool:
        """Send; who is not there any more is told to the core as link_down. True if that happened."""
        gone: dict[Hashable, None] = {}
        by_link, listeners, unread = self._by_link, self._listeners, self.unread
        sent = 0
        for link, frames in sends:
            if link in gone:
                self.dropped += 1
                continue
            try:
                dialer = by_link.get(link)
                if dialer is not None:
                    if not dialer.up:
                        self.dropped += 1
                        continue
                    dialer.send(frames)
                    endpoint: Endpoint = dialer
                else:
                    _, address, routing_id = link  # type: ignore[misc]  # links are opaque to the core only
                    endpoint = listeners[address]  # type: ignore[has-type]
                    endpoint.send(routing_id, frames)  # type: ignore[has-type]
                sent += 1
                if unread is not None and not endpoint.unread:
                    endpoint.unread = True
                    unread.append(endpoint)
            except zmq.ZMQError:  # EHOSTUNREACH: that peer is gone; EAGAIN: nobody at the inproc address
                self.dropped += 1
                gone[link] = None
            except (KeyError, ValueError) as error:  # a link that was disconnected, or none of ours
                self.dropped += 1
                log.debug("dropped a message to %r: %r", link, error)
            except Exception:
                self.dropped += 1
                self._bug("sends")
        self.sent += sent
        for link in gone:
            dialer = by_link.get(link)
            if dialer is not None:
                self._down(dialer, now)
            else:
                self._hear_out(link, now)
                self._tell_down(link, now)
        return bool(gone)

    def _hear_out(self, link: Any, now: float) -> None:
        """A peer of a bound socket is gone: take first what it said before, its last acks and its goodbye."""
        listener = self._listeners.get(link[1])
        if listener is not None:
            for _ in range(LAST_TURNS):
                if not listener.receive(MESSAGES_A_TURN, self._receive, now):
                    break

    def drop(self, links: list[Link], now: float) -> None:
        """Links that the core has no use for: a dialled one is dialled anew, a bound one is closed."""
        for link in links:
            dialer = self._by_link.get(link)
            if dialer is not None:
                if dialer.socket is not None:
                    self._down(dialer, now)
            elif isinstance(link, tuple) and link[1] in self._listeners:
                self._listeners[link[1]].expel(link[2])

    # ---- the end ----------------------------------------------------------------------

    def stats(self) -> dict[str, int | float]:
        """Counters."""
        endpoints = self._endpoints()
        return {
            "messages_received": self.received,
            "messages_sent": self.sent,
            "sends_dropped": self.dropped,
            "handshakes_failed": self.handshakes_failed,
            "connections_broken": self.broken,
            "expelled_messages": sum(endpoint.unheard for endpoint in endpoints),
            "oversize_messages": self.oversize + sum(endpoint.oversize for endpoint in endpoints),
            "connections": sum(dialer.up for dialer in list(self._dialers.values())),
        }

    def begin_close(self, linger: float) -> None:
        """Close all sockets, but let them send what is left for so many seconds."""
        for endpoint in self._endpoints():
            endpoint.begin_close(int(linger * 1000))
        self.pollset = [(endpoint.monitor, 1) for endpoint in self._endpoints() if endpoint.monitor is not None]

    def closed(self) -> bool:
        """After `begin_close`: whether all is sent and every port is free again."""
        waiting = [endpoint for endpoint in self._endpoints() if not endpoint.closed()]
        return not waiting

    def become_forked(self) -> None:
        """This is the child of a fork."""
        for listener in self._listeners.values():
            listener.become_forked()

    def abandon(self) -> None:
        """Close what is still open, at once."""
        for endpoint in self._endpoints():
            endpoint.close()
        self._dialers.clear()
        self._by_link.clear()
        self._listeners.clear()
        self._changed()
