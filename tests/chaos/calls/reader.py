"""The judge of calls: reads what servers and callers wrote for themselves, and says which outcome was not true.

It imports nothing of zmqkit, and shares no code with what it judges; it knows the lines that `tests.chaos.calls.roles`
and `tests.chaos.fleet` write.

The folder of a run holds ``caller-0.1.history`` (index, life), ``server-0.1.executions``, what each life of a server
executed, and ``controller.history``, what was done to them.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from pathlib import Path

from tests.chaos.calls.plan import BOUND_S, INTERVAL_S
from tests.chaos.devices.reader import absences, is_device, outages
from tests.chaos.reader import SHOWN, last_stats, lines, lives

SLACK_S = 3.0
"""So late a call may end, and so late what was done to a server may tell at its callers: generous, for a busy machine.
Most of it is never used."""
EARLY_S = 0.05
"""So much before its time a call may be out of time: the server, which judges too, knows the way only roughly."""
AFTER_S = BOUND_S + 1.0
"""So long after a server was stopped no call may wait for it any more."""
WAITED_S = BOUND_S - INTERVAL_S
"""Who waits longer than this, the work of the handler left out, has waited for a server to be found lost: the bound is
counted from what was heard last, which may be an interval old."""
MOST_UNKNOWN = 0.02
"""The share of calls whose outcome may be unknown, in a run that is long enough to speak of shares."""
JOURNALLED = "server-0"
AWAY_S = 5.0
"""When devices in the path were away for so long, their callers and servers may have had too little time. They are back
in a second or two, so it is not to be."""
EVERYWHERE = ""
"""In place of a server: whatever was called then."""

RESULTS = frozenset({"result", "raised"})
NOT_EXECUTED = frozenset({"rejected", "not-sent"})
UNKNOWN = frozenset({"unknown", "late"})


@dataclasses.dataclass(slots=True)
class Called:
    """A call, as its caller tells of it. Times are those of the one clock that all processes share."""

    name: str
    method: str
    once: bool
    key: str
    work_s: float
    timeout_s: float
    began: float
    ended: float = 0.0
    kind: str = ""
    """Empty: it did not end."""
    words: list[str] = dataclasses.field(default_factory=list)

    @property
    def identity(self) -> str:
        """Its request id, if it is the caller's own; else it is called once under its name."""
        return self.key or self.name

    @property
    def latency_s(self) -> float:
        return self.ended - self.began


@dataclasses.dataclass(slots=True)
class Execution:
    """What a server tells of an execution."""

    server: str
    life: int
    number: int
    method: str
    name: str
    request_id: str
    began: float
    ended: float = 0.0
    how: str = ""
    """"result" or "raised"; empty: it did not come to its end."""

    def __str__(self) -> str:
        return f"{self.server}.{self.life}"


@dataclasses.dataclass(frozen=True, slots=True)
class Harm:
    """A server was killed, or stopped for so long that it must be taken for dead: its calls may be unknown.

    Or nobody could reach any, because devices were away for so long.
    """

    kind: str
    server: str
    at: float
    until: float


@dataclasses.dataclass(frozen=True, slots=True)
class StopCost:
    """What it cost that one server was stopped while all others were well.

    Attributes:
        server: which.
        seconds: for how long.
        in_flight: calls that were open when it was stopped, at any server.
        there: of them those that were running there.
        waited: calls that waited for it to be found lost.
        after: of them those that began when it should have been.
    """

    server: str
    seconds: float
    in_flight: int
    there: int
    waited: int
    after: int


@dataclasses.dataclass
class Verdict:
    """What the reader found.

    Attributes:
        violations: what must not be, in words; empty when all is well.
        outcomes: calls, by how they ended.
        executions: begun, by all servers.
        answered: when calls ended with a result, sorted, in seconds of the one clock that all processes share.
        latencies_s: of all calls, sorted.
        quick_s: of calls that asked for no work, sorted.
        worst: the call that took longest.
        stops: what single stops cost.
        harms: kills and long stops.
        stats: the last counters of every process, summed: ``server.calls_repeated``, ``caller.calls_retried``...
    """

    violations: list[str] = dataclasses.field(default_factory=list)
    outcomes: Counter[str] = dataclasses.field(default_factory=Counter)
    executions: int = 0
    answered: list[float] = dataclasses.field(default_factory=list)
    latencies_s: list[float] = dataclasses.field(default_factory=list)
    quick_s: list[float] = dataclasses.field(default_factory=list)
    worst: Called | None = None
    stops: list[StopCost] = dataclasses.field(default_factory=list)
    harms: int = 0
    stats: Counter[str] = dataclasses.field(default_factory=Counter)

    @property
    def unknown_share(self) -> float:
        """How many of the calls ended unknown, out of time or not."""
        return sum(self.outcomes[kind] for kind in UNKNOWN) / max(1, self.outcomes.total())


def quantile(values: list[float], share: float) -> float:
    """Of sorted values the one that so many are not above; 0 of none."""
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0


def judge(folder: Path, *, at_length: bool = False) -> Verdict:
    """Read a whole run.

    Args:
        folder: of the run, which is over: no process writes there any more.
        at_length: it was long enough to judge shares and waits as well.
    """
    return _Reader(folder, at_length).verdict


