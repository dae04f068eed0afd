"""Pushers and pullers in any number, over each transport, either side binding; they come, go, stall and die."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytest

import zmqkit
from tests.pipeline.faces import LOCAL, PATIENCE_S, Face, handle, listen, take
from tests.pipeline.processes import program
from zmqkit import Backoff, Heartbeat, Settled
from zmqkit.events import JobFailed, JobRedelivered, PeerFound, PeerLost

ADDRESSES = ["tcp://127.0.0.1:*", "ipc://{folder}/jobs", "inproc://{folder}/jobs"]


@pytest.mark.parametrize("pushers_bind", [True, False], ids=["pushers-bind", "pullers-bind"])
@pytest.mark.parametrize("address", ADDRESSES, ids=["tcp", "ipc", "inproc"])
async def test_one_to_one_over_each_transport_with_either_side_bound(
    face: Face, folder: str, address: str, pushers_bind: bool
) -> None:
    bind: Any = {"bind": address.format(folder=folder)}
    first = await (face.Pusher(**bind) if pushers_bind else face.Puller(**bind)).open()
    other = {"connect": first.addresses[0]}
    second = await (face.Puller(**other) if pushers_bind else face.Pusher(**other)).open()
    push, pull = (first, second) if pushers_bind else (second, first)
    await push.send_many(range(300))
    assert await handle(pull, 300) == list(range(300))
    assert await push.flush(PATIENCE_S) == Settled(acked=300)
    await pull.close()
    await push.close()


async def test_several_pushers_and_pullers_share_the_work_and_each_item_is_done_once(face: Face) -> None:
    count = 200
    pushers = [await face.Pusher(LOCAL).open() for _ in range(3)]
    addresses = [push.addresses[0] for push in pushers]
    pullers = [await face.Puller(*addresses, prefetch=4).open() for _ in range(3)]
    for pull in pullers:
        await pull.wait_for_peers(3, timeout=PATIENCE_S)
    done: list[list[Any]] = [[] for _ in pullers]

    async def work(which: int) -> None:
        async for job in pullers[which]:
            async with job:
                done[which].append(tuple(job.body))
                await face.pause()

    async with face.together() as start:
        for which in range(3):
            start(work, which)
        for at, push in enumerate(pushers):
            await push.send_many([at, n] for n in range(count))
        for push in pushers:
            assert await push.flush(PATIENCE_S) == Settled(acked=count)
        for pull in pullers:
            pull.stop()
    assert sorted(each for mine in done for each in mine) == [(at, n) for at in range(3) for n in range(count)]
    assert all(done), "one puller got nothing"
    for peer in (*pullers, *pushers):
        await peer.close()


async def test_many_pushers_connect_to_one_bound_puller(face: Face) -> None:
    async with face.Puller(bind=LOCAL) as pull:
        pushers = [await face.Pusher(connect=pull.addresses[0]).open() for _ in range(4)]
        for at, push in enumerate(pushers):
            await push.send_many([at] * 10)
        assert sorted(await handle(pull, 40)) == sorted(list(range(4)) * 10)
        for push in pushers:
            assert await push.flush(PATIENCE_S) == Settled(acked=10)
            await push.close()


async def test_one_peer_binds_several_addresses_and_connects_too(face: Face, folder: str) -> None:
    async with (
        face.Puller(bind=LOCAL) as bound,
        face.Pusher(LOCAL, bind=f"ipc://{folder}/a", connect=bound.addresses) as push,
    ):
        assert len(push.addresses) == 2
        pullers = [await face.Puller(address, prefetch=1).open() for address in push.addresses]
        await push.wait_for_peers(3, timeout=PATIENCE_S)
        await push.send_many(range(3))
        bodies: list[Any] = []
        for pull in (bound, *pullers):
            bodies += await _drain(pull)
        assert await push.flush(PATIENCE_S) == Settled(acked=3)
        assert sorted(bodies) == [0, 1, 2]
        for pull in pullers:
            await pull.close()


async def _drain(pull: Any) -> list[Any]:
    bodies = []
    while (job := await pull.receive(0.2)) is not None:
        async with job:
            bodies.append(job.body)
    return bodies


async def test_peers_may_come_in_any_order(face: Face, folder: str) -> None:
    """The side that connects may be there long before the side that binds."""
    address = f"ipc://{folder}/late"
    async with face.Puller(address) as pull:
        assert await pull.receive(0.05) is None
        async with face.Pusher(address) as push:
            await push.send("x")
            assert await handle(pull, 1) == ["x"]
            assert await push.flush(PATIENCE_S) == Settled(acked=1)
        async with face.Pusher(address) as push:  # another one, at the same place
            await push.send("y")
            assert await handle(pull, 1) == ["y"]
            await push.flush(PATIENCE_S)


async def test_a_closed_puller_gives_back_what_it_held_at_once_and_uncounted(face: Face) -> None:
    async with face.Pusher(LOCAL) as push:
        pull = await face.Puller(push.addresses[0]).open()
        await push.send_many(range(10))
        assert await handle(pull, 3) == [0, 1, 2]
        held = await take(pull)
        await pull.close()
        async with face.Puller(push.addresses[0]) as pull:
            jobs = [await take(pull) for _ in range(7)]
            assert [job.body for job in jobs] == list(range(3, 10))
            assert jobs[0].id == held.id
            assert {(job.failures, job.deliveries) for job in jobs} == {(0, 2)}
            for job in jobs:
                await job.ack()
            assert await push.flush(PATIENCE_S) == Settled(acked=10)


async def test_threads_and_tasks_share_one_pusher_and_one_puller(face: Face, tmp_path: Path) -> None:
    count, at_a_time = 60, 5
    done: list[Any] = []
    async with (
        face.Pusher(LOCAL, journal=tmp_path / "jobs.db") as push,
        face.Puller(push.addresses[0]) as pull,
    ):

        async def send(which: int) -> None:
            for n in range(count):
                if n % 10:
                    await push.send([which, n])
                else:
                    push.send_nowait([which, n])

        async def work() -> None:
            async for job in pull:
                async with job:
                    done.append(tuple(job.body))
                    await face.pause()

        async with face.together() as start:
            for _ in range(at_a_time):
                start(work)
            async with face.together() as start_sender:
                for which in range(at_a_time):
                    start_sender(send, which)
            assert await push.flush(PATIENCE_S) == Settled(acked=count * at_a_time)
            pull.stop()
    assert sorted(done) == [(which, n) for which in range(at_a_time) for n in range(count)]


# ---- dying ---------------------------------------------------------------------------


async def test_what_a_killed_puller_held_goes_to_another_at_once(face: Face, tmp_path: Path) -> None:
    async with face.Pusher(LOCAL, journal=tmp_path / "jobs.db") as push:
        given, lost = listen(face, push, JobRedelivered), listen(face, push, PeerLost)
        ids = [(await push.send(n)).id for n in range(5)]
        with program("hold", push.addresses[0], 5) as holder:
            assert holder.heard() == [[ids[n], n, 1, 0] for n in range(5)]
            holder.kill()
            # The same host proves the process dead: far sooner than any silence would.
            assert (await lost.next()).reason == "process gone"
            assert (await given.next()).count == 5
        async with face.Puller(push.addresses[0]) as pull:
            jobs = [await take(pull) for _ in range(5)]
            assert [[job.id, job.body, job.deliveries, job.failures] for job in jobs] == [
                [ids[n], n, 2, 0] for n in range(5)
            ]
            for job in jobs:
                await job.ack()
            assert await push.flush(PATIENCE_S) == Settled(acked=5)
        assert push.stats()["redelivered"] == 5


async def test_a_job_over_which_pullers_die_alone_is_blamed_and_dead_in_the_end(face: Face) -> None:
    async with face.Pusher(LOCAL, max_failures=2) as push:
        receipt = await push.send("poison")
        for failures in range(2):
            with program("hold", push.addresses[0], 1) as holder:
                assert holder.heard() == [[receipt.id, "poison", failures + 1, failures]]
                holder.kill()
        assert await receipt.wait(timeout=PATIENCE_S) == Settled(dead=1)
        assert receipt.outcome == "dead"


def test_a_job_that_kills_its_workers_is_found_among_others_and_these_are_done() -> None:
    blamed: list[str] = []
    with zmqkit.Pusher(LOCAL, max_failures=2, backoff=Backoff(first=0.001, cap=0.001)) as push:
        push.on(JobFailed, lambda event: blamed.append(event.id))
        push.send_many(range(10))
        poison = push.send("poison")
        push.send_many(range(10, 20))
        told: list[Any] = []
        while "done" not in told:
            assert len(told) < 10, told
            with program("die_of", push.addresses[0], "poison") as victim:
                told.append(victim.heard())
                victim.process.wait(PATIENCE_S)
        assert push.flush(PATIENCE_S) == Settled(acked=20, dead=1)
    assert told[-3:] == [0, 1, "done"], "alone, it is blamed for each death"
    assert told.count(0) >= 3, "before, nobody is"
    assert set(blamed) == {poison.id}


@pytest.mark.parametrize("pushers_bind", [True, False], ids=["pushers-bind", "pullers-bind"])
async def test_a_puller_that_was_stopped_and_woken_settles_too_late(
    face: Face, tmp_path: Path, pushers_bind: bool
) -> None:
    """SIGSTOP beyond the bound: its jobs are redelivered, and what it says after SIGCONT changes nothing."""
    heartbeat = Heartbeat(interval=0.15)
    common: Any = {"journal": tmp_path / "jobs.db", "heartbeat": heartbeat}
    push = face.Pusher(LOCAL, **common)
    if pushers_bind:
        await push.open()
    with program("hold", push.addresses[0] if pushers_bind else LOCAL, 3, heartbeat.interval) as holder:
        if not pushers_bind:
            push = await face.Pusher(LOCAL, connect=holder.heard(), **common).open()
        given = listen(face, push, JobRedelivered)
        ids = [(await push.send(n)).id for n in range(3)]
        holder.heard()
        holder.signal(signal.SIGSTOP)
        assert (await given.next()).count == 3
        async with face.Puller(push.addresses[0], heartbeat=heartbeat) as pull:
            jobs = [await take(pull) for _ in range(3)]
            assert [job.id for job in jobs] == ids
            holder.signal(signal.SIGCONT)
            holder.tell("settle")
            assert holder.heard() == ["lost"] * 3
            assert [job.deliveries for job in jobs] == [2] * 3
            assert push.stats()["acked"] == 0
            for job in jobs:
                await job.ack(wait=True)
            assert await push.flush(PATIENCE_S) == Settled(acked=3)
        holder.tell(None)
        assert holder.end() == 0, holder.errors
    await push.close()


async def test_the_journal_serves_on_after_the_pusher_was_closed(face: Face, tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    push = await face.Pusher(LOCAL, journal=path, linger=0).open()
    left = listen(face, push, PeerLost)
    ids = [(await push.send(n, headers={"n": str(n)})).id for n in range(6)]
    async with face.Puller(push.addresses[0], prefetch=2) as pull:
        await handle(pull, 2)
        await face.until(lambda: push.stats()["acked"] == 2)
        await (await take(pull)).nack(delay=0)
        await face.until(lambda: push.stats()["failed"] == 1)
    await left.next()  # else what it held may be lent still, for all that the pusher knows, and is kept for it
    with pytest.warns(RuntimeWarning, match="4 messages not settled"):
        await push.close()
    await _serve_rest(face, path, ids, [2, 3, 4, 5], failures={2: 1})


async def test_the_journal_serves_on_after_the_pusher_was_killed(face: Face, tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with program("leave_behind", path, 6) as sender:
        ids = sender.heard()
        sender.kill()
    await _serve_rest(face, path, ids, list(range(6)), failures={})


async def _serve_rest(face: Face, path: Path, ids: list[str], left: list[int], failures: dict[int, int]) -> None:
    """Open the journal again: what is left comes with its own id, then what is new; and only the new is waited for."""
    async with face.Pusher(LOCAL, journal=path) as push:
        new = await push.send("new")
        assert new.id not in ids
        async with face.Puller(push.addresses[0]) as pull:
            for n in left:
                job = await take(pull)
                assert (job.body, job.id, job.headers) == (n, ids[n], {"n": str(n)})
                assert job.failures == failures.get(n, 0)
                await job.ack()
            assert await handle(pull, 1) == ["new"]
            assert await push.flush(PATIENCE_S) == Settled(acked=len(left) + 1)
    async with face.Pusher(LOCAL, journal=path) as push, face.Puller(push.addresses[0]) as pull:
        assert await push.flush(PATIENCE_S) == Settled()
        assert await pull.receive(0.05) is None


async def test_a_pusher_that_restarts_at_its_address_goes_on_with_the_pullers_that_stayed(
    face: Face, tmp_path: Path, folder: str
) -> None:
    path, address = tmp_path / "jobs.db", f"ipc://{folder}/jobs"
    async with face.Puller(address) as pull:
        found = listen(face, pull, PeerFound)
        jobs: list[Any] = []
        for life in range(3):
            push = await face.Pusher(address, journal=path, linger=0).open()
            await found.next()
            await push.send(["life", life])
            jobs.append(await take(pull))
            assert jobs[-1].body == ["life", life]  # those of before are still in hand
            await face.until(lambda: push.stats()["taken"] == life)  # noqa: B023 - it is waited for here
            with pytest.warns(RuntimeWarning, match=rf"{life + 1} messages? not settled"):
                await push.close()
        async with face.Pusher(address, journal=path) as push:
            await found.next()
            for job in jobs:
                await job.ack(wait=True)
            assert await push.flush(PATIENCE_S) == Settled(acked=3)
            assert push.stats()["delivered"] == 0


def test_a_puller_is_made_without_any_thread_socket_or_file(face: Face, tmp_path: Path) -> None:
    before = threading.active_count()
    push, pull = face.Pusher(LOCAL, journal=tmp_path / "jobs.db"), face.Puller("tcp://127.0.0.1:1")
    assert threading.active_count() == before
    assert list(tmp_path.iterdir()) == []
    assert (push.addresses, push.closed, pull.stats(), push.stats()) == ((), False, {}, {})
    assert "not open" in repr(getattr(push, "real", push))
