"""A subscriber that the tests of forwarders run as a process of its own; see `tests.pipeline.processes`."""

from __future__ import annotations

import sys

from tests.pipeline.programs import say
from zmqkit import Heartbeat, Subscriber

PATIENCE_S = 30.0


def count(address: str, most: str) -> None:
    """Take so many messages, and say which: the first element of each body."""
    with Subscriber(address, topics="#", heartbeat=Heartbeat(interval=5.0)) as subscriber:
        say("open")
        found = []
        for _ in range(int(most)):
            message = subscriber.receive(PATIENCE_S)
            found.append(None if message is None else message.body[0])
        say(found)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
