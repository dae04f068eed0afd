"""What all devices share: two sides, one engine, steering; and the face of a device for threads.

Knows an engine by its protocol (`zmqkit.devices.engine`), and no pattern: which engine it is says the kind of device.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypedDict

from zmqkit.address import Address
from zmqkit.devices.engine import Engine
from zmqkit.devices.sides import Side, check, read
from zmqkit.errors import Closed, Forked, UsageError, WaitTimeout
from zmqkit.events import Event
from zmqkit.options import Heartbeat, Limits
from zmqkit.peer import Common, Peer, hooks, stop_on_signals
from zmqkit.peer.base import LINGER, PeerBase, check_types, deadline_of, left_of
from zmqkit.transport.tickets import Ticket, wait

if TYPE_CHECKING:
    from zmqkit.devices.control import Control

log = logging.getLogger("zmqkit.devices")

At = str | Sequence[str] | Side
"""What a side of a device is given as: see `zmqkit.devices.Side`."""

Carries = Literal["plain", "zmqkit"]

CONTROL_LINGER = 1.0
"""Seconds that the control socket has to answer what was asked last."""

GLANCE = 0.02
"""Seconds between two looks at the sessions of an engine, where somebody waits for them."""


class DeviceCommon(TypedDict, total=False):
    """Keywords that every device takes.

    Attributes:
        control: an address of this host at which it can be paused, asked and ended (``zmqkit device ctl``).
        name: in logs, threads, events and discovery; None: host:pid.
        insecure: allow addresses beyond this host without keys; also ZMQKIT_INSECURE=1.
        heartbeat: how life is proved on each hop; None: as zmqkit does among its peers, and to plain peers not at all,
            besides TCP's own keepalive, because not all of them understand it.
        limits: bounds of what others make it hold, on sides that have none of their own; see `Side`.
        linger: seconds that close() goes on sending what was already given to a peer's connection; None: no bound. 5.0.
    """

    control: str | None
    name: str | None
    insecure: bool
    heartbeat: Heartbeat | None
    limits: Limits | None
    linger: float | None


class DeviceBase(PeerBase):
    """One device, without the waiting. Constructing does no I/O."""

    _binds = True
    _kind: ClassVar[str]
    """Its name on the command line, and in the control socket's answers."""
    _types: tuple[str, str]
    """Of the sockets for plain peers, frontend first."""

    def __init__(self, sides: Mapping[str, At], plain: bool | None, common: DeviceCommon) -> None:
        unknown = set(common) - set(DeviceCommon.__annotations__)
        if unknown:
            raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {sorted(unknown)[0]!r}")
        heartbeat, limits, control = common.get("heartbeat"), common.get("limits"), common.get("control")
        check_types(
            plain=(plain, bool | None),
            heartbeat=(heartbeat, Heartbeat | None),
            limits=(limits, Limits | None),
            control=(control, str | None),
        )
        super().__init__(
            (),
            Common(
                name=common.get("name"), insecure=common.get("insecure", False), linger=common.get("linger", LINGER)
            ),
        )
        self._plain = plain
        self._own_heartbeat = heartbeat
        self._own_limits = limits
        self._control_address = control
        if control is not None:
            from zmqkit.devices.control import check_address

            check_address(control)
        self._control: Control | None = None
        self._sides = {name: read(name, at) for name, at in sides.items()}
        check(self._sides, self._insecure)
        self._opened = False
        self._pausing = False
        self._over = Ticket()
        """Resolved when `run` is to return, with the error if the engine ended by itself."""
        self._engine = self._make_engine()

    def _sort_out(self, binds: list[str], connects: list[str]) -> tuple[list[Address], list[Address]]:
        return [], []  # a device has sides instead

    # ---- what a kind of device adds ------------------------------------------------

    def _plain_engine(self, **given: Any) -> Engine:
        from zmqkit.devices.plain import PlainEngine

        return PlainEngine(types=self._types, **given)

    def _zmqkit_engine(self, **given: Any) -> Engine:
        raise NotImplementedError

    def _make_engine(self) -> Engine:
        if self._plain is None:
            from zmqkit.devices.sensing import SensingEngine

            # Its threads must not keep the device alive either.
            plain, zmqkit = weakref.WeakMethod(self._plain_engine), weakref.WeakMethod(self._zmqkit_engine)
            return SensingEngine(
                types=self._types, plain=partial(_call, plain), zmqkit=partial(_call, zmqkit), **self._given()
            )
        return (self._plain_engine if self._plain else self._zmqkit_engine)(**self._given())

    def _given(self) -> dict[str, Any]:
        """What every engine is made with."""
        # An engine's threads must not keep a device alive that its user has forgotten.
        me = weakref.ref(self)

        def tell(event: Event) -> None:
            device = me()
            if device is not None:
                device._tell(event)

        def ended(error: BaseException) -> None:
            device = me()
            if device is not None:
                device._fail(error)

        return {
            "frontend": self._sides.get("frontend"), "backend": self._sides.get("backend"), "name": self.name,
            "heartbeat": self._own_heartbeat, "limits": self._own_limits, "insecure": self._insecure,
            "linger": self._linger, "tell": tell, "ended": ended,
        }  # fmt: skip

    # ---- opening and closing -------------------------------------------------------

    def _start(self) -> None:
        """Open, if that has not been done. Blocks shortly. Raises what opening can raise."""
        if self._opened and not (self._closed or self._forked):
            return
        with self._state_lock:
            if self._closed:
                raise Closed(f"{type(self).__name__} {self.name} was closed: make a new one")
            if self._forked:
                raise Forked(f"{self.name} belongs to the parent process {self._owner}; open a new one in the child")
            if self._opened:
                return
            self._owner = os.getpid()
            hooks.entered(self)
            try:
                self._engine.open()
                self._open_control()
            except BaseException:
                self._engine.close(0)
                self._engine = self._make_engine()  # it may be tried again
                raise
            self._opened = True

    def _open_control(self) -> None:
        if self._control_address is not None:
            from zmqkit.devices.control import Control

            self._control = Control(Steering(self), self._control_address, name=self.name).open()

    def _begin_close(self) -> bool:
        with self._state_lock:
            if self._closed:
                return False
            self._closed = True
            self._closer = threading.get_ident()
        self._over.resolve(None)
        if self._forked or not self._opened:
            self._close_ended.resolve(None)
            return False
        return True

    def _close_now(self, linger: float | None) -> None:
        """Give everything back. Blocks for so long at most."""
        try:
            if self._control is not None:
                self._control.close(CONTROL_LINGER if linger is None else min(linger, CONTROL_LINGER))
            self._engine.close(linger)
        except BaseException:
            self._engine.begin_close()  # nobody closes it again
            raise

    def _being_closed(self, patience: float | None, *, by_threads: bool) -> Iterator[tuple[Ticket, float | None]]:
        if self._opened and not self._forked and not (by_threads and self._closer == threading.get_ident()):
            yield self._close_ended, patience

    def __del__(self) -> None:
        if not getattr(self, "_opened", False) or self._closed or self._forked or sys.is_finalizing():
            return
        self._closed = True
        try:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
        finally:
            # In whatever thread this is, and wherever in it: without waiting for anything.
            self._engine.begin_close()
            if self._control is not None:
                with contextlib.suppress(RuntimeError):  # no threads any more: the interpreter ends
                    threading.Thread(
                        target=self._control.close, args=(0.0,), name="zmqkit-farewell", daemon=True
                    ).start()

    # ---- the public part that does not wait ----------------------------------------

    @property
    def addresses(self) -> tuple[str, ...]:
        """What is bound on both sides, ports filled in; empty before opening."""
        return (*self.frontend_addresses, *self.backend_addresses)

    @property
    def frontend_addresses(self) -> tuple[str, ...]:
        """What is bound on the frontend, ports filled in; empty before opening."""
        return self._engine.frontend_addresses

    @property
    def backend_addresses(self) -> tuple[str, ...]:
        """What is bound on the backend, ports filled in; empty before opening."""
        return self._engine.backend_addresses

    @property
    def control_address(self) -> str | None:
        """Where it is steered from outside, the port filled in once it is open; None without."""
        if self._control is not None and self._control.addresses:
            return self._control.addresses[0]
        return self._control_address

    @property
    def paused(self) -> bool:
        """Whether nothing is let through at present."""
        return self._pausing

    @property
    def carries(self) -> Carries | None:
        """Whose messages these are: those of "plain" ZeroMQ peers or of "zmqkit" ones; None: nobody has come yet."""
        if self._plain is None:
            carries: Carries | None = getattr(self._engine, "carries", None)
            return carries
        return "plain" if self._plain else "zmqkit"

    def stop(self) -> None:
        """Make run() return, which closes the device. From any thread or signal handler; does not wait."""
        self._stopped = True
        if not self._forked:
            self._over.resolve(None)

    def stats(self) -> dict[str, int | float]:
        """Counters by name, since opening; empty before. See docs/devices.md for what each engine counts."""
        return self._engine.stats() if self._opened else {}

    def __repr__(self) -> str:
        state = "closed" if self._closed else "paused" if self._pausing else "open" if self._opened else "not open"
        bound = {"frontend": self.frontend_addresses, "backend": self.backend_addresses}
        where = " | ".join(", ".join(bound.get(name) or [str(side)]) for name, side in self._sides.items())
        return f"<{type(self).__module__}.{type(self).__name__} {self.name} {where} ({state})>"

    # ---- for faces -----------------------------------------------------------------

    def _set_paused(self, paused: bool) -> None:
        """Pause or go on. Blocks shortly."""
        self._start()
        if paused:
            self._engine.pause()
        else:
            self._engine.resume()
        self._pausing = paused

    def _look(self, count: int) -> bool:
        """Whether so many sessions go through it."""
        if self.carries == "plain":
            raise UsageError(f"{self.name} carries plain traffic: there are no sessions, and ZeroMQ tells of no peers")
        return self._engine.stats().get("sessions", 0) >= count

    def _too_few_sessions(self, count: int, timeout: float | None) -> WaitTimeout:
        there = self._engine.stats().get("sessions", 0)
        return WaitTimeout(f"{self.name}: {count} sessions did not come within {timeout} s: there are {there}")

    def _tell(self, event: Event) -> None:
        """An engine has an event."""
        hooks.dispatch(event)
        self._log_event(event)
        for entry in list(self._subscriptions):
            if isinstance(event, entry.event):
                try:
                    entry.callback(event)
                except Exception:
                    log.exception("a callback for %s raised", type(event).__name__)

    def _fail(self, error: BaseException) -> None:
        """The engine ended by itself."""
        log.error("%s: the device ended by itself: %s", self.name, error)
        self._over.resolve(error)


