"""The sync face of `Worker`: a stage that takes jobs on one side and sends what comes of them on the other."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any, Self

from typing_extensions import Unpack

from zmqkit.errors import Full, Unsettled
from zmqkit.options import OnError
from zmqkit.patterns.pipeline.custody import (
    LOOK_FOR_STOP,
    Custody,
    TwoSided,
    WorkerParts,
    addresses_of,
    check_sides,
    results_of,
)
from zmqkit.patterns.pipeline.jobs import JobBase
from zmqkit.patterns.pipeline.sync import Puller, Pusher, run_threads
from zmqkit.patterns.pipeline.taking import check_handler, outputs_of
from zmqkit.peer.base import Addresses, Common
from zmqkit.peer.hooks import stop_on_signals
from zmqkit.peer.sync import Peer
from zmqkit.transport.tickets import Ticket, WaitExpired

log = logging.getLogger("zmqkit.pipeline")


class Worker(TwoSided, Peer):
    """Takes jobs from a source, handles them, and sends what comes of them to a sink.

    An input is acked only when all its outputs have settled downstream, so a worker may die at any moment and
    nothing is lost. What comes twice by that bears the same id both times.

    Args:
        handler: gets the body, or the `Job` by annotation. Its result: None sends nothing, an iterator (a generator)
            sends each, `Outgoing` one with headers, anything else one message. It should yield in a stable order.
        source: where jobs come from: addresses to connect to, or a `Puller`.
        sink: where results go: addresses to connect to, or a `Pusher`; None: nothing may be returned.
        threads: how many handlers run at a time.
        batch: hand over lists of up to so many bodies; the handler returns None, or one result for each.
        on_error: as in `Puller`.
        **common: see `Common`; bind, connect and announce belong to a Puller or Pusher of your own.
    """

    def __init__(
        self,
        handler: Callable[..., object],
        /,
        *,
        source: Addresses | Puller[Any],
        sink: Addresses | Pusher | None = None,
        threads: int = 1,
        batch: int | None = None,
        on_error: OnError = "nack",
        **common: Unpack[Common],
    ) -> None:
        check_handler(handler, coroutines=False, yields=True)
        check_sides(isinstance(source, Puller), isinstance(sink, Pusher) or sink is None, on_error, common)
        self._parts = WorkerParts(handler, threads, batch, on_error, common)
        self._source: Puller[Any] = (
            source if isinstance(source, Puller) else Puller(*addresses_of(source), on_error=on_error, **common)
        )
        self._source._warned = True  # what it waits for, while it holds all it may, is that its outputs settle
        self._sink: Pusher | None = None
        if isinstance(sink, Pusher):
            self._sink = sink
        elif sink is not None:
            common["connect"] = addresses_of(sink)
            self._sink = Pusher(**common)
        self.name = common.get("name") or self._source.name

    # ---- a peer of two sides -------------------------------------------------------

    def open(self) -> Self:
        """Open both sides; the sink first, so that nothing is taken that cannot be passed on."""
        for side in reversed(self._sides):
            side.open()
        return self

    def close(self, timeout: float | None = -1.0) -> None:
        """Give back what is not settled, and close both sides."""
        self._source.close(timeout)
        if self._sink is not None:
            with contextlib.suppress(Unsettled):  # the inputs were not acked: they come again
                self._sink.close(0)

    def wait_for_peers(self, count: int = 1, *, timeout: float | None = None) -> None:
        """Block until each side has so many peers."""
        for side in self._sides:
            side.wait_for_peers(count, timeout=timeout)

    # ---- working -------------------------------------------------------------------

    def run(self) -> None:
        """Work until `stop`, SIGINT or SIGTERM; then finish what runs, wait for outputs to settle, and close."""
        with stop_on_signals(self):  # first: a signal while it opens counts, too
            self.open()
            try:
                run_threads(self._loop, self._parts.at_a_time, self)
                if not self._parts.idle.wait(self._drain_left()):
                    log.info("%s: some outputs have not settled; their inputs are given back", self.name)
            finally:
                self.close()

    def _loop(self) -> None:
        parts = self._parts
        if parts.batch is None:
            for job in self._source:
                self._handle(job)
        else:
            for batch in self._source.batches(parts.batch):
                self._handle_batch(batch)

    def _handle(self, job: JobBase[Any]) -> None:
        custody = self._parts.take(job)
        try:
            self._pass_on(job, self._parts.handler(self._parts.argument(job)), custody)
        except BaseException as error:
            if not custody.failed(error):
                raise
        else:
            custody.sent()

    def _handle_batch(self, batch: Any) -> None:
        try:
            results = results_of(self._parts.handler(batch.bodies), batch)
        except BaseException as error:
            if not batch._leave(error):
                raise
            return
        for job, result in zip(batch, results, strict=True):
            custody = self._parts.take(job)
            try:
                self._pass_on(job, result, custody)
            except BaseException as error:
                if not custody.failed(error):
                    raise
            else:
                custody.sent()

    def _pass_on(self, job: JobBase[Any], result: object, custody: Custody) -> None:
        sink = self._sink
        for pack in self._parts.packs(sink, job, outputs_of(result), custody):
            assert sink is not None
            try:
                sink._check_room(pack)
            except Full:
                ticket = sink._open_driver.ticket()
                sink._append(pack, ticket, wait=True, watcher=custody)
                if not self._wait_for_room(sink, ticket):
                    custody.given_up(len(pack))
                    return
            else:
                sink._append(pack, None, wait=True, watcher=custody, lazy=True)

    def _wait_for_room(self, sink: Pusher, ticket: Ticket) -> bool:
        """Wait until the sink has taken what it had no room for. False: stopped, and there was none in time."""
        while True:
            try:
                sink._wait(ticket, LOOK_FOR_STOP)
                return True
            except WaitExpired:
                if self._drain_left() <= 0 and sink._take_back(ticket):
                    return False
