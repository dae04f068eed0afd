"""On trio: the very same classes as on asyncio, in a nursery. Needs ``pip install trio``.

A receive that runs into a timeout or is cancelled loses no job: here it is tried a hundred times while the jobs come.
Prints how many receives were cancelled, and that each job came once.
"""

import tempfile
from pathlib import Path

import trio

from zmqkit import aio

COUNT = 50


async def send(push: aio.Pusher) -> None:
    for n in range(COUNT):
        await push.send(n)
        await trio.sleep(0.003)


async def main(journal: Path) -> None:
    got: list[int] = []
    cancelled = 0
    async with aio.Pusher("tcp://127.0.0.1:*", journal=journal) as push:
        async with aio.Puller[int](push.addresses[0]) as pull, trio.open_nursery() as nursery:
            nursery.start_soon(send, push)
            while len(got) < COUNT:
                with trio.move_on_after(0.002) as scope:
                    async with await pull.receive() as job:
                        got.append(job.body)
                cancelled += scope.cancelled_caught
        print(await push.flush(timeout=30))
    print(f"{len(got)} jobs, {len(set(got))} different ones, {cancelled} receives cancelled")
    assert sorted(got) == list(range(COUNT))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        trio.run(main, Path(folder) / "jobs.db")
