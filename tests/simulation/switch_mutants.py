"""Bugs planted into the learning switch: into how it finds ways, passes on, and lets go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.simulation.mutants import Mutant, replaced
from zmqkit.devices.acceptors import Acceptor, Acceptors, Line
from zmqkit.devices.greetings import Greetings
from zmqkit.devices.initiators import Initiator, Initiators
from zmqkit.devices.switch import SwitchCore
from zmqkit.devices.ways import Ways
from zmqkit.protocol.core import Frames, Link
from zmqkit.protocol.wire import LOST, REFUSED, Hello, pack

Old = Callable[..., Any]

# ---- what is passed on -----------------------------------------------------------------


def sends_answers_back(old: Old) -> Old:
    def establish(self: Greetings, initiator: Initiator, line: Line, hello: Hello) -> None:
        old(self, initiator, line, hello)
        self._all_ways[line.link] = (line.link, self._back)

    return establish


def crosses_two_ways(old: Old) -> Old:
    def establish(self: Greetings, initiator: Initiator, line: Line, hello: Hello) -> None:
        old(self, initiator, line, hello)
        newest = next(reversed(self.initiators.by_link))
        self._all_ways[line.link] = (newest, self._back)

    return establish


def passes_on_headers_only(old: Old) -> Old:
    def receive_message(self: SwitchCore, link: Link, frames: Frames, now: float) -> None:
        old(self, link, frames[:1], now)

    return receive_message


def says_what_an_acceptor_has_not_said(old: Old) -> Old:
    def wait(self: Greetings, initiator: Initiator, frames: Frames) -> None:
        old(self, initiator, frames)
        if not initiator.resume:
            self._pass(initiator.link, [pack([REFUSED, "closed", "nobody is there"])], back=False)

    return wait


# ---- how ways are found ------------------------------------------------------------------


@contextmanager
def asks_who_was_asked_before() -> Iterator[None]:
    def taken(self: Initiators, initiator: Initiator) -> dict[Acceptor, int]:
        return {}

    def surplus(self: Initiators, instance: bytes) -> int:
        return 0

    with replaced(Initiators, "taken", lambda _: taken), replaced(Initiators, "surplus", lambda _: surplus):
        yield


def tells_of_one_acceptor_too_few(old: Old) -> Old:
    def wanted(self: Ways, instance: bytes) -> int:
        total: int = old(self, instance)
        return max(1, total - 1)

    return wanted


def tells_nobody_to_listen(old: Old) -> Old:
    def listen(self: Acceptors, link: Link, instance: bytes) -> bool:
        known: bool = old(self, link, instance)
        self._out.sends.pop()
        return known

    return listen


def wants_no_spare_connection(old: Old) -> Old:
    def call_for_more(self: Acceptors, acceptor: Acceptor, waiting: int) -> None:
        return

    return call_for_more


def never_looks_at_an_address_again(old: Old) -> Old:
    def keep(self: Acceptors, acceptor: Acceptor, stands: bool) -> list[Line]:
        stood = acceptor.keeper or not acceptor.told
        acceptor.told = 1
        lines: list[Line] = old(self, acceptor, stands and stood)
        return lines

    return keep


def lends_a_line_to_two(old: Old) -> Old:
    def take(self: Acceptors, acceptor: Acceptor, user: Initiator) -> Line | None:
        line: Line | None = old(self, acceptor, user)
        if line is not None and line.up:
            acceptor.idle[line.link] = line
        return line

    return take


# ---- how ways are let go -------------------------------------------------------------------


def frees_a_number_too_early(old: Old) -> Old:
    def give_up(self: Acceptors, line: Line, now: float) -> None:
        if line.number:
            line.acceptor.free_number(line.number)
        old(self, line, now)

    return give_up


def does_not_close_lines(old: Old) -> Old:
    def hang_up(self: Acceptors, line: Line) -> None:
        line.acceptor.free_number(line.number)

    return hang_up


def does_not_say_gone_to_acceptors(old: Old) -> Old:
    def give_up(self: Acceptors, line: Line, now: float) -> None:
        before = len(self._out.sends)
        old(self, line, now)
        del self._out.sends[before:]
        self._gone.clear()

    return give_up


def does_not_ask_who_hung_up(old: Old) -> Old:
    def links_disturbed(self: SwitchCore, group: Any, now: float) -> None:
        return

    return links_disturbed


def keeps_the_hello_of_who_is_gone(old: Old) -> Old:
    def remove(self: Initiators, initiator: Initiator) -> None:
        old(self, initiator)
        if initiator.resume:
            self.waiting[initiator.link] = initiator

    return remove


def keeps_the_line_of_who_is_gone(old: Old) -> Old:
    def part(self: Ways, initiator: Initiator, now: float) -> None:
        line, initiator.line = initiator.line, None
        if line is not None:
            self._forget_way(initiator, line, now)
        old(self, initiator, now)

    return part


def tells_of_a_loss_where_it_was_not_asked(old: Old) -> Old:
    def hello(self: Greetings, link: Link, fields: Any, frames: Frames, now: float) -> None:
        old(self, link, fields, frames, now)
        self.out.sends.append((link, [pack([LOST, fields["session"]])]))

    return hello


def _mutant(name: str, scenario: str, owner: Any, method: str, make: Callable[[Old], Old]) -> Mutant:
    return Mutant(name, f"devices-{scenario}", lambda: replaced(owner, method, make))


MUTANTS = [
    _mutant("sends answers back to where they come from", "reqrep", Greetings, "_establish", sends_answers_back),
    _mutant("sends one's answers to another", "reqrep", Greetings, "_establish", crosses_two_ways),
    _mutant("passes on headers without bodies", "reqrep", SwitchCore, "receive_message", passes_on_headers_only),
    _mutant("refuses before an acceptor is asked", "pipeline", Greetings, "_wait", says_what_an_acceptor_has_not_said),
    Mutant("asks an acceptor where there is a session", "devices-reqrep", asks_who_was_asked_before),
    _mutant("tells of one acceptor too few", "reqrep", Ways, "_wanted", tells_of_one_acceptor_too_few),
    _mutant("tells no acceptor to listen", "pipeline", Acceptors, "listen", tells_nobody_to_listen),
    _mutant("wants no spare connection", "reqrep", Acceptors, "call_for_more", wants_no_spare_connection),
    _mutant("forgets addresses that were away", "pipeline", Acceptors, "keep", never_looks_at_an_address_again),
    _mutant("lends one line to two", "reqrep", Acceptors, "take", lends_a_line_to_two),
    _mutant("uses numbers of lines that are not closed", "pipeline", Acceptors, "give_up", frees_a_number_too_early),
    _mutant("does not close lines", "reqrep", Acceptors, "_hang_up", does_not_close_lines),
    _mutant("says no GONE to acceptors", "pipeline", Acceptors, "give_up", does_not_say_gone_to_acceptors),
    _mutant("does not ask who hung up", "reqrep", SwitchCore, "links_disturbed", does_not_ask_who_hung_up),
    _mutant("keeps the HELLO of who is gone", "pipeline", Initiators, "remove", keeps_the_hello_of_who_is_gone),
    _mutant("keeps the line of who is gone", "reqrep", Ways, "_part", keeps_the_line_of_who_is_gone),
    _mutant(
        "tells of a loss besides an answer", "pipeline", Greetings, "_hello", tells_of_a_loss_where_it_was_not_asked
    ),
]
