"""A chat room without a server: everybody publishes, everybody subscribes, and a name brings them together.

Each person announces the room's name, and subscribes to whoever announces it, whenever they come. Three persons talk;
the third one comes late, and reads what was said before, because each publisher keeps its last messages. Prints the
room as the last one saw it.
"""

import asyncio
import uuid

from zmqkit import aio

ROOM = f"room-{uuid.uuid4().hex[:8]}"  # of its own, so that any number of these can run side by side


class Person:
    """One peer: a publisher of what is said, and a subscriber to what all say."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.heard: list[str] = []
        self._news = asyncio.Condition()
        self._mouth = aio.Publisher(announce=ROOM, name=name, history=100)
        self._ears = aio.Subscriber(f"zeroconf://{ROOM}", topics="said", start="earliest", name=name)

    async def __aenter__(self) -> "Person":
        await self._mouth.open()
        await self._ears.open()
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ears.stop()
        await self._listening
        await self._ears.close()
        await self._mouth.close()

    async def say(self, text: str) -> None:
        await self._mouth.publish("said", f"{self.name}: {text}")

    async def _listen(self) -> None:
        async for message in self._ears:  # until stop()
            async with self._news:
                self.heard.append(message.body)
                self._news.notify_all()

    async def heard_all(self, count: int) -> None:
        """Wait until so many things were heard, one's own included."""
        async with asyncio.timeout(30), self._news:
            await self._news.wait_for(lambda: len(self.heard) >= count)


async def main() -> None:
    async with Person("Ada") as ada, Person("Bob") as bob:
        await ada.say("is anybody here?")
        await bob.heard_all(1)
        await bob.say("yes, me")
        await ada.heard_all(2)

        async with Person("Cyd") as cyd:
            await cyd.heard_all(2)  # what was said before
            await cyd.say("hello! what did I miss? nothing, it seems")
            for person in (ada, bob, cyd):
                await person.heard_all(3)
            print("as Cyd saw it:")
            for line in cyd.heard:
                print("  ", line)

        await bob.say("and Cyd is gone")
        for person in (ada, bob):
            await person.heard_all(4)
        assert sorted(ada.heard) == sorted(bob.heard)
        print("Ada and Bob heard the same,", len(ada.heard), "lines")


if __name__ == "__main__":
    asyncio.run(main())
