"""The echo pattern in paired cores, under virtual time."""

from __future__ import annotations

import random

from tests.echo.core import AskerCore, EchoerCore, Unanswered
from tests.protocol.cores import CorePair, Host


def pair(messages: int = 1000, size_bytes: int = 1 << 20) -> CorePair:
    asker = Host("asker", AskerCore, role="ask", accepts=frozenset({"echo"}))
    echoer = Host(
        "echoer", EchoerCore, role="echo", accepts=frozenset({"ask"}), credit_messages=messages,
        credit_bytes=size_bytes,
    )  # fmt: skip
    return CorePair(asker, echoer)


def test_what_is_asked_comes_back() -> None:
    cores = pair()
    for number in range(100):
        cores.call(cores.c, "ask", b"%d" % number, number)
    cores.flow()
    assert cores.c.replies == {number: b"%d" % number for number in range(100)}
    assert cores.b.core.counters["echoed"] == 100


def test_questions_wait_for_credit_and_none_is_too_many() -> None:
    cores = pair(messages=3, size_bytes=10)
    for number in range(500):
        cores.c.core.ask(b"%d" % number * 5, number, cores.now)
    cores.advance(1.0)
    assert len(cores.c.replies) == 500
    assert cores.b.core.counters["credit_exceeded"] == 0


def test_questions_wait_for_somebody_to_come() -> None:
    cores = pair()
    cores.disconnect()
    cores.advance(10.0)
    cores.call(cores.c, "ask", b"?", 1)
    assert not cores.c.replies
    cores.connect()
    cores.flow()
    assert cores.c.replies == {1: b"?"}


def test_every_question_is_answered_once_over_connections_that_break() -> None:
    cores = pair()
    rng = random.Random(1)
    for number in range(300):
        cores.call(cores.c, "ask", b"%d" % number, number)
        if rng.random() < 0.3:
            cores.flow()
        if rng.random() < 0.3:
            cores.disconnect()
            cores.advance(rng.random())
            cores.connect()
    cores.advance(5.0)
    assert cores.c.replies == {number: b"%d" % number for number in range(300)}
    assert cores.b.core.counters["echoed"] == 300
    assert cores.c.core.counters["sessions_resumed"] > 30
    assert cores.c.core.counters["sessions_opened"] == 1


def test_the_questions_of_a_lost_session_end_and_say_whether_they_were_heard() -> None:
    cores = pair()
    cores.call(cores.c, "ask", b"heard", 1)
    cores.b.core.dumb = True
    cores.advance(0.1)
    cores.call(cores.c, "ask", b"not heard", 2)
    cores.disconnect()
    cores.advance(5.0)
    first, second = cores.c.replies[1], cores.c.replies[2]
    assert isinstance(first, Unanswered)
    assert isinstance(second, Unanswered)
    assert (first.heard, second.heard) == (True, False)


def test_a_bad_question_is_counted_and_the_session_goes_on() -> None:
    cores = pair()
    (session,) = cores.c.core.sessions
    cores.c.core.sessions.send(session, [b"one frame only"], 1, cores.now)
    cores.call(cores.c, "ask", b"good", 1)
    cores.flow()
    assert cores.b.core.counters["frames_bad"] == 1
    assert cores.c.replies == {1: b"good"}


def test_closing_ends_what_is_open() -> None:
    cores = pair()
    cores.b.paused = True
    cores.call(cores.c, "ask", b"?", 1)
    cores.call(cores.c, "close")
    assert cores.c.core.finished
    assert isinstance(cores.c.replies[1], Unanswered)
