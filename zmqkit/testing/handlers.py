"""Try handlers without sockets: `job` for a single one, `run` for a handler or a `Worker` over many bodies.

What happens is not imitated: the very classes, cores and codecs of a pipeline run, joined in memory (see `Bench`).
"""

from __future__ import annotations

import dataclasses
import inspect
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from zmqkit.errors import Duplicate
from zmqkit.inbox.connections import Source
from zmqkit.journal import MemoryJournal
from zmqkit.options import Heartbeat, OnError
from zmqkit.patterns.pipeline import Job, Outgoing, Puller, Pusher, Worker, pulling_aio, pushing_aio
from zmqkit.patterns.pipeline.dead import DeadLetter as DeadLetter
from zmqkit.patterns.pipeline.dead import letter_of, unpacked
from zmqkit.patterns.pipeline.pusher import PusherCore
from zmqkit.patterns.pipeline.rows import DEAD
from zmqkit.patterns.pipeline.sending import LOGS, PusherBase
from zmqkit.patterns.pipeline.taking import PullerBase
from zmqkit.patterns.pipeline.worker_aio import Worker as AsyncWorker
from zmqkit.protocol.core import Read
from zmqkit.testing.bench import Bench, BenchDriver

QUIET = Heartbeat(interval=3600.0)
"""Virtual time leaps over heartbeats anyhow."""

