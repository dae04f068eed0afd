"""On asyncio: the same names in `zmqkit.aio`, with ``async with`` and ``async for``.

A cancelled task gives its jobs back, uncounted: nothing is lost, and here the other tasks finish the work. Prints how
many jobs each task did and the counts.
"""

import asyncio
import tempfile
from collections import Counter
from pathlib import Path

from zmqkit import aio

COUNT = 300


async def work(name: str, pull: aio.Puller[int], done: Counter[str]) -> None:
    """Several tasks may share one puller."""
    async for job in pull:
        async with job:  # acks; a cancellation releases the job, an exception nacks it
            await asyncio.sleep(0.002)
            done[name] += 1


async def main(journal: Path) -> None:
    done: Counter[str] = Counter()
    async with aio.Pusher("tcp://127.0.0.1:*", journal=journal) as push, aio.Puller[int](push.addresses[0]) as pull:
        tasks = [asyncio.create_task(work(f"task {n}", pull, done)) for n in range(4)]
        await push.send_many(range(COUNT // 2))
        await push.flush(timeout=30)
        tasks[0].cancel()  # in the middle of whatever it does
        await push.send_many(range(COUNT // 2, COUNT))
        print(await push.flush(timeout=30))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    print(dict(sorted(done.items())))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder) / "jobs.db"))
