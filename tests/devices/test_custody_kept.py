"""A streamer with a journal answers for what it took: through its death, a full disk, and a journal that broke."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
import zmq

from tests.devices.keeping import MODULE, Raw, engines, puller, pusher, short_folder, take, taken, until
from tests.pipeline.faces import LOCAL, PATIENCE_S, dead_letters
from tests.pipeline.processes import Program, program
from zmqkit.devices.custody import CustodyEngine
from zmqkit.devices.sides import Side
from zmqkit.errors import AddressInUse, CommitIndeterminate, DuplicateInstance, JournalBusy, JournalError, JournalFull
from zmqkit.events import Event, JobDead
from zmqkit.journal import SqliteJournal
from zmqkit.patterns.pipeline.steering_sync import reach


@pytest.fixture
def folder() -> Iterator[str]:
    with short_folder() as name:
        yield name


@pytest.fixture
def raw() -> Iterator[Raw]:
    with contextlib.closing(Raw()) as made:
        yield made


@pytest.fixture
def made() -> Iterator[Callable[..., CustodyEngine]]:
    """Makes engines, and closes them at the end."""
    with engines() as make:
        yield make


# ---- custody ---------------------------------------------------------------------------------


def test_a_pusher_may_leave_as_soon_as_its_jobs_are_in_the_device(
    folder: str, made: Callable[..., CustodyEngine]
) -> None:
    first = made(folder)
    first.open()
    with pusher(folder) as push:
        ids = [push.send(n).id for n in range(100)]
        assert push.flush(PATIENCE_S).acked == 100
    assert first.stats()["waiting"] == 100
    first.close(0)
    second = made(folder)
    second.open()
    with puller(folder) as pull:
        jobs = [take(pull) for _ in range(100)]
        assert [(job.id, job.body) for job in jobs] == list(zip(ids, range(100), strict=True))
        for job in jobs:
            job.ack(wait=True)
    assert second.stats()["waiting"] == 0


@pytest.mark.slow
def test_killed_and_started_again_in_the_middle_of_its_work_it_loses_no_job(folder: str) -> None:
    count, kill_at = 5_000, (500, 1_500, 3_000)
    seen: dict[str, int] = {}
    counts: dict[str, int] = {}
    done = threading.Event()

    def pull_all() -> None:
        with puller(folder, prefetch=50) as pull:
            while not done.is_set():
                job = pull.receive(0.05)
                if job is not None:
                    with job:
                        assert seen.setdefault(job.id, job.body) == job.body, "one id, two bodies"
                        counts[job.id] = counts.get(job.id, 0) + 1

    def push_all() -> None:
        with pusher(folder, linger=PATIENCE_S) as push:
            for start in range(0, count, 100):
                push.send_many(range(start, start + 100), timeout=PATIENCE_S)
                until(lambda start=start: push.stats()["waiting"] < 1_000, "the device takes nothing")  # type: ignore[misc]
            settled.append(push.flush(PATIENCE_S).acked)

    settled: list[int] = []
    threads = [threading.Thread(target=each, daemon=True) for each in (pull_all, push_all)]
    with contextlib.ExitStack() as stack:
        device = started(stack, folder)
        for each in threads:
            each.start()
        stack.callback(threads[0].join, PATIENCE_S)
        stack.callback(done.set)
        for at in kill_at:
            until(lambda at=at: len(seen) >= at, "nothing comes any more")  # type: ignore[misc]
            device.kill()
            device = started(stack, folder)
        until(lambda: len(seen) == count, "jobs are missing")
        threads[1].join(PATIENCE_S)
        until(lambda: _stats(device)["waiting"] == 0, "something is left")
    assert settled == [count]
    assert sorted(seen.values()) == list(range(count)), "each id is one job"
    repeated = sum(counts.values()) - count
    assert repeated <= len(kill_at) * (50 + 4_096), "what comes twice was under way at a kill"


def started(stack: contextlib.ExitStack, folder: str) -> Program:
    device = stack.enter_context(program(folder, module=MODULE))
    device.heard()
    return device


def _stats(device: Program) -> dict[str, int]:
    device.tell()
    found: dict[str, int] = device.heard()
    return found


def test_a_device_that_ends_before_it_has_acked_gets_the_same_jobs_again_with_the_same_ids(
    folder: str, made: Callable[..., CustodyEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made(folder)
    first.open()
    assert first._front is not None
    monkeypatch.setattr(first._front, "_collect", lambda parcel: None)
    with pusher(folder) as push:
        ids = [push.send(n).id for n in range(10)]
        until(lambda: first.stats()["waiting"] == 10)
        assert push.stats()["acked"] == 0
        first.close(0)
        made(folder).open()
        assert push.flush(PATIENCE_S).acked == 10
    jobs = []
    with puller(folder) as pull:
        for _ in range(20):
            with take(pull) as job:
                jobs.append((job.id, job.body))
    assert sorted(jobs) == sorted(list(zip(ids, range(10), strict=True)) * 2)


@pytest.mark.slow
def test_killed_with_jobs_for_plain_pulls_it_keeps_what_zeromq_had_not_taken(folder: str, raw: Raw) -> None:
    with program(folder, module=MODULE) as device:
        device.heard()
        with pusher(folder, codec="raw") as push:
            push.send_many(b"%d" % n for n in range(1_000))
            push.flush(PATIENCE_S)
        device.kill()
    with program(folder, module=MODULE) as device:
        device.heard()
        pull = raw.pull(f"ipc://{folder}/plain_backend")
        assert [pull.recv() for _ in range(1_000)] == [b"%d" % n for n in range(1_000)]
        until(lambda: _stats(device)["waiting"] == 0)
        assert _stats(device)["plain_backend_messages_sent"] == 1_000


def test_what_a_plain_push_sent_is_stored_before_a_closing_device_ends(
    folder: str, made: Callable[..., CustodyEngine], raw: Raw
) -> None:
    first = made(folder)
    first.open()
    push = raw.push(f"ipc://{folder}/plain_frontend")
    for n in range(1_000):
        push.send(b"%d" % n)
    until(lambda: first.stats()["plain_frontend_messages_received"] >= 1)
    first.close(PATIENCE_S)
    kept = first.stats()["waiting"]
    assert kept == first.stats()["plain_frontend_messages_received"]
    second = made(folder)
    second.open()
    with puller(folder) as pull:
        assert taken(pull, int(kept)) == [b"%d" % n for n in range(int(kept))]


def test_poison_becomes_a_dead_letter_in_the_journal_of_the_device(
    folder: str, made: Callable[..., CustodyEngine]
) -> None:
    told: list[Event] = []
    engine = made(folder, tell=told.append)
    engine.open()
    with pusher(folder) as push, puller(folder) as pull:
        ids = [push.send(body).id for body in ("poison", "hopeless", "good")]
        assert push.flush(PATIENCE_S).acked == 3, "for its pusher it is settled"
        failed = 0
        while failed < 20:
            job = take(pull)
            if job.body == "poison":
                job.nack(delay=0, reason="no good")
                failed += 1
            elif job.body == "hopeless":
                job.reject("never")
            else:
                job.ack()
        until(lambda: engine.stats()["dead"] == 2)
        until(lambda: engine.stats()["acked"] == 1)
    assert engine.stats()["waiting"] == 0
    engine.close(0)
    letters = {each.id: each for each in dead_letters(f"{folder}/device.db")}
    assert set(letters) == set(ids[:2])
    assert (letters[ids[0]].reason, letters[ids[0]].failures) == ("no good", 20)
    assert (letters[ids[1]].reason, msgpack.unpackb(letters[ids[1]].body)) == ("never", "hopeless")
    assert {each.id for each in told if isinstance(each, JobDead)} == set(ids[:2])


def test_dead_letters_of_a_device_that_runs_are_sent_again_at_its_control_socket(
    folder: str, made: Callable[..., CustodyEngine]
) -> None:
    engine = made(folder)
    engine.open()
    with pusher(folder) as push, puller(folder) as pull:
        push.send("bad luck", key="k")
        take(pull).reject("not today")
        until(lambda: engine.stats()["dead"] == 1)
        address = engine._sink._control
        assert address is not None
        assert address not in (*engine.backend_addresses, *engine.frontend_addresses)
        journal = reach(address, "device.db")
        assert journal is not None
        with journal:
            assert journal.retry() == 1
        with take(pull) as job:
            assert (job.body, job.key) == ("bad luck", "k")
        until(lambda: engine.stats()["acked"] == 1)


# ---- where the journal fails -----------------------------------------------------------------


class Fault:
    """Makes commits that bring new messages fail, in all journals of this process, while it is on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: Exception | None = None
        self.refused = 0
        commit = SqliteJournal.commit

        def failing(journal: SqliteJournal, writes: Any) -> None:
            if self.error is not None and any(each.log == "messages" and each.value for each in writes):
                self.refused += 1
                raise self.error
            commit(journal, writes)

        monkeypatch.setattr(SqliteJournal, "commit", failing)


