"""Echo servers and clients of other libraries, for benchmarks/reqrep.py: what a user would write with each.

Each peer runs its server in a process of its own and calls it from this one. One that is not installed is named.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import multiprocessing
import multiprocessing.connection
import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgpack

from benchmarks.places import broker, free_port

Pipe = multiprocessing.connection.Connection
Call = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Peer:
    """One library.

    Attributes:
        name: as it is printed.
        needs: the module to import, "" for none.
        serve: runs in a process of its own: sends its address through the pipe, then serves until it is killed.
        connect: a context manager that gives a function to call the server's echo with.
    """

    name: str
    needs: str
    serve: Callable[[Pipe], None]
    connect: Callable[[str], contextlib.AbstractContextManager[Call]]

    @property
    def missing(self) -> str:
        """What is not there, "" if all is."""
        if self.needs and importlib.util.find_spec(self.needs) is None:
            return f"{self.needs} is not installed"
        if self.name == "nats" and shutil.which("nats-server") is None:
            return "nats-server is not installed"
        return ""


@contextlib.contextmanager
def serving(serve: Callable[[Pipe], None]) -> Iterator[str]:
    """Run a server in a process of its own; gives its address."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=False)
    process.start()
    try:
        theirs.close()  # so that we see its end if it dies
        if not ours.poll(60):
            raise TimeoutError(f"{serve.__name__} did not start")
        yield ours.recv()
    finally:
        process.kill()
        process.join()


# ---- zmqkit ------------------------------------------------------------------------


def serve_zmqkit(pipe: Pipe) -> None:
    """A server with one short handler."""
    import zmqkit

    server = zmqkit.Server("tcp://127.0.0.1:0")

    @server.method
    def echo(body: Any) -> Any:
        return body

    with server:
        pipe.send(server.addresses[0])
        server.run()


@contextlib.contextmanager
def connect_zmqkit(address: str) -> Iterator[Call]:
    """A client's call."""
    import zmqkit

    with zmqkit.Client(address, timeout=60) as client:
        yield lambda body: client.call("echo", body)


# ---- raw ZeroMQ ----------------------------------------------------------------------


def serve_raw(pipe: Pipe) -> None:
    """REP, msgpack both ways: no deadline, no retry, no second client at a time."""
    import zmq

    rep = zmq.Context().socket(zmq.REP)
    pipe.send(f"tcp://127.0.0.1:{rep.bind_to_random_port('tcp://127.0.0.1')}")
    unpack, pack = msgpack.unpackb, msgpack.packb
    while True:
        rep.send(pack(unpack(rep.recv())))


def serve_raw_router(pipe: Pipe) -> None:
    """ROUTER, msgpack both ways, for clients with many calls in flight."""
    import zmq

    router = zmq.Context().socket(zmq.ROUTER)
    pipe.send(f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}")
    unpack, pack = msgpack.unpackb, msgpack.packb
    while True:
        route, number, body = router.recv_multipart()
        router.send_multipart([route, number, pack(unpack(body))])


@contextlib.contextmanager
def connect_raw(address: str) -> Iterator[Call]:
    """REQ."""
    import zmq

    context = zmq.Context()
    req = context.socket(zmq.REQ)
    req.connect(address)
    unpack, pack = msgpack.unpackb, msgpack.packb

    def call(body: Any) -> Any:
        req.send(pack(body))
        return unpack(req.recv())

    yield call
    context.destroy(linger=0)


# ---- the others ------------------------------------------------------------------------


def serve_rpyc(pipe: Pipe) -> None:
    """A threaded server; bodies travel as msgpack, since rpyc would hand out references to dicts."""
    import rpyc
    from rpyc.utils.server import ThreadedServer

    class Echo(rpyc.Service):  # type: ignore[misc]
        def exposed_echo(self, body: bytes) -> bytes:
            packed: bytes = msgpack.packb(msgpack.unpackb(body))
            return packed

    port = free_port()
    server = ThreadedServer(Echo, hostname="127.0.0.1", port=port)
    pipe.send(f"127.0.0.1:{port}")
    server.start()


@contextlib.contextmanager
def connect_rpyc(address: str) -> Iterator[Call]:
    """One connection."""
    import rpyc

    host, port = address.split(":")
    connection = rpyc.connect(host, int(port))
    echo = connection.root.echo
    yield lambda body: msgpack.unpackb(echo(msgpack.packb(body)))
    connection.close()


def serve_pyro5(pipe: Pipe) -> None:
    """A daemon."""
    import Pyro5.api

    @Pyro5.api.expose
    class Echo:
        def echo(self, body: Any) -> Any:
            return body

    Pyro5.config.SERIALIZER = "msgpack"
    daemon = Pyro5.api.Daemon(host="127.0.0.1")
    pipe.send(str(daemon.register(Echo())))
    daemon.requestLoop()


