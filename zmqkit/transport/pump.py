"""Carries out what a core has put into its `Outputs`. Runs in the I/O thread.

Knows the contract of a core and what its outputs mean; sockets, journal and mailbox are handed in.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

from zmqkit.errors import JournalError, ZmqkitError
from zmqkit.events import Event
from zmqkit.protocol.core import Core, Probe, Read, Row, Write
from zmqkit.transport.hosts import host_id, is_dead
from zmqkit.transport.mailbox import Mailbox
from zmqkit.transport.timers import Alarms
from zmqkit.transport.wires import Wires

log = logging.getLogger("zmqkit.transport")

PROBE_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""When to look again for a process that was still there: its connection breaks a little before it is dead."""

AGAIN_SECONDS = 0.01
"""When a step that raised is tried again, though nothing else happens: what its core has to say must not lie there."""

ROUNDS_A_TURN = 1000
"""A core that puts something out in reply to each of its own outputs, for ever, must not starve its sockets."""


class Store(Protocol):
    """What the driver needs of a journal."""

    def commit(self, writes: Sequence[Write]) -> None:
        """Store, synced at the journal's durability."""

    def read(self, request: Read) -> list[Row]:
        """Rows in the order of their keys."""

    def close(self) -> None:
        """Give the file back."""


class Broken(ZmqkitError):
    """The driver cannot go on: its core has a bug; the cause says which."""


Callback = tuple[type[Event], Callable[[Any], object]]


class Pump:
    """Drains a core.

    Args:
        bug: called in an ``except`` block when the core raised, with the name of the input.

    Attributes:
        told: how many of those who waited were told that something of theirs is stored; whoever looks sets it back.
            What has nobody waiting for it, as of those who send many, is not counted, nor what was told beside it.
    """

    def __init__(
        self,
        core: Core,
        journal: Store | None,
        wires: Wires,
        mailbox: Mailbox[Any],
        alarms: Alarms,
        bug: Callable[[str], None],
    ) -> None:
        self._core = core
        self._journal = journal
        self._wires = wires
        self._mailbox = mailbox
        self._alarms = alarms
        self._bug = bug
        self._raised = ""
        """The input that raised last time, where twice in a row ends the driver."""
        self.callbacks: tuple[Callback, ...] = ()
        """Replaced, never changed: another thread adds and removes."""
        self._probing: set[Hashable] = set()
        self.told = 0
        self.commits = 0
        self.commit_failures = 0
        self.callback_errors = 0

    def handle_timer(self, now: float) -> None:
        """The core's deadline has come."""
        try:
            self._core.handle_timer(now)
            if self._raised == "handle_timer":
                self._raised = ""
        except Exception as error:
            self._failed("handle_timer", error, now)

    def run(self, now: float) -> None:
        """End the turn, and drain until nothing comes out.

        Raises `Broken`, and whatever the journal's `read` raises: the driver must end with it.
        """
        for _ in range(ROUNDS_A_TURN):
            try:
                self._core.end_turn(now)
                if self._raised == "end_turn":
                    self._raised = ""
            except Exception as error:
                self._failed("end_turn", error, now)
            if not self._drain(now):
                return
            now = time.monotonic()
        log.error("the core still puts out after %d rounds in one turn; going on", ROUNDS_A_TURN)

    def _failed(self, name: str, error: Exception, now: float) -> None:
        """A step without which the core does not move: failing twice in a row ends the driver."""
        self._bug(name)
        if self._raised == name:
            raise Broken(f"the core's {name} raised twice in a row") from error
        self._raised = name
        self._alarms.at(now + AGAIN_SECONDS, _turn)

    def _drain(self, now: float) -> bool:
        """Carry out what is out. True if the core got an input by it."""
        core = self._core
        out = core.out
        inputs = committed = False
        if out.writes:
            writes, out.writes = out.writes, []
            self._commit(writes, out.written, now)
            inputs = True
            committed = self._journal is not None
        if out.sends:
            sends, out.sends = out.sends, []
            inputs |= self._wires.send_all(sends, now)
        if out.pushes:
            pushes, out.pushes = out.pushes, []
            self._wires.push_all(pushes, now)
            inputs = True
        if out.pulls:
            pulls, out.pulls = out.pulls, []
            self._wires.let_in(pulls)
        if out.replies:
            replies, out.replies = out.replies, []
            if committed and all(getattr(ticket, "awaited", False) for ticket, _ in replies):
                self.told += len(replies)
            for ticket, result in replies:
                if ticket is not None:
                    ticket.resolve(result)
        if out.items:
            items, out.items = out.items, []
            self._mailbox.put_many(items)
        if out.events:
            events, out.events = out.events, []
            if self.callbacks:
                self._tell(events)
        if out.disconnects:
            links, out.disconnects = out.disconnects, []
            self._wires.drop(links, now)
            inputs = True
        if out.dials:
            dials, out.dials = out.dials, []
            for address, wanted in dials:
                self._wires.dial(address, wanted, now)
            inputs = True
        if out.reads:
            reads, out.reads = out.reads, []
            for read in reads:
                self._read(read, now)
            inputs = True
        if out.probes:
            probes, out.probes = out.probes, []
            for probe in probes:
                if probe.host == host_id() and probe.key not in self._probing:
                    self._probing.add(probe.key)
                    self._probe(probe, 0, now)
            inputs = True
        return inputs

    def _commit(self, writes: list[Write], up_to: int, now: float) -> None:
        if self._journal is not None:
            try:
                self._journal.commit(writes)
                self.commits += 1
            except Exception as error:
                self.commit_failures += 1
                log.warning("the journal did not store %d changes: %s", len(writes), error)
                try:
                    self._core.store_failed(up_to, error, time.monotonic())
                except Exception:
                    self._bug("store_failed")
                return
            now = time.monotonic()
        try:
            self._core.stored(up_to, now)
        except Exception:
            self._bug("stored")

    def _read(self, read: Read, now: float) -> None:
        # What this raises ends the driver: the contract has no answer for it, and without an answer the core would
        # wait for ever, silently.
        rows = self._journal.read(read) if self._journal is not None else []
        try:
            self._core.loaded(read, rows, now)
        except JournalError:
            raise  # the rows are no use, says the core: the same
        except Exception:
            self._bug("loaded")

    def _probe(self, probe: Probe, tries: int, now: float) -> None:
        if is_dead(probe.host, probe.pid, probe.started):
            self._probing.discard(probe.key)
            try:
                self._core.process_gone(probe.key, now)
            except Exception:
                self._bug("process_gone")
        elif tries < len(PROBE_SECONDS):
            self._alarms.at(now + PROBE_SECONDS[tries], self._probe, probe, tries + 1)
        else:
            self._probing.discard(probe.key)

    def _tell(self, events: list[Event]) -> None:
        for event in events:
            for kind, callback in self.callbacks:
                if isinstance(event, kind):
                    try:
                        callback(event)
                    except BaseException:  # SystemExit, too: it would end no program, only this peer, for good
                        self.callback_errors += 1
                        log.exception("a callback for %s raised", type(event).__name__)


def _turn(_: float) -> None:
    """What the alarm does is to come: each turn ends with the core's."""
