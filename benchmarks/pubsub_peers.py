"""Publishers and subscribers of zmqkit, raw ZeroMQ and other libraries, for benchmarks/pubsub.py: what a user would
write with each, the fast way.

Publisher and subscribers run in processes of their own, and are told through pipes what to do. First the publisher
says `READY` until all have heard it, then `GO`; then both sides are timed, until the last message of the load is in.
Whoever waits `SILENCE_S` for a message reports what he has: libraries that drop are found out. One that is not
installed is named.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import itertools
import multiprocessing
import multiprocessing.connection
import operator
import os
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack

from benchmarks.places import broker, folder, free_port

Pipe = multiprocessing.connection.Connection

READY = -1
GO = -2
SILENCE_S = 5.0
PATIENCE_S = 180.0

UNBOUNDED = 10_000_000
"""Messages, and GB, that may wait: raw ZeroMQ's mark is switched off too, so that nothing is dropped."""


@dataclasses.dataclass(frozen=True)
class Load:
    """What is published.

    Attributes:
        count: of messages.
        topics: that they take in turns.
        size: of bodies of bytes; 0: dicts of about 100 bytes.
    """

    count: int
    topics: int = 1
    size: int = 0

    @property
    def bodies(self) -> list[Any]:
        """All of them."""
        if self.size:
            return [os.urandom(self.size)] * self.count
        return [{"n": number, "text": "x" * 70, "ok": True, "price": 1.5} for number in range(self.count)]

    @property
    def names(self) -> list[str]:
        """The topics."""
        return [f"bench.topic{number}" for number in range(self.topics)]

    @property
    def weigh(self) -> Callable[[Any], int]:
        """What subscribers add up of each body, so that nothing is missing and nothing comes twice unnoticed."""
        return len if self.size else operator.itemgetter("n")

    @property
    def weight(self) -> int:
        """What the sum must be."""
        return self.count * self.size if self.size else self.count * (self.count - 1) // 2

    def pairs(self, name: Callable[[str], Any] = str) -> list[tuple[Any, Any]]:
        """All topics and bodies."""
        return list(zip(itertools.cycle([name(each) for each in self.names]), self.bodies))


@dataclasses.dataclass(frozen=True)
class Told:
    """What one side reports.

    Attributes:
        at: publisher: when it began; subscriber: when the last message was in; seconds of the host's clock.
        cpu: seconds of the process's CPU time.
        count: messages.
        weight: of them.
    """

    at: float
    cpu: float
    count: int
    weight: int


@dataclasses.dataclass(frozen=True)
class Peer:
    """One library.

    Attributes:
        name: as it is printed.
        publish: runs in a process of its own, see `publishing`.
        subscribe: runs in a process of its own, see `taking`.
        needs: modules to import.
        program: to be installed.
        slower: it gets a load of so many times less, or a run would take minutes.
    """

    name: str
    publish: Callable[[Pipe, Load], None]
    subscribe: Callable[[Pipe, str, Load], None]
    needs: str = ""
    program: str = ""
    slower: int = 1

    @property
    def missing(self) -> str:
        """What is not there, "" if all is."""
        for name in self.needs.split():
            if importlib.util.find_spec(name) is None:
                return f"{name} is not installed"
        return f"{self.program} is not installed" if self.program and shutil.which(self.program) is None else ""


def publishing(pipe: Pipe, address: str, say: Callable[[int], object], hot: Callable[[], object], load: Load) -> None:
    """The publisher's side: `say` publishes a word, `hot` the load."""
    pipe.send(address)
    pipe.recv()  # all subscribers have been started
    while not pipe.poll(0.005):
        say(READY)
    pipe.recv()
    say(GO)
    begun, busy = time.perf_counter(), time.process_time()
    hot()
    pipe.send(time.perf_counter())
    pipe.recv()  # all subscribers have reported
    pipe.send(Told(begun, time.process_time() - busy, load.count, load.weight))
    pipe.recv()


def waiting(pipe: Pipe, receive: Callable[[], Any]) -> None:
    """The subscriber's first part: until `GO`."""
    while receive() != READY:
        pass
    pipe.send("ready")
    while receive() != GO:
        pass


@contextlib.contextmanager
def taking(pipe: Pipe) -> Iterator[Callable[[int, int], None]]:
    """The subscriber's second part: it gives a function to report with, the last time before `SILENCE_S`."""
    busy = time.process_time()

    def report(count: int, weight: int) -> None:
        pipe.send(Told(time.perf_counter(), time.process_time() - busy, count, weight))

    yield report
    pipe.recv()


