"""What a type checker knows of the public face. It is checked, never run.

`assert_type` fails where a type is another one; a ``type: ignore`` fails where there is nothing to ignore, so
that each line marked with one is proved to be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypedDict, assert_type

import zmqkit
from zmqkit import aio, events


class Order(TypedDict):
    n: int


def sending(push: zmqkit.Pusher) -> None:
    receipt = push.send({"n": 1}, headers={"trace": "1"}, timeout=5)
    assert_type(receipt, zmqkit.Receipt)
    assert_type(receipt.id, str)
    assert_type(receipt.wait("journalled", timeout=1.0), zmqkit.Settled)
    assert_type(push.send_nowait(b"raw"), zmqkit.Receipt)
    assert_type(push.send_many({"n": n} for n in range(3)), int)
    settled = push.flush(60)
    assert_type(settled, zmqkit.Settled)
    assert_type((settled.acked, settled.dead, settled.expired), tuple[int, int, int])
    assert_type(push.addresses, tuple[str, ...])
    assert_type(push.stats(), dict[str, int | float])
    assert_type(push.open(), zmqkit.Pusher)
    push.flush(until="eventually")  # type: ignore[arg-type]
    receipt.wait("someday")  # type: ignore[arg-type]


def making() -> None:
    zmqkit.Pusher(
        "tcp://127.0.0.1:*", journal="jobs.db", durability="process", max_failures=3, backoff=zmqkit.Backoff()
    )
    zmqkit.Pusher(connect=["tcp://127.0.0.1:1"], announce=None, codec="json", linger=None)
    zmqkit.Pusher(bind="tcp://127.0.0.1:*", insecure=True, backoff=zmqkit.Backoff(cap=1.0), limits=zmqkit.Limits())
    zmqkit.Puller("zeroconf://crawl", prefetch=10, on_error="raise", heartbeat=zmqkit.Heartbeat(0.5, 4))
    zmqkit.Pusher(journal="jobs.db", durability="paper")  # type: ignore[arg-type]
    zmqkit.Puller("tcp://127.0.0.1:1", on_error="ignore")  # type: ignore[arg-type]
    zmqkit.Puller("tcp://127.0.0.1:1", heartbeet=None)  # type: ignore[call-arg]
    zmqkit.Heartbeat("1 s")  # type: ignore[arg-type]
    zmqkit.Limits(64)  # type: ignore[call-arg, misc, unused-ignore]


def pulling(pull: zmqkit.Puller[Order]) -> None:
    assert_type(pull.receive(), zmqkit.Job[Order])
    assert_type(pull.receive(1.0), zmqkit.Job[Order] | None)
    for job in pull:
        assert_type(job, zmqkit.Job[Order])
        with job as same:
            assert_type(same.body["n"], int)
    for batch in pull.batches(max=100, wait=0.1):
        assert_type(batch, zmqkit.Batch[Order])
        with batch:
            assert_type(batch.bodies, list[Order])
            assert_type(batch[0], zmqkit.Job[Order])
            assert_type(len(batch), int)
    pull.run(lambda body: None, threads=2)


def settling(job: zmqkit.Job[Order]) -> None:
    job.ack()
    job.ack(wait=True)
    job.nack(delay=1.0, reason="later")
    job.reject("never")
    job.release()
    assert_type((job.id, job.failures, job.deliveries), tuple[str, int, int])
    job.reject()  # type: ignore[call-arg]


def unparametrised() -> None:
    """Without a type argument a body is Any."""
    with zmqkit.Puller("tcp://127.0.0.1:1") as pull:
        assert_type(pull, zmqkit.Puller[Any])
        assert_type(pull.receive(), zmqkit.Job[Any])


def failing(body: Order) -> Iterator[zmqkit.Outgoing[Order]]:
    if body["n"] < 0:
        raise zmqkit.Reject("negative")
    if body["n"] == 0:
        raise zmqkit.Retry(delay=0.5, reason="not yet")
    yield zmqkit.Outgoing(body)


def working() -> None:
    worker = zmqkit.Worker(failing, source="zeroconf://crawl", sink=["tcp://127.0.0.1:1"], threads=2, on_error="reject")
    worker.run()
    with zmqkit.stop_on_signals(worker):
        worker.stop()


def listening(peer: zmqkit.Peer) -> None:
    def failed(event: events.JobFailed) -> None:
        assert_type(event.failures, int)

    assert_type(peer.on(events.JobFailed, failed), Callable[[], None])
    assert_type(zmqkit.on(events.PeerLost, lambda event: event.reason), Callable[[], None])
    peer.on(events.JobDead, failed)  # type: ignore[arg-type]


def catching() -> None:
    """Errors are also the builtin ones that a reader expects."""
    timeouts: list[type[TimeoutError]] = [zmqkit.WaitTimeout, zmqkit.Full, zmqkit.Unsettled]
    values: list[type[ValueError]] = [zmqkit.AddressError]
    types: list[type[TypeError]] = [zmqkit.EncodeError]
    system: list[type[OSError]] = [zmqkit.AddressInUse]
    print(timeouts, values, types, system)


async def sending_async(push: aio.Pusher) -> None:
    receipt = await push.send({"n": 1}, timeout=5)
    assert_type(receipt, aio.Receipt)
    assert_type(await receipt.wait(timeout=1.0), zmqkit.Settled)
    assert_type(push.send_nowait({"n": 2}), aio.Receipt)
    assert_type(await push.send_many([1, 2, 3]), int)
    assert_type(await push.flush(60), zmqkit.Settled)
    assert_type(push.stats(), dict[str, int | float])


async def pulling_async(pull: aio.Puller[Order]) -> None:
    assert_type(await pull.receive(), aio.Job[Order])
    assert_type(await pull.receive(1.0), aio.Job[Order] | None)
    async for job in pull:
        async with job as same:
            assert_type(same.body["n"], int)
    async for batch in pull.batches():
        async with batch:
            assert_type(batch.bodies, list[Order])


async def opening_async() -> None:
    async with aio.Puller("tcp://127.0.0.1:1") as pull:
        assert_type(pull, aio.Puller[Any])
        await pull.wait_for_peers(1, timeout=5)
        await pull.close(timeout=1.0)
    with aio.Puller("tcp://127.0.0.1:1"):  # type: ignore[attr-defined]
        pass
