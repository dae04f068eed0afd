"""Things that concern all open peers of a process: global event callbacks, signals, the end of the interpreter."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from zmqkit.events import Event
from zmqkit.transport import forks  # noqa: F401 - see the end of this file

if TYPE_CHECKING:
    from zmqkit.peer.base import PeerBase

Ev = TypeVar("Ev", bound=Event)

log = logging.getLogger("zmqkit")

EXIT_SECONDS = 1.0
"""How long the exit of the interpreter may wait for open peers, all together."""

LEVELS = {
    "PeerRefused": logging.WARNING,
    "PeerBusy": logging.WARNING,
    "BadFrame": logging.WARNING,
    "JobDead": logging.WARNING,
    "JobExpired": logging.INFO,
    "ClockJumped": logging.WARNING,
    "JournalTrouble": logging.ERROR,
    "JournalRecovered": logging.WARNING,
    "StaleSettle": logging.WARNING,
    "JobRedelivered": logging.WARNING,
    "PeerFound": logging.DEBUG,
    "PeerLost": logging.INFO,
    "PeerResumed": logging.INFO,
    "JobFailed": logging.INFO,
    "GapFound": logging.INFO,
    "EpochChanged": logging.INFO,
    "RecoveryUnreachable": logging.WARNING,
    "FellBehind": logging.WARNING,
    "SubscriberSlow": logging.WARNING,
    "SubscriptionsRefused": logging.WARNING,
    "MessagesExpired": logging.INFO,
}
"""What is logged besides being told to callbacks; events not named here are not."""

STRANGERS = frozenset({"BadFrame", "PeerRefused", "StaleSettle", "PeerBusy", "SubscriberSlow", "SubscriptionsRefused"})
"""Events that whoever can reach us can cause as often as he likes."""

_callbacks: tuple[tuple[type[Event], Callable[[Any], object]], ...] = ()
_peers: weakref.WeakSet[PeerBase] = weakref.WeakSet()


def on(event: type[Ev], callback: Callable[[Ev], object], /) -> Callable[[], None]:
    """Call `callback` with each event of this type at any peer of this process. Returns what removes it again.

    It runs on the I/O thread of the peer that the event names: be brief. What it raises is logged.
    """
    global _callbacks
    check_callback(event, callback)
    entry = (event, callback)
    _callbacks = (*_callbacks, entry)

    def remove() -> None:
        global _callbacks
        _callbacks = tuple(each for each in _callbacks if each is not entry)

    return remove


def check_callback(event: object, callback: object) -> None:
    """Raises `TypeError` here, at the caller's line: in the I/O thread it would end the peer."""
    if not (isinstance(event, type) and issubclass(event, Event)):
        raise TypeError(f"the first argument is a class of zmqkit.events, as in zmqkit.events.JobDead, got {event!r}")
    if not callable(callback):
        raise TypeError(f"a callback is a function that takes an event, got {callback!r}")


def dispatch(event: Event) -> None:
    """Tell the global callbacks. Called by every peer's driver."""
    for kind, callback in _callbacks:
        if isinstance(event, kind):
            try:
                callback(event)
            except BaseException:
                log.exception("a callback for %s raised", type(event).__name__)


def entered(peer: PeerBase) -> None:
    """A peer is being opened."""
    _peers.add(peer)


@contextlib.contextmanager
def stop_on_signals(*peers: PeerBase) -> Iterator[None]:
    """For hand-written loops: SIGINT and SIGTERM stop these peers, so that their loops end and drain.

    Of several that are entered at a time, within each other or side by side in tasks, the first signal stops the peers
    of all. A second signal of the same kind acts as it did before. Outside of the main thread, where Python knows no
    signals, this does nothing.

    ::

        with zmqkit.Puller("tcp://127.0.0.1:5557") as pull, zmqkit.stop_on_signals(pull):
            for job in pull:
                with job: ...
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _stops.enter(peers)
    try:
        yield
    finally:
        _stops.leave(peers)


class _Stops:
    """Whom signals stop now. One handler for all: tasks do not leave in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: list[tuple[PeerBase, ...]] = []
        self._before: dict[int, Any] = {}
        self._process = 0

    def enter(self, peers: tuple[PeerBase, ...]) -> None:
        if os.getpid() != self._process:
            self._process = os.getpid()
            self._waiting = []  # in a forked child: those of the parent
        self._waiting.append(peers)
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            before = signal.getsignal(number) or signal.SIG_DFL
            if before != self._stop:
                self._before[number] = before
                signal.signal(number, self._stop)

    def leave(self, peers: tuple[PeerBase, ...]) -> None:
        self._waiting = [each for each in self._waiting if each is not peers]
        if not self._waiting:
            for number, handler in self._before.items():
                if signal.getsignal(number) == self._stop:
                    signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        signal.signal(number, self._before[number])
        if os.getpid() != self._process:
            # A child that a handler forked: the loops are not its own, and nobody there waits for this signal.
            os.kill(os.getpid(), number)
            return
        for peers in self._waiting:
            for peer in peers:
                peer.stop()


_stops = _Stops()


def _close_all() -> None:
    """Peers that nobody closed: say goodbye, and name what is left behind."""
    deadline = time.monotonic() + EXIT_SECONDS
    for peer in list(_peers):
        if peer._driver is not None and not peer._closed and peer._owner == os.getpid():
            try:
                peer._close_at_exit(max(0.0, deadline - time.monotonic()))
            except Exception as error:
                log.warning("%s", error)


def _after_in_child() -> None:
    for peer in list(_peers):
        peer._after_fork()


# Exit handlers run last in, first out. That of zmqkit.transport.forks closes drivers as they are: it is registered
# before this one, by the import above, so that peers have their little time first.
atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_in_child)
