"""All sockets of one driver, and what comes and goes over them. Runs where the core is pumped.

Knows endpoints and the contract of a core; no journal, no user's thread. Nothing in here raises on what a peer does.
What becomes of the connections: `zmqkit.transport.connections`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from time import monotonic
from typing import Any, cast

import zmq

from zmqkit.errors import AddressError
from zmqkit.options import Heartbeat, Limits
from zmqkit.protocol.core import Core, Frames, Link, PushCore
from zmqkit.transport.connections import MESSAGES_A_TURN, Connections
from zmqkit.transport.data import DIALERS, LISTENERS, DataDialer, DataListener, alive
from zmqkit.transport.driver import DataKind
from zmqkit.transport.links import Dialer, Listener
from zmqkit.transport.pipes import Pulling, Pushing
from zmqkit.transport.sockets import FD, MAX_LINGER, READABLE, Bound, Endpoint
from zmqkit.transport.timers import Alarms

log = logging.getLogger("zmqkit.transport")

LAST_TURNS = 50
"""So many turns of it at most, where all that a gone peer said is to be heard: others may never pause."""


class Wires:
    """The sockets of one driver.

    Args:
        core: gets receive_message, and what `Connections` tell it.
        alarms: the driver's; for redials.
        bug: called in an ``except`` block when the core raised, with the name of the input.
        data: the kind of the data endpoints, if there may be any.
    """

    def __init__(
        self,
        core: Core,
        heartbeat: Heartbeat,
        limits: Limits,
        alarms: Alarms,
        bug: Callable[[str], None],
        data: DataKind | None = None,
    ) -> None:
        self._core = core
        self._heartbeat = heartbeat
        self._limits = limits
        self._alarms = alarms
        self._bug = bug
        self._data = data
        self._listeners: dict[str, Listener] = {}
        self._by_link: dict[Link, Dialer | DataListener] = {}
        """Those to which a message goes as it is."""
        self._connections = Connections(core, self._by_link, alarms, bug, self._receive, self._changed)
        self._handlers: dict[Any, Callable[[float], bool]] = {}
        self.pollset: list[tuple[Any, int]] = []
        """For zmq_poll: messages before monitors, so that what a peer said is heard before that it left."""
        self.changes = 0
        """How often the sockets changed."""
        self.unread: list[Endpoint] | None = None
        """If a driver puts a list here: endpoints that may have messages of which their descriptors no longer tell,
        because sending took the notice, or because not all was received. See `reread`."""
        self.received = 0
        self.received_bytes = 0
        """Of the last frames of messages, in which most of each is."""
        self.sent = 0
        self.dropped = 0
        """Messages to links that do not exist any more."""

    # ---- which sockets there are ----------------------------------------------------

    def bind(self, address: str) -> str:
        """Bind, and return the address with its port filled in. Raises AddressInUse, AddressError."""
        listener = Listener(address, self._heartbeat, self._limits)
        listener.open()
        self._listeners[listener.address] = listener
        self._changed()
        return listener.address

    def bind_data(self, address: str) -> str:
        """The same for a data endpoint."""
        assert self._data is not None
        listener = LISTENERS[self._data](address, self._heartbeat, self._limits)
        listener.open()
        self._by_link[listener.group] = listener
        self._changed()
        return listener.address

    def announce(self, now: float) -> None:
        """Tell the core of the data endpoints that are bound."""
        for link, endpoint in list(self._by_link.items()):
            if isinstance(endpoint, DataListener):
                self._connections.tell_up(link, now)

    def connect(self, address: str, now: float, *, retry: bool = False) -> None:
        """Connect, or count one more user of the address. Raises AddressError.

        What else goes wrong, for instance that no descriptors are left, raises too, or is tried again later.
        """
        self._connect(Dialer, ("c", address), now, retry)

    def connect_data(self, address: str, now: float, *, retry: bool = False) -> None:
        """The same for a data endpoint."""
        assert self._data is not None
        self._connect(DIALERS[self._data], ("d", address), now, retry)

    def _connect(self, kind: type[Dialer], link: tuple[str, str], now: float, retry: bool) -> None:
        dialer = self._by_link.get(link)
        if isinstance(dialer, Dialer):
            dialer.users += 1
            return
        if dialer is not None:
            raise AddressError(f"cannot connect to {link[1]!r}: this peer is bound there itself")
        dialer = kind(link[1], self._heartbeat, self._limits)
        try:
            dialer.open()
        except zmq.ZMQError as error:
            if not retry:
                raise
            log.warning("cannot dial %s, will try again: %s", dialer.address, error)
            self._by_link[link] = dialer
            self._connections.down(dialer, now)
            return
        self._by_link[link] = dialer
        self._connections.opened(dialer, now)

    def disconnect(self, address: str, now: float) -> None:
        """One user less; without any the connection is closed."""
        self._disconnect(("c", address), now)

    def disconnect_data(self, address: str, now: float) -> None:
        """The same for a data endpoint."""
        self._disconnect(("d", address), now)

    def _disconnect(self, link: tuple[str, str], now: float) -> None:
        dialer = self._by_link.get(link)
        if not isinstance(dialer, Dialer):
            return
        dialer.users -= 1
        if dialer.users == 0:
            del self._by_link[link]
            self._connections.down(dialer, now)

    def addresses(self) -> tuple[str, ...]:
        """What is bound, ports filled in."""
        return tuple(self._listeners)

    def _changed(self) -> None:
        handlers: dict[Any, Callable[[float], bool]] = {}
        monitors: dict[Any, Callable[[float], bool]] = {}
        for endpoint in self._endpoints():
            if endpoint.socket is not None:
                handlers[endpoint.socket] = self._receiver(endpoint)
                monitors[endpoint.monitor] = self._connections.watcher(endpoint)
        handlers.update(monitors)
        self._handlers = handlers
        self.changes += 1
        self._poll_anew()

    def _poll_anew(self) -> None:
        endpoints = [endpoint for endpoint in self._endpoints() if endpoint.socket is not None]
        self.pollset = [(endpoint.socket, endpoint.polled) for endpoint in endpoints if endpoint.polled]
        self.pollset += [(endpoint.monitor, READABLE) for endpoint in endpoints]

    def _endpoints(self) -> list[Endpoint]:
        return [*self._by_link.values(), *self._listeners.values()]

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
        if isinstance(endpoint, Pushing):
            pushing = endpoint
            return lambda now: self._tell_room(pushing, now)
        if isinstance(endpoint, Pulling):
            pulling = endpoint
            return lambda now: self._pull(pulling, now)
        receive, hand_on, look = endpoint.receive, self._receive, self._connections.look

        def handler(now: float) -> bool:
            if not endpoint.up:
                look(endpoint, now)
            if self.unread is None:
                return receive(MESSAGES_A_TURN, hand_on, now)
            # The question whether there is more is put off: it may be answered together with the one after sending.
            more = receive(MESSAGES_A_TURN, hand_on, now, not endpoint.unread)
            if more and not endpoint.unread:
                endpoint.unread = True
                self.unread.append(endpoint)
            return more

        return handler

    def _pull(self, endpoint: Pulling, now: float) -> bool:
        """Take from a PULL as many messages as the core has room for."""
        if not endpoint.up:
            self._connections.look(endpoint, now)
        more = endpoint.receive(min(MESSAGES_A_TURN, max(endpoint.room, 0)), self._receive, now)
        if endpoint.room > 0:
            return more
        endpoint.polled = 0
        self._poll_anew()
        return False

    def let_in(self, pulls: list[tuple[Link, int]]) -> None:
        """So many messages may be taken from these PULLs, from now on."""
        for link, room in pulls:
            endpoint = self._by_link.get(link)
            if isinstance(endpoint, Pulling):
                endpoint.room = room
                endpoint.polled = READABLE if room > 0 else 0
        self._poll_anew()

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
        """The descriptor that tells of each socket's news, messages before monitors."""
        return {int(socket.get(FD)): socket for socket, _ in self.pollset}

    def _receive(self, link: Link, frames: list[bytes], now: float) -> None:
        self.received += 1
        try:
            self.received_bytes += len(frames[-1])
            # Not the time at which the turn began: a long commit, or SIGSTOP, may lie between. No message comes before
            # it was sent: who compares two clocks would take such a message for what these differ by, and all that
            # follow for late.
            self._core.receive_message(link, frames, monotonic())
        except Exception:
            self._bug("receive_message")

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
                sender = by_link.get(link)
                if sender is not None:
                    if not sender.up:
                        self.dropped += 1
                        continue
                    sender.send(frames)
                    endpoint: Endpoint = sender
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
            sender = by_link.get(link)
            if isinstance(sender, Dialer):
                self._connections.down(sender, now)
            elif sender is None:
                self._hear_out(link, now)
                self._connections.tell_down(link, now)
        return bool(gone)

    def push_all(self, pushes: list[tuple[Link, Sequence[Frames]]], now: float) -> None:
        """Give messages to PUSHes, and tell the core how many of each entry were taken."""
        core = cast(PushCore, self._core)
        for link, messages in pushes:
            endpoint = self._by_link.get(link)
            taken = 0
            if isinstance(endpoint, Pushing) and endpoint.up:
                taken = endpoint.push(messages)
                self.sent += taken
            try:
                core.pushed(link, taken, now)
            except Exception:
                self._bug("pushed")
        self._poll_anew()

    def _tell_room(self, endpoint: Pushing, now: float) -> bool:
        """A PUSH can be written to again."""
        endpoint.polled = 0
        self._poll_anew()
        try:
            cast(PushCore, self._core).link_room(endpoint.link, now)
        except Exception:
            self._bug("link_room")
        return False

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
            endpoint = self._by_link.get(link)
            if isinstance(endpoint, Dialer):
                if endpoint.socket is not None:
                    self._connections.down(endpoint, now)
            elif isinstance(link, tuple) and len(link) == 3:
                kind, address, name = link
                if kind == "d":
                    self._drop_connection(address, name, now)
                elif address in self._listeners:
                    self._listeners[address].expel(name)

    def _drop_connection(self, address: str, token: bytes, now: float) -> None:
        endpoint = self._by_link.get(("d", address))
        if isinstance(endpoint, DataListener):
            endpoint.shut(token)
        elif isinstance(endpoint, DataDialer) and alive(token):
            self._connections.down(endpoint, now)

    def dial(self, address: str, wanted: bool, now: float) -> None:
        """The core's own `connect`, or `disconnect`. An address that cannot be read is logged."""
        if not wanted:
            self.disconnect(address, now)
            return
        try:
            self.connect(address, now, retry=True)
        except AddressError as error:
            log.warning("%s", error)

    # ---- the end ----------------------------------------------------------------------

    def stats(self) -> dict[str, int | float]:
        """Counters."""
        endpoints = self._endpoints()
        dialers = [endpoint for endpoint in endpoints if isinstance(endpoint, Dialer)]
        return {
            "messages_received": self.received,
            "messages_sent": self.sent,
            "sends_dropped": self.dropped,
            "handshakes_failed": self._connections.handshakes_failed,
            "connections_broken": self._connections.broken,
            "expelled_messages": sum(endpoint.unheard for endpoint in endpoints),
            "oversize_messages": self._connections.oversize + sum(endpoint.oversize for endpoint in endpoints),
            "connections": sum(dialer.up for dialer in dialers),
        }

    def begin_close(self, linger: float) -> None:
        """Close all sockets, but let them send what is left for so many seconds."""
        for endpoint in self._endpoints():
            endpoint.begin_close(int(min(linger, MAX_LINGER) * 1000))
        self.pollset = [(endpoint.monitor, 1) for endpoint in self._endpoints() if endpoint.monitor is not None]

    def closed(self) -> bool:
        """After `begin_close`: whether all is sent and every port is free again."""
        waiting = [endpoint for endpoint in self._endpoints() if not endpoint.closed()]
        return not waiting

    def become_forked(self) -> None:
        """This is the child of a fork."""
        for endpoint in self._endpoints():
            if isinstance(endpoint, Bound):
                endpoint.become_forked()

    def abandon(self) -> None:
        """Close what is still open, at once."""
        for endpoint in self._endpoints():
            endpoint.close()
        self._by_link.clear()
        self._listeners.clear()
        self._changed()
