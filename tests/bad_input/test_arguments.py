"""Arguments of the wrong kind: refused where they are given, by an error that names them and says what is allowed."""

from __future__ import annotations

import asyncio
import decimal
import fractions
import math
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import zmqkit
from tests.bad_input.scenes import LOCAL, bound_pusher
from tests.bad_input.strangers import PATIENCE_S
from zmqkit import Backoff, EncodeError, Heartbeat, Outgoing, Puller, Pusher, Reject, Retry, UsageError, Window, aio
from zmqkit.journal import SqliteJournal

THERE = "tcp://127.0.0.1:9"
NAN, INF = math.nan, math.inf
WHOLE: tuple[Any, ...] = (True, 1.5, NAN, INF, "2", decimal.Decimal(2), [], 0, -1)


class Number:
    """What can be a float, like NumPy's numbers."""

    def __float__(self) -> float:
        return 0.25


def pushers(**options: Any) -> list[Callable[[], object]]:
    return [lambda: Pusher(LOCAL, **options), lambda: aio.Pusher(LOCAL, **options)]


def pullers(**options: Any) -> list[Callable[[], object]]:
    return [lambda: Puller(THERE, **options), lambda: aio.Puller(THERE, **options)]


def workers(**options: Any) -> list[Callable[[], object]]:
    options = {"source": THERE, "sink": THERE, **options}
    return [lambda: zmqkit.Worker(print, **options), lambda: aio.Worker(print, **options)]


def batches(**options: Any) -> list[Callable[[], object]]:
    return [lambda: Puller[Any](THERE).batches(**options), lambda: aio.Puller[Any](THERE).batches(**options)]


def finish(coroutine: Coroutine[Any, Any, object]) -> object:
    """Run what raises before it waits for anything."""
    try:
        return coroutine.send(None)
    finally:
        coroutine.close()


def runs(**options: Any) -> list[Callable[[], object]]:
    return [lambda: Puller[Any](THERE).run(print, **options),
            lambda: finish(aio.Puller[Any](THERE).run(print, **options))]  # fmt: skip


Make = Callable[..., list[Callable[[], object]]]


def cases(expected: type[Exception], make: Make, name: str, *values: object, says: str = "") -> list[Any]:
    return [
        pytest.param(expected, make, name, value, says or name, id=f"{make.__name__}-{name}={value!r:.20}")
        for value in values
    ]


def options_of(kind: Callable[..., object]) -> Make:
    def made(**options: Any) -> list[Callable[[], object]]:
        return [lambda: kind(**options)]

    made.__name__ = getattr(kind, "__name__", "made")
    return made


REFUSED = [
    *cases(ValueError, pushers, "max_failures", None, *WHOLE),
    *cases(ValueError, pushers, "max_waiting", *WHOLE),
    *cases(ValueError, pullers, "prefetch", *WHOLE, 100_001),
    *cases(ValueError, workers, "threads", None, *WHOLE),
    *cases(ValueError, workers, "batch", *WHOLE),
    *cases(ValueError, runs, "threads", None, *WHOLE),
    *cases(ValueError, runs, "batch", *WHOLE),
    *cases(ValueError, batches, "max", None, *WHOLE),
    *cases(ValueError, batches, "wait", NAN, -1, decimal.Decimal(-1)),
    *cases(TypeError, batches, "wait", "soon", None, True),
    *cases(TypeError, pushers, "insecure", "false", 1, 0, None),
    *cases(TypeError, pushers, "heartbeat", 0, [], {}, False),
    *cases(TypeError, pushers, "limits", 0, [], {}, False),
    *cases(TypeError, pushers, "backoff", 0, [], {}, False),
    *cases(TypeError, pushers, "linger", "x", [], True),
    *cases(ValueError, pushers, "linger", NAN, -1, decimal.Decimal(-1)),
    *cases(TypeError, pushers, "bind", 0, b"tcp://127.0.0.1:5", Path("x"), Puller[Any](THERE)),
    *cases(TypeError, pushers, "connect", 0, 1.5, False),
    *cases(TypeError, workers, "source", 5, b"x"),
    *cases(TypeError, workers, "sink", 5, b"x"),
    *cases(TypeError, workers, "source", object()),
    *cases(UsageError, pushers, "codec", [], {}, says=r"no codec is named .*; there are msgpack, json, raw"),
    *cases(TypeError, pullers, "max_lease", None, "x", []),
    *cases(ValueError, pullers, "max_lease", 0, -1, NAN, INF, 10**400),
    *cases(TypeError, options_of(Backoff), "first", "x", None, True),
    *cases(TypeError, options_of(Backoff), "cap", [1]),
    *cases(TypeError, options_of(Heartbeat), "interval", "x", None),
    *cases(TypeError, options_of(Window), "seconds", "x"),
    *cases(TypeError, options_of(Retry), "delay", "x", True, [], 1j),
    *cases(ValueError, options_of(Retry), "delay", -1, NAN, INF, 1e9, decimal.Decimal("NaN")),
    *cases(TypeError, options_of(Retry), "reason", 1, None, b"x"),
    *cases(TypeError, options_of(Reject), "reason", 1, None, b"x"),
    *cases(TypeError, pushers, "journal", b"x.db", 5, True),
    *cases(ValueError, pushers, "journal", "\ud800", "a\0b", Path("a\0b")),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "make", "name", "value", "says"), REFUSED)
