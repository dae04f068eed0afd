"""The durable pipeline beside raw ZeroMQ and brokers: two processes, loopback TCP, bodies of about 100 bytes.

Run it with ``python -m benchmarks.pipeline [--messages N] [--rounds N] [--peers WORD ...] [--quick]``. Rows:

- *raw*: pyzmq PUSH/PULL, one message a frame, msgpack at both ends; no batching but libzmq's own. Nothing is stored.
- *batches*, *jobs*: `Pusher.send_many` with a journal at ``power`` (synced), taken by ``pull.batches(1000)`` or
  ``for job in pull``, each acked; timed until `flush` has every message settled and its removal synced.
- *Redis Streams*, *RabbitMQ*, *JetStream*: see benchmarks/pipeline_peers.py; with a fifth or less of the messages.
- *raw asyncio*: the same PUSH, taken by ``await zmq.asyncio`` recv and unpack.
- *aio jobs*: a durable pusher, taken by ``async for job in aio.Puller`` with ``async with job``, each acked.

The rounds alternate, and medians are quoted. What counts are the ratios: absolute figures drift with the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import multiprocessing.connection
import os
import statistics
import time
from collections.abc import Callable

import msgpack
import zmq
import zmq.asyncio

import zmqkit
import zmqkit.aio
from benchmarks.pipeline_peers import PEERS, Peer, body
from benchmarks.places import folder, run_folder
from zmqkit.protocol.core import Outputs
from zmqkit.protocol.session import STATE_BYTES, STATE_EVERY, Session
from zmqkit.protocol.wire import Hello

PATIENCE_S = 300.0
PREFETCH = 8192

Pipe = multiprocessing.connection.Connection


# ---- raw ---------------------------------------------------------------------------


def raw_pull(pipe: Pipe, address: str, count: int) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.PULL)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.connect(address)
    pipe.send("ready")
    unpack, receive = msgpack.unpackb, socket.recv
    for _ in range(count):
        unpack(receive())
    pipe.send("done")
    context.destroy(linger=0)


def raw_pull_asyncio(pipe: Pipe, address: str, count: int) -> None:
    async def main() -> None:
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.PULL)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.connect(address)
        pipe.send("ready")
        unpack = msgpack.unpackb
        for _ in range(count):
            unpack(await socket.recv())
        pipe.send("done")
        context.destroy(linger=0)

    asyncio.run(main())


def raw(count: int, puller: Callable[[Pipe, str, int], None]) -> float:
    """Seconds that raw PUSH/PULL takes."""
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.setsockopt(zmq.SNDHWM, 0)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    with _Taker(puller, f"tcp://127.0.0.1:{port}", count) as taker:
        bodies = [body(number) for number in range(count)]
        pack, send = msgpack.packb, socket.send
        begun = time.perf_counter()
        for each in bodies:
            send(pack(each))
        taker.wait()
        seconds = time.perf_counter() - begun
    context.destroy(linger=0)
    return seconds


# ---- zmqkit ------------------------------------------------------------------------


def pull_batches(pipe: Pipe, address: str, count: int) -> None:
    with zmqkit.Puller(address, prefetch=PREFETCH) as pull:
        pipe.send("ready")
        done = 0
        for batch in pull.batches(1000, 0.01):
            with batch:
                done += len(batch.bodies)
            if done >= count:
                break
        pipe.recv()


def pull_jobs(pipe: Pipe, address: str, count: int) -> None:
    with zmqkit.Puller(address, prefetch=PREFETCH) as pull:
        pipe.send("ready")
        done = 0
        for job in pull:
            with job:
                done += 1
            if done >= count:
                break
        pipe.recv()


def pull_aio(pipe: Pipe, address: str, count: int) -> None:
    async def main() -> None:
        async with zmqkit.aio.Puller(address, prefetch=PREFETCH) as pull:
            pipe.send("ready")
            done = 0
            async for job in pull:
                async with job:
                    done += 1
                if done >= count:
                    break
            await asyncio.to_thread(pipe.recv)

    asyncio.run(main())


def durable(count: int, puller: Callable[[Pipe, str, int], None]) -> float:
    """Seconds from the first send until all is settled, and synced."""
    with folder() as place:
        journal = os.path.join(place, "journal.db")
        with (
            zmqkit.Pusher("tcp://127.0.0.1:*", journal=journal, durability="power") as push,
            _Taker(puller, push.addresses[0], count) as taker,
        ):
            push.wait_for_peers(1, timeout=30)
            bodies = [body(number) for number in range(count)]
            begun = time.perf_counter()
            push.send_many(bodies)
            settled = push.flush(PATIENCE_S)
            seconds = time.perf_counter() - begun
            assert settled.acked == count, settled
            taker.release()
    return seconds


class _Taker:
    """The other process."""

    def __init__(self, puller: Callable[[Pipe, str, int], None], address: str, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=puller, args=(theirs, address, count), daemon=True)

    def __enter__(self) -> _Taker:
        self._process.start()
        self.wait()
        return self

    def wait(self) -> None:
        if not self._pipe.poll(PATIENCE_S):
            raise TimeoutError("the other process does not answer")
        self._pipe.recv()

    def release(self) -> None:
        self._pipe.send("end")

    def __exit__(self, *exception: object) -> None:
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()


# ---- the session layer alone -------------------------------------------------------


def session_cost(frames: int) -> float:
    """Microseconds that sending and hearing one frame of 256 messages costs in the session layer, both ends."""
    hello = Hello(role="push", instance=b"i" * 16, session=b"s" * 8, credit_messages=1 << 40, credit_bytes=1 << 50)
    ours, theirs = Session(hello, "here", dialled=True), Session(hello, "there", dialled=False)
    theirs.limit_messages, theirs.limit_bytes = 1 << 40, 1 << 50
    out, back = Outputs(), Outputs()
    payload = [b"h" * 300, b"x" * 25_600]
    unpack = msgpack.unpackb
    begun = time.perf_counter()
    for _ in range(frames):
        ours.send(out, payload, 256)
        _, sent = out.sends.pop()
        header = unpack(sent[0])
        theirs.hear(header[2], header[3], header[4])
        theirs.take(header[5], header[6], sent[1:])
        if theirs.unstated >= STATE_EVERY or theirs.unstated_bytes >= STATE_BYTES:
            theirs.tell(back)
            header = unpack(back.sends.pop()[1][0])
            ours.hear(header[2], header[3], header[4])
    return (time.perf_counter() - begun) / frames * 1e6


# ---- the table ---------------------------------------------------------------------

ROWS: dict[str, Callable[[int], float]] = {
    "raw": lambda count: raw(count, raw_pull),
    "batches": lambda count: durable(count, pull_batches),
    "jobs": lambda count: durable(count, pull_jobs),
    "raw asyncio": lambda count: raw(max(1, count // 5), raw_pull_asyncio) * (count / max(1, count // 5)),
    "aio jobs": lambda count: durable(count, pull_aio),
}
RATIOS = (("batches", "raw", 1.2), ("jobs", "raw", 1.0), ("aio jobs", "raw asyncio", 4.0))
"""How much faster the first is to be than the second, at least."""


def measure(messages: int, rounds: int, peers: list[Peer]) -> dict[str, list[float]]:
    """Messages a second, of all rows in each round."""
    rates: dict[str, list[float]] = {name: [] for name in (*ROWS, *(peer.name for peer in peers))}
    for number in range(rounds):
        for name, run in ROWS.items():
            rates[name].append(messages / run(messages))
        for peer in peers:
            count = max(1, messages // peer.slower)
            rates[peer.name].append(count / peer.run(count))
        shown = "  ".join(f"{name} {values[-1]:,.0f}" for name, values in rates.items())
        print(f"round {number + 1}: {shown} messages/s", flush=True)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", nargs="*", metavar="WORD", help="only those whose names contain one of these")
    parser.add_argument("--quick", action="store_true", help="one round of few messages: shows that it runs")
    chosen = parser.parse_args()
    messages, rounds = (20_000, 1) if chosen.quick else (chosen.messages, chosen.rounds)
    wanted = [peer for peer in PEERS if chosen.peers is None or any(word in peer.name for word in chosen.peers)]
    missing = [peer for peer in wanted if peer.missing]
    peers = [peer for peer in wanted if not peer.missing]
    with run_folder():
        rates = measure(messages, rounds, peers)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"\n{messages:,} messages, medians of {rounds} alternated rounds:")
    for name, value in medians.items():
        print(f"  {name:38} {value:>12,.0f} messages/s")
    for peer in missing:
        print(f"  {peer.name:38} {peer.missing}")
    print("\nratios (to be reached):")
    floors = [*RATIOS, *(("batches", peer.name, peer.floor) for peer in peers)]
    for name, base, floor in floors:
        each = sorted(ours / theirs for ours, theirs in zip(rates[name], rates[base], strict=True))
        ratio = medians[name] / medians[base]
        note = "" if floor is None else f"; {floor}"
        print(f"  {name} / {base}: {ratio:.2f} (rounds {each[0]:.2f} to {each[-1]:.2f}{note})")
    cost = statistics.median(session_cost(20_000) for _ in range(rounds))
    print(f"\nthe session layer costs {cost:.1f} us a frame, both ends together ({cost / 256:.3f} us a message of 256)")


if __name__ == "__main__":
    main()
