"""A pusher that is faster than its workers: it waits, or is told that there is no room. Nothing grows without bound.

`max_waiting` bounds what is accepted and not settled; `prefetch` bounds what a worker holds. Prints when there was no
room, and the most that ever waited.
"""

import threading
import time

import zmqkit

MAX_WAITING = 20
COUNT = 200


def slowly(body: int) -> None:
    time.sleep(0.005)


def main() -> None:
    with zmqkit.Pusher("tcp://127.0.0.1:*", max_waiting=MAX_WAITING) as push:
        accepted = 0
        try:
            while True:
                push.send(accepted, timeout=0)  # 0: do not wait for room
                accepted += 1
        except zmqkit.Full as error:
            print(f"{accepted} accepted, then {type(error).__name__}: {error}")

        with zmqkit.Puller[int](push.addresses[0], prefetch=5) as pull:
            worker = threading.Thread(target=pull.run, args=(slowly,))
            worker.start()
            most = 0.0
            began = time.monotonic()
            for n in range(accepted, COUNT):
                push.send(n)  # waits for room: the sender goes at the worker's pace
                most = max(most, push.stats()["waiting"])
            print(f"{COUNT - accepted} more in {time.monotonic() - began:.1f} s; at most {most:.0f} waited")
            print(push.flush(timeout=30))
            pull.stop()
            worker.join()
    assert most <= MAX_WAITING


if __name__ == "__main__":
    main()
