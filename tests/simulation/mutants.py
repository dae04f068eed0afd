"""Planted bugs: each is a patch of a core that some seed must catch, or the simulator proves nothing.

A bug is caught by a broken invariant, a broken contract, or no convergence. A patch that merely makes the code raise
is a broken patch, unless it says ``raises=True``.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.simulation.scenarios import find
from zmqkit.testing.scenario import simulate
from zmqkit.testing.sweeps import collected_by_hand

SEEDS = 2000

MODULES = (
    "tests.simulation.ping_mutants",
    "tests.simulation.session_mutants",
    "tests.simulation.pipeline_mutants",
    "tests.simulation.lease_mutants",
    "tests.simulation.returning_mutants",
    "tests.simulation.scheduled_mutants",
    "tests.simulation.inboxes_mutants",
    "tests.simulation.chain_mutants",
    "tests.simulation.reqrep_mutants",
    "tests.simulation.pubsub_mutants",
    "tests.simulation.switch_mutants",
)
"""Where bugs are planted: each module has a list ``MUTANTS``."""


CAUGHT = Path(__file__).with_name("caught.json")
"""By scenario and bug the first seed that caught it, when it was last hunted from seed 0 on (`make mutants`)."""


class Mutant(NamedTuple):
    """One planted bug.

    Attributes:
        name: what is wrong, as a sentence's end: "confirms before it is stored".
        scenario: whose seeds must find it.
        plant: makes a context manager under which the bug is there.
        raises: it may be found by an exception that is not an assertion.
        settings: attributes of the scenario that make what it takes frequent: other faults, say.
    """

    name: str
    scenario: str
    plant: Callable[[], AbstractContextManager[None]]
    raises: bool = False
    settings: Mapping[str, Any] = {}


class Caught(NamedTuple):
    """What became of one bug."""

    name: str
    scenario: str
    seed: int | None
    """None: it survived."""
    seeds: int
    kind: str
    message: str


@contextmanager
def replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """Replace a method or an attribute of a class or module by ``make(the old one)``; it must be there."""
    old = vars(owner)[name]
    setattr(owner, name, make(old))
    try:
        yield
    finally:
        setattr(owner, name, old)


def all_mutants() -> list[Mutant]:
    """All planted bugs."""
    return [mutant for module in MODULES for mutant in importlib.import_module(module).MUTANTS]


def hunt(mutant: Mutant, *, first: int = 0, seeds: int = SEEDS) -> Caught:
    """Run seeds until one catches the bug.

    Raises:
        RuntimeError: the patched code raised, and the bug did not say that it would.
    """
    found = find(mutant.scenario)
    scenario = type(found.__name__, (found,), dict(mutant.settings))
    with collected_by_hand() as collect:
        for seed in range(first, first + seeds):
            with mutant.plant():
                failure = simulate(scenario, seed).failure
            collect()
            if failure is None:
                continue
            if failure.kind == "raised" and not mutant.raises:
                raise RuntimeError(f"{mutant.name}: the patch is broken, or lacks raises=True:\n{failure.traceback}")
            return Caught(mutant.name, mutant.scenario, seed, seed - first + 1, failure.kind, failure.message)
    return Caught(mutant.name, mutant.scenario, None, seeds, "", "survived")


def hunt_known(mutant: Mutant) -> Caught:
    """`hunt`, beginning with the seed that caught it before; from 0 on, where that one does not any more."""
    known = seeds_known().get(mutant.scenario, {}).get(mutant.name)
    caught = None if known is None else hunt(mutant, first=known, seeds=1)
    return hunt(mutant) if caught is None or caught.seed is None else caught


def seeds_known() -> dict[str, dict[str, int]]:
    """What `CAUGHT` holds."""
    found: dict[str, dict[str, int]] = json.loads(CAUGHT.read_text(encoding="utf-8"))
    return found


def remember(caught: list[Caught]) -> None:
    """Note in `CAUGHT` which seed caught which bug; of scenarios that were not hunted the old notes stay."""
    known = seeds_known() if CAUGHT.exists() else {}
    for scenario in {each.scenario for each in caught}:
        known[scenario] = {
            each.name: each.seed for each in caught if each.scenario == scenario and each.seed is not None
        }
    CAUGHT.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def hunt_by_number(number: int, first: int, seeds: int) -> Caught:
    """`hunt`, for another process."""
    return hunt(all_mutants()[number], first=first, seeds=seeds)


def table(caught: list[Caught]) -> str:
    """Bug -> seed."""
    width = max((len(each.name) for each in caught), default=0)
    return "\n".join(
        f"  {each.scenario:<10} {each.name:<{width}}  "
        + (
            f"seed {each.seed:>5}  {each.kind:<9}  {' '.join(each.message.split())[:80]}"
            if each.seed is not None
            else "SURVIVED"
        )
        for each in caught
    )
