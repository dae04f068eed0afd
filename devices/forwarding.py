"""The engine between zmqkit publishers and subscribers: a relay for the data plane, a switch for recovery channels.

Knows both, and discovery::

    publishers --XPUB--> XSUB  relay  XPUB <--XSUB-- subscribers      data, beats, fences; subscriptions the other way
        '-----session---- DEALER switch ROUTER ----------'            histories, cursors, checks

Nothing is kept: what subscribers miss, because the forwarder was away, or they did not keep up, they find missing, and
fetch it from the publishers through the switch, as they do without a forwarder (docs/protocol.md, section 14). What
fences and private topics say of where recovery is, `zmqkit.devices.fences` exchanges.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import random
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from zmqkit import discovery
from zmqkit.address import parse
from zmqkit.devices.engine import STATS, Ended, Tell
from zmqkit.devices.fences import Fences
from zmqkit.devices.sides import Side, resolved
from zmqkit.devices.switch import SwitchCore
from zmqkit.errors import AddressError, AddressInUse, Closed, Forked, UsageError
from zmqkit.events import Event
from zmqkit.options import Heartbeat, Limits
from zmqkit.patterns.pubsub import places
from zmqkit.patterns.pubsub.wire import FRAME_BYTES, HEAD_BYTES
from zmqkit.peer.found import reachable
from zmqkit.transport import tickets
from zmqkit.transport.iothread import WideIoThread
from zmqkit.transport.relay import Relay
from zmqkit.transport.tickets import WaitExpired

log = logging.getLogger("zmqkit.devices")

STEER_SECONDS: Final = 5.0
"""So long a verb waits for a thread that is busy."""

ROLES: Final = ("publish", "subscribe")
"""Who is in front, and who behind."""


class ForwardEngine:
    """Carries publish-subscribe of zmqkit peers. See `zmqkit.devices.engine.Engine`.

    Plain publishers and subscribers may be among them. While it is paused, what publishers send is dropped here;
    subscribers fetch it afterwards.

    Args:
        linger: not used; `close` says it.

    Raises:
        UsageError: both sides connect: sessions need one to which all of its peers come.
    """

    def __init__(
        self,
        *,
        name: str,
        frontend: Side,
        backend: Side,
        heartbeat: Heartbeat | None = None,
        limits: Limits | None = None,
        insecure: bool = False,
        linger: float | None = 5.0,
        tell: Tell = lambda _: None,
        ended: Ended = lambda _: None,
    ) -> None:
        if frontend.connect and backend.connect:
            raise UsageError(
                f"{name}: both sides connect ({frontend} and {backend}), and zmqkit's subscribers and publishers would "
                "find nobody to open their recovery channels with: bind one side of the forwarder"
            )
        self.name = name
        self._sides = (frontend, backend)
        self._heartbeat = heartbeat or Heartbeat()
        self._limits = [side.limits or limits or Limits() for side in self._sides]
        self._insecure = insecure
        self._tell = tell
        self._ended = ended
        self._instance = os.urandom(16).hex()
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._paused = self._closed = self._failed = False
        self._fences = Fences()
        front, back = map(_with_room_for_heads, self._limits)
        self._relay = Relay(name, self._fences, self._heartbeat, front, back, self._follow, self._fail)
        # Those behind say HELLO, unless the forwarder has to go to them.
        self._initiating = initiating = 0 if backend.connect else 1
        self._switch = SwitchCore(
            name=name,
            sides=("frontend", "backend") if initiating == 0 else ("backend", "frontend"),
            roles=({ROLES[initiating]}, {ROLES[1 - initiating]}),
            open_ended=True,
            rng=random.SystemRandom(),
        )
        self._driver: WideIoThread | None = None
        self._bound: list[tuple[str, ...]] = [(), ()]
        self._hints: dict[str, str] = {}
        self._found: dict[tuple[int, str], frozenset[str]] = {}
        """What each name stands for now."""
        self._watches: list[discovery.Watch] = []
        self._announcements: list[discovery.Announcement] = []

    @property
    def frontend_addresses(self) -> tuple[str, ...]:
        """See `Engine`."""
        return self._bound[0]

    @property
    def backend_addresses(self) -> tuple[str, ...]:
        """See `Engine`."""
        return self._bound[1]

    # ---- the beginning ---------------------------------------------------------------

    def open(self) -> None:
        """See `Engine`."""
        try:
            binds = [[str(each) for each in resolved(side, self._insecure)] for side in self._sides]
            for which in (0, 1):
                self._bound[which] = tuple(self._relay.bind(which == 0, address) for address in binds[which])
            driver = self._open_switch()
            for which in (0, 1):
                self._add_bound(which, driver)
                for address in self._sides[which].connects:
                    for each in address.members or (address,):
                        if not each.looked_up:
                            self._connect(which, str(each))
            self._relay.start()
            threading.Thread(target=self._watch, name=f"zmqkit-watch-{self.name}"[:60], daemon=True).start()
            self._look_up()
        except BaseException:
            self.close(0.0)
            raise

    def _open_switch(self) -> WideIoThread:
        """Bind the recovery channels beside the data addresses, which are bound already.

        Beside the ports that were got, where any would do: who is started again at them has recovery where it was.
        """
        wanted = [places.beside([parse(each) for each in side]) for side in self._bound]
        try:
            driver = self._make_driver(wanted)
            driver.start()
        except AddressInUse:  # somebody was quicker: any other port will do
            wanted = [[_any_port(each) for each in side] for side in wanted]
            driver = self._make_driver(wanted)
            driver.start()
        self._driver = driver
        self._hints = {}
        for bound, own in zip(self._bound, self._recovery(driver), strict=True):
            self._hints.update(places.told(bound, own))
        return driver

    def _recovery(self, driver: WideIoThread) -> list[tuple[str, ...]]:
        """Where each side's recovery channels are: one beside each data address."""
        front = len(self._bound[0])
        return [driver.addresses[:front], driver.addresses[front:]]

    def _make_driver(self, binds: list[list[str]]) -> WideIoThread:
        largest = max(each.frame_bytes for each in self._limits)
        driver = WideIoThread(
            self._switch,
            name=f"{self.name}-recovery",
            binds=[*binds[0], *binds[1]],
            heartbeat=self._heartbeat,
            limits=_with_room_for_heads(dataclasses.replace(self._limits[0], frame_bytes=largest)),
        )
        driver.on(Event, self._tell)

        def tell_bound(now: float) -> None:
            own = self._recovery(driver)
            self._switch.bound_at(own[self._initiating], own[1 - self._initiating], now)

        # The first that runs, before any message: only then the ports are known.
        driver.post(tell_bound)
        return driver

    def _add_bound(self, which: int, driver: WideIoThread) -> None:
        add = (self._fences.add_inlet, self._fences.add_outlet)[which]
        for address in self._bound[which]:
            add(("d", address), address, dialled=False, hint=self._hints.get(address, ""))

    def _connect(self, which: int, address: str, now: float = 0.0) -> None:
        """Before the relay's start, or in its thread."""
        self._relay.connect(which == 0, address)
        add = (self._fences.add_inlet, self._fences.add_outlet)[which]
        add(("d", address), address, dialled=True)

    def _disconnect(self, address: str, now: float) -> None:
        self._fences.remove(("d", address))
        self._relay.disconnect(address)

    # ---- discovery -------------------------------------------------------------------

    def _look_up(self) -> None:
        for which, side in enumerate(self._sides):
            for address in side.connects:
                if address.looked_up and not address.members:
                    on_change = partial(self._changed, which, str(address))
                    self._watches.append(discovery.watch(address, on_change=on_change, roles={ROLES[which]}))
            if side.announce is not None:
                self._announcements.append(
                    discovery.announce(
                        side.announce,
                        self._bound[which],
                        role=ROLES[1 - which],
                        instance=self._instance,
                        peer_name=self.name,
                    )
                )

    def _changed(self, which: int, name: str, found: Iterable[discovery.Found]) -> None:
        """What stands behind a name came or went."""
        there = reachable(found, own=self._instance, insecure=self._insecure, who=self.name, name=name)
        with self._lock:
            before = self._all_found(which)
            self._found[which, name] = there
            after = self._all_found(which)
        for address in after - before:
            self._relay.call(partial(self._try_connect, which, address))
        for address in before - after:
            self._relay.call(partial(self._disconnect, address))

    def _all_found(self, which: int) -> frozenset[str]:
        return frozenset[str]().union(*(found for (at, _), found in self._found.items() if at == which))

    def _try_connect(self, which: int, address: str, now: float) -> None:
        try:
            self._connect(which, address)
        except AddressError as error:
            log.warning("%s: %s", self.name, error)

    # ---- recovery channels -------------------------------------------------------------

    def _follow(self) -> None:
        """Connect to where fences and hints say that recovery is. Runs in the relay's thread."""
        driver, found = self._driver, self._fences.places
        if not found or driver is None:
            return
        self._fences.places = []
        with contextlib.suppress(Closed):
            for place in found:
                if place.front == (self._initiating == 0):
                    continue  # whoever initiates comes to us
                if place.wanted:
                    driver.submit(self._switch.expect, place.address)
                    driver.connect(place.address)
                else:
                    driver.submit(self._switch.link_forgotten, ("c", place.address))
                    driver.disconnect(place.address)

    # ---- steering ----------------------------------------------------------------------

    def pause(self) -> None:
        """See `Engine`. Raises `Forked` in the child of a fork."""
        self._check_owner()
        self._paused = True
        self._relay.pause(True)
        self._steer(self._switch.pause)

    def resume(self) -> None:
        """See `Engine`. Raises `Forked` in the child of a fork."""
        self._check_owner()
        self._steer(self._switch.resume)
        self._relay.pause(False)
        self._paused = False

    def _check_owner(self) -> None:
        if self._pid != os.getpid():
            raise Forked(f"{self.name} belongs to the parent process {self._pid}; open a new one in the child")

    def _steer(self, verb: Callable[..., object]) -> None:
        driver = self._driver
        if driver is not None:
            with contextlib.suppress(Closed, WaitExpired):
                ticket = driver.ticket()
                driver.submit(verb, ticket)
                driver.wait(ticket, STEER_SECONDS)

    def stats(self) -> dict[str, int | float]:
        """See `Engine`; besides the relay's counters, and those of fences and subscriptions."""
        counters: dict[str, int | float] = dict.fromkeys(STATS, 0)
        for part in (self._relay.stats(), self._switch.counters, self._fences.counters):
            for key, value in part.items():
                counters[key] = counters.get(key, 0) + value
        counters["paused"] = int(self._paused)
        return counters

    # ---- the end -----------------------------------------------------------------------

    def close(self, timeout: float | None) -> None:
        """See `Engine`."""
        if self._pid != os.getpid():
            return
        with self._lock:
            self._closed = True
            announcements, self._announcements = self._announcements, []
            watches, self._watches = self._watches, []
        for announcement in announcements:
            announcement.close()
        for watch in watches:
            watch.close()
        self._relay.close(timeout)
        if self._driver is not None:
            self._driver.close(timeout)

    def begin_close(self) -> None:
        """See `Engine`."""
        if self._pid == os.getpid():
            self._closed = True
            # Nothing here may wait; saying goodbye to discovery does.
            threading.Thread(target=self.close, args=(0.0,), name="zmqkit-farewell", daemon=True).start()

    def _watch(self) -> None:
        """Wait for the end of the switch's driver: it should not come before ours."""
        driver = self._driver
        assert driver is not None
        tickets.wait(driver.ended)
        if driver.failure is not None:
            self._fail(driver.failure)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            told, self._failed = self._failed or self._closed, True
        if not told:
            self._ended(error)


def _with_room_for_heads(limits: Limits) -> Limits:
    """A publisher may fill a frame with so many messages, whatever the limits are, and say of them what it has to."""
    return dataclasses.replace(limits, frame_bytes=max(limits.frame_bytes, FRAME_BYTES) + HEAD_BYTES)


def _any_port(address: str) -> str:
    found = parse(address)
    return f"tcp://{found.rest.rpartition(':')[0]}:*" if found.scheme == "tcp" else address
