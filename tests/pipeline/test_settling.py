"""What becomes of a job: acked, failed and tried again, rejected, given back."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import zmqkit
import zmqkit.patterns.pipeline.taking as taking
from tests.pipeline.faces import LOCAL, PATIENCE_S, Face, dead_letters, handle, listen, take
from zmqkit import AlreadySettled, Backoff, Closed, LeaseLost, Reject, Retry, Settled, Unsettled
from zmqkit.events import JobDead, JobFailed, JobRedelivered, StaleSettle
from zmqkit.transport.tickets import Ticket, wait

AT_ONCE = Backoff(first=0.001, cap=0.001)


async def fail(job: Any, error: BaseException) -> None:
    """A with-block that raises."""
    async with job:
        raise error


# ---- one outcome ---------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["acked", "nacked", "rejected", "released"])
async def test_the_first_outcome_counts_and_a_second_one_is_refused(face: Face, outcome: str) -> None:
    async with face.Pusher(LOCAL, linger=0) as push, face.Puller(push.addresses[0]) as pull:
        await push.send("x")
        job = await take(pull)
        assert job.outcome is None
        settle = {
            "acked": job.ack, "nacked": lambda: job.nack(delay=0), "rejected": lambda: job.reject("no"),
            "released": job.release,
        }  # fmt: skip
        await settle[outcome]()
        assert job.outcome == outcome
        for again in (*settle.values(), lambda: job.ack(wait=True)):
            with pytest.raises(AlreadySettled, match=f"{job.id} was {outcome} before"):
                await again()
        assert job.outcome == outcome
        if outcome in ("nacked", "released"):
            job = await take(pull)
            assert (job.failures, job.deliveries) == (int(outcome == "nacked"), 2)
            await job.ack()
        assert await push.flush(PATIENCE_S) == (Settled(dead=1) if outcome == "rejected" else Settled(acked=1))


async def test_a_block_that_settled_its_job_itself_is_left_in_peace(face: Face) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        await push.send("x")
        async with await take(pull) as job:
            await job.reject("seen")
        assert await push.flush(PATIENCE_S) == Settled(dead=1)


async def test_an_error_after_settling_is_logged_and_changes_nothing(
    face: Face, caplog: pytest.LogCaptureFixture
) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        await push.send("x")
        async with await take(pull) as job:
            await job.ack()
            raise ZeroDivisionError("late")
        assert await push.flush(PATIENCE_S) == Settled(acked=1)
    assert "was acked, then its handler raised" in caplog.text


async def test_delays_that_are_none_are_refused(face: Face) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        await push.send("x")
        job = await take(pull)
        for delay in (-1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="0 or more seconds"):
                await job.nack(delay=delay)
        await job.ack()  # for it was not settled
        await push.flush(PATIENCE_S)


async def test_settling_after_close_is_refused_and_the_job_comes_again(
    face: Face, caplog: pytest.LogCaptureFixture
) -> None:
    async with face.Pusher(LOCAL) as push:
        await push.send_many(["x", "y"])
        pull = await face.Puller(push.addresses[0]).open()
        jobs = [await take(pull), await take(pull)]
        await pull.close()
        for job in jobs:
            for settle in (job.ack, job.release, lambda job=job: job.ack(wait=True)):
                with pytest.raises(Closed):
                    await settle()
            with pytest.raises(Closed, match="their pusher delivers them again"):
                await fail(job, ZeroDivisionError("too late"))
            assert job.outcome is None
        assert "failed: " not in caplog.text
        assert caplog.text.count("their pusher delivers them again; this failure is not counted") == 2
        assert caplog.text.count("ZeroDivisionError: too late") == 2
        async with face.Puller(push.addresses[0]) as pull:
            assert await handle(pull, 2) == ["x", "y"]
            assert await push.flush(PATIENCE_S) == Settled(acked=2)


# ---- failing -------------------------------------------------------------------------


async def test_a_failed_job_is_contained_logged_counted_and_tried_again(
    face: Face, caplog: pytest.LogCaptureFixture
) -> None:
    async with face.Pusher(LOCAL, backoff=AT_ONCE) as push, face.Puller(push.addresses[0]) as pull:
        failed = listen(face, push, JobFailed)
        receipt = await push.send("x")
        for failures in range(3):
            job = await take(pull)
            assert (job.id, job.failures, job.deliveries) == (receipt.id, failures, failures + 1)
            await fail(job, ZeroDivisionError(f"try {failures}"))
            assert job.outcome == "nacked"
            event = await failed.next()
            assert (event.id, event.reason, event.failures) == (
                receipt.id, f"ZeroDivisionError: try {failures}", failures + 1,
            )  # fmt: skip
            assert event.traceback.endswith(f"ZeroDivisionError: try {failures}\n")
        await handle(pull, 1)
        assert await push.flush(PATIENCE_S) == Settled(acked=1)
        assert push.stats()["failed"] == pull.stats()["nacked"] == 3
    assert caplog.text.count(f"job {receipt.id} failed: Traceback") == 3
    assert "Traceback" in caplog.text


async def test_what_is_raised_without_a_word_has_a_reason_all_the_same(
    face: Face, caplog: pytest.LogCaptureFixture
) -> None:
    async with face.Pusher(LOCAL, backoff=AT_ONCE) as push, face.Puller(push.addresses[0]) as pull:
        failed = listen(face, push, JobFailed)
        receipt = await push.send("x")
        for error, reason in (
            (Retry(delay=0), "its handler asked for another try"),
            (LookupError(), "LookupError"),
        ):
            await fail(await take(pull), error)
            assert (await failed.next()).reason == reason
        await handle(pull, 1)
        await push.flush(PATIENCE_S)
    assert f"job {receipt.id} failed: its handler asked for another try" in caplog.text


async def test_backoff_puts_a_growing_pause_between_tries(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    # Full jitter draws from 0 up: with a die that always shows its highest face, the ceiling is the pause.
    import random

    monkeypatch.setattr(random.SystemRandom, "random", lambda self: 1.0)
    async with (
        face.Pusher(LOCAL, backoff=Backoff(first=0.05, factor=2.0)) as push,
        face.Puller(push.addresses[0]) as pull,
    ):
        await push.send("x")
        for pause in (0.05, 0.1):
            await fail(await take(pull), ZeroDivisionError())
            began = time.monotonic()
            job = await take(pull)
            assert time.monotonic() - began >= pause * 0.9
            await job.release()
        await handle(pull, 1)
        await push.flush(PATIENCE_S)


async def test_an_explicit_delay_replaces_the_backoff(face: Face) -> None:
    never = Backoff(first=1000.0, cap=1000.0)
    async with face.Pusher(LOCAL, backoff=never) as push, face.Puller(push.addresses[0]) as pull:
        await push.send("x")
        began = time.monotonic()
        await (await take(pull)).nack(delay=0.1, reason="by hand")
        await fail(await take(pull), Retry(delay=0.1, reason="by Retry"))
        job = await take(pull)
        assert job.failures == 2
        assert time.monotonic() - began >= 0.19
        await job.ack()
        await push.flush(PATIENCE_S)


async def test_others_are_not_held_up_by_one_that_waits_for_its_next_try(face: Face) -> None:
    async with face.Pusher(LOCAL, linger=0) as push, face.Puller(push.addresses[0], prefetch=1) as pull:
        await push.send_many(["bad", 1, 2, 3])
        bad = await take(pull)
        await bad.nack(delay=0.3)
        assert await handle(pull, 4) == [1, 2, 3, "bad"]
        await push.flush(PATIENCE_S)


@pytest.mark.parametrize(
    ("on_error", "raised", "outcome", "let_through"),
    [
        ("nack", ZeroDivisionError("e"), "nacked", False),
        ("nack", Reject("never"), "rejected", False),
        ("reject", ZeroDivisionError("e"), "rejected", False),
        ("reject", Retry(reason="later"), "nacked", False),
        ("raise", ZeroDivisionError("e"), "nacked", True),
        ("raise", Retry(reason="later"), "nacked", False),
        ("raise", Reject("never"), "rejected", False),
    ],
)
async def test_what_an_exception_does_is_up_to_on_error_but_retry_and_reject_mean_what_they_say(
    face: Face, on_error: Any, raised: Exception, outcome: str, let_through: bool
) -> None:
    async with (
        face.Pusher(LOCAL, backoff=AT_ONCE) as push,
        face.Puller(push.addresses[0], on_error=on_error) as pull,
    ):
        await push.send("x")
        job = await take(pull)
        if let_through:
            with pytest.raises(type(raised)):
                await fail(job, raised)
        else:
            await fail(job, raised)
        assert job.outcome == outcome
        if outcome == "nacked":
            await handle(pull, 1)
        assert await push.flush(PATIENCE_S) == (Settled(dead=1) if outcome == "rejected" else Settled(acked=1))


@pytest.mark.parametrize("leaving", [KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_leaving_a_block_by_an_interrupt_gives_the_job_back_uncounted(
    face: Face, leaving: type[BaseException]
) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        await push.send("x")
        job = await take(pull)
        with pytest.raises(leaving):
            await fail(job, leaving())
        assert job.outcome == "released"
        job = await take(pull)
        assert (job.failures, job.deliveries) == (0, 2)
        await job.ack()
        assert await push.flush(PATIENCE_S) == Settled(acked=1)
        assert push.stats()["failed"] == 0


# ---- dead letters --------------------------------------------------------------------


@pytest.mark.parametrize("way", ["fails", "rejects", "reject"])
async def test_a_dead_letter_is_journalled_with_reason_and_traceback(face: Face, tmp_path: Path, way: str) -> None:
    path = tmp_path / "jobs.db"
    async with (
        face.Pusher(LOCAL, journal=path, max_failures=3, backoff=AT_ONCE) as push,
        face.Puller(push.addresses[0]) as pull,
    ):
        dead = listen(face, push, JobDead)
        before = await push.send("good")
        receipt = await push.send({"bad": 1}, headers={"trace": "7"})
        await handle(pull, 1)
        if way == "fails":
            for _ in range(3):
                await fail(await take(pull), ZeroDivisionError("it never works"))
            reason, failures, last_line = "ZeroDivisionError: it never works", 3, "ZeroDivisionError: it never works"
        elif way == "rejects":
            await fail(await take(pull), Reject("cannot be"))
            reason, failures, last_line = "cannot be", 0, "zmqkit.errors.Reject: cannot be"
        else:
            await (await take(pull)).reject("by hand")
            reason, failures, last_line = "by hand", 0, ""
        event = await dead.next()
        assert (event.id, event.reason, event.peer) == (receipt.id, reason, push.name)
        assert await receipt.wait(timeout=PATIENCE_S) == Settled(acked=1, dead=1)
        assert receipt.outcome == "dead"
        await before.wait(timeout=PATIENCE_S)
        assert before.outcome == "acked"
    (letter,) = dead_letters(path)
    assert (letter.id, letter.reason, letter.failures) == (receipt.id, reason, failures)
    assert letter.traceback.rstrip("\n").endswith(last_line)
    assert bool(letter.traceback) == bool(last_line)
    assert dict(letter.headers) == {"trace": "7"}
    assert letter.body == b"\x81\xa3bad\x01"


async def test_a_receipt_asks_the_journal_for_an_outcome_that_was_settled_before(face: Face, tmp_path: Path) -> None:
    for journal in (tmp_path / "jobs.db", None):
        async with face.Pusher(LOCAL, journal=journal) as push, face.Puller(push.addresses[0]) as pull:
            receipts = [await push.send(n) for n in range(3)]
            for n in range(3):
                job = await take(pull)
                await (job.reject("1") if n == 1 else job.ack())
            assert await push.flush(PATIENCE_S) == Settled(acked=2, dead=1)
            for receipt in receipts:
                await receipt.wait(timeout=PATIENCE_S)
                await receipt.wait(timeout=PATIENCE_S)  # again
            assert [receipt.outcome for receipt in receipts] == ["acked", "dead", "acked"]


# ---- acks that are confirmed, and those that come too late -----------------------------


async def test_ack_wait_returns_when_the_pusher_has_stored_it(face: Face, tmp_path: Path) -> None:
    async with (
        face.Pusher(LOCAL, journal=tmp_path / "jobs.db") as push,
        face.Puller(push.addresses[0]) as pull,
    ):
        await push.send_many(range(20))
        for n in range(20):
            await (await take(pull)).ack(wait=True)
            assert push.stats()["acked"] == n + 1
        assert await push.flush(0) == Settled(acked=20)


async def test_an_ack_for_a_pusher_that_is_gone_is_a_lost_lease(face: Face, tmp_path: Path) -> None:
    """It has no journal, so that nobody can come back in its place."""
    push = await face.Pusher(LOCAL, linger=0).open()
    pull = await face.Puller(push.addresses[0]).open()
    await push.send("x")
    job = await take(pull)
    with pytest.raises(Unsettled):
        await push.close()
    await face.until(lambda: pull.stats()["jobs_lost"] == 1)
    with pytest.raises(LeaseLost):
        await job.ack(wait=True)
    assert job.outcome == "acked"
    await pull.close()


async def test_a_settle_of_a_lost_lease_changes_nothing(face: Face, tmp_path: Path) -> None:
    """The session is lost while jobs are held, as after a partition; the puller lives and settles too late."""
    async with (
        face.Pusher(LOCAL, journal=tmp_path / "jobs.db") as push,
        face.Puller(push.addresses[0]) as stale,
    ):
        given = listen(face, push, JobRedelivered)
        receipts = [await push.send(n) for n in range(4)]
        held = [await take(stale) for _ in range(4)]
        async with face.Puller(push.addresses[0]) as fresh:
            # The pusher ends the session; the puller finds out by the goodbye. Till then its settles are stale.
            lose_session(push, stale)
            assert (await given.next()).count == 4
            again = {job.body: job for job in [await take(fresh) for _ in range(4)]}
            assert [again[n].id for n in range(4)] == [receipt.id for receipt in receipts]
            await face.until(lambda: stale.stats()["jobs_lost"] == 4)
            with pytest.raises(LeaseLost):
                await held[0].ack(wait=True)
            await held[1].ack()
            await held[2].nack(delay=0)
            await held[3].reject("too late")
            await face.until(lambda: stale.stats()["settles_stale"] >= 3)
            assert await push.flush(PATIENCE_S, until="received") == Settled()
            for n in range(4):
                assert again[n].failures == 0
                await again[n].ack(wait=True)
            assert await push.flush(PATIENCE_S) == Settled(acked=4)
        assert push.stats()["failed"] == 0


async def test_a_settle_on_its_way_when_the_lease_ends_is_stale_and_said_so(face: Face) -> None:
    """The pusher takes the leases back while the session stands, as when a settle crosses with a report."""
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        stale = listen(face, push, StaleSettle)
        await push.send_many(range(3))
        held = [await take(pull) for _ in range(3)]
        take_back_leases(push)
        with pytest.raises(LeaseLost, match="came too late"):
            await held[0].ack(wait=True)
        await held[1].ack()
        await held[2].reject("too late")
        again = [await take(pull) for _ in range(3)]
        assert [job.body for job in again] == [0, 1, 2]
        for job in again:
            await job.ack(wait=True)
        assert await push.flush(PATIENCE_S) == Settled(acked=3)
        assert sum([(await stale.next()).count for _ in range(1)]) >= 1


def lose_session(push: Any, pull: Any) -> None:
    """End the session from the pusher's side, as if its puller were silent for too long."""
    peer = getattr(push, "real", push)

    def end(now: float) -> None:
        instance = getattr(pull, "real", pull)._core.local.instance
        for session in list(peer._core.sessions):
            if session.peer.instance == instance:
                peer._core.sessions.goodbye(session, "silent", now)
        peer._core._rise(now)

    peer._driver.submit(end)


