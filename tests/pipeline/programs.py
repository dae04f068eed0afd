"""Programs that these tests run as processes of their own; see `tests.pipeline.processes`."""

from __future__ import annotations

import json
import sys
from typing import Any

import zmqkit
from zmqkit import Heartbeat


def say(what: object) -> None:
    print(json.dumps(what), flush=True)


def heard() -> Any:
    return json.loads(sys.stdin.readline())


# ---- crews ---------------------------------------------------------------------------


def hold(address: str, count: str, interval: str = "0.2") -> None:
    """Take so many jobs, say which, then do as told: "ack" them, or "settle" them and say what that brought."""
    with zmqkit.Puller(address, heartbeat=Heartbeat(float(interval))) as pull:
        jobs = [pull.receive() for _ in range(int(count))]
        say([[job.id, job.body, job.deliveries, job.failures] for job in jobs])
        while (told := heard()) is not None:
            if told == "ack":
                for job in jobs:
                    job.ack()
            else:
                outcomes = []
                for job in jobs:
                    try:
                        job.ack(wait=True)
                        outcomes.append("stored")
                    except zmqkit.LeaseLost:
                        outcomes.append("lost")
                say(outcomes)


def leave_behind(journal: str, count: str) -> None:
    """Journal so many messages, deliver none; say the ids and wait to be killed."""
    push = zmqkit.Pusher("tcp://127.0.0.1:*", journal=journal).open()
    say([push.send(n, headers={"n": str(n)}).id for n in range(int(count))])
    heard()


# ---- the program runs ----------------------------------------------------------------


def main() -> None:
    _, name, *args = sys.argv
    globals()[name](*args)


if __name__ == "__main__":
    main()
