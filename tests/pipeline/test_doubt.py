"""Jobs whose outcome only an inbox knows, across restarts too; and inboxes that went back in time."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import zmqkit
from tests.pipeline.faces import LOCAL, PATIENCE_S, Face, bare, take
from tests.pipeline.test_effects import QUICK, apply, done_elsewhere, rows
from zmqkit import InboxRolledBack, WaitTimeout
from zmqkit.errors import CommitIndeterminate
from zmqkit.events import InDoubt
from zmqkit.inbox import Transaction


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """A file of the user's with one table."""
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("create table effects (body)")
    return path


async def leave_in_doubt(face: Face, address: str, inbox: Path, *, done: bool) -> str:
    """A puller with this inbox takes one job and goes, having done it or not. Returns the job's id."""
    async with face.Puller(address, inbox=inbox, prefetch=1) as pull:
        job = await take(pull)
        if done:
            done_elsewhere(inbox, job.id)
    found: str = job.id
    return found


async def test_a_job_in_doubt_goes_only_to_its_inbox(face: Face, inbox: Path, tmp_path: Path) -> None:
    async with face.Pusher(LOCAL, journal=tmp_path / "j.db") as push:
        await push.send("a")
        await leave_in_doubt(face, push.addresses[0], inbox, done=True)
        async with (
            face.Puller(push.addresses[0]) as other,
            face.Puller(push.addresses[0], inbox=tmp_path / "b.db") as b,
        ):
            await push.wait_for_peers(2, timeout=PATIENCE_S)
            await push.send_many(["b", "c"])
            bodies = []
            for pull in (other, b):
                while (job := await pull.receive(0.3)) is not None:
                    bodies.append(job.body)
                    await job.ack()
            assert sorted(bodies) == ["b", "c"]
            assert push.stats()["in_doubt"] == 1
        async with face.Puller(push.addresses[0], inbox=inbox) as pull:
            assert await pull.receive(0.5) is None, "it was done"
            assert (await push.flush(PATIENCE_S)).acked == 3
        assert push.stats()["in_doubt"] == 0


async def test_what_nobody_had_begun_is_not_in_doubt(face: Face, inbox: Path) -> None:
    async with face.Pusher(LOCAL) as push:
        await push.send_many(range(10))
        async with face.Puller(push.addresses[0], inbox=inbox, prefetch=5) as pull:
            first = await take(pull)
        async with face.Puller(push.addresses[0]) as other:
            bodies = []
            while (job := await other.receive(0.5)) is not None:
                bodies.append(job.body)
                await job.ack()
        assert sorted([first.body, *bodies]) == list(range(10))
        assert len(bodies) == 9
        assert push.stats()["in_doubt"] == 1
        async with face.Puller(push.addresses[0], inbox=inbox) as pull:
            async with await take(pull) as job, job.transaction() as db:
                await apply(db, job.body)
            await push.flush(PATIENCE_S)


async def test_it_is_told_when_nobody_with_the_inbox_is_there(face: Face, inbox: Path) -> None:
    async with face.Pusher(LOCAL, heartbeat=QUICK, linger=0) as push:
        told: list[InDoubt] = []
        push.on(InDoubt, told.append)
        await push.send("a")
        lost = await leave_in_doubt(face, push.addresses[0], inbox, done=False)
        async with face.Puller(push.addresses[0]) as other:
            for _ in range(100):
                assert await other.receive(0.1) is None
                if told:
                    break
        (event,) = told
        assert (event.id, event.count) == (lost, 1)
        assert event.inbox == uuid_of(inbox)
        with pytest.raises(WaitTimeout, match=f"1 of them in doubt: only pullers with the inbox {event.inbox}"):
            await push.flush(0.01)
        async with face.Puller(push.addresses[0], inbox=inbox) as pull:
            async with await take(pull) as job, job.transaction() as db:
                await apply(db, job.body)
            await push.flush(PATIENCE_S)
    assert rows(inbox) == ["a"]


@pytest.mark.filterwarnings("ignore:.*not settled:RuntimeWarning")
@pytest.mark.parametrize("mixed", [False, True], ids=["one inbox", "several"])
async def test_it_is_in_doubt_after_a_restart_too(face: Face, inbox: Path, tmp_path: Path, mixed: bool) -> None:
    journal = tmp_path / "j.db"
    async with face.Pusher(LOCAL, journal=journal, linger=0) as push:
        if mixed:
            async with face.Puller(push.addresses[0]):
                await push.wait_for_peers(1, timeout=PATIENCE_S)
                await leave_in_another(face, push, tmp_path / "b.db")
        await push.send("a")
        lost = await leave_in_doubt(face, push.addresses[0], inbox, done=True)
        await push.send("b")
    async with face.Pusher(LOCAL, journal=journal) as push:
        async with face.Puller(push.addresses[0]) as other:
            async with await take(other) as job:
                assert job.body == "b"
            assert await other.receive(0.3) is None
            assert push.stats()["in_doubt"] == 1
        async with face.Puller(push.addresses[0], inbox=inbox) as pull:
            assert await pull.receive(0.5) is None, f"{lost} was done"
            await push.flush(PATIENCE_S)


