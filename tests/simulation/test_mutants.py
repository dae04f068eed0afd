"""Each planted bug is caught, or the simulator proves nothing. ``-s`` shows by which seed."""

from __future__ import annotations

import pytest

from tests.simulation.mutants import SEEDS, Mutant, all_mutants, hunt, table
from tests.simulation.scenarios import replay


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", all_mutants(), ids=lambda mutant: f"{mutant.scenario}: {mutant.name}")
def test_a_mutant_is_caught(mutant: Mutant) -> None:
    caught = hunt(mutant)
    print(f"\n{table([caught])}")
    assert caught.seed is not None, f"{SEEDS} seeds, such as {replay(mutant.scenario, 0)!r}, did not notice"
