"""A streamer with a journal: every way through it, how it is steered, and what it refuses."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

import zmqkit
from tests.devices.custody_program import engine_in
from tests.devices.keeping import MODULE, Raw, closing_engine, engines, puller, pusher, short_folder, take, taken, until
from tests.pipeline.faces import LOCAL, PATIENCE_S
from tests.pipeline.processes import program
from zmqkit import Limits, Outgoing, UsageError
from zmqkit.devices.custody import CustodyEngine
from zmqkit.devices.engine import STATS
from zmqkit.devices.sides import Side


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


def test_keys_and_priorities_stay_and_order_what_the_device_keeps(
    folder: str, made: Callable[..., CustodyEngine]
) -> None:
    engine = made(folder)
    engine.open()
    with pusher(folder) as push:
        push.send_many(
            [
                "plain",
                Outgoing("first", key="k", priority=2),
                Outgoing("high", priority=7),
                Outgoing("second", key="k"),
                Outgoing("low", priority=-1),
            ]
        )
        assert push.flush(PATIENCE_S).acked == 5, "the device has them"
    found = []
    with puller(folder, prefetch=1) as pull:
        for _ in range(5):
            with take(pull) as job:
                found.append((job.body, job.key))
    # The second of the key is held until the journal has the ack of the first; the plain one does not wait for that.
    assert [*found[:2], found[-1]] == [("high", None), ("first", "k"), ("low", None)]
    assert set(found[2:4]) == {("second", "k"), ("plain", None)}


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


@pytest.mark.slow
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


def test_plain_pulls_behind_a_name_are_looked_up(tmp_path: Path, raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
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