def test_on_a_full_disk_it_takes_nothing_over_and_goes_on_when_there_is_room(
    folder: str, made: Callable[..., CustodyEngine], raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zmqkit.devices.custody.RETRY_STORE", 0.02)
    monkeypatch.setattr("zmqkit.patterns.pipeline.storing.RETRY_STORE", 0.01)
    fault = Fault(monkeypatch)
    engine = made(folder)
    engine.open()
    with pusher(folder) as push, puller(folder) as pull:
        push.send("before")
        push.flush(PATIENCE_S)
        before = take(pull)
        fault.error = JournalFull("no room on the disk")
        push.send_many(range(10_000))
        raw.push(f"ipc://{folder}/plain_frontend").send(b"plain")
        until(lambda: fault.refused > 5)
        assert push.stats()["acked"] == 1, "nothing is settled that is not stored"
        assert engine.stats()["frontend_messages_received"] <= 2 * 4_096 + 1, "it takes no more than its prefetch"
        before.ack(wait=True)  # acks go on
        fault.error = None
        assert push.flush(PATIENCE_S).acked == 10_001
        found = taken(pull, 10_001)
    assert sorted(each for each in found if each != b"plain") == list(range(10_000)), "each once"


def test_a_journal_that_broke_ends_the_engine_and_says_why(
    folder: str, made: Callable[..., CustodyEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault(monkeypatch)
    ended: list[BaseException] = []
    there = threading.Event()

    def end(error: BaseException) -> None:
        ended.append(error)
        there.set()

    engine = made(folder, ended=end)
    engine.open()
    fault.error = CommitIndeterminate("the disk did not answer")
    with pusher(folder) as push:
        push.send(1)
        assert there.wait(PATIENCE_S)
        engine.close(0)
        fault.error = None
        again = made(folder)
        again.open()
        assert push.flush(PATIENCE_S).acked == 1, "whoever opens it again takes it over"
    assert len(ended) == 1
    assert isinstance(ended[0], JournalError)
    assert again.stats()["waiting"] == 1


def test_one_journal_serves_one_device(folder: str, made: Callable[..., CustodyEngine]) -> None:
    first = made(folder)
    first.open()
    other = made(folder, frontend=Side(bind=LOCAL), backend=Side(bind=LOCAL), plain_frontend=None, plain_backend=None)
    with pytest.raises(JournalBusy, match=r"device\.db"):
        other.open()
    with pusher(folder) as push:  # the first one does not notice
        push.send(1)
        assert push.flush(PATIENCE_S).acked == 1


def test_a_copy_of_a_journal_in_use_is_refused_by_name(folder: str, made: Callable[..., CustodyEngine]) -> None:
    made(folder).close(0)
    first = made(folder)
    first.open()
    first.close(0)
    shutil.copy(f"{folder}/device.db", f"{folder}/copy.db")
    again = made(folder)
    again.open()
    other = made(folder, journal=f"{folder}/copy.db", frontend=Side(bind=LOCAL), backend=Side(bind=LOCAL),
                 plain_frontend=None, plain_backend=None)  # fmt: skip
    with pytest.raises(DuplicateInstance, match=r"device\.db"):
        other.open()


def test_what_cannot_be_opened_leaves_nothing_open(folder: str, made: Callable[..., CustodyEngine]) -> None:
    taken_by_another = zmq.Context()
    socket = taken_by_another.socket(zmq.PULL)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    first = made(folder, plain_frontend=Side(bind=f"tcp://127.0.0.1:{port}"))
    with pytest.raises(AddressInUse):
        first.open()
    taken_by_another.destroy(0)
    second = made(folder)
    second.open()
    assert second.frontend_addresses == (f"ipc://{folder}/frontend", f"ipc://{folder}/plain_frontend")


def test_told_to_end_at_once_it_gives_everything_back_without_being_waited_for(
    folder: str, made: Callable[..., CustodyEngine]
) -> None:
    first = made(folder)
    first.open()
    first.pause()
    first.begin_close()

    def opens() -> bool:
        try:
            made(folder).open()
        except (JournalBusy, AddressInUse):
            return False  # not yet
        return True

    until(opens, "it never gave its journal back")
