"""A streamer with a journal: it takes jobs over, keeps them through its death, and passes them on as they came."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

import zmqkit
from tests.devices.custody_program import HEARTBEAT, engine_in
from tests.pipeline.faces import LOCAL, PATIENCE_S, dead_letters
from tests.pipeline.processes import Program, program
from zmqkit import Limits, Outgoing, UsageError
from zmqkit.devices.custody import CustodyEngine
from zmqkit.devices.engine import STATS
from zmqkit.devices.sides import Side
from zmqkit.errors import AddressInUse, CommitIndeterminate, DuplicateInstance, JournalBusy, JournalError, JournalFull
from zmqkit.events import Event, JobDead
from zmqkit.journal import SqliteJournal

PATIENCE_MS = int(PATIENCE_S * 1000)
MODULE = "tests.devices.custody_program"


@pytest.fixture
def folder() -> Iterator[str]:
    """A folder with a short name: an ipc:// path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="zk-") as name:
        yield name


class Raw:
    """Raw sockets of one context."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self._all: list[zmq.Socket[bytes]] = []

    def push(self, address: str) -> zmq.Socket[bytes]:
        return self._made(zmq.PUSH, address)

    def pull(self, address: str) -> zmq.Socket[bytes]:
        return self._made(zmq.PULL, address)

    def _made(self, kind: int, address: str) -> zmq.Socket[bytes]:
        made = self.bare(kind)
        made.connect(address)
        return made

    def bare(self, kind: int) -> zmq.Socket[bytes]:
        made = self.context.socket(kind)
        self._all.append(made)
        made.setsockopt(zmq.LINGER, 0)
        made.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        made.setsockopt(zmq.SNDTIMEO, PATIENCE_MS)
        return made

    def close(self) -> None:
        for each in self._all:
            each.close(0)
        self.context.term()


@pytest.fixture
def raw() -> Iterator[Raw]:
    made = Raw()
    yield made
    made.close()


@pytest.fixture
def made() -> Iterator[Callable[..., CustodyEngine]]:
    """Makes engines, and closes them at the end."""
    engines: list[CustodyEngine] = []

    def make(*args: Any, **given: Any) -> CustodyEngine:
        engine = engine_in(*args, **given)
        engines.append(engine)
        return engine

    yield make
    for each in engines:
        each.close(0)


def pusher(folder: str, **more: Any) -> zmqkit.Pusher:
    return zmqkit.Pusher(connect=f"ipc://{folder}/frontend", heartbeat=HEARTBEAT, **more)


def puller(folder: str, **more: Any) -> zmqkit.Puller[Any]:
    return zmqkit.Puller(f"ipc://{folder}/backend", heartbeat=HEARTBEAT, **more)


def until(true: Callable[[], object], what: str = "it never came true") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.002)


def take(pull: zmqkit.Puller[Any]) -> zmqkit.Job[Any]:
    job = pull.receive(PATIENCE_S)
    assert job is not None, "no job came"
    return job


def taken(pull: zmqkit.Puller[Any], count: int) -> list[Any]:
    """The bodies of so many jobs, acked."""
    found = []
    for _ in range(count):
        with take(pull) as job:
            found.append(job.body)
    return found


# ---- ways through ----------------------------------------------------------------------------


def test_jobs_of_pushers_come_to_pullers_with_their_ids_headers_and_times(
    folder: str, made: Callable[..., CustodyEngine]
) -> None:
    engine = made(folder)
    engine.open()
    with pusher(folder) as push, puller(folder) as pull:
        receipts = [push.send({"n": n}, headers={"n": str(n)}) for n in range(3)]
        assert push.send_many(Outgoing(n, headers={"n": str(n)}) if n % 2 else n for n in range(3, 1_000)) == 997
        settled = push.flush(PATIENCE_S)
        assert (settled.acked, settled.dead) == (1_000, 0)
        jobs = []
        for _ in range(1_000):
            with take(pull) as job:
                jobs.append(job)
    assert [job.body for job in jobs] == [{"n": n} for n in range(3)] + list(range(3, 1_000))
    assert [job.id for job in jobs[:3]] == [receipt.id for receipt in receipts]
    assert len({job.id for job in jobs}) == 1_000
    assert [dict(job.headers) for job in jobs[:5]] == [{"n": "0"}, {"n": "1"}, {"n": "2"}, {"n": "3"}, {}]
    times = [job.sent_at for job in jobs]
    assert times == sorted(times)
    assert len(set(times[:3])) == 3, "each of the single ones kept its own"


def test_what_pushers_sent_is_read_by_a_plain_pull(folder: str, made: Callable[..., CustodyEngine], raw: Raw) -> None:
    engine = made(folder)
    engine.open()
    pull = raw.pull(f"ipc://{folder}/plain_backend")
    with pusher(folder, codec="json") as push:
        push.send_many({"n": n} for n in range(1_000))
        push.flush(PATIENCE_S)
    assert [json.loads(pull.recv()) for _ in range(1_000)] == [{"n": n} for n in range(1_000)]


def test_what_a_plain_push_sent_comes_to_pullers_as_bytes(
    folder: str, made: Callable[..., CustodyEngine], raw: Raw
) -> None:
    engine = made(folder)
    engine.open()
    push = raw.push(f"ipc://{folder}/plain_frontend")
    sent = [[b"%d" % n] for n in range(1_000)] + [[b"a", b"", b"c"], [b""], [b"x" * 1_000_000], [b"", b""]]
    for each in sent:
        push.send_multipart(each)
    with puller(folder) as pull:
        assert taken(pull, len(sent)) == [each[0] if len(each) == 1 else each for each in sent]


def test_what_a_plain_push_sent_is_read_by_a_plain_pull_as_it_was(
    folder: str, made: Callable[..., CustodyEngine], raw: Raw
) -> None:
    engine = made(folder)
    engine.open()
    push, pull = raw.push(f"ipc://{folder}/plain_frontend"), raw.pull(f"ipc://{folder}/plain_backend")
    sent = [[b"%d" % n] for n in range(1_000)] + [[b"a", b"", b"c"], [b""], [b"x" * 1_000_000], [b"", b""]]
    for each in sent:
        push.send_multipart(each)
    assert [pull.recv_multipart() for _ in sent] == sent


def test_both_kinds_at_both_sides_share_one_journal_and_each_job_goes_once(
    folder: str, made: Callable[..., CustodyEngine], raw: Raw
) -> None:
    engine = made(folder)
    engine.open()
    plain_push, plain_pull = raw.push(f"ipc://{folder}/plain_frontend"), raw.pull(f"ipc://{folder}/plain_backend")
    found: list[Any] = []
    with pusher(folder, codec="raw") as push, puller(folder, prefetch=10) as pull:
        pull.wait_for_peers(timeout=PATIENCE_S)
        for n in range(1_000):
            push.send_nowait(b"z%d" % n)
            plain_push.send(b"p%d" % n)
        push.flush(PATIENCE_S)

        def read() -> bool:
            while (job := pull.receive(0)) is not None:
                with job:
                    found.append(job.body)
            while plain_pull.poll(0):
                found.append(plain_pull.recv())
            return len(found) >= 2_000

        until(read)
        until(lambda: engine.stats()["waiting"] == 0)
    assert sorted(found) == sorted([b"z%d" % n for n in range(1_000)] + [b"p%d" % n for n in range(1_000)])
    stats = engine.stats()
    assert stats["frontend_messages_received"] == stats["backend_messages_sent"] == 2_000
    assert stats["plain_frontend_messages_received"] == 1_000
    assert 0 < stats["plain_backend_messages_sent"] < 2_000


def _backwards(body: object) -> bytes:
    assert isinstance(body, bytes)
    return body[::-1]


def test_a_codec_that_the_device_does_not_know_passes(folder: str) -> None:
    zmqkit.codec.register("backwards", _backwards, lambda data: data[::-1])
    with program(folder, module=MODULE) as device:
        device.heard()
        with pusher(folder, codec="backwards") as push, puller(folder) as pull:
            push.send(b"abc")
            assert taken(pull, 1) == [b"abc"]


def test_sides_may_connect_too(tmp_path: Path, raw: Raw) -> None:
    plain_push, plain_pull = raw.bare(zmq.PUSH), raw.bare(zmq.PULL)
    for each in (plain_push, plain_pull):
        each.bind("tcp://127.0.0.1:*")
    at_push, at_pull = (each.getsockopt_string(zmq.LAST_ENDPOINT) for each in (plain_push, plain_pull))
    with zmqkit.Pusher(LOCAL) as push, zmqkit.Puller(bind=LOCAL) as pull:
        engine = CustodyEngine(
            name="device", frontend=Side(connect=push.addresses), backend=Side(connect=pull.addresses),
            plain_frontend=Side(connect=at_push), plain_backend=Side(connect=at_pull), journal=tmp_path / "j.db",
        )  # fmt: skip
        engine.open()
        with closing_engine(engine):
            push.send("a")
            plain_push.send(msgpack.packb("b"))
            push.flush(PATIENCE_S)
            found: list[Any] = []

            def read() -> bool:
                while (job := pull.receive(0)) is not None:
                    with job:
                        found.append(job.body if isinstance(job.body, str) else msgpack.unpackb(job.body))
                while plain_pull.poll(0):
                    found.append(msgpack.unpackb(plain_pull.recv()))
                return len(found) == 2

            until(read)
            assert sorted(found) == ["a", "b"]
            assert engine.frontend_addresses == engine.backend_addresses == ()


def test_plain_pulls_behind_a_name_are_looked_up(
    tmp_path: Path, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_pull = raw.bare(zmq.PULL)
    plain_pull.bind("tcp://127.0.0.1:*")
    monkeypatch.setenv("ZMQKIT_TEST_PULLS", plain_pull.getsockopt_string(zmq.LAST_ENDPOINT))
    monkeypatch.setenv("ZMQKIT_TEST_PUSHES", "tcp://127.0.0.1:*")
    engine = CustodyEngine(
        name="device", frontend=Side(bind=LOCAL), backend=Side(bind=LOCAL), journal=tmp_path / "j.db",
        plain_frontend=Side(bind="env://ZMQKIT_TEST_PUSHES"), plain_backend=Side(connect="env://ZMQKIT_TEST_PULLS"),
    )  # fmt: skip
    engine.open()
    with closing_engine(engine):
        raw.push(engine.plain_frontend_addresses[0]).send(b"a")
        assert plain_pull.recv() == b"a"


def test_only_plain_sides_are_a_durable_queue_between_plain_sockets(tmp_path: Path, raw: Raw) -> None:
    def engine() -> CustodyEngine:
        return CustodyEngine(
            name="device", frontend=None, backend=None, journal=tmp_path / "j.db",
            plain_frontend=Side(bind=LOCAL), plain_backend=Side(bind=LOCAL),
        )  # fmt: skip

    first = engine()
    first.open()
    with closing_engine(first):
        assert first.frontend_addresses == first.plain_frontend_addresses != ()
        assert first.backend_addresses == first.plain_backend_addresses != ()
        push = raw.push(first.frontend_addresses[0])
        for n in range(1_000):
            push.send(b"%d" % n)
        until(lambda: first.stats()["waiting"] == 1_000)
    second = engine()
    second.open()
    with closing_engine(second):
        pull = raw.pull(second.backend_addresses[0])
        assert [pull.recv() for _ in range(1_000)] == [b"%d" % n for n in range(1_000)]
        until(lambda: second.stats()["waiting"] == 0)
        assert second.stats()["plain_backend_messages_sent"] == 1_000


@contextlib.contextmanager
def closing_engine(engine: CustodyEngine) -> Iterator[CustodyEngine]:
    try:
        yield engine
    finally:
        engine.close(PATIENCE_S)


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
    monkeypatch.setattr("zmqkit.patterns.pipeline.pusher.RETRY_STORE", 0.01)
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


# ---- steering --------------------------------------------------------------------------------


def test_paused_it_lets_nothing_through_and_resumed_all(
    folder: str, made: Callable[..., CustodyEngine], raw: Raw
) -> None:
    engine = made(folder)
    engine.open()
    plain_push = raw.push(f"ipc://{folder}/plain_frontend")
    with pusher(folder) as push, puller(folder) as pull:
        push.send("before")
        before = take(pull)
        for _ in range(2):
            engine.pause()
        assert engine.stats()["paused"] == 1
        push.send_many(range(1_000))
        plain_push.send(b"plain")
        before.ack(wait=True)
        until(lambda: engine._plain_front is not None and engine._plain_front.stats()["received"] == 1)
        until(lambda: engine._front is not None and engine._front.stats()["received"] == 1_001)
        stats = engine.stats()
        assert stats["frontend_messages_received"] == stats["backend_messages_sent"] == 1
        assert push.stats()["acked"] == 1
        for _ in range(2):
            engine.resume()
        assert engine.stats()["paused"] == 0
        assert push.flush(PATIENCE_S).acked == 1_001
        found = taken(pull, 1_001)
    assert [each for each in found if each != b"plain"] == list(range(1_000))


def test_a_paused_device_can_be_closed(folder: str, made: Callable[..., CustodyEngine]) -> None:
    engine = made(folder)
    engine.open()
    engine.pause()
    engine.close(PATIENCE_S)
    engine.close(PATIENCE_S)
    engine.resume()


def test_statistics_count_messages_and_bytes_and_say_what_is_at_most_once(
    folder: str, made: Callable[..., CustodyEngine], raw: Raw
) -> None:
    engine = made(folder)
    assert set(STATS) <= set(engine.stats()), "also before it is open"
    engine.open()
    with pusher(folder, codec="raw") as push, puller(folder) as pull:
        push.send_many([b"12345"] * 10)
        assert taken(pull, 10) == [b"12345"] * 10
        until(lambda: engine.stats()["acked"] == 10)
        assert engine.stats()["sessions"] == 2
    until(lambda: engine.stats()["sessions"] == 0)
    raw.push(f"ipc://{folder}/plain_frontend").send(b"123")
    assert raw.pull(f"ipc://{folder}/plain_backend").recv() == b"123"
    until(lambda: engine.stats()["acked"] == 11)
    engine.close(0)
    stats = engine.stats()
    expected = {
        "frontend_messages_received": 11, "frontend_bytes_received": 53, "backend_messages_sent": 11,
        "backend_bytes_sent": 53, "plain_frontend_messages_received": 1, "plain_frontend_bytes_received": 3,
        "plain_backend_messages_sent": 1, "plain_backend_bytes_sent": 3, "waiting": 0, "acked": 11, "dead": 0,
        "sessions": 0, "paused": 0,
    }  # fmt: skip
    assert {name: stats[name] for name in expected} == expected


# ---- what is refused, and strangers ----------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"frontend": None, "plain_frontend": None}, "needs a frontend, or a plain_frontend"),
        ({"backend": None, "plain_backend": None}, "needs a backend, or a plain_backend"),
        ({"plain_frontend": Side(bind="inproc://a")}, "plain sockets are reached over"),
        ({"plain_backend": Side(bind="inproc://a")}, "plain sockets are reached over"),
        ({"plain_backend": Side(bind=LOCAL, limits=Limits(queued_messages=5))}, "the limits of backend"),
    ],
)
def test_sides_that_make_no_sense_are_refused_before_anything_is_opened(
    folder: str, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        engine_in(folder, **given)
    assert not list(Path(folder).iterdir())


def test_a_peer_on_the_wrong_side_harms_nobody(folder: str, made: Callable[..., CustodyEngine], raw: Raw) -> None:
    engine = made(folder)
    engine.open()
    strangers = [zmqkit.Pusher(connect=f"ipc://{folder}/{side}", linger=0) for side in ("backend", "plain_frontend")]
    for each in strangers:
        each.open()
    garbage = raw.push(f"ipc://{folder}/plain_frontend")
    dealer = raw.bare(zmq.DEALER)
    dealer.connect(f"ipc://{folder}/frontend")
    for n in range(100):
        dealer.send_multipart([b"\xff%d" % n, b"garbage"])
    garbage.send_multipart([b"x"] * 2_000)
    with pusher(folder) as push, puller(folder) as pull:
        push.send_many(range(100))
        assert taken(pull, 100) == list(range(100))
    for each in strangers:
        each.close()


def test_two_devices_in_a_row_keep_ids_and_times(tmp_path: Path) -> None:
    with closing_engine(_between(tmp_path / "1.db", Side(bind=LOCAL), Side(bind=LOCAL))) as first:
        second = _between(tmp_path / "2.db", Side(connect=first.backend_addresses), Side(bind=LOCAL))
        with (
            closing_engine(second),
            zmqkit.Pusher(connect=first.frontend_addresses) as push,
            zmqkit.Puller(second.backend_addresses[0]) as pull,
        ):
            before = datetime.now().astimezone()
            receipt = push.send("a", headers={"h": "1"})
            after = datetime.now().astimezone()
            with take(pull) as job:
                assert (job.id, job.body, dict(job.headers)) == (receipt.id, "a", {"h": "1"})
                assert before <= job.sent_at <= after


def _between(journal: Path, frontend: Side, backend: Side) -> CustodyEngine:
    engine = CustodyEngine(name="device", frontend=frontend, backend=backend, journal=journal)
    engine.open()
    return engine
