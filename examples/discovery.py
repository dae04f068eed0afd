"""Names instead of addresses: who announces a name is found by all who look for it, whenever either comes.

The puller comes first and finds nobody; then comes one pusher, and while it is there another one. Prints who was found,
and what came.
"""

import uuid

import zmqkit
from zmqkit.events import PeerFound

NAME = f"example-{uuid.uuid4().hex[:8]}"  # of its own, so that any number of these can run side by side


def main() -> None:
    with zmqkit.Puller(f"zeroconf://{NAME}") as pull:
        pull.on(PeerFound, lambda event: print("found", event.address))

        with zmqkit.Pusher(announce=NAME, name="first") as first:
            print("first is at", *first.addresses)  # a free port of this host: announce= alone binds one
            first.send("one")
            with pull.receive() as job:
                print("got", job.body)

            with zmqkit.Pusher(announce=NAME, name="second") as second:
                print("second is at", *second.addresses)
                second.send("two")
                with pull.receive() as job:
                    print("got", job.body)
                second.flush(timeout=10)

            # The second one said goodbye; the first one is still there.
            first.send("three")
            with pull.receive() as job:
                print("got", job.body)
            first.flush(timeout=10)


if __name__ == "__main__":
    main()
