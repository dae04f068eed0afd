"""The engine of a streamer with a journal: it takes jobs over, and answers for them from then on.

::

    Pushers      ──> Puller ──┐                      ┌──> Pullers (leases, acks, dead letters)
                              ├──> Pusher + journal ─┤
    plain PUSH   ──> PULL   ──┘                      └──> plain PULL (at most once)

A job is acked upstream when it is in the journal here, so ``settled`` there means: journalled in this device. Its id,
its headers, key and priority, and the time when it was sent stay; how long it may live does not. A device that dies
between the two takes the same job again: it comes twice then, with the same id, and an inbox downstream counts it once.

Of plain peers there are no acks. What this device has read of a plain PUSH and not yet stored when it dies is lost, and
what ZeroMQ took for a plain PULL counts as settled, whatever becomes of it (docs/protocol.md, section 7.6).

Made of a `Puller` and a `Pusher`, as programs have them; knows the pipeline's faces and what they share.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Final

from zmqkit.devices.custody_sides import Sink, Source, packs, places
from zmqkit.devices.engine import Ended, Tell
from zmqkit.devices.sides import Side
from zmqkit.errors import Closed, UsageError, ZmqkitError
from zmqkit.events import Event
from zmqkit.options import Heartbeat, Limits
from zmqkit.patterns.pipeline.plain import PlainPullerCore
from zmqkit.patterns.pipeline.puller import Parcel
from zmqkit.patterns.pipeline.rows import Pack
from zmqkit.patterns.pipeline.sending import CHUNK_MESSAGES, Path
from zmqkit.peer.base import Common, deadline_of, left_of
from zmqkit.peer.sync import Peer
from zmqkit.transport.tickets import WaitExpired, wait

log = logging.getLogger("zmqkit.devices")

PREFETCH: Final = 4_096
"""So many jobs of each pusher, or of each plain address, may be here and not stored."""

RETRY_STORE: Final = 1.0
"""Seconds until what a full disk refused is tried again. Until then it is not acked, and no more is let in."""

ENDING: Final = 5.0
"""Seconds at most in which a closing device stores what it has read, where no shorter time is given."""


class _Taken:
    """Jobs on their way into the journal; the sink resolves it."""

    __slots__ = ("_engine", "_indexes", "_parcel", "_source", "pack")

    def __init__(self, engine: CustodyEngine, source: Source, parcel: Parcel, indexes: list[int], pack: Pack) -> None:
        self._engine = engine
        self._source = source
        self._parcel = parcel
        self._indexes = indexes
        self.pack = pack

    def resolve(self, result: object) -> bool:
        """They are stored: ack them. An exception: they are not, or may not be."""
        if isinstance(result, BaseException):
            self._engine._refused(self, result)
            return True
        parcel = self._parcel
        parcel.acked.extend(self._indexes)
        if not parcel.told:
            with contextlib.suppress(UsageError):  # closed meanwhile: they come again, with their ids
                self._source._collect(parcel)
        self._engine._less()
        return True


class CustodyEngine:
    """Takes jobs over from zmqkit pushers and plain PUSHes. See `zmqkit.devices.engine.Engine`.

    Args:
        name: for logs, threads and events; and of this device towards its peers.
        frontend: where pushers are; None: only plain ones come.
        backend: where pullers are; None: only plain ones are served.
        plain_frontend: where plain PUSHes are.
        plain_backend: where plain PULLs are. Each job goes to one of all that take some, of either kind.
        journal: the file that keeps what is not settled; made if it is not there. Dead letters are there, too.
        heartbeat, limits, insecure: see `zmqkit.devices.engine`. A plain side without limits of its own has the
            device's; plain_backend has those of backend.
        linger: how long `close` lets sockets send, where it is not told otherwise.
        tell: gets all events of both sides.
        ended: gets the error that ended it: the journal failed.

    Raises:
        UsageError: a plain side is within this process; plain_backend has limits of its own beside backend.
        TypeError, ValueError: as `Pusher` and `Puller` raise them.
    """

    def __init__(
        self,
        *,
        name: str,
        frontend: Side | None,
        backend: Side | None,
        journal: Path,
        plain_frontend: Side | None = None,
        plain_backend: Side | None = None,
        heartbeat: Heartbeat | None = None,
        limits: Limits | None = None,
        insecure: bool = False,
        linger: float | None = 5.0,
        tell: Tell = lambda _: None,
        ended: Ended = lambda _: None,
    ) -> None:
        self.name = name
        self._linger = linger
        self._tell = tell
        self._tell_ended = ended
        common = Common(name=name, heartbeat=heartbeat, insecure=insecure)  # type: ignore[typeddict-item]
        self._sink = self._made_sink(backend, plain_backend, journal, limits, common)
        self._front: Source | None = None
        self._plain_front: Source | None = None
        if frontend is not None:
            self._front = self._made_source(frontend, False, limits, common)
        if plain_frontend is not None:
            self._plain_front = self._made_source(plain_frontend, True, limits, common)
        if not self._sources:
            raise UsageError("a streamer with a journal needs a frontend, or a plain_frontend")
        self._threads: list[threading.Thread] = []
        self._close_lock = threading.RLock()
        self._gate = threading.Condition()
        """Guards what follows; told when it changes."""
        self._paused = False
        self._taking = 0
        """Threads that are just taking something."""
        self._under_way = 0
        """Packs that are being stored."""
        self._opened = False
        self._closing = False
        self._failed = False
        self._counts = {source: [0, 0] for source in self._sources}
        """Messages and bytes that were taken; changed by the source's own thread only."""

    @staticmethod
    def _made_sink(
        backend: Side | None, plain_backend: Side | None, journal: Path, limits: Limits | None, common: Common
    ) -> Sink:
        side = backend or plain_backend
        if side is None:
            raise UsageError("a streamer with a journal needs a backend, or a plain_backend")
        if backend is not None and plain_backend is not None and plain_backend.limits is not None:
            raise UsageError("plain_backend has the limits of backend: give them there")
        own = Common(**common, limits=side.limits or limits)  # type: ignore[typeddict-item]
        return Sink(side, plain_backend if backend else None, journal=journal, plain=backend is None, **own)

    @staticmethod
    def _made_source(side: Side, plain: bool, limits: Limits | None, common: Common) -> Source:
        own = Common(**common, limits=side.limits or limits, codec="raw")  # type: ignore[typeddict-item]
        made = Source(prefetch=PREFETCH, plain=plain, **places(side), **own)
        made._warned = True  # what it waits for, while it holds all it may, is the journal
        return made

    @property
    def _sources(self) -> list[Source]:
        return [each for each in (self._front, self._plain_front) if each is not None]

    @property
    def frontend_addresses(self) -> tuple[str, ...]:
        """What is bound for pushers, then what is for plain ones."""
        return tuple(address for source in self._sources for address in source.addresses)

    @property
    def backend_addresses(self) -> tuple[str, ...]:
        """What is bound for pullers, then what is for plain ones."""
        beside = self._sink._driver.data_addresses if self._sink._beside and self._sink._driver else ()
        return (*self._sink.addresses, *beside)

    @property
    def plain_frontend_addresses(self) -> tuple[str, ...]:
        """Of `frontend_addresses`, those for plain PUSHes."""
        return self._plain_front.addresses if self._plain_front is not None else ()

    @property
    def plain_backend_addresses(self) -> tuple[str, ...]:
        """Of `backend_addresses`, those for plain PULLs."""
        return self._sink._driver.data_addresses if self._sink._driver is not None else ()

    # ---- opening and closing -------------------------------------------------------

    def open(self) -> None:
        """Open the journal, then the sides; what waits is served from now on.

        Raises:
            JournalBusy: another process, or device, has this journal.
            DuplicateInstance: a copy of this journal is in use.
            JournalError: it cannot be opened otherwise; the message says why.
            AddressInUse, AddressError, DiscoveryError: see `Engine`.
        """
        peers: list[Peer] = [self._sink, *self._sources]
        for peer in peers:
            peer.on(Event, self._tell)
        try:
            for peer in peers:  # the journal first: nothing is taken that cannot be kept
                peer.open()
        except BaseException:
            for peer in reversed(peers):
                with contextlib.suppress(Exception):
                    peer.close(0)
            raise
        self._opened = True
        jobs = [*((self._pass_on, source) for source in self._sources), (self._watch, None)]
        for fn, source in jobs:
            thread = threading.Thread(target=fn, args=(source,), name=f"zmqkit-custody-{self.name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self, timeout: float | None = -1.0) -> None:
        """Store what was read, ack it, and end; jobs that are not settled stay in the journal. See `Engine`."""
        if self._sink._forked:
            return
        with self._close_lock:
            self._close(self._linger if timeout == -1.0 else timeout)

    def _close(self, seconds: float | None) -> None:
        deadline = deadline_of(seconds)
        with self._gate:
            first, self._closing = not self._closing, True
            self._gate.notify_all()
        if first and self._opened and not self._failed:
            self._take_the_rest(deadline_of(ENDING if seconds is None else min(ENDING, seconds)))
        for source in self._sources:
            source.stop()
            source.close(0)
        with contextlib.suppress(Exception) if self._failed else contextlib.nullcontext():
            self._sink.close(left_of(deadline))
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(ENDING)

    def _take_the_rest(self, deadline: float | None) -> None:
        """Read no more of plain PUSHes; store what is here."""
        if self._plain_front is not None and isinstance(self._plain_front._core, PlainPullerCore):
            with contextlib.suppress(WaitExpired, UsageError):
                self._plain_front._wait(self._plain_front._ask(self._plain_front._core.take_no_more), 1.0)
        for source in self._sources:
            source.stop()
        for thread in self._threads[: len(self._sources)]:
            thread.join(left_of(deadline))
        with self._gate:
            while self._under_way and left_of(deadline) != 0:
                self._gate.wait(left_of(deadline))
            left = self._under_way
        if left:
            log.warning("%s: some of what was read could not be stored: pushers send it again, plain ones do not",
                        self.name)  # fmt: skip

    def begin_close(self) -> None:
        """See `Engine`: at once, and without waiting."""
        threading.Thread(target=self.close, args=(0.0,), name="zmqkit-farewell", daemon=True).start()

    def _fail(self, error: BaseException) -> None:
        with self._gate:
            if self._closing or self._failed:
                return
            self._failed = True
            self._gate.notify_all()
        for source in self._sources:
            source.stop()
        self._tell_ended(error)

    def _watch(self, _: object) -> None:
        """The journal may fail while nothing is taken: see when its driver ends."""
        driver = self._sink._driver
        assert driver is not None
        wait(driver.ended, None)
        self._fail(driver.failure or Closed(f"{self.name} ended"))

    # ---- taking over ---------------------------------------------------------------

    def _pass_on(self, source: Source) -> None:
        """What a thread does for each source, to its end."""
        try:
            while True:
                with self._at_work():
                    taken = self._take_some(source)
                if not taken and not source._wait_for_job(None):
                    return
        except BaseException as error:
            self._fail(error)

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        with self._gate:
            while self._paused and not (self._closing or self._failed):
                self._gate.wait()
            self._taking += 1
        try:
            yield
        finally:
            with self._gate:
                self._taking -= 1
                self._gate.notify_all()

    def _take_some(self, source: Source) -> bool:
        """Hand over what is here, to be stored. False: there was nothing, or no more is taken."""
        if self._failed or (source._stopped and not source._plain):
            return False  # it goes back to its pusher
        run = source._take_run(CHUNK_MESSAGES)
        if run is None:
            return False
        for indexes, pack in packs(run.parcel, run.indexes, source._plain):
            count = self._counts[source]
            count[0] += len(pack)
            count[1] += len(pack.blob)
            with self._gate:
                self._under_way += 1
            self._store(_Taken(self, source, run.parcel, indexes, pack))
        return True

    def _store(self, taken: _Taken) -> None:
        self._sink._append(taken.pack, taken, wait=True)  # type: ignore[arg-type]  # it is told as a ticket is

    def _refused(self, taken: _Taken, error: BaseException) -> None:
        """Runs in the sink's I/O thread."""
        sink = self._sink
        if self._closing:
            self._less()
        elif sink._core.broken:
            self._less()
            # Not from here: whoever is told closes this device, and waits for this very thread.
            threading.Thread(target=self._fail, args=(error,), name="zmqkit-farewell", daemon=True).start()
        else:
            assert sink._driver is not None
            sink._driver.alarm(RETRY_STORE, lambda now: self._store_again(taken))

    def _store_again(self, taken: _Taken) -> None:
        try:
            self._store(taken)
        except ZmqkitError as error:  # the sink is closed, or failed, which is told elsewhere
            log.debug("%s: what was refused is not stored any more: %s", self.name, error)
            self._less()

    def _less(self) -> None:
        with self._gate:
            self._under_way -= 1
            self._gate.notify_all()

    # ---- steering ------------------------------------------------------------------

    def pause(self) -> None:
        """See `Engine`. Acks of what was delivered before go on."""
        with self._gate:
            self._paused = True
            self._gate.notify_all()
            deadline = time.monotonic() + ENDING
            while self._taking and not (self._closing or self._failed) and time.monotonic() < deadline:
                self._gate.wait(ENDING)
        self._pause_sink(True)

    def resume(self) -> None:
        """See `Engine`."""
        self._pause_sink(False)
        with self._gate:
            self._paused = False
            self._gate.notify_all()

    def _pause_sink(self, paused: bool) -> None:
        if self._opened and not self._closing:
            self._sink._wait(self._sink._ask(self._sink._core.pause, paused), None)

    def stats(self) -> dict[str, int | float]:
        """See `Engine`. Besides:

        - ``waiting``: jobs that are not settled. ``acked``, ``dead``, ``failed``, ``redelivered``: as a `Pusher` says.
        - ``plain_frontend_messages_received``, ``plain_frontend_bytes_received``: of what came in, from plain PUSHes.
        - ``plain_backend_messages_sent``, ``plain_backend_bytes_sent``: of what went out, to plain PULLs: settled when
          ZeroMQ took it, so at most once.
        """
        if not self._opened:
            return dict.fromkeys((*_COUNTED, "waiting", "acked", "dead", "failed", "redelivered", *_PLAIN), 0)
        out = self._sink.stats()
        received = [sum(each[at] for each in self._counts.values()) for at in (0, 1)]
        plain = self._counts[self._plain_front] if self._plain_front is not None else [0, 0]
        found = dict.fromkeys(_COUNTED, 0) | {
            "frontend_messages_received": received[0],
            "frontend_bytes_received": received[1],
            "backend_messages_sent": out["delivered"] + out["pushed"],
            "backend_bytes_sent": out["delivered_bytes"] + out["pushed_bytes"],
            "sessions": sum(len(peer._core.sessions) for peer in (self._sink, *self._sources)),
            "paused": int(self._paused),
            **{name: out[name] for name in ("waiting", "acked", "dead", "failed", "redelivered")},
        }
        return found | dict(zip(_PLAIN, (*plain, out["pushed"], out["pushed_bytes"]), strict=True))


_COUNTED: Final = tuple(
    f"{side}_{what}_{way}" for side in ("frontend", "backend") for way in ("received", "sent")
    for what in ("messages", "bytes")
) + ("sessions", "paused")  # fmt: skip

_PLAIN: Final = (
    "plain_frontend_messages_received",
    "plain_frontend_bytes_received",
    "plain_backend_messages_sent",
    "plain_backend_bytes_sent",
)
