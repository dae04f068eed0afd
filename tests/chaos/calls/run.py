"""One run: servers and callers begin, harm is done by the plan, the callers come to an end, and the reader judges."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.chaos.calls.plan import CALLERS, CREW, ROUND, THREADS, Harm, plan
from tests.chaos.calls.reader import Verdict, judge, quantile
from tests.chaos.fleet import BUSY_S, Fleet
from tests.chaos.history import History
from tests.chaos.plan import Step

BEGIN_S = 30.0
"""How long all processes may take to start; it takes about two seconds."""
END_S = 60.0
"""How long all calls, and then the servers, may take to end."""
QUIET_S = 1.5
"""So long all are left alone before one server is stopped, for what had been done before to be over."""
LEAD_S = 0.5
"""So long it is quiet after it went on."""


@dataclasses.dataclass
class Outcome:
    """What a run came to.

    Attributes:
        verdict: the reader's.
        complaints: what else was not as it should be: errors in logs and counters.
        harms: what was done, by kind.
        seconds: the whole run.
    """

    verdict: Verdict
    complaints: list[str]
    harms: Counter[Harm]
    seconds: float

    @property
    def failures(self) -> list[str]:
        """All that is wrong; empty when all is well."""
        return self.verdict.violations + self.complaints

    def table(self) -> str:
        """For people."""
        verdict = self.verdict
        stats, outcomes, total = verdict.stats, verdict.outcomes, verdict.outcomes.total()
        rows = [("calls", f"{total:,}"), ("callers", f"{CALLERS * THREADS}"), ("executions", f"{verdict.executions:,}")]
        rows += [(f"ended: {kind}", f"{count:,}") for kind, count in outcomes.most_common()]
        rows += [
            ("unknown, share", f"{verdict.unknown_share:.2%}"),
            (
                "p50 / p99, ms",
                f"{_ms(quantile(verdict.latencies_s, 0.5))} / {_ms(quantile(verdict.latencies_s, 0.99))}",
            ),
            ("quick p50 / p99, ms", f"{_ms(quantile(verdict.quick_s, 0.5))} / {_ms(quantile(verdict.quick_s, 0.99))}"),
        ]
        worst = verdict.worst
        if worst is not None:
            rows.append(("worst, s", f"{worst.latency_s:.2f} ({worst.method} of {worst.name}: {worst.kind})"))
        rows += [(f"{harm}s" if harm != "stop alone" else "stops alone", f"{self.harms[harm]}") for harm in set(ROUND)]
        rows += [
            (name.partition(".")[2].replace("_", " "), f"{stats[name]:,}")
            for name in ("caller.calls_retried", "server.calls_repeated", "caller.servers_out", "caller.servers_probed")
        ]
        rows.append(("seconds", f"{self.seconds:.1f}"))
        shown = [f"{name:<22}{value:>12}" for name, value in rows]
        shown += [
            f"{cost.server} alone was stopped for {cost.seconds:.1f} s: {cost.in_flight} calls were open, "
            f"{cost.there} running there; {cost.waited} waited, {cost.after} of them begun later than a bound"
            for cost in verdict.stops
        ]
        return "\n".join(shown)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"


def run(
    seed: int,
    folder: Path,
    *,
    rounds: int | None = None,
    seconds: float | None = None,
    pause_s: tuple[float, float] = (0.3, 2.5),
    plant: str = "",
    say: Callable[[str], object] = str,
) -> Outcome:
    """Do harm for a while, and judge.

    Args:
        seed: decides what is done to whom, and what is called; when exactly that meets what, the machine does.
        folder: an empty one, for what the processes write.
        rounds: of the plan; None: as many as there is time for.
        seconds: how long it takes; shares and waits are judged as well. None: as long as the rounds take.
        pause_s: between two steps, the least and the most.
        plant: a bug to plant, that the reader must find.
        say: told what is done.

    Raises:
        Stuck, Died: it did not come to its end.
    """
    began = time.monotonic()
    note = History(folder / "controller.history").mention
    harms: Counter[Harm] = Counter()
    name = f"chaos-{secrets.token_hex(4)}"
    program = "tests.chaos.calls.roles"
    with Fleet(folder, name, seed, plant, crew=CREW, program=program, first=["server"], note=note) as fleet:
        servers = [each for each in fleet.members if each.role == "server"]
        fleet.wait(lambda: all(each.told("open") for each in servers), BEGIN_S, "all servers to be open")
        fleet.begin("caller", ",".join(each.address for each in servers))
        fleet.wait(lambda: all(each.told("busy") for each in fleet.members), BEGIN_S, "all processes to be at work")
        for harm, step in plan(seed, pause_s):
            if rounds is not None and harms.total() >= rounds * len(ROUND):
                break
            if seconds is not None and time.monotonic() - began >= seconds:
                break
            say(f"{time.monotonic() - began:7.2f}  {harm}: {step}")
            harms[harm] += 1
            if harm == "stop alone":
                _stop_alone(fleet, step, note)
            else:
                fleet.do(step)
        fleet.settle_down(BEGIN_S)
        fleet.wait(lambda: all(each.told("busy") for each in fleet.members), BEGIN_S, "all to be at work again")
        fleet.finish("caller", END_S)
        fleet.finish("server", END_S)
        complaints = fleet.complaints()
    verdict = judge(folder, at_length=seconds is not None)
    complaints += [f"{count} x {name}" for name, count in verdict.stats.items() if name.endswith("io_core_errors")]
    return Outcome(verdict, complaints, harms, time.monotonic() - began)


def _stop_alone(fleet: Fleet, step: Step, note: Callable[[str], object]) -> None:
    """Stop one server while all others are well, and see to it that nothing else happens meanwhile."""
    fleet.wait(fleet.all_well, 2 * BUSY_S, "all to be well")
    fleet.pause(QUIET_S)
    note(f"alone {step.role}-{step.index}")
    fleet.do(step)
    fleet.pause(step.away_s + LEAD_S)