NOWHERE = "inproc://zmqkit.testing"


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What became of the bodies.

    Attributes:
        acked: how many succeeded.
        sent: what the handler's results were on arrival, in order: bodies, or `Outgoing` where they have headers or a
            key. What a second try sent again is there once, as at a sink that keeps the ids it has seen.
        dead: the dead letters, in order.
    """

    acked: int
    sent: list[Any]
    dead: list[DeadLetter]


def job(
    body: Any,
    /,
    *,
    failures: int = 0,
    headers: Mapping[str, str] | None = None,
    id: str | None = None,
    inbox: Source | None = None,
) -> Job[Any]:
    """A job that no socket brought, to be given to a handler. After its ``with`` block `Job.outcome` tells.

    It behaves as any job does: the second settle raises, ``ack(wait=True)`` returns, an exception in its block is
    contained and nacks.

    Args:
        body: travels through the codec, as in reality: a tuple arrives as a list.
        failures: how often a handler is to have failed on it before.
        headers: what a sender attached.
        id: its id; None: one of its own, with `inbox` a new one each time.
        inbox: as in `Puller`, for handlers that say ``job.transaction()``.

    Raises:
        EncodeError: the body, or a header, cannot travel.
        Duplicate: the inbox says that a job of this id was done, so that no handler would get it.
    """
    if failures < 0:
        raise ValueError(f"failures must be 0 or more, got {failures!r}")
    bench = Bench()
    push, pull = Pusher(NOWHERE, heartbeat=QUIET), Puller[Any](NOWHERE, heartbeat=QUIET, inbox=inbox)
    settings = _settings(push, durable=False)
    if inbox is not None:
        settings = dataclasses.replace(settings, origin=f"testing-{uuid.uuid4().hex[:8]}")
    core = PusherCore(push._local(about={"epoch": bytes(16)}), settings, push._random())
    bound = _open(bench, push, core)
    receipt = push.send(body, headers=headers, id=id)
    row = core.backlog.row_of(receipt._sequence)
    assert row is not None
    if failures:
        row.failures[0] = failures
        row.deliveries[0] = failures
    bench.join(_open(bench, pull, pull._build()[0]), bound)
    made = pull.receive(timeout=0)
    if made is None:
        raise Duplicate(f"a job of the id {id} was done before, says the inbox: it is acked, and no handler gets it")
    return made


def run(
    handler: Callable[..., object] | Worker | AsyncWorker, bodies: Iterable[Any], /, *, on_error: OnError = "raise"
) -> Report:
    """Run a handler over bodies, in memory and in this thread, as a `Worker` would.

    Exceptions, `Retry`, `Reject`, results, `Outgoing`, generators and annotations mean what they mean there. What is
    to be tried again is tried again without waiting, until it fails for the 20th time. Threads are not imitated: one
    handler runs at a time.

    Args:
        handler: a function, or a `Worker`, whose handler, batch and sink or none are taken over; a coroutine function
            runs on an asyncio loop of its own, so not within another one.
        bodies: bodies, or `Outgoing` ones.
        on_error: as in `Puller`, but by default an exception ends the run and comes out of it.

    Raises:
        UsageError: the handler cannot be called by a worker.
        EncodeError: a body cannot travel.
        Exception: what the handler raised, with ``on_error="raise"``.
    """
    bench = Bench()
    made, batch, with_sink = handler, None, True
    if isinstance(handler, Worker | AsyncWorker):
        made, batch = handler._parts.handler, handler._parts.batch
        with_sink = handler._sink is not None
    asynchronous = isinstance(handler, AsyncWorker) or _is_async(made)
    pullers: Any = pulling_aio.Puller if asynchronous else Puller
    pushers: Any = pushing_aio.Pusher if asynchronous else Pusher

    push = Pusher(NOWHERE, heartbeat=QUIET)
    core = PusherCore(push._local(about={"epoch": bytes(16)}), _settings(push, durable=True), push._random())
    journal = MemoryJournal(logs=LOGS)
    bound = _open(bench, push, core, journal)
    packs = push._pack_many(list(bodies))

    source = pullers(NOWHERE, prefetch=batch or 1, on_error=on_error, heartbeat=QUIET)
    bench.join(_open(bench, source, source._build()[0]), bound)
    sink, collected, cores = None, _Collected(bench), [core]
    if with_sink:
        sink = pushers(NOWHERE, heartbeat=QUIET)
        cores.append(sink._build()[0])
        bench.join(collected.driver, _open(bench, sink, cores[-1]))

    def done() -> bool:
        if core.unsettled:
            return False
        source.stop()
        return True

    bench.done = done
    bench.next_due = lambda: min((due for each in cores if (due := each.backlog.next_due()) is not None), default=None)
    kind: Any = AsyncWorker if asynchronous else Worker
    worker = kind(made, source=source, sink=sink, batch=batch)
    for pack in packs:
        if len(pack):
            push._append(pack, None, wait=True)
    if asynchronous:
        import anyio

        anyio.run(_loop, worker)
    else:
        worker._loop()
    return Report(core.acked, list(collected.sent.values()), _dead_letters(journal))


async def _loop(worker: AsyncWorker) -> None:
    import anyio

    worker._limiter = anyio.CapacityLimiter(1)
    await worker._loop()


class _Collected:
    """Takes and acks what a sink sends, each id once."""

    def __init__(self, bench: Bench) -> None:
        self.sent: dict[str, Any] = {}
        self._pull = Puller[Any](NOWHERE, heartbeat=QUIET, prefetch=100_000)
        self.driver = _open(bench, self._pull, self._pull._build()[0])
        bench.when_quiet = self._take

    def _take(self) -> bool:
        found = False
        while (taken := self._pull._take()) is not None:
            key, headers = taken.key, dict(taken.headers) or None
            more = key is not None or headers is not None
            self.sent.setdefault(taken.id, Outgoing(taken.body, key=key, headers=headers) if more else taken.body)
            taken._ack()
            found = True
        return found


def _is_async(handler: object) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler)


def _settings(push: PusherBase, *, durable: bool) -> Any:
    made = push._build()[0]
    return dataclasses.replace(made.settings, durable=durable, wall=time.time(), epoch=bytes(16), origin="testing")


def _open(
    bench: Bench, peer: PusherBase | PullerBase, core: Any, journal: MemoryJournal | None = None
) -> BenchDriver:  # fmt: skip
    """Let a face that was never opened stand upon the bench."""
    driver = BenchDriver(bench, core, journal)
    peer._core = core
    peer._driver = driver  # type: ignore[assignment]
    if isinstance(peer, PusherBase):
        core.opened_at(1)
    return driver


def _dead_letters(journal: MemoryJournal) -> list[DeadLetter]:
    limits = Puller(NOWHERE)._limits
    letters = []
    for row in journal.read(Read(DEAD, 0, 1 << 62, 1 << 62)):
        letter = letter_of(unpacked(row.value), limits)
        letters.append(dataclasses.replace(letter, at=datetime.now(UTC)))  # that of the letter is virtual
    return letters
