"""The disk of the journal fails in the middle of the story; `python -m tests.crashpoints` does so at each operation."""

from __future__ import annotations

import pytest

from tests.crashpoints.failing import ERRORS, faults, play
from tests.crashpoints.snapshots import Theatre

EVERY = 200
"""One in so many operations of a kind fails."""


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS)
def test_on_a_failing_disk_each_send_is_stored_or_refused_or_unknown_as_it_was_told(
    theatre: Theatre, error: str
) -> None:
    operations = play(theatre, None).operations
    found = [play(theatre, fault) for fault in faults(operations, EVERY) if fault.error == error]
    assert sum(each.struck > 0 for each in found) > len(found) // 2
    assert sum(each.refusals > 0 for each in found) >= 1
    assert sum(each.reopened > 0 for each in found) >= 1
