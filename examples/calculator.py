"""A server with two methods and a client that calls them: results, a refusal, an error, many calls at a time.

Server and client are in one program here; usually they are in two, on one machine or on several. Prints the results,
and by which exception each failed call ended.
"""

import logging
import math

import zmqkit

server = zmqkit.Server("tcp://127.0.0.1:*")


@server.method(idempotent=True)  # done twice it does no harm: it may be sent again when a server is lost
def add(a: float, b: float) -> float:
    """The sum of two numbers."""
    return a + b


@server.method
def divide(a: float, b: float) -> float:
    """One number by another."""
    if b == 0:
        raise zmqkit.ServiceError("division-by-zero", "nobody divides by 0", data={"a": a})
    return a / b


@server.method
def root(a: float) -> float:
    """The square root. Of a negative number it raises what Python raises."""
    return math.sqrt(a)


def main() -> None:
    logging.getLogger("zmqkit").setLevel(logging.CRITICAL)  # what handlers raise is logged; here it is done on purpose
    with server, zmqkit.Client(server.addresses[0], timeout=5) as calc:
        print("2 + 3 =", calc.call("add", 2, 3))
        print("7 / 2 =", calc.call("divide", a=7, b=2))

        # As if it were an object of ours.
        print("1 + 1 =", calc.proxy().add(1, 1))

        # Many at a time: a Reply is a concurrent.futures.Future.
        replies = [calc.submit("add", n, n) for n in range(5)]
        print("doubled:", [reply.result() for reply in replies])

        try:
            calc.call("divide", 1, 0)
        except zmqkit.RemoteError as error:  # executed, and it raised; on purpose: with a code, for programs
            print("RemoteError:", error.code, error.data)
        try:
            calc.call("root", -1)
        except zmqkit.RemoteError as error:  # executed, and it raised
            print("RemoteError:", error.type)
        try:
            calc.call("add", 2)
        except zmqkit.BadArguments as error:  # refused; nothing was executed
            print("BadArguments:", error)
        try:
            calc.call("subtract", 2, 1)
        except zmqkit.UnknownMethod as error:  # refused; nothing was executed
            print("UnknownMethod:", error.code)

        for method in calc.methods():
            print("it offers:", method["signature"], "-", method["doc"])


if __name__ == "__main__":
    main()