@contextlib.contextmanager
def process(target: Callable[..., None], *args: Any) -> Iterator[tuple[Pipe, int]]:
    """Run a function in a process of its own; gives a pipe to it, which is its first argument, and its number."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    started = context.Process(target=target, args=(theirs, *args), daemon=False)
    started.start()
    try:
        theirs.close()  # so that we see its end if it dies
        yield ours, started.pid or 0
    finally:
        started.kill()
        started.join()


def hear(pipe: Pipe, seconds: float = PATIENCE_S) -> Any:
    """What the process says next. Raises `TimeoutError`, or `EOFError` if it is dead."""
    if not pipe.poll(seconds):
        raise TimeoutError("a process does not answer")
    return pipe.recv()


# ---- zmqkit ------------------------------------------------------------------------


def our_limits() -> Any:
    """Limits that let a whole load wait."""
    import zmqkit

    return zmqkit.Limits(queued_messages=UNBOUNDED, queued_bytes=UNBOUNDED * 1000)


def publish_zmqkit(pipe: Pipe, load: Load, way: str = "publish") -> None:
    """`publish`, a message at a time; or `publish_many`; or that with a journal at ``power``."""
    import zmqkit

    with contextlib.ExitStack() as stack:
        more: dict[str, Any] = {}
        if way == "journal":
            more["journal"] = os.path.join(stack.enter_context(folder()), "journal.db")
        pub = stack.enter_context(zmqkit.Publisher("tcp://127.0.0.1:*", limits=our_limits(), **more))
        pairs = load.pairs()

        def hot() -> None:
            if way == "publish":
                publish = pub.publish
                for topic, body in pairs:
                    publish(topic, body)
            else:
                pub.publish_many(pairs)

        publishing(pipe, pub.addresses[0], lambda word: pub.publish(load.names[0], word), hot, load)


def publish_zmqkit_many(pipe: Pipe, load: Load) -> None:
    """`publish_many`."""
    publish_zmqkit(pipe, load, "many")


def publish_zmqkit_journal(pipe: Pipe, load: Load) -> None:
    """`publish_many`, each message synced before it is sent."""
    publish_zmqkit(pipe, load, "journal")


def subscribe_zmqkit(pipe: Pipe, address: str, load: Load) -> None:
    """A loop over the subscriber."""
    import zmqkit

    topics = "bench.#" if load.topics > 1 else load.names[0]
    with zmqkit.Subscriber(address, topics=topics, limits=our_limits()) as sub:
        waiting(pipe, lambda: sub.receive().body)
        count, weight, weigh = load.count, 0, load.weigh
        with taking(pipe) as report:
            for message in sub:
                message.topic  # noqa: B018 - which all others have at hand
                weight += weigh(message.body)
                count -= 1
                if not count:
                    break
            report(load.count - count, weight)


# ---- raw ZeroMQ ----------------------------------------------------------------------


def _raw_socket(kind: int, **options: Any) -> Any:
    import zmq

    made = zmq.Context().socket(kind)
    for name, value in {"LINGER": 0, "SNDHWM": 0, "RCVHWM": 0, **options}.items():
        made.setsockopt(getattr(zmq, name), value)
    return made


def publish_raw(pipe: Pipe, load: Load) -> None:
    """PUB: topic, terminator and body in one frame."""
    import zmq

    pub = _raw_socket(zmq.PUB)
    port = pub.bind_to_random_port("tcp://127.0.0.1")
    pairs = load.pairs(lambda name: name.encode() + b"\0")
    send, pack = pub.send, msgpack.packb

    def hot() -> None:
        for topic, body in pairs:
            send(topic + pack(body))

    publishing(pipe, f"tcp://127.0.0.1:{port}", lambda word: send(pairs[0][0] + pack(word)), hot, load)


def subscribe_raw(pipe: Pipe, address: str, load: Load) -> None:
    """SUB, of such frames."""
    import zmq

    topic = b"bench." if load.topics > 1 else load.names[0].encode() + b"\0"
    sub = _raw_socket(zmq.SUB, SUBSCRIBE=topic)
    sub.connect(address)
    recv, unpack = sub.recv, msgpack.unpackb
    waiting(pipe, lambda: unpack(recv().partition(b"\0")[2]))
    count, weight, weigh = load.count, 0, load.weigh
    with taking(pipe) as report:
        for _ in range(count):
            _topic, _, packed = recv().partition(b"\0")
            weight += weigh(unpack(packed))
        report(count, weight)


def publish_raw_parts(pipe: Pipe, load: Load) -> None:
    """PUB: topic and body as two frames."""
    import zmq

    pub = _raw_socket(zmq.PUB)
    port = pub.bind_to_random_port("tcp://127.0.0.1")
    pairs = load.pairs(str.encode)
    send, pack = pub.send_multipart, msgpack.packb

    def hot() -> None:
        for topic, body in pairs:
            send((topic, pack(body)))

    publishing(pipe, f"tcp://127.0.0.1:{port}", lambda word: send((pairs[0][0], pack(word))), hot, load)


def subscribe_raw_parts(pipe: Pipe, address: str, load: Load) -> None:
    """SUB, of two frames."""
    import zmq

    sub = _raw_socket(zmq.SUB, SUBSCRIBE=b"bench." if load.topics > 1 else load.names[0].encode())
    sub.connect(address)
    recv, unpack = sub.recv_multipart, msgpack.unpackb
    waiting(pipe, lambda: unpack(recv()[1]))
    count, weight, weigh = load.count, 0, load.weigh
    with taking(pipe) as report:
        for _ in range(count):
            _topic, packed = recv()
            weight += weigh(unpack(packed))
        report(count, weight)


# ---- the others ------------------------------------------------------------------------


def _zenoh(**settings: str) -> Any:
    import zenoh

    config = zenoh.Config()
    config.insert_json5("mode", '"peer"')
    config.insert_json5("scouting/multicast/enabled", "false")
    for name, value in settings.items():
        config.insert_json5(f"{name}/endpoints", f'["{value}"]')
    return zenoh.open(config)


def publish_zenoh(pipe: Pipe, load: Load) -> None:
    """A declared publisher a topic, that blocks rather than drops."""
    import zenoh

    address = f"tcp/127.0.0.1:{free_port()}"
    with _zenoh(listen=address) as session:
        block = zenoh.CongestionControl.BLOCK
        puts = {
            name: session.declare_publisher(name.replace(".", "/"), congestion_control=block).put for name in load.names
        }
        pairs = load.pairs(puts.__getitem__)
        pack = msgpack.packb

        def hot() -> None:
            for put, body in pairs:
                put(pack(body))

        publishing(pipe, address, lambda word: pairs[0][0](pack(word)), hot, load)


def subscribe_zenoh(pipe: Pipe, address: str, load: Load) -> None:
    """A loop over its channel."""
    import zenoh

    key = "bench/**" if load.topics > 1 else load.names[0].replace(".", "/")
    unpack = msgpack.unpackb
    with _zenoh(connect=address) as session:
        sub = session.declare_subscriber(key, zenoh.handlers.FifoChannel(100_000))
        recv = sub.recv
        waiting(pipe, lambda: unpack(recv().payload.to_bytes()))
        count, weight, weigh = load.count, 0, load.weigh
        with taking(pipe) as report:
            for _ in range(count):
                sample = recv()
                sample.key_expr  # noqa: B018 - its topic
                weight += weigh(unpack(sample.payload.to_bytes()))
            report(count, weight)


def publish_pynng(pipe: Pipe, load: Load) -> None:
    """PUB, with the longest queues that nng allows. It drops when they are full."""
    import pynng

    address = f"tcp://127.0.0.1:{free_port()}"
    with pynng.Pub0(listen=address, send_buffer_size=8192) as pub:
        pairs = load.pairs(lambda name: name.encode() + b"\0")
        send, pack = pub.send, msgpack.packb

        def hot() -> None:
            for topic, body in pairs:
                send(topic + pack(body))

        publishing(pipe, address, lambda word: send(pairs[0][0] + pack(word)), hot, load)


def subscribe_pynng(pipe: Pipe, address: str, load: Load) -> None:
    """SUB."""
    import pynng

    topic = b"bench." if load.topics > 1 else load.names[0].encode() + b"\0"
    with pynng.Sub0(dial=address, recv_buffer_size=8192, recv_max_size=0, topics=[topic]) as sub:
        recv, unpack = sub.recv, msgpack.unpackb
        waiting(pipe, lambda: unpack(recv().partition(b"\0")[2]))
        sub.recv_timeout = int(SILENCE_S * 1000)
        count, weight, weigh = 0, 0, load.weigh
        last = time.perf_counter()
        with taking(pipe) as report:
            try:
                while count < load.count:
                    _topic, _, packed = recv().partition(b"\0")
                    weight += weigh(unpack(packed))
                    count += 1
                    if not count % 64:
                        last = time.perf_counter()
            except pynng.Timeout:
                pipe.send(Told(last, 0.0, count, weight))
            else:
                report(count, weight)


def publish_redis(pipe: Pipe, load: Load) -> None:
    """A server of its own, pipelines of 1,000 messages."""
    import redis

    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--daemonize", "no"]
    command += ["--client-output-buffer-limit", "pubsub", "0", "0", "0"]
    with broker(command, port), redis.Redis(port=port) as client:
        pack = msgpack.packb
        pairs = load.pairs()

        def hot() -> None:
            for start in range(0, load.count, 1000):
                pipeline = client.pipeline(transaction=False)
                for topic, body in pairs[start : start + 1000]:
                    pipeline.publish(topic, pack(body))
                pipeline.execute()

        publishing(pipe, str(port), lambda word: client.publish(pairs[0][0], pack(word)), hot, load)


def subscribe_redis(pipe: Pipe, address: str, load: Load) -> None:
    """A loop over what it listens to."""
    import redis

    with redis.Redis(port=int(address)) as client, client.pubsub(ignore_subscribe_messages=True) as sub:
        if load.topics > 1:
            sub.psubscribe("bench.*")
        else:
            sub.subscribe(load.names[0])
        messages = sub.listen()
        unpack = msgpack.unpackb
        first = (unpack(each["data"]) for each in messages)
        waiting(pipe, lambda: next(first))
        messages = sub.listen()
        count, weight, weigh = load.count, 0, load.weigh
        with taking(pipe) as report:
            for message in messages:
                message["channel"]
                weight += weigh(unpack(message["data"]))
                count -= 1
                if not count:
                    break
            report(load.count, weight)


def publish_nats(pipe: Pipe, load: Load) -> None:
    """A server of its own; the library is asyncio's."""
    import asyncio

    import nats

    port = free_port()

    async def main() -> None:
        client = await nats.connect(f"nats://127.0.0.1:{port}", pending_size=8 << 20)
        pack = msgpack.packb
        pairs = load.pairs()
        loop = asyncio.get_running_loop()
        publish = client.publish

        def say(word: int) -> None:
            async def said() -> None:
                await publish(pairs[0][0], pack(word))
                await client.flush()

            asyncio.run_coroutine_threadsafe(said(), loop).result()

        async def hot() -> None:
            for topic, body in pairs:
                await publish(topic, pack(body))
            await client.flush(60)

        def run() -> None:
            asyncio.run_coroutine_threadsafe(hot(), loop).result()

        await asyncio.to_thread(publishing, pipe, str(port), say, run, load)
        await client.close()

    with broker(["nats-server", "-a", "127.0.0.1", "-p", str(port)], port):
        asyncio.run(main())


