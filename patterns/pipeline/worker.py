"""The sync face of `Worker`: a stage that takes jobs on one side and sends what comes of them on the other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Self

from typing_extensions import Unpack

from zmqkit.errors import Unsettled
from zmqkit.options import OnError
from zmqkit.patterns.pipeline.custody import (
    LOOK_FOR_STOP,
    Custody,
    TwoSided,
    results_of,
)
from zmqkit.patterns.pipeline.jobs import JobBase
from zmqkit.patterns.pipeline.pulling import Puller
from zmqkit.patterns.pipeline.pushing import Pusher
from zmqkit.patterns.pipeline.taking import check_handler, check_run
from zmqkit.peer.base import Addresses, Common
from zmqkit.peer.hooks import stop_on_signals
from zmqkit.peer.sync import Peer, run_threads
from zmqkit.transport.tickets import Ticket, WaitExpired


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
        processes: run so many at a time, in processes of their own; see `Puller.run`.
        batch: hand over lists of up to so many bodies; the handler returns None, or one result for each.
        time_limit: seconds that a handler may take; see `Puller.run`. What a generator yields counts.
        on_error: as in `Puller`.
        **common: see `Common`; bind, connect and announce belong to a Puller or Pusher of your own.
    """

    _source: Puller[Any]
    _sink: Pusher | None
    _puller = Puller
    _pusher = Pusher

    def __init__(
        self,
        handler: Callable[..., object],
        /,
        *,
        source: Addresses | Puller[Any],
        sink: Addresses | Pusher | None = None,
        threads: int = 1,
        processes: int = 0,
        batch: int | None = None,
        time_limit: float | None = None,
        on_error: OnError = "nack",
        **common: Unpack[Common],
    ) -> None:
        check_handler(handler, coroutines=False, yields=True)
        check_run(batch, threads=threads, processes=processes)
        super().__init__(handler, processes or threads, batch, on_error, processes, time_limit, source, sink, common)

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
            self._sink._await_end(self._sink._linger if timeout == -1.0 else timeout)

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
                with self._parts.executing():
                    run_threads(self._loop, self._parts.at_a_time, self)
                if not self._parts.idle.wait(self._drain_left()):
                    self._tell_unsettled()
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
        with self._parts.take(job) as custody:
            self._pass_on(job, self._parts.call(self._parts.argument(job)), custody)

    def _handle_batch(self, batch: Any) -> None:
        try:
            results = results_of(self._parts.call(batch.bodies), batch)
        except BaseException as error:
            if not batch._leave(error):
                raise
            return
        for job, result in zip(batch, results, strict=True):
            with self._parts.take(job) as custody:
                self._pass_on(job, result, custody)

    def _pass_on(self, job: JobBase[Any], result: object, custody: Custody) -> None:
        sink = self._sink
        for ticket, outputs in self._parts.pass_on(sink, job, result, custody):
            assert sink is not None
            if not self._wait_for_room(sink, ticket):
                custody.given_up(outputs)
                return

    def _wait_for_room(self, sink: Pusher, ticket: Ticket) -> bool:
        """Wait until the sink has taken what it had no room for. False: stopped, and there was none in time."""
        while True:
            try:
                sink._wait(ticket, LOOK_FOR_STOP)
                return True
            except WaitExpired:
                if self._drain_left() <= 0 and sink._take_back(ticket):
                    return False
