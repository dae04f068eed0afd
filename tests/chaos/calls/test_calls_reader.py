"""The judge of calls itself: it passes what is true, and finds what is not, whichever way."""

from __future__ import annotations

import ast
import itertools
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.calls import plan as plans
from tests.chaos.calls import reader
from tests.chaos.calls.plan import ROUND, SERVERS, plan
from tests.chaos.calls.reader import StopCost, judge
from tests.chaos.devices import reader as devices_reader

CALLER, OTHER = "caller-0.1.history", "caller-1.1.history"
JOURNALLED, AGAIN, PLAIN, LATER = (
    f"{life}.executions" for life in ("server-0.1", "server-0.2", "server-1.1", "server-1.2")
)
CONTROLLER = "controller.history"


def sound(folder: Path) -> Path:
    """The files of a small run in which all is well, though two servers were killed, and one was stopped."""
    write(
        folder / CALLER,
        "began a add once - 0.0 10.0 100",
        "ended a 100.1 result server-0 1 1 a",
        "began b read often - 0.2 10.0 199",
        "ended b 200.5 result server-0 2 1 b",
        "began c add once key-c 0.0 10.0 199.5",
        "ended c 200.1 unknown the server was lost at server-1.1 before it answered add() (process gone)",
        "began c+ add once key-c 0.0 10.0 200.2",
        "ended c+ 200.3 result server-1 2 1 c+",
        "began l add once key-l 0.0 10.0 199.5",
        "ended l 200.1 unknown the server was lost at server-1.1 before it answered add() (process gone)",
        "began l+ add once key-l 0.0 10.0 250",
        "ended l+ 250.1 unknown add() may have been executed at server-1.2, or not",
        "began d few once - 0.0 10.0 300",
        "ended d 300.1 rejected overloaded few() was refused",
        "began e add once - 0.3 0.1 300",
        "ended e 300.1 late add() was sent, and no answer came",
        'stats {"calls_retried": 1}',
    )
    write(
        folder / OTHER,
        "began f fail once - 0.0 10.0 300",
        "ended f 300.1 raised server-0 2 2 f",
        "began g add_soon once - 0.1 10.0 199.9",
        "ended g 202 unknown add_soon() may have been executed at server-0.2, or not",
        "began h total once - 0.0 10.0 300",
        "ended h 300.2 rejected draining total() was refused",
        "began i add once - 0.0 0.1 300",
        "ended i 300.1 not-sent NotSentInTime add() could not be sent",
        "began j read often - 0.1 10.0 399",
        "ended j 401.6 result server-0 2 3 j",
        "began k add once - 0.0 10.0 399",
        "ended k 399.1 cancelled",
        'stats {"calls_retried": 2}',
        "began cut",
        end="",
    )
    write(folder / JOURNALLED, "begin 1 add a id-a 100.0", "end 1 result 100.1", "begin 2 add_soon g id-g 199.95")
    write(
        folder / AGAIN,
        "begin 1 read b id-b 200.3",
        "end 1 result 200.5",
        "begin 2 fail f id-f 300.0",
        "end 2 raised 300.1",
        "begin 3 read j id-j 401.5",
        "end 3 result 401.6",
    )
    write(folder / PLAIN, "begin 1 add c key-c 199.6", "begin 2 read b id-b 199.1")
    write(folder / LATER, "begin 1 add c+ key-c 200.2", "end 1 result 200.3", "begin 2 read j id-j 399.0")
    write(
        folder / CONTROLLER,
        "start server-0 1 90",
        "kill server-0 1 200.0",
        "kill server-1 1 200.0",
        "start server-1 2 200.1",
        "stop server-2 1 300.0",
        "go server-2 1 300.4",
        "alone server-1",
        "stop server-1 2 400.0",
        "go server-1 2 403.0",
    )
    return folder


def write(path: Path, *lines: str, end: str = "\n") -> None:
    path.write_text("\n".join(lines) + end)


def swap(name: str, line: str, *instead: str) -> Callable[[Path], None]:
    def doctor(folder: Path) -> None:
        before, there, after = (folder / name).read_text().partition(f"{line}\n")
        assert there
        (folder / name).write_text("".join([before, *(f"{each}\n" for each in instead), after]))

    return doctor


