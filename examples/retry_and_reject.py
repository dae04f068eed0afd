"""What a handler can say of a job: done, try again, never. What fails too often becomes a dead letter.

Prints what is done, each dead letter with its reason, and the counts: eight acked, two dead.
"""

import logging
import tempfile
import threading
from pathlib import Path

import zmqkit
from zmqkit.events import JobDead


def handle(job: zmqkit.Job[int]) -> None:
    """Gets the job, not only its body, because its parameter is annotated so."""
    if job.body == 3:
        raise zmqkit.Reject("threes are not wanted here")  # a dead letter at once
    if job.body == 5 and job.failures < 2:
        raise zmqkit.Retry(delay=0.1, reason="not ready")  # again in 0.1 s; counts as a failure
    if job.body == 7:
        raise ValueError("a bug in this handler")  # again after the pusher's backoff, until max_failures
    print(f"{job.body} is done" + (f", after {job.failures} failures" if job.failures else ""))


def main(journal: Path) -> None:
    logging.getLogger("zmqkit").setLevel(logging.CRITICAL)  # it logs failures; here they are made on purpose
    backoff = zmqkit.Backoff(first=0.01, cap=0.1)
    with zmqkit.Pusher("tcp://127.0.0.1:*", journal=journal, max_failures=4, backoff=backoff) as push:
        push.on(JobDead, lambda event: print(f"dead letter: {event.reason}"))
        push.send_many(range(10))
        with zmqkit.Puller[int](push.addresses[0]) as pull:
            worker = threading.Thread(target=pull.run, args=(handle,))
            worker.start()
            print(push.flush(timeout=30))
            pull.stop()
            worker.join()
    print(f"they are kept, with their bodies: zmqkit journal dead ls {journal.name}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name) / "jobs.db")
