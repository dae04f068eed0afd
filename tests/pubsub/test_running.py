"""run(), signals, cancellation, Ctrl-C and forks."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import zmqkit
from tests.pipeline.processes import program
from tests.pubsub.faces import LOCAL, PATIENCE_S, Face, Letterbox, take, there
from zmqkit import MessagesLost, UsageError

PROGRAMS = "tests.pubsub.programs"


async def run_until(face: Face, sub: Any, handler: Callable[..., object], done: Callable[[], object]) -> None:
    """Run a handler until this is true."""
    async with face.together() as start:
        start(sub.run, handler)
        await face.until(done)
        sub.stop()


def as_coroutine(face: Face, function: Callable[..., object]) -> Callable[..., object]:
    """The handler, as a coroutine function on the async faces."""
    if face.name == "sync":
        return function

    async def handle(body: Any) -> object:
        return function(body)

    return handle


async def test_run_gives_a_handler_the_bodies_in_order_until_stop(face: Face) -> None:
    async with face.Publisher() as pub, face.Subscriber(pub, start="earliest") as sub:
        for n in range(100):
            await pub.publish("a", n)
        found: list[int] = []
        await run_until(face, sub, as_coroutine(face, found.append), lambda: len(found) == 100)
    assert found == list(range(100))


async def test_run_gives_a_handler_the_message_if_it_is_annotated_so(face: Face) -> None:
    async with face.Publisher() as pub, face.Subscriber(pub, start="earliest") as sub:
        await pub.publish("a.b", 1)
        box: Letterbox[Any] = Letterbox(face)

        def handle(message: Any) -> None:
            box.put((message.topic, message.body))

        await run_until(face, sub, face.wants("Message", handle), lambda: box.all)
    assert box.all == [("a.b", 1)]


async def test_run_commits_what_a_handler_does_in_the_inbox_with_the_position(face: Face, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    db = sqlite3.connect(path)
    db.execute("create table effects (n integer)")
    db.commit()
    async with face.Publisher() as pub:
        for n in range(20):
            await pub.publish("a", n)

        def handle(body: int, connection: sqlite3.Connection) -> None:
            connection.execute("insert into effects values (?)", (body,))

        for _ in range(2):
            async with face.Subscriber(pub, inbox=path) as sub:
                await run_until(face, sub, handle, lambda: stored(db) == 20)
    db.close()


def stored(db: sqlite3.Connection) -> int:
    return int(db.execute("select count(*) from effects").fetchone()[0])


async def test_a_handler_that_raises_ends_run_and_with_retry_it_is_tried_again(face: Face) -> None:
    async with face.Publisher() as pub:
        await pub.publish("a", 0)
        async with face.Subscriber(pub, start="earliest") as sub:
            with pytest.raises(ZeroDivisionError):
                await sub.run(as_coroutine(face, lambda body: 1 / body))
        async with face.Subscriber(pub, start="earliest", on_error="retry") as sub:
            tries: list[int] = []

            def handle(body: int) -> None:
                tries.append(body)
                if len(tries) < 3:
                    raise ValueError

            await run_until(face, sub, as_coroutine(face, handle), lambda: len(tries) == 3)


async def test_lost_messages_end_run_unless_errors_are_to_be_passed_over(face: Face) -> None:
    async with face.Publisher(history=10) as pub:
        async with face.Subscriber(pub, cursor="reader") as sub:
            await pub.publish("a", -1)
            await (await take(sub)).commit()
        for n in range(50):
            await pub.publish("a", n)
        async with face.Subscriber(pub, cursor="reader") as sub:
            with pytest.raises(MessagesLost):
                await sub.run(as_coroutine(face, lambda body: None))
        async with face.Subscriber(pub, cursor="reader", on_error="skip") as sub:
            found: list[int] = []
            await run_until(face, sub, as_coroutine(face, found.append), lambda: found and found[-1] == 49)


async def test_run_ends_with_a_subscriber_that_was_too_slow_whatever_is_done_about_errors(face: Face) -> None:
    more: Any = {"on_slow": "disconnect", "on_error": "skip", "limits": zmqkit.Limits(queued_messages=10)}
    async with face.Publisher() as pub, face.Subscriber(pub, **more) as sub:
        await there(pub)
        for n in range(100):
            await pub.publish("a", n)
        await face.until(lambda: sub.stats()["messages_received"] > 10)
        with pytest.raises(MessagesLost):
            await sub.run(as_coroutine(face, lambda body: None))


async def test_threads_handle_at_once_and_a_cursor_passes_over_nothing(face: Face) -> None:
    async with face.Publisher() as pub:
        for n in range(200):
            await pub.publish("a", n)
        found: list[int] = []
        async with face.Subscriber(pub, cursor="reader") as sub, face.together() as start:

            async def run() -> None:
                await sub.run(found.append, threads=4)

            start(run)
            await face.until(lambda: len(found) == 200)
            sub.stop()
        assert sorted(found) == list(range(200))


async def test_a_handler_that_cannot_be_called_is_refused(face: Face) -> None:
    async with face.Publisher() as pub, face.Subscriber(pub) as sub:
        with pytest.raises(UsageError, match="takes nothing"):
            await sub.run(lambda: None)


# ---- signals -----------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["sync", "asyncio", "trio"])
def test_a_signal_ends_run_after_the_message_that_is_being_handled(kind: str, number: signal.Signals) -> None:
    with zmqkit.Publisher(LOCAL) as pub:
        for n in range(3):
            pub.publish("a", n)
        with program("run_subscriber", kind, pub.addresses[0], module=PROGRAMS) as running:
            assert running.heard() == ["begins", 0]
            running.signal(number)
            assert running.heard() == "stopping"
            running.tell()
            assert running.heard() == ["ends", 0]
            assert running.heard() == "returned"
            assert running.end() == 0


def test_ctrl_c_at_any_moment_loses_and_doubles_nothing() -> None:
    count = 20_000
    with (
        zmqkit.Publisher(LOCAL, history=2 * count) as pub,
        program("interrupted", pub.addresses[0], count, module=PROGRAMS) as running,
    ):
        assert running.heard() == "open"
        for first in range(0, count, 200):
            pub.publish_many(("a", n) for n in range(first, first + 200))
        bodies, interrupts = running.heard()
    assert bodies == list(range(count))
    assert interrupts > 5, "it was hardly interrupted"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_forked_child_is_refused_and_the_parent_goes_on() -> None:
    with program("forked", module=PROGRAMS) as running:
        assert running.heard() == ["forked,forked,forked", "parent"]
        assert running.end() == 0


# ---- cancelling --------------------------------------------------------------------


async def test_a_cancel_storm_over_receive_and_iteration_loses_and_doubles_nothing(async_face: Face) -> None:
    face, drawn = async_face, random.Random(11)
    count, cancelled = 300, 0
    found: list[int] = []

    async def over(verb: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal cancelled
        with anyio.move_on_after(drawn.uniform(0, 0.0008) if drawn.randrange(3) else 0):
            return await verb()
        cancelled += 1
        return None

    async with face.Publisher() as pub, face.Subscriber(pub) as sub, face.together() as start:
        await there(pub)
        messages = aiter(sub)

        async def publish() -> None:
            for n in range(count):
                await pub.publish("a", n)
                await anyio.sleep(0.0005)

        start(publish)
        with anyio.fail_after(PATIENCE_S):
            while len(found) < count:
                message = await over(messages.__anext__ if len(found) % 2 else sub.receive)
                if message is not None:
                    found.append(message.body)
    assert found == list(range(count))
    assert cancelled > 20


async def test_a_cancelled_publish_goes_on_or_was_not_begun(async_face: Face, tmp_path: Path) -> None:
    face, drawn = async_face, random.Random(3)
    async with face.Publisher(journal=tmp_path / "p.db") as pub:
        returned: dict[int, int] = {}
        for n in range(60):
            with anyio.move_on_after(drawn.uniform(0, 0.004) if drawn.randrange(4) else 0):
                returned[await pub.publish("a", n)] = n
        last = await pub.publish("a", "end")
        async with face.Subscriber(pub, start="earliest") as sub:
            found: dict[int, Any] = {}
            while (message := await take(sub)).body != "end":
                found[message.sequence] = message.body
    assert returned.items() <= found.items()
    assert len(set(found.values())) == len(found)
    assert max(found, default=0) < last
