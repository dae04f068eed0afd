"""The client's and the server's core, paired under virtual time: what each promises the other."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from tests.protocol.cores import CorePair, Host
from tests.protocol.pair import LINK
from zmqkit.options import Limits, Window
from zmqkit.patterns.reqrep import calls
from zmqkit.patterns.reqrep.calls import Answer, Call, Execution, Item, Kind, MethodInfo
from zmqkit.patterns.reqrep.client import ClientCore
from zmqkit.patterns.reqrep.server import ServerCore
from zmqkit.protocol.core import Row
from zmqkit.protocol.local import Local
from zmqkit.protocol.wire import LOST, pack

METHODS = {"work": MethodInfo(), "read": MethodInfo(idempotent=True)}


class Told(dict[Any, Any]):
    """What tickets got, in order: some are told many times."""

    def __contains__(self, ticket: object) -> bool:
        return False

    def __setitem__(self, ticket: Any, result: Any) -> None:
        self.setdefault(ticket, []).append(result)


class Both:
    """A client that connects to a server that binds."""

    def __init__(self, *, durable: bool = False, capacity: int = 100, window: Window | None = None) -> None:
        self.durable = durable
        self.capacity = capacity
        self.window = window or Window()
        self.lives = 0
        said: dict[str, Any] = {"role": "client", "accepts": frozenset({"server"}), "about": {"client": b"k" * 16}}
        self.client = Host("client", ClientCore, **said)
        self.client.replies = Told()
        self.numbers = itertools.count(1)
        self.server = self._serve({})
        self.pair = CorePair(self.client, self.server)
        self.executed: list[int] = []

    def _serve(self, rows: dict[str, dict[int, tuple[int, bytes]]]) -> Host:
        self.lives += 1
        epoch = b"epoch%011d" % self.lives
        found = [Row(key, weight, value) for key, (weight, value) in sorted(rows.get("calls", {}).items())]

        def make(said: Local, rng: random.Random) -> ServerCore:
            return ServerCore(
                said, rng, methods=METHODS, capacity=self.capacity, window=self.window, limits=Limits(),
                durable=self.durable, rows=found, make_upload=object,
            )  # fmt: skip

        about = {"epoch": epoch, "window": b"j" * 16 if self.durable else epoch, "journal": self.durable}
        host = Host(
            f"server{self.lives}", make, role="server", accepts=frozenset({"client"}), about=about,
            credit_messages=1000, credit_bytes=1 << 20,
        )  # fmt: skip
        host.rows = rows
        host.replies = Told()
        return host

    def restart(self) -> None:
        """The server dies at once; another process takes up its journal."""
        self.pair.disconnect()
        self.server = self.pair.b = self._serve(self.server.rows)
        self.pair.connect()
        self.pair.flow()

    def forget(self) -> None:
        """The server loses this session, and nothing else."""
        core = self.server.core
        (session,) = core.sessions
        core.sessions._end(session, "made up", self.pair.now)
        core._rise(self.pair.now)
        self.client.core.receive_message(LINK, [pack([LOST, session.id])], self.pair.now)
        self.pair.flow()

    def call(self, method: str = "work", **more: Any) -> Call:
        deadline = self.pair.now + more.pop("timeout", 60.0)
        number = next(self.numbers)
        call = Call(
            number, method, b"%d" % number, deadline=deadline, ticket=number, renumber=self.numbers.__next__, **more
        )
        self.client.core.call(call, self.pair.now)
        self.pair.flow()
        return call

    def take(self) -> list[Execution]:
        items, self.server.items = self.server.items, []
        self.executed += [int(item.body) for item in items]
        return items

    def finish(self, execution: Execution, answer: Answer | None = None) -> None:
        if answer is None:
            answer = Answer(calls.RESULT, execution.body)
        self.server.core.finish(execution, answer, self.pair.now)
        self.pair.flow()

    def answer(self, call: Call) -> Answer | None:
        told = [each for each in self.client.replies.get(call.ticket, []) if isinstance(each, Answer)]
        assert len(told) == call.done
        return told[0] if told else None

    def kind(self, call: Call) -> Kind | None:
        answer = self.answer(call)
        return None if answer is None else Kind(answer.kind)


def test_a_call_is_executed_and_answered() -> None:
    both = Both()
    call = both.call()
    (execution,) = both.take()
    both.finish(execution)
    assert both.answer(call) == Answer(calls.RESULT, b"1")


def test_thousands_of_calls_go_through_and_nothing_piles_up() -> None:
    both = Both()
    for _ in range(300):
        made = [both.call() for _ in range(10)]
        for execution in both.take():
            both.finish(execution)
        assert all(both.kind(call) is Kind.RESULT for call in made)
    assert len(both.server.core.window.ids) == 0
    (known,) = both.server.core.window.clients.values()
    assert len(known.entries) < 50, "the floor lets the server forget"
    assert both.client.core.counters["calls_answered"] == 3000


def test_a_forgotten_session_costs_no_execution_and_no_answer() -> None:
    both = Both()
    running, done = both.call(), both.call()
    first, second = both.take()
    both.pair.connected = False  # the answer is lost on its way
    both.server.core.finish(second, Answer(calls.RESULT, b"second"), both.pair.now)
    both.pair.turn()
    both.pair.connected = True
    both.forget()
    assert both.answer(done) == Answer(calls.RESULT, b"second")
    assert both.kind(running) is None
    both.finish(first)
    assert both.answer(running) == Answer(calls.RESULT, b"1")
    assert both.executed == [1, 2]


def test_a_reply_that_was_pushed_out_is_unknown_and_not_executed_again() -> None:
    both = Both(window=Window(count=1))
    made = [both.call() for _ in range(3)]
    executions = both.take()
    both.pair.connected = False
    for execution in executions:
        both.server.core.finish(execution, Answer(calls.RESULT, execution.body), both.pair.now)
    both.pair.turn()
    both.pair.connected = True
    both.forget()
    assert [both.kind(call) for call in made] == [Kind.UNKNOWN, Kind.UNKNOWN, Kind.RESULT]
    assert not both.take()


def test_a_journalled_server_that_crashed_answers_what_it_had_done() -> None:
    both = Both(durable=True)
    done, started, read = both.call(), both.call(), both.call("read")
    executions = {execution.number: execution for execution in both.take()}
    both.pair.connected = False
    both.server.core.finish(executions[1], Answer(calls.RESULT, b"kept"), both.pair.now)
    both.pair.turn()
    both.pair.connected = True
    both.restart()
    assert both.answer(done) == Answer(calls.RESULT, b"kept")
    answer = both.answer(started)
    assert answer is not None
    assert (answer.kind, answer.code) == (Kind.UNKNOWN, "started")
    (again,) = both.take()
    both.finish(again)
    assert both.kind(read) is Kind.RESULT
    assert both.executed == [1, 2, 3, 3]


def test_a_server_without_a_journal_that_crashed_makes_calls_unknown_but_for_idempotent_ones() -> None:
    both = Both()
    call, read = both.call(), both.call("read")
    both.take()
    both.restart()
    assert both.kind(call) is Kind.LOST
    (again,) = both.take()
    assert (again.number, again.attempt) == (read.number, 2)
    both.finish(again)
    assert both.kind(read) is Kind.RESULT


def test_a_draining_server_finishes_what_runs_and_gives_the_rest_back() -> None:
    both = Both(capacity=1)
    running, queued = both.call(), both.call()
    (execution,) = both.take()
    both.pair.call(both.server, "drain")
    both.pair.flow()
    later = both.call()
    both.finish(execution)
    assert both.kind(running) is Kind.RESULT
    assert both.kind(queued) is both.kind(later) is None
    both.restart()
    while executions := both.take():
        for execution in executions:
            both.finish(execution)
    assert both.kind(queued) is both.kind(later) is Kind.RESULT
    assert both.executed == [1, 2, 3]


def test_deadlines_and_cancellations_reach_the_handler() -> None:
    both = Both()
    late, unwanted = both.call(timeout=1.0), both.call()
    first, second = both.take()
    both.client.core.cancel(unwanted, both.pair.now)
    both.pair.flow()
    assert both.kind(unwanted) is Kind.CANCELLED
    assert second.cancelled
    both.pair.advance(1.02)
    assert both.kind(late) is Kind.NO_REPLY_IN_TIME
    assert first.cancelled
    both.finish(first)
    both.finish(second)
    assert both.client.core.counters["replies_late"] + both.server.core.counters["calls_cancelled"] >= 2


def test_a_stream_brings_all_its_items_through_its_credit() -> None:
    both = Both()
    call = both.call(items=4)
    (execution,) = both.take()
    sent = 0
    while sent < 20:
        count = min(execution.limit, 20) - sent
        assert count > 0, "the stream is stuck"
        both.server.core.emit(execution, [(b"%d" % (sent + at), "msgpack") for at in range(count)], both.pair.now)
        sent += count
        both.pair.flow()
        both.client.core.grant(call, call.received + 4, both.pair.now)
        both.pair.flow()
    both.finish(execution, Answer(calls.DONE))
    items = [each for each in both.client.replies[call.ticket] if isinstance(each, Item)]
    assert [item.body for item in items] == [b"%d" % number for number in range(20)]
    assert both.kind(call) is Kind.DONE


def test_an_upload_goes_through_its_credit() -> None:
    both = Both()
    call = both.call(uploads=(0,))
    (execution,) = both.take()
    assert execution.upload is not None
    both.server.core.grant_upload(execution, 3, both.pair.now)
    both.pair.flow()
    assert call.upload_limit >= 3
    both.client.core.upload(call, [(b"a", "msgpack"), (b"b", "json")], both.pair.now)
    both.client.core.upload_end(call, both.pair.now)
    both.pair.flow()
    both.finish(execution)
    assert both.kind(call) is Kind.RESULT


@pytest.mark.parametrize("seed", range(30))
def test_each_call_is_executed_once_a_window_and_answered_with_its_own(seed: int) -> None:
    dice = random.Random(seed)
    both = Both(durable=seed % 2 == 0, capacity=3, window=Window(count=dice.choice([2, 1000])))
    made: list[Call] = []
    running: list[Execution] = []
    numbers: list[tuple[int, bytes]] = []
    for _ in range(120):
        match dice.randrange(9):
            case 0 | 1 | 2:
                made.append(both.call(dice.choice(["work", "work", "read"]), timeout=dice.choice([0.5, 5.0, 60.0])))
            case 3 | 4:
                taken = both.take()
                running += taken
                window = b"" if both.durable else both.server.core.local.about["epoch"]
                numbers += [(each.number, window) for each in taken if each.method == "work"]
                dice.shuffle(running)
                if running:
                    both.finish(running.pop())
            case 5:
                both.pair.disconnect()
                both.pair.advance(dice.choice([0.1, 1.0, 5.0]))
                both.pair.connect()
                both.pair.flow()
            case 6:
                if len(list(both.server.core.sessions)) == 1 and dice.random() < 0.5:
                    both.forget()
                elif dice.random() < 0.5:
                    running.clear()
                    both.restart()
            case 7:
                if made:
                    both.client.core.cancel(dice.choice(made), both.pair.now)
                    both.pair.flow()
            case _:
                both.pair.advance(dice.choice([0.01, 0.3, 2.0]))
    assert len(set(numbers)) == len(numbers), "a call was executed twice in one window"
    both.pair.advance(70.0)
    for call in made:
        answer = both.answer(call)
        assert answer is not None
        if answer.kind == Kind.RESULT:
            assert answer.body == b"%d" % call.ticket
        if answer.kind in (Kind.NOT_SENT_IN_TIME, Kind.REFUSED):
            assert call.ticket not in both.executed
