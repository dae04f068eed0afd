"""What becomes of connections, as the sockets' monitors tell it: inputs of a core, and new dials.

Runs where the core is pumped. Knows endpoints and the contract of a core; of messages only that what came over a
connection is handed in before its end is. Nothing in here raises on what a peer does.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Hashable, Mapping

import zmq

from zmqkit.errors import AddressError
from zmqkit.protocol.core import Core, Link
from zmqkit.transport.data import DataDialer
from zmqkit.transport.links import Dialer
from zmqkit.transport.sockets import (
    DISCONNECTED,
    HANDSHAKE_FAILED,
    HANDSHAKE_SUCCEEDED,
    RETRIED,
    Bound,
    Endpoint,
    Receive,
)
from zmqkit.transport.timers import Alarms

log = logging.getLogger("zmqkit.transport")

MESSAGES_A_TURN = 200
"""How many messages of one socket are received before the others, and the user's commands, have their turn."""

DISTURBED_SECONDS = 0.05
"""The core is told at most this often that connections of a bound socket broke; and again after each time:"""

AGAIN_SECONDS = (0.002, 0.01, 0.05, 0.2)
"""so long after that, as long as fewer links are known to be down than connections broke. libzmq tells of a break a
moment before the socket knows it: what is sent to that peer meanwhile goes nowhere, and no error says so."""

REDIAL_FIRST_SECONDS = 0.1
REDIAL_CAP_SECONDS = 2.0
FAILED_QUIET_SECONDS = 60.0
"""A failed handshake is logged at most this often: whoever knocks may do so for ever."""
FAILED_DIALS = 3
"""So many in a row are no accident, as a peer that ends in the middle of it is."""

STEADY_SECONDS = 1.0
"""A connection that stood for so long was a good one: a lost one is dialled again at once."""

LOOK_SECONDS = 0.25
"""How often a data endpoint within the process is looked at: nothing tells that the other side is gone."""


