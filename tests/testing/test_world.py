"""One seed, one world: time, chance, traces and sweeps."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest

from tests.simulation.mutants import replaced
from tests.simulation.ping import PingClient, PingScenario
from tests.testing.recorder import Recorder
from zmqkit.protocol.core import Read
from zmqkit.testing import Faults, HostClock, Scenario, SweepFailed, VirtualClock, World, simulate, sweep
from zmqkit.testing.faults import CLOCK_FAULTS, IDENTITY_FAULTS, READ_FAULTS, TORN_FAULTS
from zmqkit.testing.sweeps import load, replayed, run_seeds


class Fragile(PingScenario):
    """Breaks an invariant of its own at some seeds."""

    def finish(self, world: World) -> None:
        super().finish(world)
        assert world.seed % 4 != 3, "three is a bad remainder"


class Unexpecting(PingScenario):
    """Waits for what never happens."""

    faults = Faults.none()
    faults_s = 0.5
    expects = ("pings heard", "the sky falls")


class Restless(Scenario):
    """Never converges."""

    faults_s = 0.1
    settle_s = 1.0

    def build(self, world: World) -> None:
        pass

    def converged(self, world: World) -> bool:
        return False

    def explain(self, world: World) -> str:
        return "Peace is missing."


class Salted(Scenario):
    """Depends on the order of a set of strings: the same in one process, not in another."""

    faults_s = 0.1

    def build(self, world: World) -> None:
        order = list({"one", "two", "three", "four", "five", "six", "seven"})
        world.digest = hash(tuple(order)) & 0xFFFFFFFF


def test_clocks_go_forward_only():
    clock = VirtualClock(5.0)
    assert clock.advance(2.5) == clock() == clock.now == 7.5
    with pytest.raises(ValueError, match="forward"):
        clock.advance(-1.0)
    host = HostClock(clock, offset=100.0, rate=2.0)
    assert host() == host.local(7.5) == 115.0
    assert host.true(115.0) == 7.5
    with pytest.raises(ValueError, match="rate"):
        HostClock(clock, rate=0.0)


def test_streams_are_their_own_and_the_same_again():
    def draws(seed: int, purpose: str) -> list[float]:
        stream = World(seed).stream(purpose)
        return [stream.random() for _ in range(3)]

    assert draws(1, "a") == draws(1, "a")
    assert len({tuple(draws(seed, purpose)) for seed, purpose in itertools.product(range(20), "abc")}) == 60


def test_the_same_seed_gives_the_same_trace_and_another_another():
    outcomes = [simulate(PingScenario, seed) for seed in (1, 1, 2)]
    assert outcomes[0] == outcomes[1]
    assert outcomes[0].digest != outcomes[2].digest


def test_writing_the_trace_down_changes_nothing():
    plain, written = simulate(PingScenario, 5), simulate(PingScenario, 5, text=100)
    assert plain.digest == written.digest
    assert len(written.text) == 100
    assert any("pong" in line for line in written.text)


def test_the_trace_depends_on_what_the_core_does():
    plain = simulate(PingScenario, 5).digest
    with replaced(PingClient, "handle_timer", lambda old: lambda self, now: old(self, now) or self.send(10_000, now)):
        assert simulate(PingScenario, 5).digest != plain


def test_a_failing_seed_names_itself_and_its_replay():
    with pytest.raises(SweepFailed, match=r"seed 3: invariant .* three is a bad remainder") as caught:
        sweep(Fragile, seeds=8, twice=0, say=str, replay=lambda seed: f"make again SEED={seed}")
    assert "make again SEED=3" in str(caught.value)


def test_a_counter_that_stays_zero_fails_a_sweep_of_many_seeds():
    sweep(Unexpecting, seeds=20, twice=0, say=str)
    with pytest.raises(SweepFailed, match="never happened: the sky falls"):
        sweep(Unexpecting, seeds=200, twice=0, say=str)


def test_no_convergence_is_a_failure_of_liveness():
    failure = simulate(Restless, 1).failure
    assert failure is not None
    assert failure.kind == "liveness"
    assert "Peace is missing." in failure.message


def test_a_sweep_on_two_processes_says_the_same_as_on_one():
    said: list[str] = []
    one = sweep(PingScenario, first=7, seeds=24, twice=0, say=said.append)
    two = sweep(PingScenario, first=7, seeds=24, twice=10, jobs=2, say=said.append)
    assert one.digests == two.digests
    assert one.counts == two.counts
    assert two.compared == 10
    assert len(said) == 2
    assert "duplicated" in said[0]


def test_a_trace_that_depends_on_the_hash_seed_is_found():
    with pytest.raises(SweepFailed, match="two traces"):
        sweep(Salted, seeds=3, twice=3, jobs=2, say=str)


def test_a_replay_ends_with_what_went_wrong():
    text = replayed(Fragile, 3)
    assert "seed 3: invariant" in text
    assert "heal" in replayed(PingScenario, 1, lines=100_000)


def test_a_reference_that_is_no_scenario_is_refused():
    assert load("tests.simulation.ping:PingScenario") is PingScenario
    with pytest.raises(TypeError, match="not a Scenario"):
        load("tests.simulation.ping:PingClient")


def test_the_command_replays_a_seed():
    done = subprocess.run(
        [sys.executable, "-m", "zmqkit.testing.sweeps", "tests.simulation.ping:PingScenario", "1"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert f"trace {simulate(PingScenario, 1).digest:08x}" in done.stdout


def test_without_faults_nothing_goes_wrong():
    totals = run_seeds(Unexpecting, range(5))
    assert not totals.failures
    assert not {"lost", "break", "freeze", "restart"} & {name for name, count in totals.counts.items() if count}


def test_a_swarm_turns_some_faults_off():
    swarms = [Faults().swarm(World(seed).stream("swarm")) for seed in range(50)]
    assert any(swarm.loss == 0 for swarm in swarms)
    assert any(swarm.loss > Faults().loss for swarm in swarms)
    assert all(0 <= swarm.loss <= 0.3 for swarm in swarms)


class Hazards(Scenario):
    """Journalled peers that bind, read now and then, and suffer what only some scenarios ask for."""

    faults = Faults(read_s=1.0, torn_s=2.0, leap_s=1.0, suspend_s=2.0, restore_s=2.0, takeover_s=2.0)
    faults_s = 10.0
    expects = (*CLOCK_FAULTS, *TORN_FAULTS, *IDENTITY_FAULTS, *READ_FAULTS)

    def build(self, world: World) -> None:
        for name in ("one", "two"):
            world.peer(name, lambda peer: Recorder(), bind=[f"tcp://{name}:1"], journal=True)

    def step(self, world: World) -> None:
        def work(core: Recorder, now: float) -> None:
            core.out.write("messages", self.random.randint(1, 9), 1, b"x")
            core.out.reads.append(Read("messages", 1, 9, 100))

        for peer in world.peers.values():
            peer.post(work)

    def finish(self, world: World) -> None:
        assert all(peer.alive and not peer.stopped for peer in world.peers.values())
        assert sorted(bind for peer in world.peers.values() for bind in peer.binds) == ["tcp://one:1", "tcp://two:1"]

    def converged(self, world: World) -> bool:
        return all(peer.alive for peer in world.peers.values())


def test_each_fault_that_is_asked_for_happens_and_ends():
    totals = sweep(Hazards, seeds=40, twice=5, say=lambda report: None)
    assert not totals.failures
    assert not totals.never(Hazards)
