"""Arguments that cannot be are refused where they are given, in words that say what would do."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

import zmqkit
from zmqkit import Retention, aio
from zmqkit.errors import EncodeError, InsecureAddress, UsageError
from zmqkit.options import Retention as Options

ADDRESS = "tcp://127.0.0.1:5556"

FACES = pytest.mark.parametrize("face", [zmqkit, aio], ids=["sync", "async"])


@FACES
@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"topics": ""}, ValueError, "must not be empty"),
        ({"topics": ["a", "b..c"]}, ValueError, "single dots"),
        ({"topics": "a.#.b"}, ValueError, "only be the last"),
        ({"topics": 3}, TypeError, "topics must be text"),
        ({"topics": b"a"}, TypeError, "topics must be text"),
        ({"start": "oldest"}, ValueError, "latest"),
        ({"start": datetime(2026, 1, 1)}, ValueError, "time zone"),
        ({"start": 3}, ValueError, "datetime"),
        ({"start": "resume"}, UsageError, "cursor= or inbox="),
        ({"cursor": ""}, ValueError, "1 to 200"),
        ({"cursor": "x" * 201}, ValueError, "1 to 200"),
        ({"cursor": "a\nb"}, ValueError, "printable"),
        ({"cursor": 3}, TypeError, "cursor must be text"),
        ({"cursor": "a", "inbox": "b.db"}, UsageError, "choose one"),
        ({"inbox": ":memory:"}, UsageError, "give it a file"),
        ({"inbox": 3}, TypeError, "inbox must be"),
        ({"on_gap": "ignore"}, ValueError, "on_gap must be"),
        ({"on_slow": "drop"}, ValueError, "on_slow must be"),
        ({"on_error": "nack"}, ValueError, "on_error must be"),
        ({"max_age": -1}, ValueError, "max_age"),
        ({"max_age": "1"}, TypeError, "max_age"),
        ({"group": "workers"}, UsageError, "group="),
        ({"plain": True, "cursor": "a"}, UsageError, "plain"),
        ({"plain": True, "start": "earliest"}, UsageError, "plain"),
        ({"plain": 1}, TypeError, "plain"),
        ({"recovery": "tcp://127.0.0.1:*"}, UsageError, "only connects"),
        ({"prefetch": 3}, TypeError, "unexpected keyword"),
    ],
)
def test_a_subscriber_is_told_what_is_wrong(face: Any, given: dict[str, Any], error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        face.Subscriber(ADDRESS, **given)


@FACES
@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"history": -1}, ValueError, "history must be"),
        ({"history": 1.5}, ValueError, "history must be"),
        ({"durability": "disk"}, ValueError, "durability"),
        ({"retention": 1000}, TypeError, "retention must be Retention"),
        ({"last_value": 1}, TypeError, "last_value"),
        ({"journal": 3}, TypeError, "journal must be the path"),
        ({"plain": True, "journal": "a.db"}, UsageError, "plain"),
        ({"plain": True, "last_value": True}, UsageError, "plain"),
        ({"recovery": "zeroconf://prices"}, UsageError, "cannot be bound"),
        ({"recovery": "tcp://0.0.0.0:*"}, InsecureAddress, "insecure"),
    ],
)
def test_a_publisher_is_told_what_is_wrong(face: Any, given: dict[str, Any], error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        face.Publisher(ADDRESS, **given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"count": 0}, "count"),
        ({"size_bytes": 1.5}, "size_bytes"),
        ({"seconds": 0}, "seconds"),
        ({"seconds": float("inf")}, "seconds"),
        ({"count": True}, "count"),
    ],
)
def test_retention_is_checked_when_it_is_made(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Retention(**given)


def test_retention_without_bounds_keeps_all() -> None:
    assert Options() == Retention(count=None, size_bytes=None, seconds=None)


@pytest.mark.parametrize(
    ("topic", "error", "said"),
    [
        ("", ValueError, "empty"),
        ("a..b", ValueError, "single dots"),
        ("prices.*", ValueError, "wildcard"),
        ("#", ValueError, "wildcard"),
        ("a\0b", ValueError, "null"),
        ("x" * 256, ValueError, "255 bytes"),
        (b"a", TypeError, "must be text"),
        (None, TypeError, "must be text"),
    ],
)
def test_what_is_no_topic_is_not_published(topic: Any, error: type, said: str) -> None:
    with zmqkit.Publisher("tcp://127.0.0.1:*") as pub:
        with pytest.raises(error, match=said):
            pub.publish(topic, 1)
        assert pub.publish("a", 1) == 1, "and it took no offset"


def test_what_cannot_travel_is_not_published() -> None:
    with zmqkit.Publisher("tcp://127.0.0.1:*") as pub:
        with pytest.raises(EncodeError, match=r'body\["when"\]'):
            pub.publish("a", {"when": object()})
        with pytest.raises(EncodeError, match="reserved"):
            pub.publish("a", 1, headers={"zmqkit-x": "1"})
        with pytest.raises(zmqkit.PartlySent) as caught:
            pub.publish_many([("a", 1), ("b", object())])
        assert caught.value.confirmed == 0
        assert pub.publish("a", 1) == 1


@pytest.mark.parametrize("given", [{"count": "1"}, {"timeout": "1"}, {"topic": 3}])
def test_wait_for_subscribers_checks_what_it_gets(given: dict[str, Any]) -> None:
    with zmqkit.Publisher("tcp://127.0.0.1:*") as pub, pytest.raises(TypeError):
        pub.wait_for_subscribers(**given)


def test_a_message_of_a_subscriber_without_a_position_cannot_be_committed() -> None:
    with zmqkit.Publisher("tcp://127.0.0.1:*") as pub, zmqkit.Subscriber(pub.addresses[0]) as sub:
        pub.wait_for_subscribers(1, timeout=20)
        pub.publish("a", 1)
        message = sub.receive(20)
        assert message is not None
        with pytest.raises(UsageError, match="cursor= or inbox="):
            message.commit()
        with pytest.raises(UsageError, match="inbox="):
            message.transaction()
        with message:
            pass  # it needs none


def test_with_an_inbox_handlers_run_one_by_one(tmp_path: Any) -> None:
    sub = zmqkit.Subscriber(ADDRESS, inbox=tmp_path / "state.db")
    with pytest.raises(UsageError, match="one by one"):
        sub.run(print, threads=2)