def add(name: str, *lines: str) -> Callable[[Path], None]:
    def doctor(folder: Path) -> None:
        text = (folder / name).read_text()
        (folder / name).write_text("".join([*(f"{each}\n" for each in lines), text]))

    return doctor


def test_a_sound_run_passes_and_is_counted(tmp_path: Path) -> None:
    verdict = judge(sound(tmp_path))
    assert verdict.violations == []
    assert verdict.outcomes == Counter({
        "result": 4, "unknown": 4, "rejected": 2, "raised": 1, "late": 1, "not-sent": 1, "cancelled": 1,
    })  # fmt: skip
    assert (verdict.executions, verdict.harms) == (9, 3)
    assert verdict.unknown_share == 5 / 14
    assert verdict.worst is not None
    assert verdict.worst.name == "j"
    assert verdict.stops == [StopCost("server-1", 3.0, in_flight=1, there=1, waited=1, after=0)]
    assert verdict.stats == {"caller.calls_retried": 3}


@pytest.mark.parametrize(
    ("doctor", "found"),
    [
        (swap(JOURNALLED, "begin 1 add a id-a 100.0"), "invented: add of a: result server-0 1 1 a; there was no such"),
        (
            swap(JOURNALLED, "end 1 result 100.1"),
            "untrue: add of a: result server-0 1 1 a; that execution ended with n",
        ),
        (swap(AGAIN, "end 2 raised 300.1", "end 2 result 300.1"), "untrue: fail of f: raised server-0 2 2 f"),
        (add(PLAIN, "begin 9 add x id-x 100.0"), "invented: server-1.1 executed add of x"),
        (add(PLAIN, "begin 9 read a id-a 100.0"), "invented: server-1.1 executed read of a"),
        (add(JOURNALLED, "begin 9 add a id-a 100.0"), "doubled: add of a was executed by server-0.1, server-0.1"),
        (add(AGAIN, "begin 9 add a id-a 100.0"), "doubled: add of a was executed by server-0.1, server-0.2"),
        (add(PLAIN, "begin 9 add a id-a2 100.0"), "doubled: add of a was executed by server-0.1, server-1.1"),
        (add(LATER, "begin 9 add c key-c 200.0"), "doubled: add of c was executed by server-1.2, server-1.2"),
        (add(LATER, "begin 9 read b id-a 200.0"), "mixed up: id-a is "),
        (swap(PLAIN, "begin 1 add c key-c 199.6", "begin 1 add c id-c 199.6"), "mixed up: c has the request id key-c"),
        (
            swap(CALLER, "ended a 100.1 result server-0 1 1 a", "ended a 100.1 result server-0 2 1 b"),
            "mixed up: add of a: result server-0 2 1 b; that was an execution of b",
        ),
        (swap(CALLER, "ended a 100.1 result server-0 1 1 a"), "unended: add of a"),
        (
            swap(OTHER, "ended j 401.6 result server-0 2 3 j", "ended j 413.6 result server-0 2 3 j"),
            "too late: j took 14.60 s, and had 10.0 s",
        ),
        (
            swap(CALLER, "ended a 100.1 result server-0 1 1 a", "ended a 100.1 rejected overloaded"),
            "untrue: add of a: rejected overloaded; it was executed by server-0.1",
        ),
        (
            swap(CALLER, "ended a 100.1 result server-0 1 1 a", "ended a 110.0 not-sent NotSentInTime"),
            "untrue: add of a: not-sent NotSentInTime; it was executed by server-0.1",
        ),
        (
            swap(CALLER, "ended d 300.1 rejected overloaded few() was refused", "ended d 300.1 rejected draining"),
            "refused: few of d: rejected draining",
        ),
        (
            swap(
                OTHER, "ended i 300.1 not-sent NotSentInTime add() could not be sent", "ended i 300.1 not-sent NotSent"
            ),
            "refused: add of i: not-sent NotSent",
        ),
        (
            swap(CALLER, "ended a 100.1 result server-0 1 1 a", "ended a 100.1 unknown"),
            "needless: add of a: unknown ; it was executed by server-0.1 (result), and no harm was done there",
        ),
        (swap(CONTROLLER, "kill server-1 1 200.0"), "needless: add of c: unknown the server was lost at server-1.1"),
        (
            swap(OTHER, "ended h 300.2 rejected draining total() was refused", "ended h 300.2 unknown of a short stop"),
            "needless: total of h: unknown of a short stop; it was executed by nobody",
        ),
        (
            swap(CALLER, "ended a 100.1 result server-0 1 1 a", "ended a 100.1 late"),
            "untrue: add of a: late ; it had 9.90 s left",
        ),
        (
            swap(CALLER, "ended a 100.1 result server-0 1 1 a", "ended a 110.0 late"),
            "needless: add of a: late ; it had time enough",
        ),
        (
            swap(CALLER, "ended a 100.1 result server-0 1 1 a", "ended a 100.1 wrong ValueError: no"),
            "wrong: add of a: wrong ValueError: no",
        ),
        (add(CALLER, "began a add once - 0.0 10.0 100"), "history: caller-0.1.history calls a twice"),
        (add(OTHER, "ended q 100.1 cancelled"), "history: caller-1.1.history: q ended, and was not open"),
        (add(OTHER, "what q"), "history: caller-1.1.history has a line of kind 'what'"),
    ],
)
def test_a_doctored_run_does_not_pass(tmp_path: Path, doctor: Callable[[Path], None], found: str) -> None:
    doctor(sound(tmp_path))
    violations = judge(tmp_path).violations
    assert any(each.startswith(found) for each in violations), violations


