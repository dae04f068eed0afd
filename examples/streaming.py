"""Streams in both directions: a generator as a method is a download, an iterator as an argument an upload.

Neither side is ever more than a window ahead of the other, so a stream may be longer than any memory. Prints how far a
generator got that nobody wanted to hear to the end, and the digest of what was uploaded.
"""

import hashlib
import itertools
from collections.abc import Iterator

import zmqkit

server = zmqkit.Server("tcp://127.0.0.1:*")
made = [0]


@server.method
def squares(most: int | None = None) -> Iterator[int]:
    """The squares of all numbers."""
    try:
        for n in itertools.count() if most is None else range(most):
            made[0] = n + 1
            yield n * n
    finally:
        print("server: the generator is closed")


@server.method
def digest(parts: Iterator[bytes]) -> str:
    """The checksum of what is uploaded. It arrives piece by piece."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


@server.method
def upper(lines: Iterator[str]) -> Iterator[str]:
    """Both at once: each line is answered while the next one is still to come."""
    for line in lines:
        yield line.upper()


def parts() -> Iterator[bytes]:
    for n in range(1000):
        yield b"%d\n" % n


def main() -> None:
    with server, zmqkit.Client(server.addresses[0]) as client:
        print("squares:", list(client.stream("squares", 5)))

        # One without an end: leaving the block tells the server that no more is wanted.
        with client.stream("squares") as endless:
            for square in endless:
                if square > 10_000:
                    break
        print("took what is up to", square, "and the server was at most a window ahead:", made[0] < 101 + 100)

        uploaded = client.call("digest", parts())
        print("digest:", uploaded[:16])
        assert uploaded == hashlib.sha256(b"".join(parts())).hexdigest()

        print("upper:", list(client.stream("upper", iter(["one", "two", "three"]))))


if __name__ == "__main__":
    main()
