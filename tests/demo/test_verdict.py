"""What the demo calls a success: every way to fail is told apart."""

from __future__ import annotations

import dataclasses
import re

import pytest

from zmqkit.demo.counting import Plain, Totals, count_source
from zmqkit.demo.mining import Mined, Share
from zmqkit.demo.verdict import Verdict

REJECTED = ["bad.py: SyntaxError: no"]
WORKING = Share("worker-1", 11, "stopped", 1)
KILLED = Share("worker-2", 12, "killed", 1)
SENDERS = (Share("sender-1", 13, "killed", 0, "sender"), Share("sender-2", 14, "stopped", 0, "sender"))
SINKS = (Share("sink-1", 15, "killed", 0, "sink"), Share("sink-2", 16, "stopped", 0, "sink"))


def totals_of(*sources: bytes) -> Totals:
    totals = Totals()
    for source in sources:
        totals.add(count_source(source))
    return totals


def verdict_of(*, kill: bool = True, **changes: object) -> Verdict:
    mined = Mined(
        totals=totals_of(b"a = b\n", b"c\n"),
        records=2,
        rejected=REJECTED,
        dead=1,
        redelivered=3 if kill else 0,
        duplicates=0,
        shares=(WORKING, KILLED, *SENDERS, *SINKS) if kill else (WORKING,),
        joined_seconds=1.0,
        seconds=2.0,
    )
    plain = Plain(totals_of(b"a = b\n", b"c\n"), REJECTED, 1.0)
    return Verdict(3, kill, dataclasses.replace(mined, **changes), plain)  # type: ignore[arg-type]


@pytest.mark.parametrize("kill", [True, False])
def test_equal_counts_are_a_success(kill):
    verdict = verdict_of(kill=kill)
    assert verdict.problems() == []
    assert verdict.as_json()["ok"] is True
    assert verdict.as_json()["equal"] is True


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"totals": totals_of(b"a = b\n")}, "files counted: 1 through the pipeline, 2"),
        ({"totals": totals_of(b"a = b\n", b"d\n")}, "names, each with its number: 3 .* not the same ones"),
        ({"totals": totals_of(b"a = b\n", b"1\n")}, "tokens, kind by kind: 10 .* not the same ones"),
        ({"totals": totals_of(b"a = b\n", b"cc\n")}, "bytes"),
        ({"totals": totals_of(b"a = b\n", b"c\n\n")}, "lines"),
        ({"rejected": ["other.py: SyntaxError: no"]}, "files rejected: 1 .* not the same ones"),
        ({"rejected": []}, "1 dead letters, but 0 were told of"),
        ({"records": 1}, "2 counts are in the sink's file, but 1 records"),
        ({"dead": 0}, "3 files were sent, but 2 counted and 0 dead"),
        ({"redelivered": 0}, "none was delivered again"),
        ({"shares": (WORKING,)}, "no worker was killed, but 3 jobs"),
        ({"shares": (WORKING, KILLED, *SINKS)}, "a sender was to be killed, and none was"),
        ({"shares": (WORKING, KILLED, *SENDERS)}, "a sink was to be killed, and none was"),
    ],
)
def test_what_differs_is_named(changes, words):
    verdict = verdict_of(**changes)
    assert verdict.as_json()["ok"] is False
    assert any(re.search(words, problem) for problem in verdict.problems()), verdict.problems()


def test_a_redelivery_that_nobody_caused_is_a_failure():
    assert verdict_of(kill=False, redelivered=1).problems() == ["no worker was killed, but 1 jobs were delivered again"]
