"""Publishers and subscribers that are killed and stopped: ``python -m tests.chaos.pubsub.roles``.

A message's body is its *name*: ``journalled-0.2.17`` is the 17th of the second life of that publisher, which publishes
from one thread. A publisher writes down what it is about to publish, then that it was published; a subscriber writes
down what it gets, and what it is told, in the order in which it does. Neither reads what the other wrote:
`tests.chaos.pubsub.reader` does.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import time
from typing import Any

import anyio

import zmqkit
import zmqkit.aio
from tests.chaos.history import History
from tests.chaos.process import Process, main
from tests.chaos.pubsub.plan import BOUND_S, HISTORY, INTERVAL_S, PATTERNS, REST, TOPICS
from zmqkit import events
from zmqkit.devices.forwarding import ForwardEngine
from zmqkit.devices.sides import Side

HEARTBEAT = zmqkit.Heartbeat(interval=INTERVAL_S, liveness=round(BOUND_S / INTERVAL_S))
BIND_S = 20.0
"""So long a publisher tries to bind its ports: the life before may not be gone yet."""
PAUSE_S = 0.35
"""Between two things that are published, at most..."""
QUIET_S = 1.2
"""...but for longer silences now and then..."""
BURST = 200
"""...and bursts, of as many at once or one by one."""
LOOK_S = 0.3
"""How often a publisher looks who is there."""


class Publish(Process):
    """A publisher; the role says whether it has a journal."""

    def __call__(self) -> None:
        """Publish until there is the file `REST`; then stay, until told to finish."""
        deadline = time.monotonic() + BIND_S
        while True:
            publisher = self._make()
            try:
                publisher.open()
                break
            except zmqkit.AddressInUse:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        with publisher:
            self.follow_the_leash(publisher)
            self.tell(f"open {self.address}")
            looked = 0.0
            first = 1
            self.hasty = 0
            while not self.finish.is_set() and not (self.folder / REST).exists():
                if time.monotonic() - looked > LOOK_S:
                    looked = time.monotonic()
                    self._look(publisher)
                count = self._how_many()
                self._publish(publisher, first, count)
                first += count
                self.busy()
                self.finish.wait(self._pause())
            self.tell("rests")
            self.finish.wait()
        self.tell("done")

    def _make(self) -> zmqkit.Publisher:
        data, recovery = self.address.split(",")
        journalled = self.name not in HISTORY
        return zmqkit.Publisher(
            data,
            recovery=recovery,
            history=HISTORY.get(self.name, 100),
            journal=self.folder / f"{self.name}.journal" if journalled else None,
            durability="power" if self.name == "journalled-0" else "process",
            heartbeat=HEARTBEAT,
            name=f"{self.name}.{self.life}",
        )

    def _how_many(self) -> int:
        kind = self.rng.random()
        return 1 if kind < 0.7 else self.rng.randint(2, 25) if kind < 0.99 else self.rng.randint(50, BURST)

    def _pause(self) -> float:
        if self.hasty:
            self.hasty -= 1
            return 0.0
        kind = self.rng.random()
        self.hasty = self.rng.randint(20, BURST // 2) if kind < 0.005 else 0
        return self.rng.uniform(PAUSE_S, QUIET_S) if kind > 0.98 else self.rng.random() * PAUSE_S

    def _topic(self, number: int) -> str:
        return f"once.{self.name}.{number}" if self.rng.random() < 0.05 else self.rng.choice(TOPICS)

    def _publish(self, publisher: zmqkit.Publisher, first: int, count: int) -> None:
        one = self._topic(first)
        mixed = self.rng.random() < 0.7
        topics = [self._topic(first + at) if mixed else one for at in range(count)]
        names = [f"{self.name}.{self.life}.{first + at}" for at in range(count)]
        self.history.mention(f"publishing {first} {','.join(topics)}")
        if count == 1:
            offset = publisher.publish(topics[0], names[0])
            self.history.mention(f"published {first} {offset}")
        else:
            done = publisher.publish_many(zip(topics, names, strict=True))
            self.history.mention(f"published-many {first} {done}")

    def _look(self, publisher: zmqkit.Publisher) -> None:
        """Who is there gets all that is published from now on."""
        there = [each.name for each in publisher.subscribers() if each.mode != "joining"]
        if there:
            self.history.mention(f"sees {','.join(sorted(there))}")


class Subscribe(Process):
    """What all subscribers share: where they are, and what is written down."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__(arguments)
        self.received = History(self.folder / f"{self.name}.{self.life}.received")
        self.slow = self.rng.random() < 0.3
        self.numbers = itertools.count(1)

    def options(self) -> dict[str, Any]:
        """How this life subscribes."""
        limits = {"limits": zmqkit.Limits(queued_messages=100)} if self.slow else {}
        return {
            "topics": PATTERNS[self.name], "heartbeat": HEARTBEAT, "name": f"{self.name}.{self.life}", **limits,
            **self.more(),
        }  # fmt: skip

    def more(self) -> dict[str, Any]:
        """What this role adds to that."""
        return {}

    def __call__(self) -> None:
        """Take messages until told to finish."""
        loop = self.rng.choice([None, None, "asyncio", "trio"])
        self.history.mention(f"works {loop or 'in a thread'}{', slowly' if self.slow else ''}")
        addresses = self.address.split(",")
        if loop is None:
            with zmqkit.Subscriber[str](*addresses, **self.options()) as subscriber:
                self.opened(subscriber)
                self.loop(subscriber)
        else:
            anyio.run(self._on_loop, addresses, backend=loop)
        self.tell("done")

    async def _on_loop(self, addresses: list[str]) -> None:
        async with zmqkit.aio.Subscriber[str](*addresses, **self.options()) as subscriber:
            self.opened(subscriber)
            await self.loop_async(subscriber)

    def opened(self, subscriber: Any) -> None:
        """Listen to what it tells, and obey the parent."""
        note = self.history.mention
        subscriber.on(
            events.EpochChanged,
            lambda e: note(f"epoch {e.publisher} {e.epoch} {e.last} {'unknown' if e.tail_unknown else 'known'}"),
        )
        subscriber.on(events.RecoveryUnreachable, lambda e: note(f"unreachable {e.publisher or '-'}"))
        self.on_finish = subscriber.stop
        self.follow_the_leash(subscriber)
        self.tell(f"open {self.address}")

    # ---- taking --------------------------------------------------------------------

    def loop(self, subscriber: zmqkit.Subscriber[str]) -> None:
        """Take messages in one of the ways there are."""
        polls = self.rng.random() < 0.3
        while not self.finish.is_set():
            try:
                if polls:
                    message = subscriber.receive(timeout=0.5)
                    if message is not None:
                        self.handle(message)
                else:
                    for each in subscriber:
                        self.handle(each)
                    return
            except zmqkit.MessagesLost as error:
                self.lost(error)
            except zmqkit.Closed:
                return

    async def loop_async(self, subscriber: zmqkit.aio.Subscriber[str]) -> None:
        """The same on an event loop."""
        while not self.finish.is_set():
            try:
                async for message in subscriber:
                    await self.handle_async(message)
                return
            except zmqkit.MessagesLost as error:
                self.lost(error)

    def handle(self, message: zmqkit.Message[str]) -> None:
        """Deal with a message."""
        self.got(message)
        time.sleep(self.tired())

    async def handle_async(self, message: zmqkit.aio.Message[str]) -> None:
        """The same on an event loop."""
        self.got(message)
        await anyio.sleep(self.tired())

    def tired(self) -> float:
        """So many seconds a message takes."""
        kind = self.rng.random()
        if not self.slow:
            return 0.3 if kind < 0.0005 else 0.0
        return 1.0 if kind < 0.005 else 0.01 if kind < 0.1 else 0.0

    # ---- writing down ----------------------------------------------------------------

    def got(self, message: Any) -> None:
        """A message was handed to us."""
        number = next(self.numbers)
        if self.plant == "careless-subscriber" and number % 500 == 0:
            return
        self.received.mention(
            f"got {message.publisher} {message.epoch} {message.sequence} {message.topic} {message.body} "
            f"{'replayed' if message.replayed else 'live'}"
        )
        self.busy()

    def lost(self, error: zmqkit.MessagesLost) -> None:
        """We were told that messages are lost."""
        if self.plant != "forgiving-subscriber":
            topics = ",".join(error.topics) or "-"
            self.received.mention(f"lost {error.publisher} {error.epoch} {error.first} {error.last} {topics}")


