"""The ways through a learning switch: what is passed on, how it is counted, and what happens when a way breaks.

Pure. A way is a pair of connections, one on each side, for one session (docs/protocol.md, section 15). How ways are
found: `zmqkit.devices.greetings`.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Final

from zmqkit.devices.acceptors import Acceptors, Line
from zmqkit.devices.initiators import Initiator, Initiators
from zmqkit.events import BadFrame, PeerRefused
from zmqkit.protocol import wire
from zmqkit.protocol.core import Frames, Link, Outputs
from zmqkit.protocol.timers import Timers
from zmqkit.protocol.wire import MAX_CONNECTIONS, REFUSED, Hello

MAX_SESSIONS: Final = 10_000
"""So many connections may say HELLO; more are refused."""

MAX_OFFENCES: Final = 1000
OFFENCES_OF_BAD: Final = 10
"""As in `zmqkit.protocol.sessions`: a connection over which so much came that has no use is closed."""

CALL_AGAIN_FIRST: Final = 1.0
CALL_AGAIN_MOST: Final = 30.0
"""Seconds after which those are told again how many connections to have who have fewer."""


class Flow:
    """What was passed on in one direction, in this turn."""

    __slots__ = ("messages", "size_bytes")

    def __init__(self) -> None:
        self.messages = 0
        self.size_bytes = 0


class Ways:
    """The part of a switch that has the ways; see `zmqkit.devices.switch.SwitchCore` for its arguments."""

    def __init__(
        self,
        *,
        name: str,
        sides: tuple[str, str],
        roles: tuple[Collection[str], Collection[str]],
        open_ended: bool,
        rng: random.Random,
    ) -> None:
        self.out = Outputs()
        self.timers = Timers()
        self.initiators = Initiators()
        self.acceptors = Acceptors(self.out, self.timers)
        self._name = name
        self._sides = sides
        self._roles = roles
        self._open_ended = open_ended
        self._rng = rng
        self._began = 0.0
        self._paused = False
        self._all_ways: dict[Link, tuple[Link, Flow]] = {}
        """Where what comes over a link goes, and where it is counted."""
        self._ways = self._all_ways
        """The same, or nothing while it is paused."""
        self._forth, self._back = Flow(), Flow()
        self._offences: dict[Link, int] = {}
        self._pause = CALL_AGAIN_FIRST
        self.counters: dict[str, int | float] = {
            f"{side}_{what}": 0
            for side in ("frontend", "backend")
            for what in ("messages_received", "bytes_received", "messages_sent", "bytes_sent")
        }
        for what in (
            "sessions_opened", "sessions_resumed", "sessions_lost", "routes_lost", "frames_dropped", "frames_bad",
            "frames_stray", "handshakes_refused", "links_expelled", "sessions", "paused",
        ):  # fmt: skip
            self.counters[what] = 0

    def _sum_up(self, flow: Flow, came: str, went: str) -> None:
        """Add what was passed on since the last time to the counters."""
        counters = self.counters
        counters[f"{came}_messages_received"] += flow.messages
        counters[f"{went}_messages_sent"] += flow.messages
        counters[f"{came}_bytes_received"] += flow.size_bytes
        counters[f"{went}_bytes_sent"] += flow.size_bytes
        flow.messages = flow.size_bytes = 0

    # ---- ways break ------------------------------------------------------------------

    def _answered(self, initiator: Initiator) -> None:
        """Its HELLO has its answer, or needs none any more."""
        initiator.hello = initiator.refusal = None
        initiator.denied.clear()
        self.initiators.waiting.pop(initiator.link, None)
        self.timers.cancel(("lost", initiator.link))

    def _part(self, initiator: Initiator, now: float) -> None:
        """Take its way apart: it is gone, or has given its session up."""
        line, initiator.line = initiator.line, None
        if line is not None:
            self._forget_way(initiator, line, now)
            self.acceptors.give_up(line, now)
        asked, initiator.asked = initiator.asked, {}
        for each in asked.values():
            if each.up:
                self.acceptors.give_up(each, now)  # what is answered over it would come to another
            else:
                self.acceptors.release(each)
        self._answered(initiator)
        self.acceptors.changed = True

    def _forget_way(self, initiator: Initiator, line: Line, now: float) -> None:
        self.counters["routes_lost"] += 1
        del self._all_ways[initiator.link], self._all_ways[line.link]
        self.counters["sessions"] -= 1
        trace = self.initiators.traces.get(initiator.session)
        if trace is not None:
            trace.since = now

    def _forget(self, initiator: Initiator, now: float) -> None:
        """Its connection is of no more use."""
        self._part(initiator, now)
        self.initiators.remove(initiator)
        if initiator.instance in self.initiators.instances:
            self._tell_total(initiator.instance)
        else:
            self.acceptors.forget(initiator.instance)

    def _line_down(self, line: Line, now: float) -> None:
        """A connection to an acceptor is gone, and with it the way of whoever used it."""
        initiator = line.user
        self.acceptors.drop(line)
        if initiator is None:
            return
        if initiator.line is line:
            initiator.line = None
            self._forget_way(initiator, line, now)
            self.out.sends.append((initiator.link, [wire.gone()]))
            self._forget(initiator, now)
        else:
            initiator.asked.pop(line.acceptor, None)

    # ---- how many connections --------------------------------------------------------

    def _wanted(self, instance: bytes) -> int:
        """How many connections this instance can make use of."""
        return min(max(1, self.acceptors.total(instance) + self.initiators.surplus(instance)), MAX_CONNECTIONS)

    def _tell_total(self, instance: bytes) -> None:
        """Tell an instance how many connections to have, over those that do not know."""
        links = self.initiators.instances.get(instance, {})
        if links:
            wanted = self._wanted(instance)
            for initiator in links.values():
                if initiator.told != wanted:
                    initiator.told = wanted
                    self.out.sends.append((initiator.link, [wire.more(wanted)]))

    def _call_again(self, now: float) -> None:
        """What was not heeded may have got lost: it is said again."""
        short = False
        for links in self.initiators.instances.values():
            for initiator in links.values():
                if len(links) < initiator.told:
                    self.out.sends.append((initiator.link, [wire.more(initiator.told)]))
                    short = True
        if self.acceptors.call_again() or short:
            self.timers.set(("again", None), now + self._pause)
            self._pause = min(2 * self._pause, CALL_AGAIN_MOST)

    # ---- what is said, counted, refused: of what is sent the switch's own words do not count ------

    def _pass(self, link: Link, frames: Frames, *, back: bool) -> None:
        """Send on what came, or what is said in an acceptor's place; `back`: to the acceptors."""
        self._count("sent", back, frames)
        self.out.sends.append((link, frames))

    def _count(self, what: str, answering: bool, frames: Frames) -> None:
        side = self._sides[answering]
        self.counters[f"{side}_messages_{what}"] += 1
        self.counters[f"{side}_bytes_{what}"] += sum(map(len, frames))

    def _role_fits(self, link: Link, hello: Hello, *, answering: bool) -> bool:
        """Whether such a one belongs on this side. If not, it is refused, where it is the one who asks."""
        if hello.role in self._roles[answering]:
            return True
        side = self._sides[answering]
        reason = f"the device {self._name} takes {self._told_roles(answering)} at its {side}, not {hello.role}"
        self._refuse(link, hello.instance, "role", reason)
        return False

    def _told_roles(self, side: int) -> str:
        return " or ".join(sorted(self._roles[side]))

    def _refuse(self, link: Link, instance: bytes, code: str, reason: str) -> None:
        self.counters["handshakes_refused"] += 1
        self.out.events.append(PeerRefused(self._name, instance.hex(), code, reason))
        if isinstance(link, tuple) and link[0] == "b":
            self._offended(link, OFFENCES_OF_BAD)
            self.out.sends.append((link, [wire.pack([REFUSED, code, reason])]))

    def _bad_frame(self, link: Link, reason: str) -> None:
        self.counters["frames_bad"] += 1
        self.out.events.append(BadFrame(self._name, reason))
        self._offended(link, OFFENCES_OF_BAD)

    def _stray(self, link: Link) -> None:
        """Of a session that has no way here. Nothing is said: a HELLO will come."""
        self.counters["frames_dropped"] += 1
        self._offended(link, 1)

    def _offended(self, link: Link, weight: int) -> None:
        """Whoever says garbage faster than it can be thrown away would fill our memory with it."""
        offences = self._offences
        count = offences.pop(link, 0) + weight
        offences[link] = count
        if count - weight < MAX_OFFENCES <= count:
            self.counters["links_expelled"] += 1
            self.out.disconnects.append(link)
        if len(offences) > MAX_SESSIONS:
            del offences[next(iter(offences))]
