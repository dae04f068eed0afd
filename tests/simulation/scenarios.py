"""All scenarios, by the names that the command line knows them by."""

from __future__ import annotations

from typing import NamedTuple

from zmqkit.testing.scenario import Scenario
from zmqkit.testing.sweeps import load


class Entry(NamedTuple):
    """One scenario: where it lives, how many seeds `make test` runs of it, and how many of these twice."""

    reference: str
    seeds: int
    twice: int


SCENARIOS = {
    "ping": Entry("tests.simulation.ping:PingScenario", 100, 10),
    "sessions": Entry("tests.simulation.sessions:SessionScenario", 1400, 150),
    "pipeline": Entry("tests.simulation.pipeline:PipelineScenario", 500, 50),
    "scheduled": Entry("tests.simulation.pipeline_scheduled:ScheduledScenario", 150, 15),
    "inboxes": Entry("tests.simulation.pipeline_inboxes:InboxScenario", 150, 15),
    "suspects": Entry("tests.simulation.pipeline_suspects:SuspectsScenario", 100, 10),
    "chain": Entry("tests.simulation.chain:ChainScenario", 100, 10),
    "reqrep": Entry("tests.simulation.reqrep:ReqrepScenario", 2000, 50),
    "pubsub": Entry("tests.simulation.pubsub:PubsubScenario", 2000, 50),
    "devices-reqrep": Entry("tests.simulation.switched:SwitchedReqrep", 200, 15),
    "devices-pipeline": Entry("tests.simulation.switched:SwitchedPipeline", 130, 15),
}


def find(name: str) -> type[Scenario]:
    """The scenario of that name."""
    return load(SCENARIOS[name].reference)


def replay(name: str, seed: int) -> str:
    """The command that replays one seed."""
    return f"python -m tests.simulation --scenario {name} --seed {seed}"