@contextlib.contextmanager
def connect_pyro5(address: str) -> Iterator[Call]:
    """A proxy."""
    import Pyro5.api

    Pyro5.config.SERIALIZER = "msgpack"
    with Pyro5.api.Proxy(address) as proxy:
        yield proxy.echo


def serve_pynng(pipe: Pipe) -> None:
    """REP, msgpack both ways."""
    import pynng

    address = f"tcp://127.0.0.1:{free_port()}"
    with pynng.Rep0(listen=address) as rep:
        pipe.send(address)
        while True:
            rep.send(msgpack.packb(msgpack.unpackb(rep.recv())))


@contextlib.contextmanager
def connect_pynng(address: str) -> Iterator[Call]:
    """REQ."""
    import pynng

    with pynng.Req0(dial=address) as req:

        def call(body: Any) -> Any:
            req.send(msgpack.packb(body))
            return msgpack.unpackb(req.recv())

        yield call


def _zenoh(**settings: str) -> Any:
    import zenoh

    config = zenoh.Config()
    config.insert_json5("mode", '"peer"')
    config.insert_json5("scouting/multicast/enabled", "false")
    for name, value in settings.items():
        config.insert_json5(f"{name}/endpoints", f'["{value}"]')
    return zenoh.open(config)


def serve_zenoh(pipe: Pipe) -> None:
    """A queryable, msgpack both ways."""
    address = f"tcp/127.0.0.1:{free_port()}"

    def answer(query: Any) -> None:
        query.reply(query.key_expr, msgpack.packb(msgpack.unpackb(query.payload.to_bytes())))

    with _zenoh(listen=address) as session:
        queryable = session.declare_queryable("echo", answer)
        pipe.send(address)
        threading.Event().wait()
        queryable.undeclare()


@contextlib.contextmanager
def connect_zenoh(address: str) -> Iterator[Call]:
    """A querier."""
    with _zenoh(connect=address) as session:

        def call(body: Any) -> Any:
            for reply in session.get("echo", payload=msgpack.packb(body)):
                return msgpack.unpackb(reply.ok.payload.to_bytes())
            raise LookupError("zenoh gave no reply")

        for _ in range(500):
            with contextlib.suppress(LookupError):
                call({})
                break
        yield call


def serve_zerorpc(pipe: Pipe) -> None:
    """A server; its own msgpack."""
    import zerorpc

    class Echo:
        def echo(self, body: Any) -> Any:
            return body

    server = zerorpc.Server(Echo())
    address = f"tcp://127.0.0.1:{free_port()}"
    server.bind(address)
    pipe.send(address)
    server.run()


@contextlib.contextmanager
def connect_zerorpc(address: str) -> Iterator[Call]:
    """A client."""
    import zerorpc

    client = zerorpc.Client(address)
    yield client.echo
    client.close()


def serve_nats(pipe: Pipe) -> None:
    """The broker, and a subscriber that answers."""
    import asyncio

    import nats

    port = free_port()
    with broker(["nats-server", "-a", "127.0.0.1", "-p", str(port)], port):

        async def main() -> None:
            client = await nats.connect(f"nats://127.0.0.1:{port}")

            async def answer(message: Any) -> None:
                await message.respond(msgpack.packb(msgpack.unpackb(message.data)))

            await client.subscribe("echo", cb=answer)
            await client.flush()
            pipe.send(f"nats://127.0.0.1:{port}")
            await asyncio.Event().wait()

        asyncio.run(main())


@contextlib.contextmanager
def connect_nats(address: str) -> Iterator[Call]:
    """A request; the library is asyncio's, so each call runs the loop until its reply."""
    import asyncio

    import nats

    loop = asyncio.new_event_loop()
    client = loop.run_until_complete(nats.connect(address))

    def call(body: Any) -> Any:
        reply = loop.run_until_complete(client.request("echo", msgpack.packb(body), timeout=10))
        return msgpack.unpackb(reply.data)

    yield call
    loop.run_until_complete(client.close())
    loop.close()


ZMQKIT = Peer("zmqkit", "", serve_zmqkit, connect_zmqkit)
RAW = Peer("raw REQ/REP", "", serve_raw, connect_raw)
OTHERS = (
    Peer("rpyc", "rpyc", serve_rpyc, connect_rpyc),
    Peer("Pyro5", "Pyro5", serve_pyro5, connect_pyro5),
    Peer("pynng", "pynng", serve_pynng, connect_pynng),
    Peer("zenoh", "zenoh", serve_zenoh, connect_zenoh),
    Peer("zerorpc", "zerorpc", serve_zerorpc, connect_zerorpc),
    Peer("nats", "nats", serve_nats, connect_nats),
)
