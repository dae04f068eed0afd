"""What is seen from outside: events, of one peer or of all, and counters."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import pytest

import zmqkit
from tests.pipeline.faces import LOCAL, PATIENCE_S, Face, Letterbox, handle, listen, take
from zmqkit import Settled, events


async def test_events_tell_a_life_from_meeting_to_parting(face: Face) -> None:
    async with face.Pusher(LOCAL, name="the pusher") as push:
        box = listen(face, push, events.Event)
        pull = await face.Puller(push.addresses[0], name="the puller").open()
        found = await box.next()
        assert isinstance(found, events.PeerFound)
        assert found.peer == "the pusher"
        receipt = await push.send("x")
        await (await take(pull)).nack(delay=0, reason="no")
        failed = await box.next()
        assert failed == events.JobFailed("the pusher", receipt.id, "no", "", 1)
        await (await take(pull)).reject("never")
        assert await box.next() == events.JobDead("the pusher", receipt.id, "never")
        await push.send("held")
        await take(pull)
        await pull.close()
        # A clean close gives back by itself, so nothing has to be taken back.
        lost = await box.next()
        assert isinstance(lost, events.PeerLost)
        assert (lost.instance, lost.reason) == (found.instance, "goodbye: closed")
        async with face.Puller(push.addresses[0]) as pull:
            await handle(pull, 1)
            await push.flush(PATIENCE_S)


async def test_a_callback_hears_its_own_type_until_it_is_removed(face: Face) -> None:
    push = face.Pusher(LOCAL)
    dead: Letterbox[Any] = Letterbox(face)
    everything: Letterbox[Any] = Letterbox(face)
    remove = push.on(events.JobDead, dead.put)  # before it is opened
    async with push, face.Puller(push.addresses[0]) as pull:
        remove_all = push.on(events.Event, everything.put)
        for n in range(2):
            await push.send(n)
            await (await take(pull)).reject(str(n))
        assert [(await dead.next()).reason for _ in range(2)] == ["0", "1"]
        remove()
        remove()  # again: nothing happens
        await push.send(2)
        await (await take(pull)).reject("2")
        while (await everything.next()).__class__ is not events.JobDead or len(everything.all) < 3:
            pass
        remove_all()
        await push.flush(PATIENCE_S)
        assert len(dead.all) == 2


async def test_zmqkit_on_hears_all_peers_of_the_process(face: Face) -> None:
    box: Letterbox[Any] = Letterbox(face)
    remove = face.module.on(events.PeerFound, box.put)
    try:
        async with face.Pusher(LOCAL, name="a") as push, face.Puller(push.addresses[0], name="b"):
            assert sorted([(await box.next()).peer, (await box.next()).peer]) == ["a", "b"]
    finally:
        remove()
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]):
        await push.wait_for_peers(1, timeout=PATIENCE_S)
    assert len(box.all) == 2


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_a_callback_that_raises_is_logged_and_harms_nobody(
    face: Face, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    def bad(event: events.Event) -> None:
        raise error("in a callback")

    remove = zmqkit.on(events.Event, bad)
    try:
        async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
            push.on(events.JobDead, bad)
            await push.send("x")
            await (await take(pull)).reject("x")
            assert await push.flush(PATIENCE_S) == Settled(dead=1)
            await face.until(lambda: push.stats()["io_callback_errors"] == 1)
    finally:
        remove()
    assert "in a callback" in caplog.text


async def test_counters_tell_what_was_done(face: Face) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        await push.send_many(range(10))
        await handle(pull, 6)
        await (await take(pull)).nack(delay=0)
        await (await take(pull)).reject("no")
        await (await take(pull)).release()
        await handle(pull, 3)
        assert await push.flush(PATIENCE_S) == Settled(acked=9, dead=1)
        told, taken = push.stats(), pull.stats()
        counted = {name: told[name] for name in ("sent", "acked", "dead", "failed", "delivered", "sessions_opened")}
        assert counted == {"sent": 10, "acked": 9, "dead": 1, "failed": 1, "delivered": 12, "sessions_opened": 1}
        counted = {name: taken[name] for name in ("received", "acked", "nacked", "rejected", "released", "jobs_lost")}
        assert counted == {"received": 12, "acked": 9, "nacked": 1, "rejected": 1, "released": 1, "jobs_lost": 0}
        assert all(isinstance(value, int | float) for value in (*told.values(), *taken.values()))


async def test_wait_for_peers_waits_for_so_many(face: Face) -> None:
    async with face.Pusher(LOCAL) as push:
        pullers = [face.Puller(push.addresses[0]) for _ in range(3)]
        there: Letterbox[int] = Letterbox(face)

        async def wait(count: int) -> None:
            await push.wait_for_peers(count, timeout=PATIENCE_S)
            there.put(count)

        async with face.together() as start:
            for count in (3, 2, 1):
                start(wait, count)
            for number, pull in enumerate(pullers, start=1):
                await pull.open()
                assert await there.next() == number
        for pull in pullers:
            await pull.close()


def tried(*verbs: Callable[[], object]) -> list[str]:
    """What each of these verbs came to."""
    found = []
    for verb in verbs:
        try:
            found.append(f"returned {verb()!r}")
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


def test_what_waits_is_refused_in_a_callback_and_does_nothing() -> None:
    """It waited for its own thread: for ever, whatever its timeout."""
    answers: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    with zmqkit.Pusher(LOCAL) as push, zmqkit.Puller[Any](push.addresses[0]) as pull:
        receipt = push.send("dead")
        dead = pull.receive(PATIENCE_S)

        def callback(event: events.JobDead) -> None:
            verbs: list[Callable[[], object]] = [
                lambda: push.send("never"),
                lambda: push.send("never", timeout=0),
                lambda: push.send_many(["never"], timeout=1),
                lambda: push.flush(1),
                lambda: push.wait_for_peers(5, timeout=1),
                lambda: waiting.wait(timeout=1),
                lambda: push.close(),
            ]
            waiting = push.send_nowait("this one")
            answers.put(tried(*verbs))

        push.on(events.JobDead, callback)
        assert dead is not None
        dead.reject("now")
        found = answers.get(timeout=PATIENCE_S)
        assert len(found) == 7
        assert all("UsageError: " in each and "Hand the event to a thread" in each for each in found), found
        assert not push.closed
        job = pull.receive(PATIENCE_S)
        assert job is not None
        assert job.body == "this one"
        job.ack(wait=True)
        assert push.flush(PATIENCE_S) == Settled(acked=1, dead=1)
        assert push.stats()["sent"] == 2
        receipt.wait(timeout=PATIENCE_S)


def test_a_puller_does_not_wait_in_a_callback_either() -> None:
    answers: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    with zmqkit.Puller[Any](bind=LOCAL) as pull, zmqkit.Pusher(connect=pull.addresses[0]) as push:
        push.send("x")
        job = pull.receive(PATIENCE_S)
        assert job is not None

        def callback(event: events.PeerFound) -> None:
            answers.put(
                tried(
                    lambda: pull.receive(1),
                    lambda: next(iter(pull)),
                    lambda: next(pull.batches()),
                    lambda: job.ack(wait=True),
                    lambda: pull.wait_for_peers(5, timeout=1),
                )
            )

        pull.on(events.PeerFound, callback)
        with zmqkit.Pusher(connect=pull.addresses[0]):
            found = answers.get(timeout=PATIENCE_S)
        assert len(found) == 5
        assert all("UsageError: " in each and "Hand the event to a thread" in each for each in found), found
        assert job.outcome is None
        job.ack(wait=True)


def test_a_peer_may_be_closed_in_a_callback_if_nothing_is_to_be_waited_for() -> None:
    answers: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    pull = zmqkit.Puller[Any](bind=LOCAL)
    pull.on(events.PeerFound, lambda _: answers.put(tried(pull.close, pull.close)))
    with pull, zmqkit.Pusher(connect=pull.addresses[0]):
        assert answers.get(timeout=PATIENCE_S) == ["returned None", "returned None"]
        pull.close()  # waits for its end
        driver = pull._driver
        assert driver is not None
        assert driver.ended.done
