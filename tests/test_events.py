"""Events as people read them in a log."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

from zmqkit import events

EVENTS = [
    kind
    for _, kind in inspect.getmembers(events, inspect.isclass)
    if issubclass(kind, events.Event) and kind is not events.Event
]


NUMBERS = {"resent", "count", "behind", "failures", "first", "last"}


def made(kind: type[events.Event], words: str = "WORDS", number: int = 2) -> events.Event:
    given: dict[str, Any] = {
        field.name: number if field.type == "int" else words
        for field in dataclasses.fields(kind)
        if field.name != "peer"
    }
    return kind(peer="worker-1", **given)


def test_all_events_are_looked_at() -> None:
    assert {"PeerFound", "JobDead", "CallRetried", "JournalRecovered"} <= {kind.__name__ for kind in EVENTS}


@pytest.mark.parametrize("kind", EVENTS)
def test_an_event_says_in_a_sentence_whose_it_is_and_what_happened(kind: type[events.Event]) -> None:
    said = str(made(kind))
    assert said.startswith("worker-1: ")
    assert len(said.split()) > 3
    assert not set(said) & set("{}=<>'"), "that is for programs"
    fields = {field.name for field in dataclasses.fields(kind)} - {"peer", "traceback"}
    assert ("WORDS" in said) == bool(fields - NUMBERS)
    assert ("2 " in said) == bool(fields & NUMBERS)


@pytest.mark.parametrize("kind", EVENTS)
def test_what_others_wrote_neither_ends_the_line_nor_steers_a_terminal(kind: type[events.Event]) -> None:
    assert str(made(kind, "a\nb\x1b[31m")).isprintable()


def test_one_is_not_many() -> None:
    assert "1 job that" in str(events.JobRedelivered("push", "ab" * 16, 1))
    assert "2 jobs that peer abababab held go to others" in str(events.JobRedelivered("push", "ab" * 16, 2))
    assert "with a peer was refused (role)" in str(events.PeerRefused("push", "", "role", "this side is push"))
