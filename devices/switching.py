"""The engine for zmqkit peers of request-reply and pipelines: a learning switch, pumped by a thread of its own.

Knows the switch's core, the driver and discovery; of what goes through, nothing.
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
from typing import Any, Final, Literal

from zmqkit import discovery
from zmqkit.devices.engine import STATS, Ended, Tell
from zmqkit.devices.sides import Side, resolved
from zmqkit.devices.switch import SwitchCore
from zmqkit.errors import Closed, UsageError
from zmqkit.events import Event
from zmqkit.options import Heartbeat, Limits
from zmqkit.peer.found import reachable
from zmqkit.transport.iothread import WideIoThread
from zmqkit.transport.tickets import WaitExpired

log = logging.getLogger("zmqkit.devices")

Which = Literal[0, 1]
"""The frontend, or the backend."""

NAMES: Final = ("frontend", "backend")

STEER_SECONDS: Final = 5.0
"""So long a verb waits for a thread that is busy."""

FADE_SECONDS: Final = 5.0
"""How often acceptors that discovery names no more are looked at: they are left when no session uses them."""


class SwitchEngine:
    """Carries sessions of zmqkit peers from end to end. See `zmqkit.devices.engine.Engine`.

    The side all of whose addresses are bound is the one whose peers say HELLO; if both are, the frontend's do. Larger
    frames than the larger of both sides' limits are not received.

    Args:
        roles: who is at the frontend, and who at the backend.
        linger: not used: the switch keeps nothing; `close` says how long what was said last may take to leave.

    Raises:
        UsageError: both sides connect: nobody would say HELLO.
    """

    def __init__(
        self,
        *,
        name: str,
        frontend: Side,
        backend: Side,
        roles: tuple[str, str],
        heartbeat: Heartbeat | None = None,
        limits: Limits | None = None,
        insecure: bool = False,
        linger: float | None = 5.0,
        tell: Tell = lambda _: None,
        ended: Ended = lambda _: None,
    ) -> None:
        if frontend.connect and backend.connect:
            raise UsageError(
                f"{name}: both sides connect ({frontend} and {backend}), and nobody would begin a session: bind all "
                "addresses of one side"
            )
        self.name = name
        self._sides = (frontend, backend)
        self._roles = roles
        self._heartbeat = heartbeat or Heartbeat()
        given = [side.limits or limits or Limits() for side in self._sides]
        self._limits = dataclasses.replace(given[0], frame_bytes=max(each.frame_bytes for each in given))
        self._insecure = insecure
        self._tell = tell
        self._ended = ended
        self._instance = os.urandom(16).hex()
        self._pid = os.getpid()
        self._initiating: Which = 1 if frontend.connect else 0
        self._answering: Which = 0 if frontend.connect else 1
        self._lock = threading.Lock()
        self._closed = False
        self._core: SwitchCore | None = None
        self._driver: _Thread | None = None
        self._binds: tuple[int, int] = (0, 0)
        """How many addresses each side binds."""
        self._stats: dict[str, int | float] = dict.fromkeys(STATS, 0)
        self._found: dict[str, frozenset[str]] = {}
        """What each name stands for now."""
        self._fading: set[str] = set()
        self._watches: list[discovery.Watch] = []
        self._announcements: list[discovery.Announcement] = []

    @property
    def frontend_addresses(self) -> tuple[str, ...]:
        """See `Engine`."""
        return self._bound(0)

    @property
    def backend_addresses(self) -> tuple[str, ...]:
        """See `Engine`."""
        return self._bound(1)

    def _bound(self, which: Which) -> tuple[str, ...]:
        addresses = self._driver.addresses if self._driver is not None else ()
        front = self._binds[0]
        return addresses[front:] if which else addresses[:front]

    # ---- the beginning ---------------------------------------------------------------

    def open(self) -> None:
        """See `Engine`."""
        binds = [[str(each) for each in resolved(side, self._insecure)] for side in self._sides]
        self._binds = (len(binds[0]), len(binds[1]))
        behind = self._sides[self._answering]
        fixed = [str(each) for at in behind.connects for each in at.members or (at,) if not each.looked_up]
        names = [at for at in behind.connects if at.looked_up and not at.members]
        core = SwitchCore(
            name=self.name,
            sides=(NAMES[self._initiating], NAMES[self._answering]),
            roles=({self._roles[self._initiating]}, {self._roles[self._answering]}),
            dialled=fixed,
            open_ended=bool(names or behind.bind),
            rng=random.SystemRandom(),
        )
        driver = _Thread(
            core, name=self.name, binds=[*binds[0], *binds[1]], connects=fixed, heartbeat=self._heartbeat,
            limits=self._limits, failed=self._failed,
        )  # fmt: skip
        driver.on(Event, self._tell)
        self._core, self._driver = core, driver
        try:
            # The first that runs, before any message: only then the ports are known.
            driver.post(self._tell_bound)
            driver.start()
            for at in names:
                on_change = partial(self._changed, str(at))
                roles = {self._roles[self._answering]}
                self._watches.append(discovery.watch(at, on_change=on_change, roles=roles))
            self._announce()
        except BaseException:
            self.close(0.0)
            raise

    def _tell_bound(self, now: float) -> None:
        assert self._core is not None
        self._core.bound_at(self._bound(self._initiating), self._bound(self._answering), now)

    def _announce(self) -> None:
        """To who looks for the other side this device is one of them."""
        for which in (0, 1):
            side = self._sides[which]
            if side.announce is not None:
                self._announcements.append(
                    discovery.announce(
                        side.announce,
                        self._bound(0 if which == 0 else 1),
                        role=self._roles[1 - which],
                        instance=self._instance,
                        peer_name=self.name,
                    )
                )

    # ---- discovery -------------------------------------------------------------------

    def _changed(self, name: str, found: Iterable[discovery.Found]) -> None:
        """Discovery has news. A hint, no authority: what is gone from it stays while sessions use it."""
        there = reachable(found, own=self._instance, insecure=self._insecure, who=self.name, name=name)
        with self._lock:
            before = self._all_found() | self._fading
            self._found[name] = there
            after = self._all_found()
            self._fading = set(before - after)
        driver, core = self._driver, self._core
        assert driver is not None
        assert core is not None
        with contextlib.suppress(Closed):
            for address in after - before:
                driver.submit(core.expect, address)
                driver.connect(address)
            if self._fading:
                driver.submit(self._drop_faded)

    def _all_found(self) -> frozenset[str]:
        return frozenset[str]().union(*self._found.values())

    def _drop_faded(self, now: float) -> None:
        """Runs in the I/O thread: leave what discovery names no more and no session uses; look again for the rest."""
        driver, core = self._driver, self._core
        assert driver is not None
        assert core is not None
        with self._lock:
            gone = {address for address in self._fading if not core.uses(address)}
            self._fading -= gone
        for address in gone:
            core.link_forgotten(("c", address), now)
            driver.disconnect(address)
        if self._fading:
            driver.alarm(FADE_SECONDS, self._drop_faded)

    # ---- steering --------------------------------------------------------------------

    def pause(self) -> None:
        """See `Engine`."""
        if self._core is not None:
            self._steer(self._core.pause)

    def resume(self) -> None:
        """See `Engine`."""
        if self._core is not None:
            self._steer(self._core.resume)

    def _steer(self, verb: Callable[..., None]) -> None:
        driver = self._driver
        if driver is None or self._closed:
            return
        ticket = driver.ticket()
        with contextlib.suppress(Closed):
            try:
                driver.ask(ticket, STEER_SECONDS, verb, ticket)
            except WaitExpired:
                log.warning("%s: the I/O thread is busy; it will do it when it is not", self.name)

    def stats(self) -> dict[str, int | float]:
        """See `Engine`. Beside `STATS` the counters of the switch, and those of the driver as ``io_...``."""
        driver = self._driver
        if driver is not None and not driver.ended.done:
            self._stats = driver.stats()
        return dict(self._stats)

    # ---- the end ---------------------------------------------------------------------

    def close(self, timeout: float | None) -> None:
        """See `Engine`."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._closed = True
            watches, self._watches = self._watches, []
            announcements, self._announcements = self._announcements, []
        for announcement in announcements:
            announcement.close()
        for watch in watches:
            watch.close()
        if self._driver is not None:
            self.stats()
            self._driver.close(timeout)

    def begin_close(self) -> None:
        """See `Engine`."""
        if os.getpid() != self._pid:
            return
        self._closed = True
        if self._driver is not None:
            self._driver.begin_close(0.0)
        # Saying goodbye to discovery waits, which nothing here may. Without threads the interpreter ends.
        with contextlib.suppress(RuntimeError):
            threading.Thread(target=self.close, args=(0.0,), name="zmqkit-farewell", daemon=True).start()

    def _failed(self, error: BaseException) -> None:
        if not self._closed:
            self._ended(error)


class _Thread(WideIoThread):
    """The driver; when it ends by an error, that is told."""

    def __init__(self, core: SwitchCore, *, failed: Callable[[BaseException], None], **given: Any) -> None:
        super().__init__(core, **given)
        self._tell_failed = failed

    def _run(self) -> None:
        super()._run()
        if self.failure is not None:
            self._tell_failed(self.failure)
