"""A peer written from docs/protocol.md alone (peer.py) against a zmqkit Pusher and a zmqkit Puller."""

from __future__ import annotations

import contextlib
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import zmqkit
from tests.conformance import peer as raw
from tests.conformance.peer import RawPuller, RawPusher
from tests.protocol.switch import Switch
from zmqkit import Backoff, Heartbeat
from zmqkit.journal import SqliteJournal
from zmqkit.patterns.pipeline.rows import DeadRow
from zmqkit.protocol.core import Read

PATIENCE_S = 20.0
PATIENT = Heartbeat(interval=0.1, liveness=300)


@pytest.fixture
def pusher(tmp_path: Path) -> Iterator[zmqkit.Pusher]:
    with zmqkit.Pusher(
        "tcp://127.0.0.1:*", journal=tmp_path / "j.db", durability="process", heartbeat=PATIENT, linger=0,
        max_failures=3, backoff=Backoff(first=0.001, cap=0.001),
    ) as made:  # fmt: skip
        yield made
        if not made.closed:
            made.flush(timeout=PATIENCE_S)


def puller_of(pusher: zmqkit.Pusher, **more: Any) -> RawPuller:
    return RawPuller(connect=pusher.addresses[0], **more)


# ---- a raw puller ---------------------------------------------------------------------------


def test_a_raw_puller_takes_and_acks_all_that_a_pusher_sends(pusher: zmqkit.Pusher) -> None:
    pusher.send_many({"n": number} for number in range(1000))
    with puller_of(pusher, credit=(100, 5000)) as puller:

        def work() -> bool:
            if puller.held:
                puller.settle(list(puller.held), [])
            return len(puller.deliveries) == 1000 and not puller.kept

        puller.until(work)
        assert [body["n"] for body, _ in puller.deliveries] == list(range(1000))
        assert puller.most_held <= 100
        assert len({known["id"] for _, known in puller.deliveries}) == 1000
        assert pusher.flush(timeout=PATIENCE_S).acked == 1000
        puller.say_goodbye("done")


def test_a_raw_puller_is_answered_when_it_asks(pusher: zmqkit.Pusher) -> None:
    pusher.send("a")
    with puller_of(pusher) as puller:
        puller.until(lambda: bool(puller.held))
        (lease,) = puller.held
        puller.settle([lease], [], ask=9)
        puller.until(lambda: 9 in puller.settled)
        assert puller.settled[9] == []
        assert pusher.flush(timeout=0.0 + PATIENCE_S).acked == 1
        # Now nothing is written any more, and stale settles must be answered all the same (7.4).
        puller.settle([lease], [], ask=10)
        puller.settle([], [[lease, raw.NACK, None, "late", ""]], ask=11)
        puller.settle([77, 78], [], ask=12, epoch=b"." * 16)
        puller.until(lambda: 12 in puller.settled)
        assert puller.settled[10] == puller.settled[11] == [lease, lease]
        assert puller.settled[12] == [77, 77, 78, 78]
    assert pusher.stats()["settles_stale"] == 4


def test_every_outcome_of_a_raw_puller_does_what_the_document_says(pusher: zmqkit.Pusher, tmp_path: Path) -> None:
    outcomes = {"nack": raw.NACK, "reject": raw.REJECT, "release": raw.RELEASE, "isolate": raw.ISOLATE}
    pusher.send_many([*outcomes, "always fails"])
    with puller_of(pusher) as puller:

        def work() -> bool:
            for lease, (body, known) in list(puller.held.items()):
                first = not known.get("deliveries")
                if body == "always fails":
                    puller.settle([], [[lease, raw.NACK, None, "ValueError: no", "Traceback"]])
                elif first:
                    puller.settle([], [[lease, outcomes[body], None, f"{body}ed", ""]])
                else:
                    puller.settle([lease], [])
            return not puller.held and pusher.stats()["acked"] + pusher.stats()["dead"] == 5

        puller.until(work)
        known: dict[str, list[Any]] = {}
        for body, each in puller.deliveries:
            known.setdefault(body, []).append(each)
        assert [each.get("failures", 0) for each in known["nack"]] == [0, 1]
        assert [each.get("failures", 0) for each in known["always fails"]] == [0, 1, 2]
        assert [each.get("deliveries", 0) for each in known["always fails"]] == [0, 1, 2]
        assert len(known["reject"]) == 1
        assert [each["alone"] for each in known["release"]] == [False, False]
        assert [each["alone"] for each in known["isolate"]] == [False, True]
        assert [each.get("failures", 0) for each in known["isolate"]] == [0, 0]
        assert known["nack"][0]["id"] == known["nack"][1]["id"]
    settled = pusher.flush(timeout=PATIENCE_S)
    assert (settled.acked, settled.dead) == (3, 2)
    pusher.close()
    journal = SqliteJournal(tmp_path / "j.db", logs=("messages", "marks", "dead"), read_only=True)
    letters = [DeadRow.unpack(row.value) for row in journal.read(Read("dead", 0, 1 << 62, 1 << 20))]
    journal.close()
    assert {(letter.reason, letter.failures) for letter in letters} == {("rejected", 0), ("ValueError: no", 3)}


