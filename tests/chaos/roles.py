"""The processes that are killed: ``python -m tests.chaos.roles ROLE ...``.

::

    pusher: journal, synced --items--> worker: keeps nothing --results--> sink: remembers ids in the ledger
        zeroconf://RUN-items                                     zeroconf://RUN-results

An *item* is a body ``{"item": name, "outputs": n}``; a worker makes n results of it, ``{"item": name, "index": i}``.
With n = 0 it is *poison*: workers reject it, and it must end as a dead letter. Each life of a process draws how it
works: a job at a time or in batches, in threads or on an event loop, with and without waiting for the other side.

With devices in the path nobody is found by name: an address says what is bound, or, with ``>`` in front, dialled; that
of a worker has both of its sides.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import anyio

import zmqkit
import zmqkit.aio
from tests.chaos.devices import plan as devices
from tests.chaos.history import Ledger
from tests.chaos.process import Process, main

HEARTBEAT = zmqkit.Heartbeat(interval=0.2, liveness=3)
PATIENT = zmqkit.Heartbeat(interval=devices.INTERVAL_S, liveness=round(devices.BOUND_S / devices.INTERVAL_S))
"""With devices in the path."""
PREFETCH = 16
"""How many jobs a worker holds: some whenever it is killed, few enough that all workers have some."""
MAX_WAITING = (50, 300, 1000)
"""So many items of one pusher may be on their way: it is never idle, and what is left at the end soon settles."""
WORK_S = 0.004
"""How long a job takes on average."""
MAX_OUTPUTS = 3
SETTLE_WAIT_S = 1.0
"""How long a pusher that watches one item settle does so."""


class Peer(Process):
    """What all of them have in common."""

    def common(self, address: str, name: str) -> zmqkit.Common:
        """How a peer is made that binds this address, under this name, or dials it."""
        common: zmqkit.Common = {
            "heartbeat": PATIENT if self.devices else HEARTBEAT,
            "name": f"{self.name}.{self.life}",
        }
        if address.startswith(">"):
            return {**common, "connect": address[1:]}
        return {**common, "bind": address, "announce": None if self.devices else name}


class Push(Peer):
    """Sends items as fast as they settle, in all the ways there are."""

    def __call__(self) -> None:
        """Work until told to finish, then until all has settled."""
        pusher = zmqkit.Pusher(
            journal=self.folder / f"{self.name}.journal",
            max_waiting=self.rng.choice(MAX_WAITING),
            **self.common(self.address, f"{self.run}-items"),
        )
        try:
            pusher.open()
        except zmqkit.AddressInUse:
            # Somebody took the port while nobody held it.
            if self.devices:
                raise
            self.address = "tcp://127.0.0.1:*"
            self()
            return
        with pusher:
            self.history.record(f"opened {' '.join(pusher.addresses)}")
            self.follow_the_leash(pusher)
            self.tell(f"open {' '.join(pusher.addresses)}")
            sent = 0
            while not self.finish.is_set():
                items = []
                for _ in range(self._how_many()):
                    sent += 1
                    outputs = 0 if self.rng.random() < 0.01 else self.rng.randint(1, MAX_OUTPUTS)
                    items.append({"item": f"{self.name}.{self.life}.{sent}", "outputs": outputs})
                self._send(pusher, items)
                self.busy()
                self.finish.wait(self.rng.random() * 0.02)
            settled = pusher.flush()
            self.history.record(f"drained {settled.acked} {settled.dead}")
        self.tell("done")

    def _how_many(self) -> int:
        return 1 if self.rng.random() < 0.6 else self.rng.randint(2, 40)

    def _send(self, pusher: zmqkit.Pusher, items: list[dict[str, Any]]) -> None:
        names = [item["item"] for item in items]
        self.history.record(*[f"sending {item['item']} {item['outputs']}" for item in items])
        if self.plant == "boastful-pusher":
            self.history.record(*[f"confirmed {name}" for name in names])
        receipt = None
        timeout = self.rng.random() * 0.05 if self.rng.random() < 0.2 else None
        try:
            if len(items) == 1:
                receipt = pusher.send(items[0], timeout=timeout)
            else:
                pusher.send_many(items, timeout=timeout)
            outcome = ["confirmed"] * len(names)
        except zmqkit.Full:
            outcome = ["refused"]
        except zmqkit.WaitTimeout:
            outcome = ["unsure"]
        except zmqkit.PartlySent as error:
            outcome = ["confirmed"] * error.confirmed + ["unsure"] * (len(names) - error.confirmed)
        lines = [f"{what} {name}" for what, name in zip(outcome, names, strict=True)]
        now = pusher.stats()
        self.history.record(*lines, f"settled {now['acked']} {now['dead']}")
        if receipt is not None and self.rng.random() < 0.1:
            self._watch(receipt, names[0])

    def _watch(self, receipt: zmqkit.Receipt, name: str) -> None:
        """See one item settle, and write down how much had been counted by then."""
        with contextlib.suppress(zmqkit.WaitTimeout):
            receipt.wait(timeout=SETTLE_WAIT_S)
            self.history.record(f"{receipt.outcome} {name} {os.stat(self.folder / 'ledger').st_size}")


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
    """Counts each result once, whoever brings it and how often."""

    def __call__(self) -> None:
        """Count until told to finish."""
        puller: zmqkit.Puller[dict[str, Any]] = zmqkit.Puller(
            prefetch=64, **self.common(self.address, f"{self.run}-results")
        )
        self.ledger = Ledger(self.folder / "ledger", forgetful=self.plant == "forgetful-sink")
        try:
            puller.open()
        except zmqkit.AddressInUse:
            if self.devices:
                raise
            self.address = "tcp://127.0.0.1:*"
            self()
            return
        with puller:
            self.on_finish = puller.stop
            self.follow_the_leash(puller)
            self.tell(f"open {' '.join(puller.addresses)}")
            way = self.rng.choice(["alone", "alone, waiting", "in batches"])
            self.history.mention(f"counts {way}")
            if way == "in batches":
                for batch in puller.batches(max=32, wait=0.01):
                    with batch:
                        self._count(list(batch))
            else:
                for job in puller:
                    with job:
                        self._count([job])
                        if way == "alone, waiting":
                            self._ack_waiting(job)
        self.tell("done")

    def _ack_waiting(self, job: zmqkit.Job[dict[str, Any]]) -> None:
        try:
            job.ack(wait=True)
        except zmqkit.LeaseLost:
            self.history.mention(f"late {job.id} {job.body['item']} {job.body['index']}")

    def _count(self, jobs: list[zmqkit.Job[dict[str, Any]]]) -> None:
        texts = [f"{job.body['item']} {job.body['index']}" for job in jobs]
        new = self.ledger.count([(job.id, text) for job, text in zip(jobs, texts, strict=True)])
        self.history.record(
            *[
                f"{'counted' if each else 'duplicate'} {job.id} {text}"
                for job, text, each in zip(jobs, texts, new, strict=True)
            ]
        )
        self.busy()


if __name__ == "__main__":
    main({"pusher": Push, "worker": Work, "sink": Sink})
