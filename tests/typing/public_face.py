"""What a type checker knows of the public face. It is checked, never run.

`assert_type` fails where a type is another one; a ``type: ignore`` fails where there is nothing to ignore, so
that each line marked with one is proved to be refused.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol, TypedDict, assert_type

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


# ---- request-reply ---------------------------------------------------------------


class Calc(Protocol):
    def add(self, a: int, b: int) -> int: ...

    def rows(self, n: int) -> Iterator[str]: ...


class AsyncCalc(Protocol):
    async def add(self, a: int, b: int) -> int: ...

    def rows(self, n: int) -> AsyncIterator[str]: ...


def calling(calc: zmqkit.Client) -> None:
    assert_type(calc.call("add", 2, b=3), Any)
    reply = calc.submit("add", 2, 3)
    assert_type(reply, zmqkit.Reply[Any])
    futures: list[concurrent.futures.Future[Any]] = [reply]
    assert_type((reply.id, len(futures)), tuple[str, int])
    with calc.stream("rows", 10) as stream:
        assert_type(stream, zmqkit.Stream[Any])
        for row in stream:
            assert_type(row, Any)
    assert_type(calc.options(timeout=30, retries=0, request_id="1", headers={"a": "b"}, durable=True), zmqkit.Client)
    assert_type(calc.options(timeout=None), zmqkit.Client)
    assert_type(calc.methods(), list[dict[str, Any]])
    assert_type(calc.results(), Iterator[zmqkit.Reply[Any]])
    assert_type(calc.proxy(), Any)
    typed = calc.proxy(Calc)  # type: ignore[type-abstract]
    assert_type(typed.add(1, 2), int)
    assert_type(typed.rows(1), Iterator[str])
    typed.add("1", 2)  # type: ignore[arg-type]
    calc.options(retry=1)  # type: ignore[call-arg]
    calc.options(timeout="1 s")  # type: ignore[arg-type]
    zmqkit.Client("tcp://127.0.0.1:1", timeout=None, retries=3, journal="calls.db", name="calc")


def serving(server: zmqkit.Server) -> None:
    @server.method
    def add(a: int, b: int) -> int:
        return a + b

    @server.method(name="other", idempotent=True, concurrency=3, timeout=1.0)
    def rows(request: zmqkit.Request, n: int) -> Iterator[int]:
        assert_type(request.remaining(), float | None)
        assert_type(zmqkit.Request.current(), zmqkit.Request | None)
        assert_type((request.id, request.attempt, request.cancelled), tuple[str, int, bool])
        yield n

    @zmqkit.method(name="marked")
    def marked(a: int) -> str:
        raise zmqkit.ServiceError("code", str(a), {"a": a})

    assert_type(add(1, 2), int)
    assert_type(marked(1), str)
    server.include(object(), prefix="calc.")
    server.run()
    zmqkit.Server("tcp://127.0.0.1:1", threads=4, processes=2, journal="s.db", window=zmqkit.Window(count=10))
    zmqkit.Server("tcp://127.0.0.1:1", tasks=4)  # type: ignore[call-arg]


def failing_calls() -> None:
    try:
        serving(zmqkit.Server("tcp://127.0.0.1:1"))
    except zmqkit.StreamBroken as broken:
        assert_type((broken.received, broken.request_id), tuple[int, str])
    except zmqkit.RemoteError as error:
        assert_type((error.type, error.code, error.remote_traceback), tuple[str, str | None, str | None])
    timeouts: list[type[TimeoutError]] = [zmqkit.NotSentInTime, zmqkit.NoReplyInTime]
    print(timeouts)


async def calling_async(calc: aio.Client) -> None:
    assert_type(await calc.call("add", 2, b=3), Any)
    reply = calc.submit("add", 2, 3)
    assert_type(reply, aio.Reply[Any])
    assert_type(await reply, Any)
    async with calc.stream("rows", 10) as stream:
        async for row in stream:
            assert_type(row, Any)
    assert_type(calc.options(timeout=1), aio.Client)
    typed = calc.proxy(AsyncCalc)  # type: ignore[type-abstract]
    assert_type(await typed.add(1, 2), int)
    assert_type(typed.rows(1), AsyncIterator[str])
    assert_type(calc.results(), AsyncIterator[aio.Reply[Any]])
    aio.Server("tcp://127.0.0.1:1", tasks=4)
