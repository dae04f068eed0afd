"""The client's core under random histories: what must hold whatever servers, links and callers do."""

from __future__ import annotations

import random

import pytest

from tests.reqrep.scripted import Net
from zmqkit.errors import JournalFull
from zmqkit.patterns.reqrep import wire
from zmqkit.patterns.reqrep.calls import Call, Kind
from zmqkit.patterns.reqrep.deadlines import TICK, Deadlines

CODES = ["draining", "overloaded", "late", "epoch", "cancelled", "method"]
NAMES = ["s", "t", "u"]


class History(Net):
    """Random steps; servers execute a call at most once a window, as real ones do, and remember it."""

    def __init__(self, seed: int, *, durable: bool) -> None:
        self.dice = random.Random(seed)
        self.executed: dict[tuple[bytes, int], int] = {}
        """How often a call was executed: by its first ticket (in its body) and window."""
        self.executions: dict[int, list[bytes]] = {}
        """The windows where each call was executed, by its ticket."""
        self.epochs: dict[str, bytes] = {}
        super().__init__(*NAMES, durable=durable, credit=4)

    def step(self) -> None:
        dice = self.dice
        name = dice.choice(NAMES)
        match dice.randrange(16):
            case 0 | 1 | 2 | 3:
                self.new_call()
            case 4 | 5 | 6 | 7 | 8:
                self.serve(name)
            case 9:
                if name in self.standing:
                    self.disconnect(name)
                else:
                    if name not in self.servers:
                        self.restart_somehow(name)
                    self.connect(name)
                self.flow()
            case 10:
                if name in self.servers and name in self.standing:
                    self.crash(name)
            case 11:
                open_calls = [call for call in self.calls if not call.done]
                if open_calls:
                    self.do(self.core.cancel, dice.choice(open_calls))
            case 12:
                self.storing = self.durable is False or dice.random() < 0.7
                if not self.storing and dice.random() < 0.3 and self.core.out.writes:
                    self.refuse_store(JournalFull("no room"))
                self.flow()
            case 13:
                self.lose ^= {name}
            case _:
                if self.storing:
                    self.advance(dice.choice([0.001, 0.05, 0.5, 4.0]))

    def reborn(self) -> None:
        """The client's process dies, with what it had not stored; another takes up its journal."""
        calls = self.begin_again()
        for call in calls:
            call.ticket = int(call.body)
        self.calls = calls
        self.do(self.core.resume, list(calls))

    def restart_somehow(self, name: str) -> None:
        """Another server; or the one that was there and has forgotten its sessions; or one with another's memory."""
        journal = name == "u"
        dice = self.dice.random()
        epoch = None
        if not journal and dice < 0.6:
            epoch = self.epochs.get(name if dice < 0.4 else self.dice.choice(NAMES[:2]))
        server = self.start(
            name, epoch=epoch, credit=self.dice.choice([1, 4]), journal=journal, window=b"journal" if journal else None,
            methods=("read",) if self.dice.random() < 0.7 else (),
        )  # fmt: skip
        self.epochs[name] = server.local.about["epoch"]

    def new_call(self) -> None:
        dice = self.dice
        number = self.next
        method = dice.choice(["read", "write"])
        timeout = dice.choice([0.0, 0.02, 1.0, 6.0])
        durable = self.durable and dice.random() < 0.5
        retries = dice.choice([None, None, 0, 1, 5])
        self.call(method, b"%d" % number, timeout=timeout, durable=durable, retries=retries)

    def serve(self, name: str) -> None:
        server = self.servers.get(name)
        if server is None or not server.got or server.session is None or server.session.ended:
            return
        number, fields, body = server.got.pop(self.dice.randrange(len(server.got)))
        window = server.local.about["window"]
        known = self.executed.get((window, number))
        chance = self.dice.random()
        if known is None and chance < 0.3:
            code = self.dice.choice(CODES)
            for other in self.servers.values():  # what it denies it does not execute later
                if other.local.about["window"] == window:
                    other.got = [each for each in other.got if each[0] != number]
            self.say(name, [wire.REFUSED, number, None, code, ""])
        elif known is None and chance < 0.35:
            self.say(name, [wire.UNKNOWN, number, None, "expired", ""])
        else:
            if known is None:
                self.executed[(window, number)] = ticket = int(body)
                self.executions.setdefault(ticket, []).append(window)
                if fields.method == "write":
                    assert len(self.executions[ticket]) == 1, f"{ticket} was executed in two windows"
            else:
                assert known == int(body), "one number was two calls"
            self.say(name, [wire.RESULT, number, 0, None], body)

    def check(self) -> None:
        for call in self.calls:
            answer = self.answers.get(call.ticket)
            assert (answer is not None) == call.done
            if call.deadline is not None and not call.done:
                assert self.now <= call.deadline + TICK, "a call outlived its deadline"
            if answer is None:
                continue
            if answer.kind == Kind.RESULT:
                assert answer.body == b"%d" % call.ticket, "a reply met another call"
            if answer.kind in (Kind.NOT_SENT, Kind.NOT_SENT_IN_TIME, Kind.REFUSED, Kind.STORE_FAILED):
                assert call.ticket not in self.executions, f"{call.ticket} was executed, and {answer} denies it"
        for server in self.core.balance.servers.values():
            held = sum(call.core is server for call in server.window.calls.values())
            assert server.load == held
            assert server.session.outstanding == (held > 0)