class _Reader:
    def __init__(self, folder: Path, at_length: bool) -> None:
        self.verdict = verdict = Verdict()
        self._kinds: Counter[str] = Counter()
        self.calls: dict[str, Called] = {}
        self.first_of: dict[str, float] = {}
        """When a call of this identity was first made."""
        self.executions: dict[tuple[str, int, int], Execution] = {}
        self.of_name: defaultdict[str, list[Execution]] = defaultdict(list)
        self.harms: list[Harm] = []
        self.alone: list[tuple[str, float, float]] = []
        for path in lives(folder, "caller"):
            self._read_caller(path)
        for path in sorted(folder.glob("server-*.*.executions")):
            self._read_server(path)
        self._read_controller(folder / "controller.history")
        for role in ("caller", "server", "queue"):
            for path in lives(folder, role):
                verdict.stats.update({f"{role}.{name}": value for name, value in last_stats(path).items()})
        self._judge_executions()
        for call in self.calls.values():
            self._judge_call(call)
        self._judge_stops(at_length)
        self._count()
        if at_length and verdict.unknown_share >= MOST_UNKNOWN:
            self._violated("share", f"{verdict.unknown_share:.2%} of the calls ended unknown")
        if not self.calls or not self.executions:
            self._violated("history", "nothing was called, or nothing was executed")
        for kind, count in self._kinds.items():
            if count > SHOWN:
                verdict.violations.append(f"{kind}: {count} in all")

    def _violated(self, kind: str, what: str) -> None:
        self._kinds[kind] += 1
        if self._kinds[kind] <= SHOWN:
            self.verdict.violations.append(f"{kind}: {what}")

    # ---- reading -------------------------------------------------------------------

    def _read_caller(self, path: Path) -> None:
        for kind, *rest in lines(path):
            if kind == "began":
                name, method, often, key, work, timeout, at = rest
                if name in self.calls:
                    self._violated("history", f"{path.name} calls {name} twice")
                self.calls[name] = Called(
                    name, method, often == "once", "" if key == "-" else key, float(work), float(timeout), float(at)
                )
                self.first_of.setdefault(self.calls[name].identity, float(at))
            elif kind == "ended":
                name, at, how, *words = rest
                call = self.calls.get(name)
                if call is None or call.kind:
                    self._violated("history", f"{path.name}: {name} ended, and was not open")
                    continue
                call.ended, call.kind, call.words = float(at), how, words
            elif kind != "stats":
                self._violated("history", f"{path.name} has a line of kind {kind!r}")

    def _read_server(self, path: Path) -> None:
        server, life, _ = path.name.split(".")
        for kind, number, *rest in lines(path):
            place = (server, int(life), int(number))
            if kind == "begin":
                method, name, request_id, at = rest
                made = Execution(*place, method, name, request_id, float(at))
                self.executions[place] = made
                self.of_name[name].append(made)
            else:
                execution = self.executions.get(place)
                if execution is None or execution.how:
                    # Without its beginning the end proves nothing: who was answered is asked for it.
                    continue
                execution.how, execution.ended = rest[0], float(rest[1])

    def _read_controller(self, path: Path) -> None:
        stopped: dict[str, float] = {}
        alone = ""
        for kind, server, *rest in lines(path):
            at = float(rest[-1]) if rest else 0.0
            if is_device(server):
                continue
            if kind == "alone":
                alone = server
            elif kind == "kill":
                self.harms.append(Harm(kind, server, stopped.pop(server, at), at + BOUND_S + SLACK_S))
            elif kind == "stop":
                stopped[server] = at
            elif kind == "go" and server in stopped:
                since = stopped.pop(server)
                if at - since > WAITED_S:
                    self.harms.append(Harm(kind, server, since, max(at, since + BOUND_S) + SLACK_S))
                    if alone == server:
                        self.alone.append((server, since, at))
                if alone == server:
                    alone = ""
        self.harms += [
            Harm("away", EVERYWHERE, since, until + SLACK_S)
            for since, until in outages(absences(path))
            if until - since > AWAY_S
        ]
        self.verdict.harms = len(self.harms)

    # ---- executions ----------------------------------------------------------------

    def _judge_executions(self) -> None:
        self.verdict.executions = len(self.executions)
        runs: defaultdict[tuple[str, ...], list[Execution]] = defaultdict(list)
        ids: dict[str, str] = {}
        asked = Counter(call.identity for call in self.calls.values())
        for execution in self.executions.values():
            call = self.calls.get(execution.name)
            if call is None or call.method != execution.method:
                self._violated("invented", f"{execution} executed {execution.method} of {execution.name}")
                continue
            identity = call.identity
            if ids.setdefault(execution.request_id, identity) != identity:
                self._violated("mixed up", f"{execution.request_id} is {identity} and {ids[execution.request_id]}")
            if call.key and execution.request_id != call.key:
                self._violated("mixed up", f"{call.name} has the request id {call.key}, not {execution.request_id}")
            if not call.once:
                continue
            life = "" if execution.server == JOURNALLED else str(execution.life)
            runs[execution.request_id, execution.server, life].append(execution)
            runs[identity, execution.server, life, "by name"].append(execution)
            if asked[identity] == 1:
                runs[identity,].append(execution)  # nobody asked anew: no other server may have executed it either
        doubled: set[str] = set()
        for found in runs.values():
            if len(found) > 1 and found[0].name not in doubled:
                doubled.add(found[0].name)
                where = ", ".join(map(str, found))
                self._violated("doubled", f"{found[0].method} of {found[0].name} was executed by {where}")

    # ---- calls ---------------------------------------------------------------------

    def _judge_call(self, call: Called) -> None:
        if not call.kind:
            self._violated("unended", f"{call.method} of {call.name}")
            return
        if call.latency_s > call.timeout_s + SLACK_S:
            self._violated("too late", f"{call.name} took {call.latency_s:.2f} s, and had {call.timeout_s} s")
        there = self.of_name.get(call.name, [])
        said = f"{call.method} of {call.name}: {call.kind} {' '.join(call.words)}"
        if call.kind in RESULTS:
            self._judge_result(call, said)
        elif call.kind in NOT_EXECUTED:
            if there:
                self._violated("untrue", f"{said}; it was executed by {', '.join(map(str, there))}")
            elif not self._may_be_refused(call):
                self._violated("refused", said)
        elif call.kind == "late":
            if call.latency_s < call.timeout_s - EARLY_S:
                self._violated("untrue", f"{said}; it had {call.timeout_s - call.latency_s:.2f} s left")
            elif call.timeout_s - call.work_s > SLACK_S and not self._may_be_unknown(call, there):
                self._violated("needless", f"{said}; it had time enough, and no harm was done there")
        elif call.kind == "unknown":
            if not self._may_be_unknown(call, there):
                where = ", ".join(f"{each} ({each.how or 'unended'})" for each in there)
                self._violated(
                    "needless", f"{said}; it was executed by {where or 'nobody'}, and no harm was done there"
                )
        elif call.kind != "cancelled":
            self._violated("wrong", said)

    def _judge_result(self, call: Called, said: str) -> None:
        server, life, number, name = call.words
        found = self.executions.get((server, int(life), int(number)))
        if found is None:
            self._violated("invented", f"{said}; there was no such execution")
            return
        theirs = self.calls.get(found.name)
        if found.name != name or theirs is None or theirs.identity != call.identity:
            self._violated("mixed up", f"{said}; that was an execution of {found.name}")
        elif found.how != call.kind:
            self._violated("untrue", f"{said}; that execution ended with {found.how or 'nothing'}")

    def _may_be_refused(self, call: Called) -> bool:
        if call.kind == "not-sent":
            # No server was there to take it: not for this caller, at least.
            return call.words[0] == "NotSentInTime" and call.latency_s >= call.timeout_s - EARLY_S
        if call.words[0] == "draining":
            return call.method == "total"  # an upload that is on its way cannot be had again
        return call.words[0] == "overloaded" and call.method == "few"

    def _may_be_unknown(self, call: Called, there: list[Execution]) -> bool:
        """A server was harmed where it may have been: where it was begun, if it was; else anywhere.

        Who asks with the request id of an earlier call asks for that one, and is told what is known of it.
        """
        since = min(self.first_of[call.identity], call.began)
        named = re.search(r" at (server-\d+)\.\d+", " ".join(call.words))
        places = {each.server for each in there} | ({named[1]} if named else set())
        return any(
            since <= harm.until and call.ended >= harm.at and (not places or harm.server in {*places, EVERYWHERE})
            for harm in self.harms
        )

    # ---- waits ---------------------------------------------------------------------

    def _judge_stops(self, at_length: bool) -> None:
        for server, since, until in self.alone:
            open_then = [each for each in self.calls.values() if each.kind and each.began <= until]
            open_then = [each for each in open_then if each.ended >= since]
            waited = [each for each in open_then if each.latency_s - each.work_s > WAITED_S]
            running = [each for each in self.executions.values() if each.server == server]
            life = max((each.life for each in running if each.began <= since), default=0)
            cost = StopCost(
                server=server,
                seconds=until - since,
                in_flight=sum(each.began <= since for each in open_then),
                there=sum(
                    each.life == life and each.began <= since and (not each.how or each.ended >= since)
                    for each in running
                ),
                waited=len(waited),
                after=sum(each.began > since + AFTER_S for each in waited),
            )
            self.verdict.stops.append(cost)
            if at_length and (cost.waited > cost.in_flight or cost.after):
                self._violated("waited", f"one server stopped: {cost}")

    def _count(self) -> None:
        verdict = self.verdict
        done = [call for call in self.calls.values() if call.kind]
        verdict.outcomes.update(call.kind for call in done)
        verdict.answered = sorted(call.ended for call in done if call.kind in RESULTS)
        verdict.latencies_s = sorted(call.latency_s for call in done)
        quick = ("stream", "upload", "rows", "total")
        verdict.quick_s = sorted(call.latency_s for call in done if not call.work_s and call.method not in quick)
        verdict.worst = max(done, key=lambda call: call.latency_s, default=None)
