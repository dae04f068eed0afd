"""One end of the demo of devices, in a process of its own: a client, a server, a publisher or a subscriber.

Run as ``python -m zmqkit.demo.ends ROLE ADDRESS``. It tells how far it is on standard output, a line of JSON each time.
Its standard input is a leash. A line with a number has it go on to that number and end, ``stop`` has it end in good
order, and the end of the input, which comes too when the parent is killed, ends it at once.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter, deque
from typing import Any

import zmqkit

PAUSE_S = 0.004
"""Between two calls, and between two messages that are published: this is about loss, not about speed."""

TELL_S = 0.1
"""Between two lines about how far it is."""

IN_FLIGHT = 16
"""Calls under way at a time: some are whenever a device is killed."""

PATIENCE_S = 30.0
"""How long a call, or what is still to be read at the end, may take."""

HEARTBEAT = zmqkit.Heartbeat(interval=1.0, liveness=15)
"""A device has 15 seconds to be back before sessions through it end: plenty, also on a slow machine."""

HISTORY = 100_000
"""Messages that the publisher keeps: more than a short demo publishes."""

TOPIC = "numbers"


class Leash:
    """What the parent says.

    Attributes:
        stop: to end in good order.
        until: the number to go on to; None: not known yet.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.until: int | None = None
        threading.Thread(target=self._obey, name="leash", daemon=True).start()

    def _obey(self) -> None:
        while order := os.read(0, 1024):  # not sys.stdin: its lock, held at exit, would end the process with a crash
            word = order.split()[-1].decode()
            if word.isdecimal():
                self.until = int(word)
            self.stop.set()
        os._exit(1)


class Report:
    """Tells the parent, not too often."""

    def __init__(self) -> None:
        self._told = 0.0

    def __call__(self, now: bool = False, /, **what: Any) -> None:
        if now or time.monotonic() - self._told > TELL_S:
            self._told = time.monotonic()
            os.write(1, json.dumps(what).encode() + b"\n")


def serve(address: str, leash: Leash) -> None:
    """A server whose method is not idempotent: to execute a call twice would be wrong."""
    executed: Counter[int] = Counter()
    server = zmqkit.Server(connect=address, insecure=True, heartbeat=HEARTBEAT)

    @server.method
    def double(number: int) -> int:
        executed[number] += 1
        return number * 2

    report = Report()
    with server:
        while not leash.stop.wait(TELL_S):
            report(done=len(executed), **_of(server))
        numbers = _of(server)
    twice = sum(times - 1 for times in executed.values())
    report(True, ended=True, done=len(executed), twice=twice, **numbers)


def call(address: str, leash: Leash) -> None:
    """A client with some calls under way at all times."""
    asked = answered = 0
    failed: Counter[str] = Counter()
    report = Report()
    waiting: deque[tuple[int, zmqkit.Reply[Any]]] = deque()
    with zmqkit.Client(address, timeout=PATIENCE_S, insecure=True, heartbeat=HEARTBEAT) as client:
        while waiting or not leash.stop.is_set():
            if not leash.stop.is_set():
                asked += 1
                waiting.append((asked, client.submit("double", asked)))
            if len(waiting) >= IN_FLIGHT or leash.stop.is_set():
                number, reply = waiting.popleft()
                try:
                    right = reply.result() == number * 2
                    answered += right
                    if not right:
                        failed["WrongAnswer"] += 1
                except zmqkit.ZmqkitError as error:
                    failed[type(error).__name__] += 1
            report(done=answered, asked=asked, failed=failed)
            leash.stop.wait(PAUSE_S)
        report(True, ended=True, done=answered, asked=asked, failed=failed, **_of(client))


def publish(address: str, leash: Leash) -> None:
    """A publisher of numbers."""
    published = 0
    report = Report()
    with zmqkit.Publisher(connect=address, history=HISTORY, insecure=True, heartbeat=HEARTBEAT) as publisher:
        while not leash.stop.wait(PAUSE_S):
            published += 1
            publisher.publish(TOPIC, published)
            report(done=published)
        report(True, done=published, **_of(publisher))
        while leash.until is None:  # what is missed at the end is to be had from it
            time.sleep(TELL_S)
        report(True, ended=True, done=published, **_of(publisher))


def subscribe(address: str, leash: Leash) -> None:
    """A subscriber that wants each number once, in order."""
    read = lost = wrong = last = 0
    report = Report()
    with zmqkit.Subscriber(address, topics=TOPIC, start="earliest", insecure=True, heartbeat=HEARTBEAT) as subscriber:
        deadline: float | None = None
        while leash.until is None or last < leash.until:
            if leash.until is not None:
                deadline = deadline or time.monotonic() + PATIENCE_S
                if time.monotonic() > deadline:
                    break
            try:
                message = subscriber.receive(timeout=TELL_S)
            except zmqkit.MessagesLost as error:
                lost += 1
                print(error, file=sys.stderr, flush=True)
                continue
            if message is not None:
                wrong += message.body != last + 1
                last = message.body
                read += 1
            report(done=read, lost=lost, wrong=wrong, **_of(subscriber))
        report(True, ended=True, done=read, lost=lost, wrong=wrong, **_of(subscriber))


def _of(peer: Any) -> dict[str, int]:
    """The counters that the demo shows."""
    stats = peer.stats()
    return {name: int(stats.get(name, 0)) for name in ("sessions_resumed", "sessions_lost", "messages_recovered")}


ROLES = {"server": serve, "client": call, "publisher": publish, "subscriber": subscribe}


def main() -> None:
    """Be one of the ends until the leash says otherwise."""
    role, address = sys.argv[1:]
    ROLES[role](address, Leash())


if __name__ == "__main__":
    main()
