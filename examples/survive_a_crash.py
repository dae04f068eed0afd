"""A process that dies by SIGKILL with work in hand, and its successor, which opens the journal and goes on.

Prints what the first process confirmed and did, and what the second found: together each job once. (A job that was
being done at the moment of death would be done again; here the process kills itself between two.)
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import zmqkit

COUNT, DONE_BEFORE = 1000, 100


def first_life(folder: Path) -> None:
    """Sends all, does some, dies."""
    push = zmqkit.Pusher("tcp://127.0.0.1:*", journal=folder / "jobs.db").open()
    print("first life: confirmed", push.send_many(range(COUNT)), flush=True)
    pull = zmqkit.Puller(push.addresses[0]).open()
    with (folder / "done.txt").open("a") as done:
        for _ in range(DONE_BEFORE):
            job = pull.receive()
            print(job.body, file=done, flush=True)
            job.ack(wait=True)  # returns once the pusher has it in its journal
    os.kill(os.getpid(), signal.SIGKILL)  # no goodbye, nothing closed


def second_life(folder: Path) -> None:
    """Sends nothing: opens the journal, and all that is not settled is delivered."""
    with (
        zmqkit.Pusher("tcp://127.0.0.1:*", journal=folder / "jobs.db") as push,
        zmqkit.Puller(push.addresses[0]) as pull,
        (folder / "done.txt").open("a") as done,
    ):
        waiting = push.stats()["waiting"]
        print("second life: found", waiting)
        for _ in range(int(waiting)):
            with pull.receive() as job:
                print(job.body, file=done)
        print("second life:", push.flush(timeout=30))


def main(folder: Path) -> None:
    died = subprocess.run([sys.executable, __file__, str(folder)], timeout=40)
    assert died.returncode == -signal.SIGKILL, died
    second_life(folder)
    numbers = (folder / "done.txt").read_text().split()
    print(f"done in all: {len(numbers)}, {len(set(numbers))} different ones")
    assert len(set(numbers)) == COUNT


if __name__ == "__main__":
    if len(sys.argv) > 1:
        first_life(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as name:
            main(Path(name))