async def leave_in_another(face: Face, push: Any, inbox: Path) -> None:
    """Another inbox is known from now on."""
    async with face.Puller(push.addresses[0], inbox=inbox) as pull:
        await push.wait_for_peers(2, timeout=PATIENCE_S)
        # Before its side of the session stands it would leave without a goodbye, and what was lent to it in doubt.
        await pull.wait_for_peers(1, timeout=PATIENCE_S)


async def test_a_commit_in_doubt_keeps_its_job_at_the_inbox(
    face: Face, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Transaction.commit

    def commits(self: Transaction) -> None:
        commit(self)
        raise CommitIndeterminate("the disk did not say")

    async with face.Pusher(LOCAL, backoff=zmqkit.Backoff(0.01)) as push, face.Puller(push.addresses[0]) as other:
        pull = face.Puller(push.addresses[0], inbox=inbox)
        async with pull:
            await push.wait_for_peers(2, timeout=PATIENCE_S)
            await push.send_many(["a", "b"])
            async with await take(other):
                pass
            job = await take(pull)
            with monkeypatch.context() as patched:
                patched.setattr(Transaction, "commit", commits)
                async with job, job.transaction() as db:
                    await apply(db, "a")
            assert job.outcome == "nacked"
            assert await pull.receive(0.5) is None
            assert await other.receive(0.1) is None
            assert (await push.flush(PATIENCE_S)).acked == 2
    assert rows(inbox) == ["a"]


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_dead_letter_that_may_have_had_its_effect_is_tried_again_there_only(
    face: Face, inbox: Path, tmp_path: Path, key: str | None
) -> None:
    async with face.Pusher(LOCAL, journal=tmp_path / "j.db") as push:
        await push.send("a", key=key)
        await leave_in_doubt(face, push.addresses[0], inbox, done=False)
        async with face.Puller(push.addresses[0], inbox=inbox) as pull:
            await (await take(pull)).reject("not today")
            await push.flush(PATIENCE_S)
        assert await push.dead_letters().retry() == 1
        async with face.Puller(push.addresses[0]) as other:
            assert await other.receive(0.3) is None
        async with face.Puller(push.addresses[0], inbox=inbox) as pull:
            async with await take(pull) as job, job.transaction() as db:
                await apply(db, job.body)
            await push.flush(PATIENCE_S)
    assert rows(inbox) == ["a"]


# ---- inboxes that go back in time ----------------------------------------------------


@contextmanager
def put_back(inbox: Path) -> Iterator[None]:
    """What happens in the block is taken back in the file."""
    copy = inbox.with_suffix(".copy")
    shutil.copy(inbox, copy)
    yield
    shutil.copy(copy, inbox)


def uuid_of(inbox: Path) -> str:
    with closing(sqlite3.connect(inbox)) as db:
        (uuid,) = db.execute("select value from zmqkit_inbox_state where name = 'uuid'").fetchone()
        return str(uuid)


async def do_one(face: Face, address: str, inbox: Path) -> None:
    async with face.Puller(address, inbox=inbox, prefetch=1) as pull:
        async with await take(pull) as job, job.transaction() as db:
            await apply(db, job.body)
        # What comes next was lent after the ack.
        await (await take(pull)).release()


async def test_an_older_copy_of_an_inbox_is_noticed_and_gets_nothing(face: Face, inbox: Path, tmp_path: Path) -> None:
    async with face.Pusher(LOCAL, journal=tmp_path / "j.db") as push:
        await push.send_many(["a", "b", "c"])
        await do_one(face, push.addresses[0], inbox)
        with put_back(inbox):
            await do_one(face, push.addresses[0], inbox)
        async with face.Puller(push.addresses[0], inbox=inbox) as pull:
            with pytest.raises(InboxRolledBack, match="an older copy") as told:
                await pull.receive(PATIENCE_S)
            assert told.value.inbox == uuid_of(inbox)
            assert told.value.commits < told.value.known
            with pytest.raises(InboxRolledBack):
                await pull.receive(0.1)
            ticket = bare(push)._ask(bare(push)._core.release, bytes.fromhex(told.value.inbox))
            await face.until(lambda: ticket.done)
        async with face.Puller(push.addresses[0], inbox=inbox) as pull:
            async with await take(pull) as job, job.transaction() as db:
                await apply(db, job.body)
            assert job.body == "c"
            await push.flush(PATIENCE_S)


async def test_another_process_that_shares_the_inbox_may_be_further(face: Face, inbox: Path, tmp_path: Path) -> None:
    async with face.Pusher(LOCAL, journal=tmp_path / "j.db") as push:
        await push.send_many(["a", "b", "c"])
        async with face.Puller(inbox=inbox, bind=LOCAL) as late:
            # It read the counter before the other one did its work.
            await do_one(face, push.addresses[0], inbox)
            await bare_connect(push, late)
            bodies = []
            for _ in range(2):
                async with await take(late) as job, job.transaction() as db:
                    await apply(db, job.body)
                    bodies.append(job.body)
            assert sorted(bodies) == ["b", "c"]
            assert push.stats()["inboxes_behind"] == 1
            await push.flush(PATIENCE_S)


async def bare_connect(push: Any, pull: Any) -> None:
    """Have a pusher connect to a puller, too."""
    bare(push)._driver.connect(pull.addresses[0])
    await push.wait_for_peers(1, timeout=PATIENCE_S)
