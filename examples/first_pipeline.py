"""The smallest durable pipeline: what `send` has returned from is on the disk, and stays there until it is settled.

Prints each job as it is done, then the pusher's counts: five acked.
"""

import tempfile
from pathlib import Path

import zmqkit


def main(folder: Path) -> None:
    with zmqkit.Pusher("tcp://127.0.0.1:*", journal=folder / "jobs.db") as push:
        for name in ("ada", "grace", "barbara", "frances", "radia"):
            push.send({"greet": name})
        print("in the journal:", push.stats()["waiting"])

        # Usually this is another process, or many: they may come at any time.
        with zmqkit.Puller(push.addresses[0]) as pull:
            for _ in range(5):
                with pull.receive() as job:  # acks at the end of the block
                    print("hello,", job.body["greet"])
            print(push.flush(timeout=10))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
