"""What both faces of `Worker` share: lineage ids, and who answers for an input until its outputs have settled.

A worker keeps nothing: an input is acked at its source only when every output has settled downstream. If the worker
dies before, the input comes again elsewhere and its outputs bear the same ids, by which the last sink knows them.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, ClassVar, Final, Self, TypeVar

from zmqkit import checks
from zmqkit.errors import Closed, Full, LeaseLost, UsageError
from zmqkit.events import Event
from zmqkit.options import OnError
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.executing import check_places, executing
from zmqkit.patterns.pipeline.jobs import JobBase
from zmqkit.patterns.pipeline.sending import CHUNK_MESSAGES, PusherBase
from zmqkit.patterns.pipeline.taking import outputs_of, takes
from zmqkit.peer.base import DRAIN, Common
from zmqkit.transport.tickets import Ticket

Ev = TypeVar("Ev", bound=Event)

log = logging.getLogger("zmqkit.pipeline")


LOOK_FOR_STOP: Final = 0.5
"""Seconds after which a worker that waits for room at its sink looks whether it was stopped."""


class Custody:
    """One input, until all its outputs have settled. The pusher resolves it once for each output.

    Handle the input in ``with custody:``, which is `sent`, or `failed` if the block raises.

    Args:
        job: the input.
        ended: called when the input is settled.
    """

    __slots__ = ("_ended", "_job", "_left", "_lock", "_trouble")

    def __init__(self, job: JobBase[Any], ended: Callable[[Custody], None]) -> None:
        self._job = job
        self._ended = ended
        self._lock = threading.Lock()
        self._left = 1  # the handler, until `sent`
        self._trouble: object = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> bool:
        if v is None:
            self.sent()
            return False
        return self.failed(v)

    def expect(self, outputs: int) -> None:
        """So many outputs are about to be sent."""
        with self._lock:
            self._left += outputs

    def resolve(self, result: object) -> bool:
        """An output has settled, as (outcome, reason); or an exception: it could not be sent."""
        if isinstance(result, BaseException) or (isinstance(result, tuple) and result[0] != "acked"):
            self._trouble = self._trouble or result
        self._one_less()
        return True

    def sent(self) -> None:
        """The handler is through, and its outputs are handed over. However long these take, it is nobody's failure."""
        self._job._parcel.through.add(self._job._index)
        self._one_less()

    def given_up(self, outputs: int) -> None:
        """So many outputs will not be sent after all: the input goes back, untried."""
        if self._job.outcome is None:
            self._job._release()
        for _ in range(outputs):
            self._one_less()

    def failed(self, error: BaseException) -> bool:
        """The handler raised. True contains it."""
        contained = self._job._leave(error)
        self._one_less()
        return contained

    def _one_less(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left:
                return
        try:
            self._settle()
        except Closed:
            log.debug("job %s was given back before its outputs had settled", self._job.id)
        except LeaseLost as error:
            log.warning("%s", error)
        finally:
            self._ended(self)

    def _settle(self) -> None:
        job, trouble = self._job, self._trouble
        if job.outcome is not None:
            return
        if trouble is None:
            job._ack()
        elif isinstance(trouble, tuple):
            outcome, reason = trouble
            job._settle("rejected", wire.REJECT, None, f"an output of this job is {outcome}: {reason}")
        else:
            job._settle("nacked", wire.NACK, None, f"an output could not be sent: {trouble}")


class WorkerParts:
    """A worker's settings, and its work without the waiting."""

    def __init__(
        self, handler: Callable[..., object], at_a_time: int, batch: int | None, on_error: OnError, processes: int,
        time_limit: float | None, common: Common,
    ) -> None:  # fmt: skip
        for name in ("bind", "connect", "announce"):
            if name in common:
                raise UsageError(
                    f"a Worker has two sides, so {name}= is not clear: "
                    f"give source=Puller(..., {name}=...) or sink=Pusher(..., {name}=...)"
                )
        self.handler = handler
        self.call = handler
        """What to call in its place, while it runs elsewhere, or under a time limit."""
        self.at_a_time = at_a_time
        self.batch = batch
        self.on_error: OnError = on_error
        self.whole = takes(handler, JobBase)
        self.processes = processes
        self.time_limit = check_places(handler, processes, None, time_limit, whole=self.whole and batch is None)
        self.idle = threading.Event()
        """Set while no input waits for its outputs."""
        self.idle.set()
        self.on_idle: Callable[[], None] = lambda: None
        self._custodies: dict[int, Custody] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def executing(self) -> Iterator[None]:
        """So long handlers run where they are to run."""
        with executing(self.handler, self.processes, None, self.time_limit) as self.call:
            yield

    def argument(self, job: JobBase[Any]) -> object:
        """What the handler gets."""
        return job if self.whole else job.body

    def take(self, job: JobBase[Any]) -> Custody:
        """Answer for an input from now on."""
        custody = Custody(job, self._ended)
        with self._lock:
            self._custodies[id(custody)] = custody
            self.idle.clear()
        return custody

    def _ended(self, custody: Custody) -> None:
        with self._lock:
            del self._custodies[id(custody)]
            if self._custodies:
                return
            self.idle.set()
        self.on_idle()

    def pass_on(
        self, sink: PusherBase | None, job: JobBase[Any], result: object, custody: Custody
    ) -> Iterator[tuple[Ticket, int]]:
        """Hand a result's outputs to the sink, under their lineage ids: the input's id and the path of indexes.

        Yields the ticket of what the sink has no room for, and how many outputs it is of: to be waited for, or given
        up with all that follows.
        """
        outputs = outputs_of(result)
        start = 0
        while chunk := list(itertools.islice(outputs, CHUNK_MESSAGES)):
            if sink is None:
                raise UsageError(
                    f"the handler {getattr(self.handler, '__qualname__', self.handler)!r} returned something, but this "
                    f"Worker has no sink: give sink=, or return None"
                )
            ids = [f"{job.id}/{at}" for at in range(start, start + len(chunk))]
            start += len(chunk)
            for pack in sink._pack_many(chunk, ids):
                custody.expect(len(pack))
                try:
                    sink._check_room(pack)
                except Full:
                    ticket = sink._open_driver.ticket()
                    sink._append(pack, ticket, wait=True, watcher=custody)
                    yield ticket, len(pack)
                else:
                    sink._append(pack, None, wait=True, watcher=custody, lazy=True)


class TwoSided:
    """A peer that is a puller and a pusher in one, as far as nothing waits. Faces derive from it before `Peer`."""

    name: str
    _source: Any
    _sink: Any
    _pusher: ClassVar[type[Any]]
    _puller: ClassVar[type[Any]]
    _stopped_at = 0.0
    """When it was told to stop, on the monotonic clock; 0 before."""

    def __init__(
        self, handler: Callable[..., object], at_a_time: int, batch: int | None, on_error: OnError, processes: int,
        time_limit: float | None, source: Any, sink: Any, common: Common,
    ) -> None:  # fmt: skip
        if unknown := sorted(set(common) - set(Common.__annotations__) - {"inbox"}):  # which is told of below
            raise TypeError(
                f"Worker() got an unexpected keyword argument {unknown[0]!r}: what its puller or its pusher takes is "
                f"given there, as in source=Puller(..., prefetch=1) or sink=Pusher(..., journal=PATH)"
            )
        own_source, own_sink = isinstance(source, self._puller), isinstance(sink, self._pusher)
        check_sides(own_source, own_sink or sink is None, on_error, common)
        self._parts = WorkerParts(handler, at_a_time, batch, on_error, processes, time_limit, common)
        self._source = (
            source if own_source else self._puller(*checks.several("source", source), on_error=on_error, **common)
        )
        if self._source._inbox_source is not None:
            raise UsageError(
                "a Worker keeps no records: a job would count as done while its outputs are still on their way. "
                "Give inbox= to the puller at the end; its records know the outputs of workers by their ids"
            )
        self._source._warned = True  # what it waits for, while it holds all it may, is that its outputs settle
        self._sink = sink
        if not own_sink and sink is not None:
            common["connect"] = checks.several("sink", sink)
            self._sink = self._pusher(**common)
        self.name = common.get("name") or self._source.name

    @property
    def _sides(self) -> list[Any]:
        return [self._source] if self._sink is None else [self._source, self._sink]

    @property
    def addresses(self) -> tuple[str, ...]:
        """The bound addresses of both sides."""
        return tuple(address for side in self._sides for address in side.addresses)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return bool(self._source.closed)

    def stop(self) -> None:
        """Make `run` return after what is just handled. From any thread or signal handler."""
        self._stopped_at = self._stopped_at or time.monotonic()
        self._source.stop()

    def _drain_left(self) -> float:
        """Seconds that are left of `DRAIN` since the stop."""
        if not self._source._stopped:
            return DRAIN
        self._stopped_at = self._stopped_at or time.monotonic()
        return max(0.0, self._stopped_at + DRAIN - time.monotonic())

    def _tell_unsettled(self) -> None:
        log.info("%s: some outputs have not settled; their inputs are given back", self.name)

    def stats(self) -> dict[str, int | float]:
        """Counters of both sides, as ``source_...`` and ``sink_...``."""
        found = {f"source_{name}": value for name, value in self._source.stats().items()}
        if self._sink is not None:
            found |= {f"sink_{name}": value for name, value in self._sink.stats().items()}
        return found

    def on(self, event: type[Ev], callback: Callable[[Ev], object], /) -> Callable[[], None]:
        """Call `callback` with each event of this type at either side."""
        removes = [side.on(event, callback) for side in self._sides]

        def remove() -> None:
            for each in removes:
                each()

        return remove

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.Worker {self._source!r} -> {self._sink!r}>"


def check_sides(own_source: bool, own_sink: bool, on_error: OnError, common: Common) -> None:
    """Raises `UsageError` for what would be ignored, because the sides were made by the user."""
    if own_source and on_error != "nack":
        raise UsageError(f"on_error={on_error!r} belongs to the Puller that is the source: give it there")
    ignored = sorted(set(common) - {"name"}) if own_source and own_sink else []
    if ignored:
        raise UsageError(f"{ignored[0]}= belongs to the Puller and the Pusher that were given: give it there")


def results_of(results: object, jobs: Sequence[Any]) -> list[Any]:
    """What a handler of batches returned, one result a job. Raises `UsageError` for another number."""
    if results is None:
        return [None] * len(jobs)
    if isinstance(results, Iterator):
        results = list(results)
    if not isinstance(results, (list, tuple)) or len(results) != len(jobs):
        raise UsageError(
            f"a handler of batches returns None, or one result for each of its {len(jobs)} bodies, got {results!r:.100}"
        )
    return list(results)
