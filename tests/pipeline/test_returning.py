"""Jobs in hand while their pusher is closed or killed, and opened anew on the same journal."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

import zmqkit
from tests.pipeline.faces import LOCAL, PATIENCE_S, Face, handle, listen, take
from tests.pipeline.processes import program
from zmqkit import Heartbeat, LeaseLost, Settled
from zmqkit.events import JobFailed, PeerFound, PeerLost

LONG = Heartbeat(interval=2.0)
"""Its bound is longer than these tests wait for anything that comes at once."""
SHORT = Heartbeat(interval=0.1)


async def close(push: Any, left: int) -> None:
    with pytest.warns(RuntimeWarning, match=rf"{left} messages? not settled"):
        await push.close()


async def test_jobs_at_work_while_their_pusher_is_opened_anew_are_done_once_and_their_acks_count(
    face: Face, tmp_path: Path, folder: str
) -> None:
    address, common = f"ipc://{folder}/jobs", {"journal": tmp_path / "jobs.db", "heartbeat": LONG}
    async with face.Puller(address) as pull:
        lost, found = listen(face, pull, PeerLost), listen(face, pull, PeerFound)
        push = await face.Pusher(address, linger=0, **common).open()
        await found.next()
        await push.send_many(range(3))
        jobs = [await take(pull) for _ in range(3)]
        await close(push, 3)
        await lost.next()
        await jobs[0].extend(60)
        await jobs[0].ack()  # nobody is there to hear of it
        async with face.Pusher(address, **common) as push, face.Puller(address) as other:
            await found.next()
            await other.wait_for_peers(1, timeout=PATIENCE_S)
            await jobs[1].ack(wait=True)
            await push.send("new")
            assert await handle(other, 1) == ["new"]  # and nothing of what is in other hands
            async with jobs[2]:
                pass
            assert await push.flush(PATIENCE_S) == Settled(acked=4)
            assert (push.stats()["presented"], push.stats()["taken"], push.stats()["delivered"]) == (3, 3, 1)
            assert push.stats()["settles_stale"] == 0
        assert pull.stats()["went_on"] == 3
        assert pull.stats()["jobs_lost"] == 0
        assert pull.stats()["acked"] == 3


async def test_jobs_at_work_while_their_pusher_is_killed_are_done_once_and_their_acks_count(
    face: Face, tmp_path: Path, folder: str
) -> None:
    address, path = f"ipc://{folder}/jobs", tmp_path / "jobs.db"
    async with face.Puller(address) as pull:
        with program("lend", address, path, 4) as pusher:
            ids = pusher.heard()
            jobs = [await take(pull) for _ in range(3)]
            pusher.kill()
        await jobs[0].ack()
        async with face.Pusher(address, journal=path, heartbeat=LONG) as push:
            await jobs[1].ack(wait=True)
            await jobs[2].ack(wait=True)
            assert [job.id for job in jobs] == ids[:3]
            async with await take(pull) as job:  # it had come, and nobody had begun it
                assert (job.id, job.failures) == (ids[3], 0)
            assert await push.flush(PATIENCE_S) == Settled(acked=4)
            assert push.stats()["delivered"] == 1


async def test_a_failure_in_hand_is_told_when_the_pusher_is_there_again(
    face: Face, tmp_path: Path, folder: str
) -> None:
    address, common = f"ipc://{folder}/jobs", {"journal": tmp_path / "jobs.db", "heartbeat": LONG}
    async with face.Puller(address) as pull:
        lost = listen(face, pull, PeerLost)
        push = await face.Pusher(address, linger=0, **common).open()
        await push.send_many(["again", "hopeless"])
        again, hopeless = [await take(pull) for _ in range(2)]
        await close(push, 2)
        await lost.next()
        await again.nack(delay=0, reason="not yet")
        await hopeless.reject("never")
        push = face.Pusher(address, **common)
        failed = listen(face, push, JobFailed)
        async with push:
            assert (await failed.next()).reason == "not yet"
            async with await take(pull) as job:
                assert (job.body, job.failures) == ("again", 1)
            assert await push.flush(PATIENCE_S) == Settled(acked=1, dead=1)


async def test_what_was_lent_is_held_back_for_a_bound_and_then_goes_to_others(face: Face, tmp_path: Path) -> None:
    common: Any = {"journal": tmp_path / "jobs.db"}
    push = await face.Pusher(LOCAL, linger=0, heartbeat=SHORT, **common).open()
    async with face.Puller(push.addresses[0]) as gone:
        await push.send("in other hands")
        await take(gone)
        await close(push, 1)
    async with face.Pusher(LOCAL, heartbeat=LONG, linger=0, **common) as push, face.Puller(push.addresses[0]) as pull:
        await push.send("new")
        assert await handle(pull, 1) == ["new"]
        await face.until(lambda: push.stats()["acked"] == 1)
        assert push.stats()["delivered"] == 1
        with pytest.warns(RuntimeWarning, match="1 message not settled"):
            await push.close()
    async with face.Pusher(LOCAL, heartbeat=SHORT, **common) as push, face.Puller(push.addresses[0]) as pull:
        assert await handle(pull, 1) == ["in other hands"]
        assert await push.flush(PATIENCE_S) == Settled(acked=1)


async def test_nothing_is_held_back_when_nothing_was_lent(face: Face, tmp_path: Path) -> None:
    common: Any = {"journal": tmp_path / "jobs.db", "heartbeat": LONG}
    push = await face.Pusher(LOCAL, linger=0, **common).open()
    async with face.Puller(push.addresses[0], prefetch=1) as pull:
        await push.send_many(range(3))
        assert await handle(pull, 1) == [0]
        await face.until(lambda: push.stats()["acked"] == 1)
        job = await take(pull)
    await face.until(lambda: push.stats()["redelivered"] == 1)
    assert job.body == 1
    await close(push, 2)
    async with face.Pusher(LOCAL, **common) as push, face.Puller(push.addresses[0]) as pull:
        assert await handle(pull, 2) == [1, 2]
        assert await push.flush(PATIENCE_S) == Settled(acked=2)


async def test_an_ack_for_a_pusher_that_is_opened_without_its_journal_is_a_lost_lease(
    face: Face, tmp_path: Path, folder: str
) -> None:
    address = f"ipc://{folder}/jobs"
    async with face.Puller(address, max_lease=0.5) as pull:
        lost = listen(face, pull, PeerLost)
        push = await face.Pusher(address, journal=tmp_path / "jobs.db", linger=0).open()
        await push.send("x")
        job = await take(pull)
        await close(push, 1)
        await lost.next()
        async with face.Pusher(address, journal=tmp_path / "other.db") as push:
            await push.send("y")
            assert await handle(pull, 1) == ["y"]
            with pytest.raises(LeaseLost):
                await job.ack(wait=True)


async def test_what_goes_on_keeps_the_order_of_its_key(face: Face, tmp_path: Path, folder: str) -> None:
    address, common = f"ipc://{folder}/jobs", {"journal": tmp_path / "jobs.db", "heartbeat": LONG}
    async with face.Puller(address) as pull:
        push = await face.Pusher(address, linger=0, **common).open()
        for n in range(3):
            await push.send(n, key="k")
        job = await take(pull)
        await close(push, 3)
        async with face.Pusher(address, **common) as push:
            await push.send("other", key="other")
            assert await handle(pull, 1) == ["other"]
            assert push.stats()["delivered"] == 1
            await job.ack(wait=True)
            assert await handle(pull, 2) == [1, 2]
            assert await push.flush(PATIENCE_S) == Settled(acked=4)


async def test_a_job_with_an_inbox_goes_on_there_and_counts_once(face: Face, tmp_path: Path, folder: str) -> None:
    address, common = f"ipc://{folder}/jobs", {"journal": tmp_path / "jobs.db", "heartbeat": LONG}
    async with face.Puller(address, inbox=tmp_path / "inbox.db") as pull:
        found = listen(face, pull, PeerFound)
        push = await face.Pusher(address, linger=0, **common).open()
        await push.send("x")
        job = await take(pull)
        await found.next()
        await close(push, 1)
        async with face.Pusher(address, **common) as push:
            await found.next()
            async with job:
                transaction = job.transaction()
                if face.name == "sync":
                    with transaction as db:
                        db.execute("CREATE TABLE effects (what)")
                else:
                    async with transaction as db:
                        db.execute("CREATE TABLE effects (what)")
            assert await push.flush(PATIENCE_S) == Settled(acked=1)
            assert (push.stats()["taken"], push.stats()["delivered"]) == (1, 0)
        assert pull.stats()["duplicates_dropped"] == 0


def test_a_program_whose_pusher_is_killed_again_and_again_does_its_job_once(tmp_path: Path, folder: str) -> None:
    address, path = f"ipc://{folder}/jobs", tmp_path / "jobs.db"
    with zmqkit.Puller(address) as pull:
        with program("lend", address, path, 1) as pusher:
            (id,) = pusher.heard()
            job = pull.receive(PATIENCE_S)
            assert job is not None
            pusher.kill()
        for _ in range(2):
            with program("lend", address, path, 0) as pusher:
                assert pusher.heard() == []
                pusher.tell("taken")
                assert pusher.heard() == 1
                pusher.signal(signal.SIGKILL)
        with zmqkit.Pusher(address, journal=path, heartbeat=LONG) as push:
            job.ack(wait=True)
            assert job.id == id
            assert push.flush(PATIENCE_S) == Settled(acked=1)
            assert push.stats()["delivered"] == 0
