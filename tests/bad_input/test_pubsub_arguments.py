"""Arguments of the wrong kind to publish-subscribe: refused where they are given, by an error that names them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import zmqkit
from tests.bad_input.scenes import LOCAL
from tests.bad_input.test_arguments import THERE, cases
from zmqkit import EncodeError, Limits, UsageError, aio
from zmqkit.options import Heartbeat, Retention

PATIENCE_S = 20.0


def publishers(**options: Any) -> list[Callable[[], object]]:
    return [lambda: zmqkit.Publisher(LOCAL, **options), lambda: aio.Publisher(LOCAL, **options)]


def subscribers(**options: Any) -> list[Callable[[], object]]:
    return [lambda: zmqkit.Subscriber(THERE, **options), lambda: aio.Subscriber(THERE, **options)]


def retentions(**options: Any) -> list[Callable[[], object]]:
    return [lambda: Retention(**options)]


@pytest.mark.parametrize(
    ("expected", "make", "name", "value", "says"),
    [
        *cases(ValueError, publishers, "history", True, -1, 1.5, "2", math.inf, None, []),
        *cases(TypeError, publishers, "journal", b"x.db", 5, True),
        *cases(ValueError, publishers, "journal", "\ud800", "a\0b", Path("a\0b")),
        *cases(ValueError, publishers, "durability", "none", "", None, 1),
        *cases(TypeError, publishers, "retention", 5, {}, "all"),
        *cases(TypeError, publishers, "last_value", 1, "yes", None),
        *cases(TypeError, publishers, "plain", 1, "yes", None),
        *cases(TypeError, publishers, "recovery", 5, b"tcp://127.0.0.1:5"),
        *cases(TypeError, publishers, "heartbeat", 5, "fast"),
        *cases(TypeError, publishers, "limits", 5, {}),
        *cases(TypeError, subscribers, "topics", 3, None, b"a", bytearray(b"a"), [3], ["a", None], [b"a"]),
        *cases(
            ValueError, subscribers, "topics", "", "a..b", ".a", "a.", "a\0b", "\ud800", "x" * 256, "\u1234" * 86, "#.a"
        ),
        *cases(ValueError, subscribers, "start", "newest", "", 5, b"earliest", says="start"),
        *cases(TypeError, subscribers, "cursor", 3, b"x", ["x"]),
        *cases(ValueError, subscribers, "cursor", "", "x" * 201, "a\0b", "\ud800"),
        *cases(ValueError, subscribers, "on_gap", "", "ignore", 1, None),
        *cases(ValueError, subscribers, "on_slow", "", "drop", 1, None),
        *cases(ValueError, subscribers, "on_error", "", "nack", 1, None),
        *cases(ValueError, subscribers, "max_age", -1, math.nan),
        *cases(TypeError, subscribers, "max_age", "1", [], True),
        *cases(TypeError, subscribers, "plain", 1, "yes", None),
        *cases(ValueError, retentions, "count", 0, -1, 1.5, True, 2**62, "1"),
        *cases(ValueError, retentions, "size_bytes", 0, -1, 1.5, True, 2**62, "1"),
        *cases(ValueError, retentions, "seconds", 0, -1, math.nan, math.inf),
    ],
)
def test_what_a_constructor_refuses_is_named(
    expected: type[Exception], make: Callable[..., list[Callable[[], object]]], name: str, value: object, says: str
) -> None:
    for each in make(**{name: value}):
        with pytest.raises(expected, match=says):
            each()


def test_recovery_at_another_host_is_refused() -> None:
    for recovery in ("ipc:///tmp/elsewhere", ["inproc://elsewhere"]):
        for make in publishers(recovery=recovery):
            with pytest.raises(UsageError, match="names nothing on the transport and host"):
                make()


@pytest.mark.parametrize(("count", "error"), [(-1, ValueError), (1.0, TypeError), (True, TypeError), ("1", TypeError)])
def test_a_number_of_subscribers_that_is_none_is_refused(count: Any, error: type[Exception]) -> None:
    with zmqkit.Publisher(LOCAL) as pub:
        for wait in (pub.wait_for_subscribers, pub.wait_for_peers):
            with pytest.raises(error, match="count must be a whole number of 0 or more"):
                wait(count, timeout=PATIENCE_S)


def test_a_retention_without_a_journal_is_refused() -> None:
    with pytest.raises(zmqkit.UsageError, match="give journal=PATH"):
        zmqkit.Publisher(LOCAL, retention=zmqkit.Retention(count=4))


def test_a_time_below_nothing_is_out() -> None:
    with zmqkit.Publisher(LOCAL) as pub, zmqkit.Subscriber[Any](pub.addresses[0]) as sub:
        for timeout in (-1, -0.001, -math.inf):
            for wait in (pub.wait_for_subscribers, pub.wait_for_peers):
                with pytest.raises(zmqkit.WaitTimeout):
                    wait(1000, timeout=timeout)
            assert sub.receive(timeout) is None


WRONG_TOPICS: list[tuple[Any, type[Exception], str]] = [
    ("", ValueError, "must not be empty"),
    ("x" * 256, ValueError, "at most 255 bytes"),
    ("\u1234" * 86, ValueError, "at most 255 bytes"),
    ("a\0b", ValueError, "null characters"),
    ("\0", ValueError, "null characters"),
    ("a..b", ValueError, "single dots"),
    (".", ValueError, "single dots"),
    ("a.*", ValueError, "wildcard"),
    ("*", ValueError, "wildcard"),
    ("a.#", ValueError, "wildcard"),
    ("#", ValueError, "wildcard"),
    ("a.\ud800", ValueError, "UTF-8"),
    (b"a", TypeError, "must be text"),
    (None, TypeError, "must be text"),
    (7, TypeError, "must be text"),
    (("a",), TypeError, "must be text"),
    (["a"], TypeError, "text|unhashable"),
]

WRONG_BODIES: list[tuple[object, str]] = [
    (object(), "object"),
    ({"a": {"b": {1, 2}}}, r'body\["a"\]\["b"\]'),
    ("\ud800", "UTF-8|surrogate"),
    (2**64, "2\\*\\*64|range|large|64"),
    (b"x" * 70_000, "more than"),
]


def test_what_cannot_be_published_is_refused_and_what_can_goes_on() -> None:
    limits = Limits(frame_bytes=1 << 17)
    with zmqkit.Publisher(LOCAL, limits=limits) as pub, zmqkit.Subscriber[Any](pub.addresses[0]) as sub:
        pub.wait_for_subscribers(1, timeout=PATIENCE_S)
        for topic, error, said in WRONG_TOPICS:
            with pytest.raises(error, match=said):
                pub.publish(topic, 1)
        for body, said in WRONG_BODIES:
            with pytest.raises(EncodeError, match=said):
                pub.publish("a", body)
        for headers in ({1: "x"}, {"x": 1}, {"zmqkit-x": "y"}, [("a", "b")], "a", {"a": "\ud800"}):
            with pytest.raises((EncodeError, TypeError)):
                pub.publish("a", 1, headers=headers)  # type: ignore[arg-type]
        for offset, good in enumerate(("a", "a.b", "\u1234" * 85, "a*", "#a", "a b"), start=1):
            assert pub.publish(good, good) == offset, "what was refused took no offset"
            message = sub.receive(PATIENCE_S)
            assert message is not None
            assert (message.topic, message.body) == (good, good)


@pytest.mark.parametrize("messages", [5, None, [5], ["a"], [("a",)], [("a", 1, 2)], [(1, 1)], ["ab"[0]]])
def test_pairs_that_are_none_are_refused_and_the_next_ones_go(messages: Any) -> None:
    with zmqkit.Publisher(LOCAL) as pub:
        with pytest.raises((TypeError, ValueError, zmqkit.PartlySent)):
            pub.publish_many(messages)
        assert pub.publish("a", 1) == 1


VERBS: list[tuple[str, Callable[[Any], object], type[Exception]]] = [
    ("count 1.5", lambda pub: pub.wait_for_subscribers(1.5), TypeError),
    ("count text", lambda pub: pub.wait_for_subscribers("1"), TypeError),
    ("topic wrong", lambda pub: pub.wait_for_subscribers(topic="a..b"), ValueError),
    ("topic no text", lambda pub: pub.wait_for_subscribers(topic=b"a"), TypeError),
    ("timeout text", lambda pub: pub.wait_for_subscribers(timeout="1"), TypeError),
    ("timeout nan", lambda pub: pub.wait_for_subscribers(timeout=math.nan), ValueError),
]


@pytest.mark.parametrize(("call", "expected"), [(call, error) for _, call, error in VERBS], ids=[v[0] for v in VERBS])
def test_verbs_of_a_publisher_check_what_they_get(call: Callable[[Any], Any], expected: type[Exception]) -> None:
    with zmqkit.Publisher(LOCAL) as pub:
        with pytest.raises(expected):
            call(pub)
        assert pub.publish("a", 1) == 1

    async def waits() -> None:
        async with aio.Publisher(LOCAL) as pub:
            found: Coroutine[Any, Any, object] = call(pub)
            with pytest.raises(expected):
                await found

    asyncio.run(waits())


@pytest.mark.parametrize("topics", [("",), ("a", "b..c"), (3,), (b"a",), ("#.a",), ("\ud800",), ("a\0",), (["a"],)])
def test_topics_that_are_none_change_nothing(topics: tuple[Any, ...]) -> None:
    with (
        zmqkit.Publisher(LOCAL, heartbeat=Heartbeat(interval=0.5)) as pub,
        zmqkit.Subscriber[Any](pub.addresses[0], topics="fair") as sub,
    ):
        pub.wait_for_subscribers(1, topic="fair", timeout=PATIENCE_S)
        for verb in (sub.subscribe, sub.unsubscribe):
            with pytest.raises((TypeError, ValueError)):
                verb(*topics)
        wrong: list[Any] = ["1", math.nan, []]
        for timeout in wrong:
            with pytest.raises((TypeError, ValueError)):
                sub.receive(timeout)
        pub.publish("fair", 1)
        message = sub.receive(PATIENCE_S)
        assert message is not None
        assert message.body == 1


def test_an_age_without_end_is_none() -> None:
    with zmqkit.Publisher(LOCAL) as pub, zmqkit.Subscriber[Any](pub.addresses[0], max_age=math.inf) as sub:
        pub.wait_for_subscribers(1, timeout=PATIENCE_S)
        pub.publish("a", 1)
        message = sub.receive(PATIENCE_S)
        assert message is not None
        assert message.body == 1