def test_a_long_run_is_also_judged_by_its_share_of_unknown_calls_and_by_who_waits(tmp_path: Path) -> None:
    sound(tmp_path)
    assert judge(tmp_path, at_length=True).violations == ["share: 35.71% of the calls ended unknown"]
    add(CALLER, "began z read often - 0.0 10.0 402.6", "ended z 404.6 cancelled")(tmp_path)
    violations = judge(tmp_path, at_length=True).violations
    assert violations[0].startswith("waited: one server stopped: StopCost(server='server-1'"), violations


@pytest.mark.parametrize(("seconds", "excused"), [(2.0, False), (8.0, True)])
def test_what_is_unknown_is_excused_by_a_killed_device_only_if_it_was_away_for_long(
    tmp_path: Path, seconds: float, excused: bool
) -> None:
    sound(tmp_path)
    swap(CALLER, "ended a 100.1 result server-0 1 1 a", "ended a 100.1 unknown")(tmp_path)
    away = ("kill queue-0 1 99.0", "start queue-0 2 99.0", "open queue-0 2 99.5", f"busy queue-0 2 {99.0 + seconds}")
    add(CONTROLLER, *away)(tmp_path)
    found = judge(tmp_path).violations
    assert [each.split(":")[0] for each in found] == ([] if excused else ["needless"])


def test_an_empty_run_does_not_pass(tmp_path: Path) -> None:
    assert judge(tmp_path).violations == ["history: nothing was called, or nothing was executed"]


def test_the_judge_shares_nothing_with_what_it_judges() -> None:
    for module in (reader, plans, devices_reader):
        tree = ast.parse(Path(str(module.__file__)).read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not any(each.partition(".")[0] == "zmqkit" for each in names)
        assert {each for each in names if each.partition(".")[0] not in sys.stdlib_module_names} <= {
            "tests.chaos.calls.plan",
            "tests.chaos.devices.reader",
            "tests.chaos.plan",
            "tests.chaos.reader",
        }


def test_a_round_of_the_plan_does_all_that_is_done_and_follows_from_its_seed() -> None:
    rounds = list(itertools.islice(plan(7, (0.1, 0.2)), 3 * len(ROUND)))
    assert rounds == list(itertools.islice(plan(7, (0.1, 0.2)), 3 * len(ROUND)))
    assert rounds != list(itertools.islice(plan(8, (0.1, 0.2)), 3 * len(ROUND)))
    for at in range(0, len(rounds), len(ROUND)):
        one = rounds[at : at + len(ROUND)]
        assert Counter(harm for harm, _ in one) == Counter(ROUND)
        assert {step.index for harm, step in one if harm == "kill"} == set(range(SERVERS))
