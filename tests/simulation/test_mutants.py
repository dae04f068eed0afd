"""Each planted bug is caught, or the simulator proves nothing. The run shows by which seed."""

from __future__ import annotations

import pytest

from tests.simulation.mutants import SEEDS, all_mutants, hunt, table
from tests.simulation.scenarios import replay

BUGS = all_mutants()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(len(BUGS)), ids=[f"{bug.scenario}: {bug.name}" for bug in BUGS])
def test_a_mutant_is_caught(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    bug = BUGS[number]
    caught = hunt(bug)
    with capsys.disabled():
        print(f"\n{table([caught])}", end="")
    assert caught.seed is not None, f"{SEEDS} seeds, such as {replay(bug.scenario, 0)!r}, did not notice: {bug.name}"