def take_back_leases(push: Any) -> None:
    """What the pusher does with leases that a puller's report does not list."""
    peer = getattr(push, "real", push)
    from zmqkit.patterns.pipeline import wire

    def report(done: Ticket, now: float) -> None:
        core = peer._core
        for holder in core._holders.values():
            core._reconcile(holder, wire.Held(core.settings.epoch, core._lease, []))
        done.resolve(None)

    done = peer._driver.ticket()
    peer._driver.submit(report, done)
    wait(done, PATIENCE_S)  # what comes in the same turn is looked at before


# ---- waiting for oneself -------------------------------------------------------------


async def test_a_puller_that_waits_while_it_holds_all_its_credit_is_told_of_its_mistake(
    face: Face, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "LOOK_ROUND", 0.02)
    caplog.set_level(logging.WARNING)
    async with face.Pusher(LOCAL, linger=0) as push, face.Puller(push.addresses[0], prefetch=2) as pull:
        await push.send_many(range(3))
        held = [await take(pull), await take(pull)]
        assert await pull.receive(0.2) is None
        assert await pull.receive(0.1) is None
        assert caplog.text.count("all 2 that it may hold were handed out and not settled") == 1
        for job in held:
            await job.ack()
        await handle(pull, 1)
        await push.flush(PATIENCE_S)


def test_a_handler_that_was_woken_for_what_another_took_is_not_told_of_a_mistake(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    with zmqkit.Pusher(LOCAL) as push, zmqkit.Puller(push.addresses[0], prefetch=1) as pull:
        push.send_many(range(2))
        first = pull.receive()
        got: list[Any] = []
        other = threading.Thread(target=lambda: got.append(pull.receive()), daemon=True)
        other.start()
        mailbox = pull._open_driver.mailbox
        for _ in range(3):
            deadline = time.monotonic() + PATIENCE_S
            while not mailbox._waiters and time.monotonic() < deadline:
                time.sleep(0.001)
            mailbox._wake_all()  # a hint, as all of them are
        first.ack()
        other.join(PATIENCE_S)
        got[0].ack()
        push.flush(PATIENCE_S)
    assert "that it may hold" not in caplog.text
