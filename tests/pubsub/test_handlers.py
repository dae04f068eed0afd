"""What a handler gets goes by its annotations, and one that cannot be called is refused before anything runs."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

import zmqkit
from zmqkit import aio
from zmqkit.errors import UsageError
from zmqkit.patterns.pubsub.handlers import Handler
from zmqkit.testing import message


def handler(function: Any, *, coroutines: bool = False, has_inbox: bool = False) -> Handler:
    return Handler(function, coroutines=coroutines, has_inbox=has_inbox)


MESSAGE = message("a.b", {"n": 1})


def test_a_plain_parameter_gets_the_body() -> None:
    assert handler(lambda body: body)(MESSAGE) == {"n": 1}
    assert handler(lambda body=None: body)(MESSAGE) == {"n": 1}
    assert handler(lambda *all: all)(MESSAGE) == ({"n": 1},)


def test_an_annotated_parameter_gets_the_message() -> None:
    def whole(found: zmqkit.Message[dict[str, int]]) -> object:
        return found

    assert handler(whole)(MESSAGE) is MESSAGE


def test_both_may_be_wanted_in_any_order() -> None:
    def both(body: dict[str, int], found: zmqkit.Message) -> object:
        return body, found

    def turned(found: zmqkit.Message, body: object) -> object:
        return body, found

    assert handler(both)(MESSAGE) == handler(turned)(MESSAGE) == ({"n": 1}, MESSAGE)


def test_a_connection_makes_it_run_in_a_transaction() -> None:
    def store(body: object, db: sqlite3.Connection) -> object:
        return db

    found = handler(store, has_inbox=True)
    assert found.in_transaction
    connection = sqlite3.connect(":memory:")
    assert found(MESSAGE, connection) is connection
    connection.close()
    assert not handler(print).in_transaction


def test_a_connection_without_an_inbox_is_refused() -> None:
    def store(body: object, db: sqlite3.Connection) -> None:
        raise AssertionError

    with pytest.raises(UsageError, match="give the subscriber inbox="):
        handler(store)


def test_parameters_with_defaults_are_left_alone() -> None:
    def count(body: object, step: int = 2) -> object:
        return body, step

    assert handler(count)(MESSAGE) == ({"n": 1}, 2)


def _two(one: object, other: object) -> None: ...
def _none() -> None: ...
def _keyword(body: object, *, table: str) -> None: ...
def _yields(body: object) -> Any:
    yield body


async def _coroutine(body: object) -> object:
    return body


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (_two, "more than one body"),
        (_none, "takes nothing"),
        (_keyword, "table"),
        (_yields, "yields"),
        (_coroutine, "zmqkit.aio"),
        (3, "a handler is a function"),
    ],
)
def test_one_that_cannot_be_called_is_refused(function: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        handler(function)


def test_coroutines_are_taken_where_they_can_run() -> None:
    assert handler(_coroutine, coroutines=True).asynchronous


def test_messages_of_the_other_face_are_messages_too() -> None:
    def whole(found: aio.Message) -> object:
        return found

    assert handler(whole)(MESSAGE) is MESSAGE
