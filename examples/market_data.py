"""Market data over a bad cable: quotes are fanned out live, and what a broken connection swallowed is fetched.

Between publisher and subscriber stands a relay that plays the cable. It is pulled in the middle of the stream, quotes
are published meanwhile, and it is plugged in again. Prints which quotes came live and which from the publisher's
history; all of them came, in order.
"""

import contextlib
import socket
import threading

import zmqkit
from zmqkit.events import GapFound

QUOTES, PULL_AT, PLUG_AT = 3_000, 1_000, 2_000
SYMBOLS = ("gold", "silver", "platinum")


class Cable:
    """Carries bytes between a port of its own and another one, and can be pulled."""

    def __init__(self, port: int) -> None:
        self.plugged_in = threading.Event()
        self.plugged_in.set()
        self._port = port
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def pull(self) -> None:
        self.plugged_in.clear()
        for end in self._ends:
            with contextlib.suppress(OSError):  # it is closed already
                end.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        while True:
            near, _ = self._listener.accept()
            if not self.plugged_in.is_set():
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._port))
            self._ends = [near, far]
            for here, there in ((near, far), (far, near)):
                threading.Thread(target=_carry, args=(here, there), daemon=True).start()


def _carry(here: socket.socket, there: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it was pulled
        while data := here.recv(65536):
            there.sendall(data)
        there.shutdown(socket.SHUT_RDWR)


def publish(feed: zmqkit.Publisher, first: int, end: int) -> None:
    for n in range(first, end):
        feed.publish(f"quotes.{SYMBOLS[n % 3]}", {"n": n, "bid": 1000 + n % 50})


def main() -> None:
    # 10,000 quotes are kept: a subscriber that misses some can ask for them.
    with zmqkit.Publisher("tcp://127.0.0.1:*", history=10_000) as feed:
        cable = Cable(int(feed.addresses[0].rpartition(":")[2]))
        subscriber = zmqkit.Subscriber(cable.address, topics=["quotes.gold", "quotes.silver"])
        subscriber.on(GapFound, lambda event: print("noticed:", event))
        with subscriber:
            feed.wait_for_subscribers(1, topic="quotes.gold", timeout=20)
            publish(feed, 0, PULL_AT)
            wanted = [n for n in range(QUOTES) if n % 3 != 2]  # platinum was not asked for
            came = [subscriber.receive()]

            cable.pull()
            publish(feed, PULL_AT, PLUG_AT)
            cable.plugged_in.set()
            publish(feed, PLUG_AT, QUOTES)

            while len(came) < len(wanted):
                came.append(subscriber.receive())

    numbers = [message.body["n"] for message in came]
    fetched = [message.body["n"] for message in came if message.replayed]
    print(f"{len(numbers)} quotes came, {len(fetched)} of them from history: {min(fetched)} to {max(fetched)}")
    print("all of them, in the order in which they were published:", numbers == wanted)
    assert numbers == wanted


if __name__ == "__main__":
    main()
