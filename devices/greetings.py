"""HELLO and its answers at a learning switch: who is asked, and what becomes of the answer.

Pure (docs/protocol.md, section 15). A new session goes to an acceptor with which its instance has none yet, of those to
the one with fewest: so each instance gets one with each, as if there were no device. A resumed one goes where it was
last seen, or, where that is not known, is asked for everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from zmqkit.devices.acceptors import ASKS, Acceptor, Line
from zmqkit.devices.initiators import Initiator, Trace
from zmqkit.devices.ways import CALL_AGAIN_FIRST, MAX_SESSIONS, Ways
from zmqkit.errors import DecodeError
from zmqkit.events import PeerRefused
from zmqkit.protocol import wire
from zmqkit.protocol.core import Frames, Link
from zmqkit.protocol.wire import LOST, REFUSED, VERSION, Hello

MAX_WAITING: Final = 1000
"""So many HELLOs are kept until there is an acceptor for them. Others are said again by themselves."""


class Greetings(Ways):
    """The part of a switch that finds ways; see `zmqkit.devices.switch.SwitchCore` for its arguments."""

    # ---- HELLO ---------------------------------------------------------------------

    def _hello(self, link: Link, fields: object, frames: Frames, now: float) -> None:
        """From an initiator."""
        low, high = wire.versions(fields)
        try:
            hello = wire.read_hello(fields)
        except DecodeError:
            if low <= VERSION <= high:
                raise
            self._refuse(link, b"", "version", f"this device speaks version {VERSION}, the other side {low} to {high}")
            return
        # Of another version than ours the ends judge: it may be theirs, both.
        if low <= VERSION <= high and not self._role_fits(link, hello, answering=False):
            return
        if self._paused:
            self.counters["frames_dropped"] += 1
            return
        initiator = self._initiator_of(link, hello, now)
        if initiator is None:
            return
        new = initiator.session != hello.session
        if new and initiator.session:
            self._part(initiator, now)
            self.initiators.traces.pop(initiator.session, None)
        self.initiators.take_in(initiator, hello)
        if initiator.line is not None:
            self._pass(initiator.line.link, frames, back=True)
            return
        self._wait(initiator, frames)
        self._tell_total(initiator.instance)
        for line in initiator.asked.values():
            if line.up:
                self._pass(line.link, frames, back=True)
        self._serve(initiator, now)

    def _initiator_of(self, link: Link, hello: Hello, now: float) -> Initiator | None:
        """Who said this HELLO; None: it is old, or refused."""
        found = self.initiators.by_link.get(link)
        if found is not None and found.instance != hello.instance:
            # A switch that dialled us uses its connection for another.
            self._forget(found, now)
            found = None
        other = self.initiators.of_session(hello.session)
        if other is not None and other is not found:
            if other.instance != hello.instance:
                self._refuse(link, hello.instance, "session", "that session belongs to another instance")
                return None
            if hello.attempt <= other.attempt:
                self.counters["frames_stray"] += 1  # of a connection that is gone
                return None
            self._forget(other, now)
        if found is None:
            if len(self.initiators) >= MAX_SESSIONS:
                self._refuse(link, hello.instance, "full", f"{MAX_SESSIONS} sessions go through this device")
                return None
            return self.initiators.add(link, hello.instance)
        if hello.attempt <= found.attempt and hello.session in (found.session, found.former):
            self.counters["frames_stray"] += 1
            return None
        return found

    def _wait(self, initiator: Initiator, frames: Frames) -> None:
        """Keep the newest HELLO until it is answered, if there is room for it."""
        waiting = self.initiators.waiting
        if initiator.link in waiting or len(waiting) < MAX_WAITING:
            waiting[initiator.link] = initiator
            initiator.hello = frames

    def _serve(self, initiator: Initiator, now: float) -> None:
        """Get on with a HELLO that waits."""
        if initiator.hello is None or self._paused:
            return
        if initiator.resume:
            self._seek(initiator, now)
        elif not initiator.asked:
            self._choose(initiator)

    def _ask(self, initiator: Initiator, acceptor: Acceptor) -> bool:
        """Say its HELLO there, now or when the line is up. False: there is no line."""
        line = self.acceptors.take(acceptor, initiator)
        if line is None:
            return False
        initiator.asked[acceptor] = line
        assert initiator.hello is not None
        if line.up:
            self._pass(line.link, initiator.hello, back=True)
        return True

    def _look_again(self, now: float) -> None:
        """Acceptors came, went, or have lines again."""
        self.acceptors.changed = False
        for initiator in list(self.initiators.waiting.values()):
            self._serve(initiator, now)
        waiting = len(self.initiators.waiting)
        for acceptor in self.acceptors:
            self.acceptors.call_for_more(acceptor, waiting)
        if self.acceptors.recount:
            self.acceptors.recount = False
            for instance in self.initiators.instances:
                self._tell_total(instance)
        self._pause = CALL_AGAIN_FIRST
        self.timers.sooner(("again", None), now + self._pause)

    def _choose(self, initiator: Initiator) -> None:
        """A new session: to an acceptor with which its instance has none."""
        taken = self.initiators.taken(initiator)
        free = [
            acceptor
            for acceptor in self.acceptors
            if acceptor.stands
            and acceptor.key not in initiator.denied
            and taken.get(acceptor, 0) < acceptor.places_for(initiator.instance)
        ]
        if not free and initiator.refusal is not None:
            self._pass(initiator.link, initiator.refusal, back=False)
            self._answered(initiator)
            return
        trace = self.initiators.traces.get(initiator.session)
        seen = trace.key if trace is not None else None  # it may have begun there, and its WELCOME be lost
        self._rng.shuffle(free)
        free.sort(key=lambda acceptor: (acceptor.key != seen, acceptor.used / acceptor.places))
        for acceptor in free:
            if self._ask(initiator, acceptor):
                self.initiators.trace(initiator.session, acceptor.key, initiator.bound, None)
                return

    def _seek(self, initiator: Initiator, now: float) -> None:
        """A session that was welcomed before: ask where it was last seen; all, if that is not known."""
        trace = self.initiators.traces.get(initiator.session)
        if trace is None:
            trace = self.initiators.trace(initiator.session, None, initiator.bound, now)
        elif trace.since is None:
            trace.since = now
        known = self.acceptors.find(trace.key) if trace.key is not None else None
        for acceptor in [known] if known is not None and known.stands else list(self.acceptors):
            if (
                acceptor.stands
                and acceptor not in initiator.asked
                and acceptor.key not in initiator.denied
                and len(acceptor.asked) < ASKS
            ):
                self._ask(initiator, acceptor)
        if not initiator.asked:
            self._judge(initiator, trace, now)

    def _judge(self, initiator: Initiator, trace: Trace, now: float) -> None:
        """Nobody is left who was asked and may answer: is it lost?"""
        assert trace.since is not None
        denied = initiator.denied
        known = [acceptor for acceptor in self.acceptors if acceptor.key not in denied]
        closed = len(self.acceptors) > 0 and (not self._open_ended or now >= self._began + initiator.bound)
        until = trace.since + max(initiator.bound, trace.bound)
        if trace.key in denied or (closed and not known):
            self._tell_lost(initiator)
        elif any(acceptor.stands for acceptor in known):
            return  # there was no line to ask over: when there is, it goes on
        elif now >= until:
            self._tell_lost(initiator)  # whoever has it, and cannot be reached, has given it up
        else:
            self.timers.set(("lost", initiator.link), until)

    def _tell_lost(self, initiator: Initiator) -> None:
        self.counters["sessions_lost"] += 1
        self._pass(initiator.link, [wire.pack([LOST, initiator.session])], back=False)
        self.initiators.traces.pop(initiator.session, None)
        self._answered(initiator)

    # ---- what acceptors answer -------------------------------------------------------

    def _welcome(self, line: Line, fields: object, frames: Frames, now: float) -> None:
        hello = wire.read_hello(fields)
        initiator = line.user
        if initiator is None:
            self.counters["frames_stray"] += 1
            self.acceptors.give_up(line, now)  # it went on there, or began, for somebody who is gone
        elif hello.session != initiator.session:
            self.counters["frames_stray"] += 1
        elif initiator.line is line:
            self._pass(initiator.link, frames, back=False)
        elif initiator.line is not None or initiator.hello is None:
            self.counters["frames_stray"] += 1
            initiator.asked.pop(line.acceptor, None)
            self.acceptors.give_up(line, now)
        elif initiator.resume and self._is_another(hello):
            # It read a HELLO of long ago, which was then said to another: it has a session of the same id.
            self.counters["frames_stray"] += 1
            del initiator.asked[line.acceptor]
            self.acceptors.give_up(line, now)
            self._deny(initiator, line.acceptor, frames, now)
        elif not self._role_fits(line.link, hello, answering=True):
            initiator.asked.pop(line.acceptor, None)
            self.acceptors.give_up(line, now)
            refusal = wire.pack([REFUSED, "role", f"{hello.role} does not belong at the {self._sides[1]}"])
            self._deny(initiator, line.acceptor, [refusal], now)
        else:
            self._establish(initiator, line, hello)
            self._pass(initiator.link, frames, back=False)
            self._tell_total(initiator.instance)

    def _is_another(self, hello: Hello) -> bool:
        """Whether that session was with another instance."""
        trace = self.initiators.traces.get(hello.session)
        return trace is not None and trace.instance not in (b"", hello.instance)

    def _establish(self, initiator: Initiator, line: Line, hello: Hello) -> None:
        """From now on what comes over either connection goes over the other."""
        self.counters["sessions_resumed" if initiator.resume else "sessions_opened"] += 1
        acceptor = line.acceptor
        initiator.line = line
        del initiator.asked[acceptor]
        acceptor.asked.pop(line.link, None)
        self._all_ways[initiator.link] = (line.link, self._forth)
        self._all_ways[line.link] = (initiator.link, self._back)
        self.counters["sessions"] += 1
        self.initiators.trace(initiator.session, acceptor.key, hello.bound, None).instance = hello.instance
        self._answered(initiator)
        # Others that were asked: their answers are still to come, where anything was said.
        for other in [each for each in initiator.asked.values() if not each.up]:
            del initiator.asked[other.acceptor]
            self.acceptors.release(other)
        self.acceptors.changed = True

    def _refused(self, line: Line, header: Sequence[Any], frames: Frames, now: float) -> None:
        initiator = line.user
        if initiator is None:
            self.counters["frames_stray"] += 1
            return
        if initiator.line is line:
            self._pass(initiator.link, frames, back=False)
            return
        code = wire.text(header[1], "code", 32)
        self.counters["handshakes_refused"] += 1
        if code == "role":
            reason = wire.text(header[2], "reason") if len(header) > 2 else ""
            where = line.acceptor.address or line.acceptor.key.hex()  # type: ignore[union-attr]
            self.out.events.append(PeerRefused(self._name, "", code, f"{where} at the {self._sides[1]}: {reason}"))
        del initiator.asked[line.acceptor]
        self.acceptors.release(line)
        self._deny(initiator, line.acceptor, frames, now)

    def _deny(self, initiator: Initiator, acceptor: Acceptor, refusal: Frames, now: float) -> None:
        """That acceptor does not take it: perhaps another does."""
        if initiator.hello is not None:
            initiator.denied.add(acceptor.key)
            initiator.refusal = refusal
            self._serve(initiator, now)

    def _lost(self, line: Line, name: object, frames: Frames, now: float) -> None:
        initiator = line.user
        if initiator is None or name != initiator.session:
            self.counters["frames_stray"] += 1
            return
        if initiator.line is line:
            self._pass(initiator.link, frames, back=False)
            return
        del initiator.asked[line.acceptor]
        self.acceptors.release(line)
        if initiator.hello is None:
            return  # another has it
        if initiator.resume:
            initiator.denied.add(line.acceptor.key)
            self._serve(initiator, now)
        else:
            self._pass(initiator.link, frames, back=False)  # that id was used up
            self._answered(initiator)

    def _cannot_listen(self, line: Line, now: float) -> None:
        """A device behind this one takes it for an acceptor, too."""
        initiator = line.user
        reason = f"{line.acceptor.address} is the side of a device where others than {self._told_roles(0)} are to come"
        if initiator is not None and initiator.line is None:
            initiator.asked.pop(line.acceptor, None)
            self.acceptors.give_up(line, now)
            self.out.events.append(PeerRefused(self._name, "", "role", reason))
            self._deny(initiator, line.acceptor, [wire.pack([REFUSED, "role", reason])], now)
        else:
            raise DecodeError("LISTEN where nobody said HELLO")

    # ---- acceptors that dial ---------------------------------------------------------

    def _hello_of_acceptor(self, link: Link, fields: object, now: float) -> None:
        """It is told to listen; HELLO will come to it over this connection."""
        low, high = wire.versions(fields)
        if not low <= VERSION <= high:
            self._refuse(link, b"", "version", f"this device speaks version {VERSION}, the other side {low} to {high}")
            return
        hello = wire.read_hello(fields)
        if not self._role_fits(link, hello, answering=True):
            return
        if hello.resume:
            # It began that session itself, where now a device stands: nobody here has it.
            self.out.sends.append((link, [wire.pack([LOST, hello.session])]))
            return
        line = self.acceptors.lines.get(link)
        if line is not None and line.acceptor.key != hello.instance:
            self._line_down(line, now)
        if not self.acceptors.listen(link, hello.instance):
            self._refuse(link, hello.instance, "full", "too many are there already")
