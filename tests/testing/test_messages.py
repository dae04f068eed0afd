"""A message of `zmqkit.testing` is one as sockets bring it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

import zmqkit
from zmqkit import EncodeError, UsageError
from zmqkit.testing import message


def test_it_has_what_a_message_has() -> None:
    found = message("prices.gold", {"bid": (1, 2)}, sequence=7, headers={"source": "x"})
    assert isinstance(found, zmqkit.Message)
    assert (found.topic, found.body, found.sequence) == ("prices.gold", {"bid": [1, 2]}, 7)
    assert dict(found.headers) == {"source": "x"}
    assert found.sent_at <= datetime.now(UTC)
    assert found.id.endswith("-7")
    assert not found.replayed


def test_it_can_be_dealt_with() -> None:
    found = message("a", 1)
    with found:
        pass
    found.commit()
    other = message("a", 1)
    other.commit()


def test_what_is_raised_in_its_block_comes_out() -> None:
    with pytest.raises(ZeroDivisionError), message("a", 0) as found:
        _ = 1 / found.body


def test_it_has_no_inbox() -> None:
    with pytest.raises(UsageError, match="inbox="):
        message("a", 1).transaction()


@pytest.mark.parametrize(
    ("topic", "body", "more", "error"),
    [
        ("a.*", 1, {}, ValueError),
        ("", 1, {}, ValueError),
        ("a", object(), {}, EncodeError),
        ("a", 1, {"sequence": 0}, ValueError),
        ("a", 1, {"headers": {"zmqkit-x": ""}}, EncodeError),
    ],
)
def test_what_cannot_be_published_cannot_be_made(topic: str, body: object, more: dict[str, Any], error: type) -> None:
    with pytest.raises(error):
        message(topic, body, **more)
