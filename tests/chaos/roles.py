"""The processes that are killed: ``python -m tests.chaos.roles ROLE ...``.

::

    pusher: journal, synced ------+--items--> worker: keeps nothing --results--> sink: counts in an inbox that all share
    sender: outbox, and a journal |
        zeroconf://RUN-items                                     zeroconf://RUN-results

An *item* is a body ``{"item": name, "outputs": n}``; a worker makes n results of it, ``{"item": name, "index": i}``.
With n = 0 it is *poison*: workers reject it, and it must end as a dead letter. Each life of a process draws how it
works: a job at a time or in batches, in threads or on an event loop, with and without waiting for the other side.
Those that send are in `tests.chaos.pushers`.

With devices in the path nobody is found by name: an address says what is bound, or, with ``>`` in front, dialled; that
of a worker has both of its sides.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import anyio

import zmqkit
import zmqkit.aio
from tests.chaos.peers import EFFECTS, Peer
from tests.chaos.process import main
from tests.chaos.pushers import Push, Send

PREFETCH = 16
"""How many jobs a worker holds: some whenever it is killed, few enough that all workers have some."""
WORK_S = 0.004
"""How long a job takes on average."""
BATCH = 32


class Work(Peer):
    """Makes results of items; fails now and then, and rejects what is poison."""

    def __call__(self) -> None:
        """Work until told to finish."""
        loop = self.rng.choice([None, "asyncio", "trio"])
        self.history.mention(f"works {loop or 'in threads'}")
        if self.plant == "hasty-worker" or loop is None:
            self._in_threads()
        else:
            anyio.run(self._on_loop, backend=loop)
        self.tell("done")

    def _side(self, what: str) -> zmqkit.Common:
        items, _, results = self.address.partition(",")
        dialled = {"items": items, "results": results}[what] if self.devices else f">zeroconf://{self.run}-{what}"
        return self.common(dialled, "")

    def _in_threads(self) -> None:
        batch = self.rng.choice([None, None, 5])
        handler = self._handle_hastily if self.plant == "hasty-worker" else self._handle
        worker = zmqkit.Worker(
            handler if batch is None else self._handle_batch,
            source=zmqkit.Puller(prefetch=PREFETCH, **self._side("items")),
            sink=zmqkit.Pusher(**self._side("results")),
            threads=self.rng.choice([1, 3]),
            batch=batch,
        )
        worker.open()
        self._opened(worker)
        worker.run()

    async def _on_loop(self) -> None:
        worker = zmqkit.aio.Worker(
            self._handle_async,
            source=zmqkit.aio.Puller(prefetch=PREFETCH, **self._side("items")),
            sink=zmqkit.aio.Pusher(**self._side("results")),
            tasks=self.rng.choice([1, 8]),
        )
        await worker.open()
        self._opened(worker)
        await worker.run()

    def _opened(self, worker: zmqkit.Worker | zmqkit.aio.Worker) -> None:
        self.on_finish = worker.stop
        self.follow_the_leash(worker)
        self.tell("open")

    def _handle(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        time.sleep(self.rng.random() * 2 * WORK_S)
        return self._results(body)

    async def _handle_async(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        await anyio.sleep(self.rng.random() * 2 * WORK_S)
        return self._results(body)

    def _handle_batch(self, bodies: list[dict[str, Any]]) -> list[Iterator[dict[str, Any]]]:
        time.sleep(self.rng.random() * 2 * WORK_S)
        if self.rng.random() < 0.02:
            raise zmqkit.Retry(delay=0.0, reason="to see that each comes again alone")
        return [self._results(body) for body in bodies]

    def _handle_hastily(self, job: zmqkit.Job[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        if job.body["outputs"]:
            job.ack()
        return self._handle(job.body)

    def _results(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self.busy()
        if not body["outputs"]:
            raise zmqkit.Reject(f"poison {body['item']}")
        if self.rng.random() < 0.02 and not self.plant:
            raise zmqkit.Retry(delay=self.rng.random() * 0.1, reason="to see that it comes again")
        for index in range(body["outputs"]):
            yield {"item": body["item"], "index": index}


class Sink(Peer):
    """Counts each result once, whoever brings it and how often: count and record are one commit."""

    def __call__(self) -> None:
        """Count until told to finish."""
        ways = {"alone": self._alone, "in batches": self._in_batches, "by claims": self._by_claims}
        way = self.rng.choice([*ways, "on a loop"])
        self.history.mention(f"counts {way}")
        inbox = None if self.plant == "forgetful-sink" else self.folder / EFFECTS
        while True:
            common = self.common(self.address, f"{self.run}-results")
            try:
                if way == "on a loop" and inbox is not None:
                    anyio.run(self._on_loop, zmqkit.aio.Puller(prefetch=64, inbox=inbox, **common))
                else:
                    puller: zmqkit.Puller[dict[str, Any]] = zmqkit.Puller(prefetch=64, inbox=inbox, **common)
                    puller.open()
                    with puller:
                        self._opened(puller)
                        (self._forgetfully if inbox is None else ways[way])(puller)
                break
            except zmqkit.AddressInUse:
                if self.devices:
                    raise
                self.address = "tcp://127.0.0.1:*"
        self.tell("done")

    def _opened(self, puller: Any) -> None:
        self.on_finish = puller.stop
        self.follow_the_leash(puller)
        self.tell(f"open {' '.join(puller.addresses)}")

    def _alone(self, puller: zmqkit.Puller[dict[str, Any]]) -> None:
        for job in puller:
            with job:
                with job.transaction() as db:
                    self._count(db, [job])
                self._counted([job])

    def _in_batches(self, puller: zmqkit.Puller[dict[str, Any]]) -> None:
        for batch in puller.batches(max=BATCH, wait=0.01):
            with batch:
                with batch.transaction() as db:
                    self._count(db, batch)
                self._counted(batch)

    def _by_claims(self, puller: zmqkit.Puller[dict[str, Any]]) -> None:
        waits = self.rng.random() < 0.5
        with closing(sqlite3.connect(self.folder / EFFECTS, timeout=60.0)) as db:
            db.execute("pragma synchronous = extra")
            for job in puller:
                with job:
                    with db:
                        new = job.claim(db)
                        if new:
                            self._count(db, [job])
                    if new:
                        self._counted([job])
                    if waits:
                        self._ack_waiting(job)

    async def _on_loop(self, puller: zmqkit.aio.Puller[dict[str, Any]]) -> None:
        await puller.open()
        async with puller:
            self._opened(puller)
            async for job in puller:
                async with job:
                    async with job.transaction() as db:
                        self._count(db, [job])
                    self._counted([job])

    def _forgetfully(self, puller: zmqkit.Puller[dict[str, Any]]) -> None:
        with closing(sqlite3.connect(self.folder / EFFECTS, timeout=60.0)) as db:
            for job in puller:
                with job:
                    with db:
                        self._count(db, [job])
                    self._counted([job])

    def _ack_waiting(self, job: zmqkit.Job[dict[str, Any]]) -> None:
        try:
            job.ack(wait=True)
        except zmqkit.LeaseLost:
            self.history.mention(f"late {job.id} {job.body['item']} {job.body['index']}")

    @staticmethod
    def _count(db: sqlite3.Connection, jobs: Sequence[Any]) -> None:
        rows = [(job.id, job.body["item"], job.body["index"]) for job in jobs]
        db.executemany("insert into effects (id, item, place) values (?, ?, ?)", rows)

    def _counted(self, jobs: Sequence[Any]) -> None:
        """That is committed."""
        self.history.record(*[f"counted {job.id} {job.body['item']} {job.body['index']}" for job in jobs])
        self.busy()


if __name__ == "__main__":
    main({"pusher": Push, "sender": Send, "worker": Work, "sink": Sink})