def holds(seed: int, steps: int, *, durable: bool, lives: int = 1) -> Net:
    history = History(seed, durable=durable)
    for number in range(steps):
        if number and number % (steps // lives) == 0 and history.storing:
            history.reborn()
        history.step()
        history.check()
    history.storing = True
    history.lose.clear()
    history.flow()
    history.advance(8.0)
    history.check()
    for call in history.calls:
        assert call.done or call.durable
    history.do(history.core.close)
    history.check()
    assert all(call.done for call in history.calls)
    assert history.core.finished
    assert history.core.next_deadline() is None
    core = history.core
    assert not core._trails
    assert not core._waiting
    assert not core._waiting_bytes
    assert not core._kept
    assert not any(window.calls for window in core.balance.windows.values())
    return history


@pytest.mark.parametrize("seed", range(60))
def test_every_call_ends_once_truly_and_in_time(seed: int) -> None:
    holds(seed, 150, durable=False)


@pytest.mark.parametrize("seed", range(40))
def test_durable_calls_too(seed: int) -> None:
    history = holds(seed, 150, durable=True)
    left = {call.number for call in history.calls if history.answers[call.ticket].kind == Kind.CLOSED}
    assert set(history.rows) == left


@pytest.mark.parametrize("seed", range(40))
def test_durable_calls_outlive_their_client(seed: int) -> None:
    holds(seed, 200, durable=True, lives=4)


# ---- deadlines -------------------------------------------------------------------------


def test_deadlines_come_in_time_whatever_is_added_and_removed() -> None:
    for seed in range(50):
        dice = random.Random(seed)
        deadlines: Deadlines[int] = Deadlines()
        there: dict[int, float] = {}
        now, number = 100.0, 0
        for _ in range(400):
            chance = dice.random()
            if chance < 0.5:
                number += 1
                there[number] = now + dice.choice([0.0, 0.004, 0.01, 1.0, 100.0]) * dice.random()
                deadlines.add(there[number], number)
            elif chance < 0.8 and there:
                gone = dice.choice(list(there))
                deadlines.remove(there.pop(gone), gone)
                deadlines.remove(now, gone)
            else:
                now += dice.choice([0.001, 0.01, 0.3])
                for thing in deadlines.pop(now):
                    assert there.pop(thing) <= now
            assert all(when > now - TICK - 1e-9 for when in there.values()) or deadlines.next() <= now  # type: ignore[operator]
            assert len(deadlines) == len(there)
            assert (deadlines.next() is None) == (not there)
        deadlines.pop(now + 1000.0)
        assert deadlines.next() is None


def test_deadlines_that_were_taken_back_leave_nothing_behind() -> None:
    deadlines: Deadlines[Call] = Deadlines()
    first, other = Call(1, "a", b""), Call(2, "b", b"")
    deadlines.add(0.0, first)
    for number in range(10_000):
        deadlines.add(number / 10, other)
        deadlines.remove(number / 10, other)
    assert len(deadlines._heap) < 200