class Live(Subscribe):
    """Without a position that survives: each life begins anew."""

    def more(self) -> dict[str, Any]:
        """Where it starts."""
        return {"start": self.rng.choice(["latest", "latest", "earliest"])}


class Cursor(Subscribe):
    """With a position at the publishers."""

    def more(self) -> dict[str, Any]:
        """The cursor."""
        return {"cursor": self.name}

    def handle(self, message: zmqkit.Message[str]) -> None:
        """Deal with a message, in one of the ways there are."""
        kind = self.rng.random()
        if kind < 0.02:
            self.got(message)
            try:
                message.commit()
            except zmqkit.CursorNotMoved:
                self.committed(message, "not-")
            else:
                self.committed(message)
        elif kind < 0.5:
            with message:
                super().handle(message)
        else:
            super().handle(message)

    async def handle_async(self, message: zmqkit.aio.Message[str]) -> None:
        """The same on an event loop."""
        kind = self.rng.random()
        if kind < 0.02:
            self.got(message)
            try:
                await message.commit()
            except zmqkit.CursorNotMoved:
                self.committed(message, "not-")
            else:
                self.committed(message)
        elif kind < 0.5:
            async with message:
                await super().handle_async(message)
        else:
            await super().handle_async(message)

    def committed(self, message: Any, prefix: str = "") -> None:
        """This one, and all before it, need not come again; or nobody is left to keep that."""
        self.received.mention(f"{prefix}committed {message.publisher} {message.epoch} {message.sequence}")


