"""A power cut at any write or sync of the journal, with any sectors left of what was not synced."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.crashpoints.power import Cuts
from tests.crashpoints.snapshots import Theatre
from tests.journal.faults import SECTOR, Platter

EVERY = 5
"""The power is cut at one in so many writes and syncs; `python -m tests.crashpoints` does it at each."""


def at_some(moment: int) -> bool:
    """Whether to cut the power there."""
    return moment % EVERY == 0


@pytest.mark.slow
def test_at_power_no_power_cut_takes_what_was_confirmed(theatre: Theatre) -> None:
    cuts = Cuts(theatre, wanted=at_some)
    assert cuts.moments > 300
    assert len(cuts.shots) > 60
    for shot in cuts.shots:
        assert not cuts.lost(shot), shot.label


@pytest.mark.slow
def test_at_process_a_power_cut_takes_some_and_damages_nothing(forgetful_theatre: Theatre) -> None:
    cuts = Cuts(forgetful_theatre, wanted=at_some)
    lost = [cuts.lost(shot) for shot in cuts.shots]
    # The journal opens each time, with a warning at most: it is the judge who misses something.
    assert not [what for what in lost if str(forgetful_theatre.folder) in what]
    assert sum(map(bool, lost)) > len(lost) // 4


@pytest.mark.slow
def test_a_disk_that_says_synced_and_is_not_is_found_out(theatre: Theatre) -> None:
    cuts = Cuts(theatre, lies=True, wanted=at_some)
    lost = [cuts.lost(shot) for shot in cuts.shots]
    assert sum(map(bool, lost)) > len(lost) // 4


def test_of_what_was_not_synced_any_sectors_are_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"-" * SECTOR * 4)
    platter = Platter()
    platter.opened(str(path))
    platter.wrote(str(path), b"1" * SECTOR * 2, 100)
    images = {platter.image(path, random.Random(seed)) for seed in range(200)}
    pieces = [slice(100, SECTOR), slice(SECTOR, 2 * SECTOR), slice(2 * SECTOR, 2 * SECTOR + 100)]
    assert {tuple(image[piece] == b"1" * len(image[piece]) for piece in pieces) for image in images} == {
        (a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)
    }
    platter.synced(str(path))
    platter.truncated(str(path), 50)
    images = {platter.image(path, random.Random(seed)) for seed in range(200)}
    assert {len(image) for image in images} == {50, 4 * SECTOR}
    assert all(image.startswith(b"-" * 50) for image in images)
    assert {image[100:612] for image in images} == {b"", b"1" * SECTOR}
