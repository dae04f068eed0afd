"""A class as a service, and a proxy that a type checker understands: the Protocol is all that both sides share.

`@zmqkit.method` marks what is served, and leaves it a plain method; `include` serves the marked ones of an instance.
Prints what the stock is before and after, and the rows of a stream.
"""

from collections.abc import Iterator
from typing import Protocol

import zmqkit


class Stock(Protocol):
    """What the service offers. Usually in a module that clients import too."""

    def count(self, item: str) -> int: ...
    def take(self, item: str, amount: int) -> int: ...
    def rows(self) -> Iterator[tuple[str, int]]: ...


class Shelf:
    """A stock in memory."""

    def __init__(self, **items: int) -> None:
        self.items = items

    @zmqkit.method(idempotent=True)
    def count(self, item: str) -> int:
        """How many there are."""
        return self.items.get(item, 0)

    @zmqkit.method(concurrency=1)  # one at a time: a second one is refused as Overloaded
    def take(self, item: str, amount: int) -> int:
        """Take some away. Returns how many are left."""
        left = self.count(item) - amount  # still a plain method
        if left < 0:
            raise zmqkit.ServiceError("out-of-stock", f"there are only {self.count(item)} {item}")
        self.items[item] = left
        return left

    @zmqkit.method
    def rows(self) -> Iterator[tuple[str, int]]:
        """All of it, row by row."""
        yield from sorted(self.items.items())

    def burn_down(self) -> None:
        """Not marked, so nobody can call it from elsewhere."""
        self.items.clear()


def main() -> None:
    server = zmqkit.Server("tcp://127.0.0.1:*")
    server.include(Shelf(apples=5, pears=3))
    server.include(Shelf(nails=1000), prefix="cellar.")  # another instance, under other names

    with server, zmqkit.Client(server.addresses[0]) as client:
        stock = client.proxy(Stock)  # type: ignore[type-abstract]  # mypy's own rule for Protocols; others need none
        print("apples:", stock.count("apples"))
        print("apples left:", stock.take("apples", amount=2))
        for item, count in stock.rows():  # the Protocol says that it gives an iterator: a stream
            print("row:", item, count)
        try:
            stock.take("pears", 4)
        except zmqkit.RemoteError as error:
            print("refused:", error.code)

        print("nails in the cellar:", client.proxy().cellar.count("nails"))
        try:
            client.call("burn_down")
        except zmqkit.UnknownMethod:
            print("burn_down is not served")


if __name__ == "__main__":
    main()
