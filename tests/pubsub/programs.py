"""Programs that these tests run as processes of their own; see `tests.pipeline.processes`."""

from __future__ import annotations

import itertools
import os
import sys
from typing import Any

import anyio

import zmqkit
from tests.pipeline.programs import say, slow, slow_async
from tests.transport.interrupting import Interrupts
from zmqkit import Heartbeat, aio

QUICK = Heartbeat(interval=0.1)


def apply(address: str, inbox: str) -> None:
    """Effects by an inbox, each said after its commit; to be killed."""
    with zmqkit.Subscriber(address, inbox=inbox, heartbeat=QUICK) as sub:
        for message in sub:
            with message:
                with message.transaction() as db:
                    db.execute("insert into effects values (?)", (message.body,))
                say(message.body)


def telling(sub: Any) -> Any:
    """The subscriber, which says when it is stopped."""
    stop = sub.stop

    def stop_and_say() -> None:
        stop()
        if not sub.closed:
            os.write(1, b'"stopping"\n')  # in a signal handler: print may be at work just now

    sub.stop = stop_and_say
    return sub


def run_subscriber(face: str, address: str) -> None:
    """`Subscriber.run` until a signal; then say so."""
    if face == "sync":
        # run() opens it, with its signal handlers in place
        sub = telling(zmqkit.Subscriber(address, start="earliest"))
        sub.run(slow)
        sub.close()
    else:

        async def main() -> None:
            sub = telling(aio.Subscriber(address, start="earliest"))
            await sub.run(slow_async)
            await sub.close()

        anyio.run(main, backend=face)
    say("returned")


def interrupted(address: str, count: str) -> None:
    """Take so many messages in spite of Ctrl-C; say which, and how often it was interrupted."""
    bodies: list[Any] = []
    interrupts = Interrupts(0.004)
    wanted = int(count)
    with zmqkit.Subscriber(address, start="earliest") as sub:

        def take() -> None:
            # One statement takes and keeps a message: no interrupt comes between.
            # (and no `extend`: what it had taken would be lost with an interrupt)
            for message in itertools.islice(sub, min(50, wanted - len(bodies))):
                bodies.append(message.body)  # noqa: PERF401

        say("open")
        interrupts.until(lambda: len(bodies) >= wanted, take, lambda: None)
        say([bodies, interrupts.count])


def forked() -> None:
    """Fork with an open publisher and subscriber, say how the child is refused, and that the parent goes on."""
    with zmqkit.Publisher("tcp://127.0.0.1:*") as pub, zmqkit.Subscriber(pub.addresses[0]) as sub:
        pub.wait_for_subscribers(1, timeout=20)
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            told = []
            for verb in (lambda: pub.publish("a", 1), lambda: sub.receive(1), lambda: next(iter(sub))):
                try:
                    verb()
                    told.append("nothing")
                except zmqkit.Forked:
                    told.append("forked")
            os.write(writer, ",".join(told).encode())
            os._exit(0)
        os.waitpid(child, 0)
        said = os.read(reader, 1000).decode()
        pub.publish("a", "parent")
        message = sub.receive(20)
        assert message is not None
        say([said, message.body])


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
