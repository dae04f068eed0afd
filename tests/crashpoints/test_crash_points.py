"""A crash before or after each operation of the journal and of the user's database, and again while that is mended.

``python -m tests.crashpoints`` does the same for every pair of moments, at length.
"""

from __future__ import annotations

import pytest

from tests.crashpoints.mutants import MUTANTS
from tests.crashpoints.operations import methods, places, statements
from tests.crashpoints.snapshots import Theatre
from zmqkit.errors import ZmqkitError

NOT_OF_PIPELINES = {"insert zmqkit_inbox", "update zmqkit_inbox", "delete zmqkit_inbox"}
"""Of servers."""
OF_PRUNING = {"create index zmqkit_inbox_jobs_sent", "delete zmqkit_inbox_jobs"}
"""Only with inbox_keep=."""

COMMITTED = ("after journal.commit", "after commit")

EVERY = 12
"""A second crash is tried at one in so many of all the moments of every so many-th recovery."""


def test_the_story_goes_through_every_operation_that_the_code_has(theatre: Theatre) -> None:
    theatre.play()
    seen = theatre.tap.seen
    wanted = {f"journal.{name}" for name in ("open", *methods())}
    wanted |= statements("inbox", "jobs", "outbox") - NOT_OF_PIPELINES - OF_PRUNING
    wanted |= {"begin immediate", "commit", "rollback"}
    assert wanted - seen.keys() == set(), "the story leaves these out: let it go through them"
    assert len(places()) >= 13
    assert places() - theatre.tap.places.keys() == set(), "the story leaves these writes out: let it go through them"
    assert theatre.tap.places.keys() - places() == set(), "a write that was not found in the code"


@pytest.mark.slow
def test_a_crash_before_or_after_any_operation_loses_and_doubles_nothing(theatre: Theatre) -> None:
    shots, steps = theatre.play()
    assert len(shots) > 150
    # Where nothing changed between two moments one shot stands for both.
    assert len({shot.label.split(",")[0] for shot in shots}) > 15
    for shot in shots:
        theatre.recover(shot, steps)


@pytest.mark.slow
def test_a_crash_of_the_process_alone_takes_nothing_at_durability_process_either(forgetful_theatre: Theatre) -> None:
    shots, steps = forgetful_theatre.play()
    for shot in shots[::4]:
        forgetful_theatre.recover(shot, steps)


@pytest.mark.slow
def test_a_second_crash_while_the_first_is_mended_changes_nothing_of_that(theatre: Theatre) -> None:
    shots, steps = theatre.play()
    tried = 0
    for first in shots[::EVERY]:
        later, more = theatre.recover_again(first, steps)
        assert len(later) >= 10
        for second in later[first.steps % EVERY :: EVERY]:
            theatre.recover(second, more)
            tried += 1
    assert tried > 30


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_planted_bug_is_brought_to_light(theatre: Theatre, mutant: str) -> None:
    with MUTANTS[mutant](), pytest.raises((AssertionError, ZmqkitError)):
        recover_from_each_commit(theatre)


def recover_from_each_commit(theatre: Theatre) -> None:
    """The story, and a crash after each commit of it."""
    shots, steps = theatre.play()
    for shot in shots:
        if shot.label.startswith(COMMITTED):
            theatre.recover(shot, steps)