def subscribe_nats(pipe: Pipe, address: str, load: Load) -> None:
    """A callback, and room for all that may wait."""
    import asyncio

    import nats

    async def main() -> None:
        client = await nats.connect(f"nats://127.0.0.1:{address}")
        unpack = msgpack.unpackb
        sub = await client.subscribe(
            "bench.>" if load.topics > 1 else load.names[0], pending_msgs_limit=0, pending_bytes_limit=0
        )
        messages = sub.messages

        async def until(word: int) -> None:
            async for message in messages:
                if unpack(message.data) == word:
                    return

        await until(READY)
        pipe.send("ready")
        await until(GO)
        count, weight, weigh = load.count, 0, load.weigh
        with taking(pipe) as report:
            async for message in messages:
                message.subject  # noqa: B018 - its topic
                weight += weigh(unpack(message.data))
                count -= 1
                if not count:
                    break
            report(load.count, weight)

    asyncio.run(main())


RAW = Peer("raw PUB/SUB, one frame", publish_raw, subscribe_raw)
PARTS = Peer("raw PUB/SUB, two parts", publish_raw_parts, subscribe_raw_parts, slower=4)
ZMQKIT = Peer("zmqkit", publish_zmqkit, subscribe_zmqkit)
MANY = Peer("zmqkit, publish_many", publish_zmqkit_many, subscribe_zmqkit)
JOURNAL = Peer("zmqkit, journal", publish_zmqkit_journal, subscribe_zmqkit)
OTHERS = (
    Peer("zenoh", publish_zenoh, subscribe_zenoh, "zenoh"),
    Peer("pynng", publish_pynng, subscribe_pynng, "pynng", slower=10),
    Peer("Redis", publish_redis, subscribe_redis, "redis", "redis-server", 10),
    Peer("NATS", publish_nats, subscribe_nats, "nats", "nats-server", 10),
)