def test_a_raw_puller_that_reconnects_resumes_and_gets_what_it_missed(pusher: zmqkit.Pusher) -> None:
    pusher.send_many(range(50))
    with puller_of(pusher, credit=(10, 1 << 20)) as puller:
        losing = iter([False, False, True] * 30)

        def work() -> bool:
            if puller.held:
                puller.settle(list(puller.held), [])
                if len(puller.deliveries) in (10, 30):
                    puller.reconnect()
            return len(puller.deliveries) == 50 and not puller.kept

        puller.drop = lambda header: header[0] in (raw.DATA, raw.STATE) and next(losing, False)
        puller.until(work)
        assert [body for body, _ in puller.deliveries] == list(range(50))
        assert all(not known.get("deliveries") for _, known in puller.deliveries)
        puller.until(lambda: not puller.kept)
        assert pusher.flush(timeout=PATIENCE_S).acked == 50
    stats = pusher.stats()
    assert stats["sessions_opened"] == 1
    assert stats["sessions_resumed"] >= 1


def test_what_a_raw_puller_does_not_list_as_held_comes_again(pusher: zmqkit.Pusher) -> None:
    pusher.send_many(["kept", "forgotten"])
    with puller_of(pusher) as puller:
        puller.until(lambda: len(puller.held) == 2)
        lost = next(lease for lease, (body, _) in puller.held.items() if body == "forgotten")
        del puller.held[lost]
        puller.say_held()
        puller.until(lambda: len(puller.held) == 2)
        assert [known.get("deliveries", 0) for _, known in puller.deliveries] == [0, 0, 1]
        assert not any(known.get("failures") for _, known in puller.deliveries)
        puller.settle([lost], [], ask=1)
        puller.settle(list(puller.held), [], ask=2)
        puller.until(lambda: 2 in puller.settled)
        assert puller.settled == {1: [lost, lost], 2: []}


def test_a_raw_puller_that_says_goodbye_gives_its_jobs_back_at_once(pusher: zmqkit.Pusher) -> None:
    pusher.send_many(range(4))
    with puller_of(pusher) as first:
        first.until(lambda: bool(first.held))
        with puller_of(pusher) as second:
            first.say_goodbye("off")

            def work() -> bool:
                if second.held:
                    second.settle(list(second.held), [])
                return pusher.stats()["acked"] == 4

            second.until(work)
            assert {body for body, _ in second.deliveries} == set(range(4))
            assert any(known.get("deliveries") for _, known in second.deliveries)


def test_a_raw_puller_that_takes_longer_than_its_bound_and_answers_pings_lives() -> None:
    class Quick(RawPuller):
        heartbeat = (0.02, 10)

    with zmqkit.Pusher("tcp://127.0.0.1:*") as pusher, Quick(connect=pusher.addresses[0]) as puller:
        pusher.send("slow")
        puller.until(lambda: sum(header[0] == raw.PING for header in puller.log) > 20)
        assert pusher.stats()["sessions_lost"] == 0
        puller.settle(list(puller.held), [], ask=1)
        puller.until(lambda: 1 in puller.settled)


