"""The calculator on an event loop: coroutines as methods, a hundred calls at a time, cancellation that arrives.

`zmqkit.aio` bears the same names. A method may be a coroutine or a plain function, which then runs in a thread; sync
clients call this server as well. Prints how long a hundred slow calls took, and what became of a cancelled one.
"""

import asyncio
import time

import zmqkit
from zmqkit import aio

server = aio.Server("tcp://127.0.0.1:*")
cancelled = asyncio.Semaphore(0)


@server.method
async def add(a: int, b: int) -> int:
    """The sum, after some thought."""
    await asyncio.sleep(0.1)
    return a + b


@server.method
async def think(seconds: float) -> str:
    """Thinks, until nobody waits for it any more."""
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        print("server: think was cancelled")
        cancelled.release()
        raise
    return "42"


@server.method
def double(a: int) -> int:
    """A plain function, in a thread: it may block."""
    time.sleep(0.01)
    return 2 * a


async def main() -> None:
    async with server, aio.Client(server.addresses[0]) as calc:
        begun = time.monotonic()
        sums = await asyncio.gather(*(calc.call("add", n, 1) for n in range(100)))
        print("a hundred calls, the last one gave", sums[-1])
        print("one after the other they would have taken 10 s:", time.monotonic() - begun < 5)
        print("2 x 21 =", await calc.call("double", 21))

        # The time is out: the server is told, and its coroutine is cancelled.
        try:
            await calc.options(timeout=0.2).call("think", 3600)
        except zmqkit.NoReplyInTime:
            print("NoReplyInTime")
        await cancelled.acquire()

        # So it is when the caller is cancelled.
        task = asyncio.create_task(calc.call("think", 3600))
        await asyncio.sleep(0.2)
        task.cancel()
        await cancelled.acquire()


if __name__ == "__main__":
    asyncio.run(main())