def _call(make: weakref.WeakMethod[Callable[..., Engine]], **given: Any) -> Engine:
    """Make an engine for a device, unless that is gone."""
    found = make()
    if found is None:
        raise Closed("the device was closed")
    return found(**given)


class Steering:
    """A device as the control socket sees it, whichever face it has. Keeps none alive."""

    def __init__(self, device: DeviceBase) -> None:
        self._device = weakref.ref(device)
        self.name = device.name
        self.kind = device._kind

    @property
    def _one(self) -> DeviceBase:
        device = self._device()
        if device is None:
            raise Closed(f"{self.name} was closed")
        return device

    @property
    def paused(self) -> bool:
        return self._one.paused

    @property
    def carries(self) -> str | None:
        return self._one.carries

    @property
    def frontend_addresses(self) -> tuple[str, ...]:
        return self._one.frontend_addresses

    @property
    def backend_addresses(self) -> tuple[str, ...]:
        return self._one.backend_addresses

    def pause(self) -> None:
        self._one._set_paused(True)

    def resume(self) -> None:
        self._one._set_paused(False)

    def stats(self) -> dict[str, int | float]:
        return self._one.stats()

    def stop(self) -> None:
        self._one.stop()


class Device(DeviceBase, Peer):
    """What Queue, Forwarder, Streamer and Proxy have in common; to its users it is a `zmqkit.Peer`.

    Constructing does no I/O: ``with``, `open`, `run`, `pause` or `resume` opens. Every method may be called from any
    thread. The work is done in threads of its own.
    """

    def run(self) -> None:
        """Carry messages until `stop`, SIGINT or SIGTERM; then close.

        Raises what `open` raises, and what ended the device if it ended by itself.
        """
        with stop_on_signals(self):  # first: a signal while it opens counts, too
            self.open()
            try:
                wait(self._over)
            finally:
                self.close()

    def pause(self) -> None:
        """Let nothing through until `resume`; when this returns, that is so. Peers are held back, or hold back.

        What was given to a peer's connection before may still leave.
        """
        self._set_paused(True)

    def resume(self) -> None:
        """Go on after `pause`. Nothing was lost, but what a plain publisher dropped meanwhile because it was full."""
        self._set_paused(False)

    def wait_for_peers(self, count: int = 1, *, timeout: float | None = None) -> None:
        """Block until so many sessions of zmqkit peers go through it.

        Raises:
            WaitTimeout: they were not there within `timeout` seconds.
            UsageError: it carries plain traffic, which has no sessions.
        """
        check_types(count=(count, int))
        deadline = deadline_of(timeout)
        self._start()
        while not self._look(count):
            left = left_of(deadline)
            if left == 0:
                raise self._too_few_sessions(count, timeout)
            time.sleep(GLANCE if left is None else min(left, GLANCE))

    def _close(self, linger: float | None) -> None:
        self._close_now(linger)