@pytest.mark.parametrize(("change", "code"), [({"role": "push"}, "role"), ({"zmqkit": [2, 9]}, "version")])
def test_a_raw_peer_that_does_not_fit_is_told_why(pusher: zmqkit.Pusher, change: dict[str, Any], code: str) -> None:
    class Wrong(RawPuller):
        def _greeting(self, resume: bool) -> dict[str, Any]:
            return {**super()._greeting(resume), **change}

    with Wrong(connect=pusher.addresses[0]) as puller:
        puller.until(lambda: puller.refused is not None)
        assert puller.refused is not None
        assert puller.refused[0] == code


def test_a_raw_puller_that_binds_is_found_by_a_pusher_that_connects() -> None:
    with RawPuller(bind="tcp://127.0.0.1:*") as puller, zmqkit.Pusher(connect=puller.address, linger=0) as pusher:
        pusher.send_many(range(20))

        def work() -> bool:
            if puller.held:
                puller.settle(list(puller.held), [])
            return pusher.stats()["acked"] == 20

        puller.until(work)
        assert [body for body, _ in puller.deliveries] == list(range(20))


# ---- a raw pusher ---------------------------------------------------------------------------


@contextlib.contextmanager
def both(bodies: list[Any], binds: bool, run: int = 1) -> Iterator[tuple[RawPusher, zmqkit.Puller]]:
    """A raw pusher and a zmqkit puller, either of which binds."""
    where = "tcp://127.0.0.1:*"
    if binds:
        with (
            RawPusher(bodies, bind=where, run=run) as pusher,
            zmqkit.Puller(pusher.address, prefetch=20, heartbeat=PATIENT) as puller,
        ):
            yield pusher, puller
    else:
        with (
            zmqkit.Puller(bind=where, prefetch=20, heartbeat=PATIENT) as puller,
            RawPusher(bodies, connect=puller.addresses[0], run=run) as pusher,
        ):
            yield pusher, puller


@contextlib.contextmanager
def taking(puller: zmqkit.Puller, got: list[Any]) -> Iterator[None]:
    """Take jobs in a thread meanwhile; the body "bad" fails the first time."""

    def take() -> None:
        for job in puller:
            with job:
                got.append(job.body)
                if job.body == "bad" and got.count("bad") == 1:
                    raise ValueError("not today")
                if job.body == "hopeless":
                    raise zmqkit.Reject("it is hopeless")

    thread = threading.Thread(target=take)
    thread.start()
    try:
        yield
    finally:
        puller.stop()
        thread.join(PATIENCE_S)


@pytest.mark.parametrize("binds", [True, False])
@pytest.mark.parametrize("run", [1, 7])
def test_a_raw_pusher_is_served_by_a_puller(binds: bool, run: int) -> None:
    bodies = [{"n": number} for number in range(300)]
    got: list[Any] = []
    with both(bodies, binds, run) as (pusher, puller), taking(puller, got):

        def work() -> bool:
            pusher.deliver()
            return len(pusher.acked) == len(bodies)

        pusher.until(work)
        assert got == bodies
        assert pusher.acked == list(range(300))
        assert pusher.stale == 0
        assert not pusher.others


def test_a_raw_pusher_hears_how_jobs_ended_that_were_not_acked() -> None:
    got: list[Any] = []
    with both(["good", "bad", "hopeless"], True) as (pusher, puller), taking(puller, got):

        def work() -> bool:
            pusher.deliver()
            return len(pusher.acked) == 2 and len(pusher.others) == 2

        pusher.until(work)
        nack, reject = sorted(pusher.others)
        assert nack[:2] == (1, raw.NACK)
        assert "not today" in nack[3]
        assert reject[:2] == (2, raw.REJECT)
        assert "hopeless" in reject[3]
        assert got.count("bad") == 2


def test_a_puller_asks_a_raw_pusher_for_what_was_lost_and_takes_nothing_twice() -> None:
    bodies = list(range(200))
    got: list[Any] = []
    with both(bodies, False) as (pusher, puller), taking(puller, got):
        rng = random.Random(5)
        pusher.drop = lambda header: header[0] == raw.DATA and rng.random() < 0.2

        def work() -> bool:
            pusher.deliver()
            if rng.random() < 0.1 and pusher.kept:
                number, (messages, body) = next(iter(pusher.kept.items()))
                pusher._session_frame(raw.DATA, number, messages, body=body)  # once more
            return len(pusher.acked) == len(bodies)

        pusher.until(work)
        assert got == bodies
        assert puller.stats()["messages_missed"] > 0
        assert any(header[0] == raw.RESUME for header in pusher.log)