class Applied(Subscribe):
    """With a position in a file of its own: what it does is a row there."""

    def more(self) -> dict[str, Any]:
        """The inbox."""
        return {"inbox": self.folder / f"{self.name}.sqlite", "on_error": "retry"}

    def handle(self, message: zmqkit.Message[str]) -> None:
        """Apply a message."""
        with message:
            with message.transaction() as db:
                self.apply(message, db)
            self.got(message)
            time.sleep(self.tired())

    async def handle_async(self, message: zmqkit.aio.Message[str]) -> None:
        """The same on an event loop."""
        async with message:
            async with message.transaction() as db:
                self.apply(message, db)
            self.got(message)
            await anyio.sleep(self.tired())

    def apply(self, message: Any, db: Any) -> None:
        """The effect: a row. Nothing keeps it from being there twice but the position."""
        db.execute("create table if not exists applied (publisher text, epoch text, offset int, topic text, name text)")
        if self.plant != "lazy-inbox" or message.sequence % 100:
            row = (message.publisher, message.epoch, message.sequence, message.topic, message.body)
            db.execute("insert into applied values (?, ?, ?, ?, ?)", row)
        if self.rng.random() < 0.005:
            raise RuntimeError("to see that it is rolled back, and comes again")


class Forward(Process):
    """The forwarder; its address is what it binds, and then those of all publishers."""

    def __call__(self) -> None:
        """Forward until told to finish."""
        deadline = time.monotonic() + BIND_S
        while True:
            engine = self._make()
            try:
                engine.open()
                break
            except zmqkit.AddressInUse:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        self.closed = False
        self.stats = engine.stats
        self.follow_the_leash(self)
        self.tell(f"open {self.address}")
        while not self.finish.wait(0.05):
            if engine.stats()["sessions"] and engine.stats()["backend_messages_sent"]:
                self.busy()
        engine.close(1.0)
        self.tell("done")

    def _make(self) -> ForwardEngine:
        bind, *connect = self.address.split(",")
        return ForwardEngine(
            name=f"{self.name}.{self.life}",
            frontend=Side(connect=connect),
            backend=Side(bind=bind),
            heartbeat=HEARTBEAT,
            ended=lambda error: logging.error("the forwarder ended by itself: %r", error),
        )


if __name__ == "__main__":
    main(
        {
            "journalled": Publish,
            "memory": Publish,
            "inbox": Applied,
            "cursor": Cursor,
            "live": Live,
            "forwarder": Forward,
        }
    )
