"""`zmqkit.testing.job` and `.run`: handlers are tried without sockets, and behave as they do with them."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import zmqkit
from zmqkit import AlreadySettled, Duplicate, EncodeError, Job, Outgoing, Reject, Retry, UsageError, Worker, aio
from zmqkit.testing import DeadLetter, Report, job, run

YEAR = 365 * 86400.0


@pytest.fixture(autouse=True)
def no_thread_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these functions promise."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a driver was started")

    monkeypatch.setattr("zmqkit.transport.iothread.IoThread.start", refuse)


# ---- job -----------------------------------------------------------------------------


def test_a_job_has_what_was_asked_for() -> None:
    made = job({"n": (1, 2)}, failures=2, headers={"trace": "7"})
    assert isinstance(made, Job)
    assert made.body == {"n": [1, 2]}  # as it arrives
    assert (made.failures, made.deliveries, made.headers) == (2, 3, {"trace": "7"})
    assert made.id
    assert abs(made.sent_at.timestamp() - time.time()) < 60
    assert made.outcome is None
    plain = job("x")
    assert (plain.failures, plain.deliveries, plain.headers) == (0, 1, {})


def test_its_outcome_can_be_looked_at_after_the_block() -> None:
    with job("fine") as made:
        pass
    assert made.outcome == "acked"
    for error, outcome in (
        (ZeroDivisionError("x"), "nacked"),
        (Retry(delay=5), "nacked"),
        (Reject("never"), "rejected"),
    ):
        with job("x") as made:
            raise error
        assert made.outcome == outcome
    made = job("x")
    with pytest.raises(KeyboardInterrupt), made:
        raise KeyboardInterrupt
    assert made.outcome == "released"


def test_it_is_settled_by_hand_and_only_once() -> None:
    for settle, outcome in (
        (Job.ack, "acked"), (lambda made: made.ack(wait=True), "acked"), (Job.nack, "nacked"),
        (lambda made: made.reject("no"), "rejected"), (Job.release, "released"),
    ):  # fmt: skip
        made = job("x")
        settle(made)
        assert made.outcome == outcome
        with pytest.raises(AlreadySettled):
            made.ack()


def test_what_cannot_travel_is_refused() -> None:
    with pytest.raises(EncodeError, match="body"):
        job({"when": object()})
    with pytest.raises(EncodeError, match="reserved"):
        job("x", headers={"zmqkit-x": "1"})
    with pytest.raises(ValueError, match="failures"):
        job("x", failures=-1)


def test_a_job_works_in_an_inbox(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("create table sold (what text)")

        def sell(given: Job[str]) -> None:
            with given.transaction() as effects:
                effects.execute("insert into sold values (?)", (given.body,))
                if given.body == "bad":
                    raise Reject("no")

        for body in ("a", "b", "bad"):
            with job(body, inbox=path) as given:
                sell(given)
            assert given.outcome == ("rejected" if body == "bad" else "acked")
        with job("c", inbox=path, id="once") as given:
            sell(given)
        assert given.id == "once"
        with pytest.raises(Duplicate, match="once was done before"):
            job("c", inbox=path, id="once")
        assert db.execute("select what from sold").fetchall() == [("a",), ("b",), ("c",)]


# ---- run -----------------------------------------------------------------------------


def test_bodies_and_results_have_keys_times_and_ids() -> None:
    def handler(given: Job[str]) -> Any:
        if given.body == "a" and not given.failures:
            raise Retry(delay=3600)
        return Outgoing([given.body, given.key], key=given.key, delay=60, id=f"of {given.body}")

    bodies = [
        Outgoing("a", key="k"), Outgoing("b", key="k"), Outgoing("c", delay=7200),
        Outgoing("d", priority=5, id="once"), Outgoing("d", id="once"),
    ]  # fmt: skip
    report = run(handler, bodies)
    assert (report.acked, report.dead) == (4, [])
    assert report.sent == [
        ["d", None],
        Outgoing(["a", "k"], key="k"),
        Outgoing(["b", "k"], key="k"),
        ["c", None],
    ]


def test_results_are_sent_and_counted() -> None:
    def handler(n: int) -> Any:
        match n:
            case 0:
                return None
            case 1:
                return (each for each in ("a", ("b", "c")))
            case 2:
                return Outgoing({"n": n}, headers={"n": "2"})
            case _:
                return [n]

    report = run(handler, range(4))
    assert report == Report(
        acked=4, sent=["a", ["b", "c"], Outgoing({"n": 2}, headers={"n": "2"}), [3]], dead=[]
    )  # fmt: skip
    assert run(handler, []) == Report(acked=0, sent=[], dead=[])


def test_an_exception_comes_out_unless_told_otherwise() -> None:
    def handler(body: Any) -> None:
        raise ZeroDivisionError(body)

    with pytest.raises(ZeroDivisionError, match="x"):
        run(handler, ["x"])
    report = run(handler, ["x"], on_error="reject")
    (letter,) = report.dead
    assert (letter.body, letter.reason, letter.failures) == ("x", "ZeroDivisionError: x", 0)
    assert letter.traceback is not None
    assert letter.traceback.endswith("ZeroDivisionError: x\n")
    tries: list[Any] = []

    def clumsy(body: Any) -> Any:
        tries.append(body)
        if len(tries) < 3:
            raise ZeroDivisionError
        return body

    assert run(clumsy, ["x"], on_error="nack") == Report(acked=1, sent=["x"], dead=[])
    assert len(tries) == 3


def test_retry_is_tried_again_at_once_however_long_its_delay_and_dead_in_the_end() -> None:
    tries: list[Any] = []

    def handler(body: Any) -> Any:
        tries.append(body)
        if body == "never" or tries.count(body) < 3:
            raise Retry(delay=YEAR, reason=f"{body} is not ready")
        return body

    began = time.monotonic()
    report = run(handler, ["soon", "never", "later"])
    assert time.monotonic() - began < YEAR
    assert (report.acked, sorted(report.sent)) == (2, ["later", "soon"])
    (letter,) = report.dead
    assert isinstance(letter, DeadLetter)
    assert (letter.body, letter.reason, letter.failures) == ("never", "never is not ready", 20)
    assert tries.count("never") == 20


def test_reject_makes_a_dead_letter_at_once() -> None:
    def handler(n: int) -> int:
        if n % 2:
            raise Reject(f"{n} is odd")
        return n

    report = run(handler, [0, Outgoing(1, headers={"a": "b"}), 2])
    assert (report.acked, report.sent) == (2, [0, 2])
    (letter,) = report.dead
    assert (letter.body, letter.headers, letter.reason) == (1, {"a": "b"}, "1 is odd")


def test_what_a_second_try_sends_again_is_there_once() -> None:
    tries: list[int] = []

    def handler(n: int) -> Iterator[int]:
        tries.append(n)
        for at in range(600):
            if at == 500 and len(tries) == 1:
                raise Retry
            yield at

    report = run(handler, [1])
    assert report.sent == list(range(600))
    assert (report.acked, len(tries)) == (1, 2)


def test_a_handler_gets_the_job_where_it_asks_for_it() -> None:
    def handler(each: Job[Any]) -> Any:
        if each.body == "by hand":
            each.reject("by hand")
            return None
        return [each.body, dict(each.headers), each.failures]

    report = run(handler, [Outgoing("x", headers={"a": "b"}), "by hand"])
    assert report.sent == [["x", {"a": "b"}, 0]]
    assert (report.acked, report.dead[0].reason) == (1, "by hand")


def test_coroutines_and_async_generators_are_handlers_too() -> None:
    async def coroutine(n: int) -> int:
        await asyncio.sleep(0)
        return n * 2

    async def generator(n: int) -> AsyncIterator[int]:
        for at in range(n):
            await asyncio.sleep(0)
            yield at

    assert run(coroutine, [1, 2]).sent == [2, 4]
    assert run(generator, [2, 0, 1]).sent == [0, 1, 0]

    async def failing(n: int) -> int:
        raise ZeroDivisionError(n)

    with pytest.raises(ZeroDivisionError):
        run(failing, [1])
    assert [letter.body for letter in run(failing, [1], on_error="reject").dead] == [1]


@pytest.mark.parametrize("face", [zmqkit, aio], ids=["sync", "async"])
def test_a_worker_is_run_with_its_handler_and_batches_but_not_its_addresses(face: Any) -> None:
    sizes: list[int] = []

    def handler(bodies: list[int]) -> list[int]:
        sizes.append(len(bodies))
        if 4 in bodies:
            raise Reject("four") if len(bodies) == 1 else ZeroDivisionError("in company")
        return [-body for body in bodies]

    worker = face.Worker(handler, source="zeroconf://nobody", sink="zeroconf://nowhere", batch=3)
    report = run(worker, range(6), on_error="nack")
    assert sorted(report.sent) == [-5, -3, -2, -1, 0]
    assert [letter.reason for letter in report.dead] == ["four"]
    assert sizes[0] == 3
    assert max(sizes) <= 3
    assert worker.stats() == {}, "it was opened"


def test_a_worker_without_a_sink_may_return_nothing_here_either() -> None:
    worker = Worker(lambda body: body, source="inproc://nobody")
    with pytest.raises(UsageError, match="this Worker has no sink"):
        run(worker, ["x"])
    assert run(Worker(lambda body: None, source="inproc://nobody"), ["x"]) == Report(1, [], [])


def test_what_a_worker_refuses_is_refused() -> None:
    with pytest.raises(UsageError, match="function"):
        run("not callable", [])  # type: ignore[arg-type]
    with pytest.raises(EncodeError, match="object") as refused:
        run(lambda body: None, ["fine", object()])
    assert refused.value.index == 1
    with pytest.raises(ValueError, match="on_error"):
        run(lambda body: None, [], on_error="ignore")  # type: ignore[arg-type]


def test_nothing_is_left_behind() -> None:
    before = threading.active_count()
    for _ in range(50):
        run(lambda body: body, ["x"])
        job("x").ack()
    assert threading.active_count() == before