def test_an_argument_that_cannot_be_is_named_where_it_is_given(
    expected: type[Exception], make: Make, name: str, value: object, says: str
) -> None:
    for call in make(**{name: value}):
        with pytest.raises(expected, match=rf"^{says}\b") as caught:
            call()
        if isinstance(caught.value, TypeError):
            assert "must be" in str(caught.value)


@pytest.mark.parametrize("path", [b"x.db", "a\0b", "\ud800", 5])
def test_a_journal_of_no_possible_path_is_refused_by_name(path: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^path must be"):
        SqliteJournal(path)


def test_a_worker_takes_no_puller_of_the_other_face() -> None:
    with pytest.raises(TypeError, match=r"^source must be an address"):
        aio.Worker(print, source=Puller[Any](THERE))  # type: ignore[arg-type]


@pytest.mark.parametrize("headers", [[], "", 0, False], ids=repr)
def test_headers_that_are_none_are_refused_though_they_are_empty(headers: Any) -> None:
    with bound_pusher() as scene:
        for send in (scene.push.send, scene.push.send_nowait):
            with pytest.raises(EncodeError, match=r"^headers are a mapping"):
                send("x", headers=headers)
        with pytest.raises(zmqkit.PartlySent, match="headers are a mapping"):
            scene.push.send_many([Outgoing("x", headers=headers)])
        scene.push.send("x", headers={})
        job = scene.pull.receive(PATIENCE_S)
        assert job is not None
        assert job.headers == {}
        job.ack()
        scene.finish()


@pytest.mark.parametrize("timeout", ["x", "", [], decimal.Decimal(1)], ids=repr)
def test_a_timeout_of_another_kind_is_named(timeout: Any) -> None:
    with bound_pusher() as scene:
        push, pull = scene.push, scene.pull
        for verb in (push.flush, push.close, pull.receive, pull.close):
            with pytest.raises(TypeError, match=r"^timeout must be a number of seconds"):
                verb(timeout)
        for other in (lambda: push.send("x", timeout=timeout), lambda: push.wait_for_peers(timeout=timeout)):
            with pytest.raises(TypeError, match=r"^timeout must be a number of seconds"):
                other()
        scene.finish()


@pytest.mark.parametrize("delay", [True, "x", [], 1j], ids=repr)
def test_a_nack_whose_delay_is_no_number_is_refused_and_settles_nothing(delay: Any) -> None:
    """Such a one reached the pusher once, which refused the frame, and with it the acks of other jobs."""
    with bound_pusher() as scene:
        scene.push.send_many(range(4))
        jobs = [scene.pull.receive(PATIENCE_S) for _ in range(4)]
        assert jobs[0] is not None
        with pytest.raises(TypeError, match=r"^delay must be 0 or more seconds"):
            jobs[0].nack(delay=delay)
        with pytest.raises(TypeError, match=r"^reason must be text"):
            jobs[0].nack(reason=0)  # type: ignore[arg-type]
        assert jobs[0].outcome is None
        for job in jobs:
            assert job is not None
            job.ack(wait=True)
        scene.expect(acked=4, failed=0, frames_bad=0)
        scene.finish()


def test_a_delay_may_be_any_real_number() -> None:
    delays = [0, 0.01, fractions.Fraction(1, 100), decimal.Decimal("0.01"), Number()]
    with bound_pusher() as scene:
        scene.push.send_many(range(len(delays)))
        for delay in delays:
            job = scene.pull.receive(PATIENCE_S)
            assert job is not None
            job.nack(delay=delay)  # type: ignore[arg-type]
        for _ in delays:
            again = scene.pull.receive(PATIENCE_S)
            assert again is not None
            assert again.failures == 1
            again.ack(wait=True)
        scene.expect(acked=len(delays), failed=len(delays), frames_bad=0)
        scene.finish()
    assert Retry(delay=decimal.Decimal("0.5")).delay == 0.5  # type: ignore[arg-type]
    assert Backoff(first=fractions.Fraction(1, 2)).ceiling(2) == 1.0  # type: ignore[arg-type]


def test_a_batch_may_wait_for_ever_or_not_at_all() -> None:
    async def nothing() -> None:
        aio.Puller[Any](THERE).batches(1, INF)

    asyncio.run(nothing())
    Puller[Any](THERE).batches(10**6, decimal.Decimal(0))  # type: ignore[arg-type]