def test_a_raw_pusher_that_reconnects_is_resumed_by_a_puller() -> None:
    bodies = list(range(60))
    got: list[Any] = []
    with both(bodies, False) as (pusher, puller), taking(puller, got):
        marks = iter([10, 30, 50, 1000])
        mark = next(marks)

        def work() -> bool:
            nonlocal mark
            pusher.deliver()
            if len(pusher.acked) >= mark:
                mark = next(marks)
                pusher.reconnect()
            return len(pusher.acked) == len(bodies)

        pusher.until(work)
        assert got == bodies
        assert puller.stats()["sessions_opened"] == 1
        assert puller.stats()["sessions_resumed"] >= 1


def test_a_raw_pusher_that_sends_beyond_its_credit_is_told_goodbye() -> None:
    with both(list(range(100)), False) as (pusher, puller):
        pusher.until(lambda: pusher.welcomed)
        pusher.limits = (1000, 1 << 40)
        pusher.deliver()
        pusher.until(lambda: pusher.over is not None)
        assert pusher.over == "credit exceeded"
        assert puller.stats()["credit_exceeded"] == 1


def test_a_raw_pusher_without_an_epoch_is_told_goodbye() -> None:
    class Nameless(RawPusher):
        def _greeting(self, resume: bool) -> dict[str, Any]:
            return {**super()._greeting(resume), "about": {}}

    with zmqkit.Puller(bind="tcp://127.0.0.1:*") as puller, Nameless([1], connect=puller.addresses[0]) as pusher:
        pusher.until(lambda: pusher.over is not None)
        assert pusher.over == "no epoch"


def test_the_raw_peer_uses_nothing_of_zmqkit() -> None:
    source = Path(raw.__file__).read_text()
    assert not re.search(
        r"^\s*(from|import) (?!__future__|collections|os|time|types|typing|msgpack|zmq\b)", source, re.M
    )


# ---- with a device between ------------------------------------------------------------------


def settle_all(puller: RawPuller, count: int) -> None:
    """Take and ack until so many came, and all acks are heard."""

    def work() -> bool:
        if puller.held:
            puller.settle(list(puller.held), [])
        return len(puller.deliveries) == count and not puller.kept

    puller.until(work)


def test_a_raw_puller_is_told_that_its_way_through_a_switch_is_gone_and_resumes_over_another(
    pusher: zmqkit.Pusher,
) -> None:
    with Switch("pull", "push", [pusher.addresses[0]]) as switch, RawPuller(connect=switch.front) as puller:
        pusher.send_many(range(10))
        settle_all(puller, 10)
        assert raw.MORE in [header[0] for header in puller.log]
        for _ in range(110):  # enough for the pusher to close the connection that the switch made (1.1)
            puller._session_frame(raw.DATA)
        puller.until(lambda: raw.GONE in [header[0] for header in puller.log])
        pusher.send_many(range(10, 20))
        settle_all(puller, 20)
        assert [body for body, _ in puller.deliveries] == list(range(20))
    assert pusher.stats()["sessions_opened"] == 1
    assert pusher.stats()["sessions_resumed"] == 1


def test_a_raw_puller_that_dials_where_acceptors_are_is_told_to_listen_and_answers_hello() -> None:
    with (
        Switch("push", "pull", []) as switch,
        RawPuller(connect=switch.back) as puller,
        zmqkit.Pusher(connect=switch.front, heartbeat=PATIENT, linger=0) as pusher,
    ):
        puller.until(lambda: puller.listening and puller.welcomed)
        pusher.send_many(range(10))
        settle_all(puller, 10)
        puller.reconnect()
        puller.until(lambda: puller.listening)
        pusher.send_many(range(10, 20))
        settle_all(puller, 20)
        assert [body for body, _ in puller.deliveries] == list(range(20))
        assert pusher.stats()["sessions_lost"] == 0