class Connections:
    """The connections of one driver.

    Args:
        core: gets link_up, link_down, links_disturbed.
        endpoints: those in use by their links; a dialer that is not there is not dialled again.
        alarms: the driver's; for redials.
        bug: called in an ``except`` block when the core raised, with the name of the input.
        receive: hands on what came over a connection that broke.
        changed: called when a socket was opened or closed.

    Attributes:
        broken: connections that broke, ours and others', whoever ended them: also those that sent too large a frame.
        handshakes_failed: how many of them during ZeroMQ's handshake.
        oversize: oversize messages of sockets that are closed by now.
    """

    def __init__(
        self,
        core: Core,
        endpoints: Mapping[Link, Endpoint],
        alarms: Alarms,
        bug: Callable[[str], None],
        receive: Receive,
        changed: Callable[[], None],
    ) -> None:
        self._core = core
        self._endpoints = endpoints
        self._alarms = alarms
        self._bug = bug
        self._receive = receive
        self._changed = changed
        self._disturbed: dict[Hashable, float] = {}
        """Group -> when the core was, or will be, told of its broken connections."""
        self._told: dict[Hashable, float] = {}
        """Group -> when the core was told, not counting what it is told again."""
        self._unfound: dict[Hashable, int] = {}
        """Group -> how many of its connections broke of which no link is known to be down."""
        self._failed_told: dict[str, float] = {}
        """Address -> when it was logged that handshakes fail there."""
        self.broken = 0
        self.handshakes_failed = 0
        self.oversize = 0

    # ---- what monitors tell ----------------------------------------------------------

    def watcher(self, endpoint: Endpoint) -> Callable[[float], bool]:
        """What to call when the endpoint's monitor has something to tell."""
        if isinstance(endpoint, Dialer):
            dialer = endpoint
            return lambda now: self._watch_dialer(dialer, now)
        assert isinstance(endpoint, Bound)
        bound = endpoint
        return lambda now: self._watch_bound(bound, now)

    def look(self, endpoint: Endpoint, now: float) -> None:
        """Something came to an endpoint that is not up yet: what its monitor told comes first."""
        if isinstance(endpoint, Dialer):
            if endpoint.inproc:
                self._dialled_inproc(endpoint, now)
            else:
                self._watch_dialer(endpoint, now)

    def _watch_dialer(self, dialer: Dialer, now: float) -> bool:
        for event in dialer.events():
            if event == HANDSHAKE_SUCCEEDED:
                self._up(dialer, now)
            elif event == RETRIED:  # a data endpoint's connection could not be made
                self.down(dialer, now)
                break
            elif event == DISCONNECTED or event & HANDSHAKE_FAILED:
                self.broken += event == DISCONNECTED
                # A peer of a wrong kind, or none of ZeroMQ's at all, just hangs up during the handshake.
                if not dialer.up:
                    self.handshakes_failed += 1
                    if dialer.hung_up >= FAILED_DIALS:
                        self._tell_failed(dialer, now)
                    dialer.hung_up += 1
                while dialer.receive(MESSAGES_A_TURN, self._receive, now):
                    pass  # all that came before it broke; no more can come
                self.down(dialer, now)
                break
        return False

    def _watch_bound(self, bound: Bound, now: float) -> bool:
        broken, unfound = False, 0
        for event in bound.events():
            if event == DISCONNECTED:
                self.broken += 1
                broken = True
                if bound.failed:
                    bound.failed -= 1
                elif bound.greeted:
                    bound.greeted -= 1
                    unfound += 1
                else:  # libzmq does not tell of each
                    self._failed(bound, now)
            elif event == HANDSHAKE_SUCCEEDED:
                bound.greeted += 1
            elif event & HANDSHAKE_FAILED:
                bound.failed += 1
                self._failed(bound, now)
        if unfound:
            self._unfound[bound.group] = self._unfound.get(bound.group, 0) + unfound
        if broken:
            last = self._disturbed.get(bound.group)
            if last is None or now >= last + DISTURBED_SECONDS:
                self._tell_disturbed(bound, now)
            elif last <= now:
                when = self._disturbed[bound.group] = last + DISTURBED_SECONDS
                self._alarms.at(when, self._tell_disturbed, bound)
        return False

    def _failed(self, endpoint: Endpoint, now: float) -> None:
        self.handshakes_failed += 1
        self._tell_failed(endpoint, now)

    def _tell_failed(self, endpoint: Endpoint, now: float) -> None:
        told = self._failed_told.get(endpoint.address)
        if told is None or now >= told + FAILED_QUIET_SECONDS:
            self._failed_told[endpoint.address] = now
            log.warning(
                "%s: a connection was made, and broken again during ZeroMQ's handshake: is another kind of socket at "
                "its other end (%s), or no ZeroMQ at all?",
                endpoint.address,
                endpoint.OTHERS,
            )

    def _tell_disturbed(self, bound: Bound, now: float) -> None:
        self._disturbed[bound.group] = self._told[bound.group] = now
        self._ask_whose(bound, now, 0, now)

    def _ask_whose(self, bound: Bound, since: float, again: int, now: float) -> None:
        """Have the core find out whose connection broke, and again in a while."""
        group = bound.group
        if self._told[group] != since:
            return  # it was told anew
        if not again or group in self._unfound:
            try:
                self._core.links_disturbed(group, now)
            except Exception:
                self._bug("links_disturbed")
        if again < len(AGAIN_SECONDS):
            self._alarms.at(since + AGAIN_SECONDS[again], self._ask_whose, bound, since, again + 1)
        else:
            self._unfound.pop(group, None)  # they never were links

    # ---- links of dialers --------------------------------------------------------------

    def opened(self, dialer: Dialer, now: float) -> None:
        """It was opened for the first time."""
        self._changed()
        if dialer.inproc:
            # No connection is made there that a monitor could tell of; from here on a message may be sent.
            self._alarms.at(now, self._dialled_inproc, dialer)

    def _dialled_inproc(self, dialer: Dialer, now: float) -> None:
        if dialer.socket is not None:
            self._up(dialer, now)

    def _up(self, dialer: Dialer, now: float) -> None:
        if dialer.up:
            return
        dialer.up = True
        dialer.up_since = now
        dialer.hung_up = 0
        if dialer.inproc and isinstance(dialer, DataDialer):
            self._alarms.at(now + LOOK_SECONDS, self._look_inproc, dialer, now)
        self.tell_up(dialer.link, now)

    def _look_inproc(self, dialer: DataDialer, since: float, now: float) -> None:
        if dialer.up and dialer.up_since == since:
            if dialer.deserted:
                self.broken += 1
                while dialer.receive(MESSAGES_A_TURN, self._receive, now):
                    pass
                self.down(dialer, now)
            else:
                self._alarms.at(now + LOOK_SECONDS, self._look_inproc, dialer, since)

    def down(self, dialer: Dialer, now: float) -> None:
        """The connection broke, or is of no use: drop it, and dial again if it still has users."""
        was_up, dialer.up = dialer.up, False
        self.oversize += dialer.oversize
        dialer.oversize = 0
        dialer.close()
        self._changed()
        if was_up:
            self.tell_down(dialer.link, now)
        if self._endpoints.get(dialer.link) is not dialer:
            return
        if was_up and now - dialer.up_since >= STEADY_SECONDS:
            dialer.failures = 0
            self._alarms.at(now, self._redial, dialer)
        else:
            ceiling = min(REDIAL_FIRST_SECONDS * 2.0 ** min(dialer.failures, 32), REDIAL_CAP_SECONDS)
            dialer.failures += 1
            self._alarms.at(now + ceiling * random.uniform(0.5, 1.0), self._redial, dialer)

    def _redial(self, dialer: Dialer, now: float) -> None:
        if dialer.socket is not None or self._endpoints.get(dialer.link) is not dialer:
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

    def tell_up(self, link: Link, now: float) -> None:
        """The core's link_up."""
        try:
            self._core.link_up(link, now)
        except Exception:
            self._bug("link_up")

    def tell_down(self, link: Link, now: float) -> None:
        """The core's link_down."""
        if isinstance(link, tuple) and len(link) == 3 and (left := self._unfound.pop(link[:2], 0)) > 1:
            self._unfound[link[:2]] = left - 1
        try:
            self._core.link_down(link, now)
        except Exception:
            self._bug("link_down")
