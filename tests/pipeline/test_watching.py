"""What is seen from outside: events, of one peer or of all, and counters."""

from __future__ import annotations

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
