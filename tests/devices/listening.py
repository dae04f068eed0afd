"""Programs that the tests of forwarders run as processes of their own; see `tests.pipeline.processes`."""

from __future__ import annotations

import contextlib
import os
import sys

from tests.pipeline.programs import say
from zmqkit import Heartbeat, Subscriber
from zmqkit.devices.forwarding import ForwardEngine
from zmqkit.devices.sides import Side
from zmqkit.errors import Forked

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


def fork(publisher: str) -> None:
    """Fork with an open forwarder: say how the child leaves, what the parent forwards, and if its port is free then."""
    made = ForwardEngine(name="f", frontend=Side(connect=publisher), backend=Side(bind="tcp://127.0.0.1:*"))
    made.open()
    if (child := os.fork()) == 0:
        with contextlib.suppress(Forked):
            made.pause()
            sys.exit(1)
        made.close(1.0)
        sys.exit(17)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with Subscriber(made.backend_addresses[0], topics="#", start="earliest") as subscriber:
        message = subscriber.receive(PATIENCE_S)
    address = made.backend_addresses[0]
    made.close(1.0)
    again = ForwardEngine(name="f", frontend=Side(connect=publisher), backend=Side(bind=address))
    again.open()
    say([code, message and message.body, again.backend_addresses == (address,)])
    again.close(1.0)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
