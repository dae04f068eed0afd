"""A scenario: who is there, what they do, what must always hold, and when they are done. And how one seed is run.

    class Mine(Scenario):
        def build(self, world): ...        # peers, hooks
        def step(self, world): ...         # a little work, every `step_s`
        def check(self, world): ...        # safety: assert; all the time
        def converged(self, world): ...    # liveness: True within `settle_s` after the faults ended

Knows worlds; no pattern.
"""

from __future__ import annotations

import dataclasses
import random
import traceback
from collections.abc import Mapping
from typing import ClassVar

from zmqkit.testing.contract import ContractBroken
from zmqkit.testing.faults import Faults
from zmqkit.testing.world import World


class Scenario:
    """One instance is made a seed: keep the history in attributes. Override what you need.

    Attributes:
        faults: what goes wrong at full strength; each seed takes a swarm of it.
        faults_s: the length of the first phase, in simulated seconds.
        settle_s: how much simulated time the second phase may take until `converged`.
        step_s: the mean time between two calls of `step`, in simulated seconds.
        bound_s: the session's heartbeat bound; the lengths of faults lie around it.
        hop_timeout_s: the hop's; None: 0.6 x `bound_s`, as the driver sets it.
        threaded_journals: the share of incarnations whose journal works in a thread of its own.
        expects: counters that a sweep must find above 0: faults (`World.counts`), the cores' own counters and
            the scenario's `count`s, by name.
    """

    faults: ClassVar[Faults] = Faults()
    faults_s: ClassVar[float] = 20.0
    settle_s: ClassVar[float] = 60.0
    step_s: ClassVar[float] = 0.1
    bound_s: ClassVar[float] = 3.0
    hop_timeout_s: ClassVar[float | None] = None
    threaded_journals: ClassVar[float] = 0.3
    expects: ClassVar[tuple[str, ...]] = ()

    def __init__(self, random: random.Random) -> None:
        self.random = random
        """The workload's own stream of chance."""

    def build(self, world: World) -> None:
        """Make the peers."""
        raise NotImplementedError

    def step(self, world: World) -> None:
        """Do a little work. Only in the first phase; a core's verbs go through `SimPeer.post`."""

    def check(self, world: World) -> None:
        """Assert what must hold at any moment. Called after each step and at the end: keep it incremental."""

    def healed(self, world: World) -> None:
        """The faults have ended. Start whatever must be there to converge."""

    def converged(self, world: World) -> bool:
        """Is everything done that must get done? Asked every 0.1 s in the second phase."""
        return True

    def finish(self, world: World) -> None:
        """Assert what must hold once it has converged."""

    def explain(self, world: World) -> str:
        """What is missing, when it does not converge."""
        return ""


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """Why a seed failed.

    Attributes:
        kind: ``invariant`` (an assertion of the scenario), ``contract`` (a core against its driver),
            ``liveness`` (not converged in time) or ``raised`` (a core, or the scenario, raised).
        message: one line, or a few.
        at_s: when, in simulated seconds.
        traceback: where, for those who look closer.
    """

    kind: str
    message: str
    at_s: float
    traceback: str


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one seed.

    Attributes:
        seed: the seed.
        digest: of the trace: the same seed and the same code give the same.
        counts: of faults, branches (cores' counters) and events (by class name).
        simulated_s: how much time passed in there.
        turns, sent, received: how much happened.
        failure: None if all is well.
        text: the last lines of the readable trace, where one was asked for.
    """

    seed: int
    digest: int
    counts: Mapping[str, int]
    simulated_s: float
    turns: int
    sent: int
    received: int
    failure: Failure | None
    text: tuple[str, ...] = ()


def simulate(scenario: type[Scenario], seed: int, *, text: int = 0, checks: bool = True) -> Outcome:
    """Run one seed of a scenario: faults first, then healing, then convergence.

    Args:
        scenario: the class.
        seed: decides everything.
        text: keep the last so many lines of a readable trace.
        checks: hold each core against its contract after each turn.
    """
    hop = scenario.hop_timeout_s if scenario.hop_timeout_s is not None else 0.6 * scenario.bound_s
    world = World(seed, hop_timeout_s=hop, text=text, checks=checks, threaded_journals=scenario.threaded_journals)
    failure: Failure | None = None
    try:
        _run(scenario(world.stream("workload")), world)
    except AssertionError as error:
        kind = "contract" if isinstance(error, ContractBroken) else "invariant"
        kind = "liveness" if isinstance(error, _NotConverged) else kind
        failure = Failure(kind, str(error) or _line(error), world.clock.now, traceback.format_exc())
    except Exception as error:
        failure = Failure("raised", f"{type(error).__name__}: {error}", world.clock.now, traceback.format_exc())
    counts = dict(world.counts)
    for name, count in (*world.totals().items(), *world.events.items()):
        counts[name] = counts.get(name, 0) + count
    return Outcome(
        seed, world.digest, counts, world.clock.now, world.turns, world.sent, world.received, failure,
        tuple(world.text or ()),
    )  # fmt: skip


class _NotConverged(AssertionError):
    """The second phase took too long."""


def _run(scenario: Scenario, world: World) -> None:
    pace = world.stream("pace")
    scenario.build(world)
    world.unleash(scenario.faults.swarm(world.stream("swarm")), bound_s=scenario.bound_s)
    while world.clock.now < scenario.faults_s:
        world.run(pace.expovariate(1.0 / scenario.step_s))
        scenario.step(world)
        scenario.check(world)
    world.heal()
    scenario.healed(world)
    if not world.run_until(lambda: scenario.converged(world), within_s=scenario.settle_s):
        raise _NotConverged(
            f"not converged {scenario.settle_s:g} s after the faults ended. {scenario.explain(world)}".rstrip()
        )
    scenario.check(world)
    scenario.finish(world)


def _line(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.line} ({last.name}, line {last.lineno})"
