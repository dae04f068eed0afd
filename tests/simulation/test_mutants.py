"""Each planted bug is caught, or the simulator proves nothing. The run shows by which seed.

The hunt begins with the seed that is known to catch the bug; `make mutants` hunts from seed 0 on.
"""

from __future__ import annotations

import pytest

from tests.simulation.mutants import SEEDS, all_mutants, hunt_known, seeds_known, table
from tests.simulation.scenarios import replay

BUGS = all_mutants()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(len(BUGS)), ids=[f"{bug.scenario}: {bug.name}" for bug in BUGS])
def test_a_mutant_is_caught(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    bug = BUGS[number]
    caught = hunt_known(bug)
    with capsys.disabled():
        print(f"\n{table([caught])}", end="")
    assert caught.seed is not None, f"{SEEDS} seeds, such as {replay(bug.scenario, 0)!r}, did not notice: {bug.name}"


def test_no_seed_is_kept_for_a_bug_that_is_not_planted_any_more():
    planted = {(bug.scenario, bug.name) for bug in BUGS}
    kept = {(scenario, name) for scenario, bugs in seeds_known().items() for name in bugs}
    assert kept <= planted, "python -m tests.simulation --mutants --remember writes them anew"
