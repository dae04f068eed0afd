"""Life and death of sessions: pings, judgements, probes (docs/protocol.md, section 6).

Pure. Knows the table of sessions and their timers; how sessions begin and what runs in them is said by the layers
above, `zmqkit.protocol.handshake` and `zmqkit.protocol.sessions`.
"""

from __future__ import annotations

import random
from typing import Final

from zmqkit.events import PeerBusy, PeerLost
from zmqkit.protocol.core import Link, Outputs, Probe
from zmqkit.protocol.local import Changed, Local, Lost, Up
from zmqkit.protocol.session import Session
from zmqkit.protocol.timers import Timers
from zmqkit.protocol.wire import GOODBYE, PING

IDLE_FACTOR: Final = 5
"""An idle pair beats this many times slower."""

MAX_BEATS: Final = 2000
"""So many pings a second at most, all sessions together: strangers that announce short intervals must not keep us busy.

With more sessions than that each is asked less often, and its death is noticed that much later."""

PROBE_DELAYS: Final = (0.0, 0.005, 0.02, 0.1, 0.5)
"""When to ask whether a process on this host still lives, in seconds after its connection broke.

A killed process closes its sockets a moment before it is gone."""


class Liveness:
    """The sessions that there are, and the judgement on each.

    Args:
        local: what we say of ourselves.
        out: where sends, events and probes go.
        counters: what is counted by name.
        rng: ids and jitter; `random.SystemRandom` outside of simulations.
    """

    def __init__(self, local: Local, out: Outputs, counters: dict[str, int | float], rng: random.Random) -> None:
        self.local = local
        self.ups: list[Up] = []
        self.timers = Timers()
        self.counters = counters
        self._out = out
        self._rng = rng
        self._by_id: dict[bytes, Session] = {}
        self._by_link: dict[Link, Session] = {}
        self._standing: set[Link] = set()
        """Links that we made, while their connection stands."""
        self._astray: set[Link] = set()
        """Those of which a device said that they lead nowhere, until WELCOME comes: that they stand proves nothing."""
        self._closed = False
        for name in (
            "sessions_opened", "sessions_lost", "sessions_resumed", "links_lost", "frames_bad", "frames_stray",
            "handshakes_refused", "messages_repeated", "messages_missed", "resumes_asked", "messages_resent",
            "credit_exceeded", "peers_busy", "overslept",
        ):  # fmt: skip
            counters.setdefault(name, 0)

    # ---- hooks of the layer above ------------------------------------------------

    def _greet_again(self, session: Session, now: float) -> None:
        """It does not answer, though its connection stands: perhaps it takes us for another."""

    def _offended(self, link: Link | None, weight: int) -> None:
        """Over this connection came what breaks the protocol, or is refused."""

    def _has_ended(self, session: Session, link: Link | None, reason: str, now: float) -> None:
        """A session is lost for good; `link` is where it ran."""

    # ---- pings -------------------------------------------------------------------

    def _pace(self, session: Session) -> float:
        return max(session.peer.interval, len(self._by_id) / MAX_BEATS)

    def _interval(self, session: Session) -> float:
        return self._pace(session) * (1 if session.active else IDLE_FACTOR)

    def _quicken(self, session: Session, now: float) -> None:
        when = now + self._pace(session)
        if session.beat_at > when and not session.ended:
            self._set_beat(session, when)

    def _set_beat(self, session: Session, when: float) -> None:
        session.beat_at = when
        self.timers.set(("beat", session.id), when)

    def _beat(self, session: Session, now: float) -> None:
        pause = self._interval(session)  # before this ping is out, for itself it owes nothing
        if session.link is not None:
            session.tell(self._out, PING, session.ping_out(now), session.sent)
            if ("dead", session.id) not in self.timers:
                self.timers.set(("dead", session.id), session.pings_out[0][1] + session.peer.bound)
        self._set_beat(session, now + pause)

    def _alive(self, session: Session, number: int, now: float) -> None:
        """An answer to a ping proves both directions, up to the moment when that ping was sent."""
        if not session.answered(number, now):
            return
        if session.busy:
            session.busy = False
            self.ups.append(Changed(session))
        if session.pings_out:
            self.timers.set(("dead", session.id), session.pings_out[0][1] + session.peer.bound)
        else:
            self.timers.cancel(("dead", session.id))

    # ---- judgement ---------------------------------------------------------------

    def _judge(self, session: Session, now: float) -> None:
        """Alive, busy or dead? Sets the time of the next judgement, if there is anything to judge."""
        bound = session.peer.bound
        patience = min(session.peer.busy_bound, self.local.busy_bound)
        asked = session.pings_out[0][1] if session.pings_out else None
        if session.link is None and (session.home not in self._standing or session.home in self._astray):
            # Silent before the connection broke: the hop's own heartbeats gave up too. Else a grace to come back.
            end = session.down_at + bound
            if asked is not None:
                end = min(end, max(asked + bound, session.down_at + session.peer.interval))
            if now >= end:
                self._end(session, "silent", now)
            else:
                self.timers.set(("dead", session.id), end)
            return
        if session.link is None:
            asked = session.detached_at  # since then a WELCOME is owed, over a connection that stands again
            busy_at = session.down_at + bound
        elif asked is None:
            self.timers.cancel(("dead", session.id))
            return
        else:
            busy_at = asked + bound
        end = asked + bound + patience
        if now >= end:
            self._say_goodbye(session, "busy for too long", now)
            return
        if now < busy_at:
            self.timers.set(("dead", session.id), min(busy_at, end))
            return
        if not session.busy:
            session.busy = True
            self.ups.append(Changed(session))
            self.counters["peers_busy"] += 1
            self._out.events.append(PeerBusy(self.local.name, session.peer.instance.hex()))
            self._greet_again(session, now)
        self.timers.set(("dead", session.id), end)

    def _overslept(self, now: float) -> None:
        """We ourselves stood still: the silence that we see may be our own. Ask again before judging anybody."""
        self.counters["overslept"] += 1
        for session in list(self._by_id.values()):
            if session.link is None:
                session.down_at = now
            session.pings_out.clear()
            if ("dead", session.id) in self.timers:
                self._judge(session, now)

    # ---- connections -------------------------------------------------------------

    def _link_lost(self, session: Session, now: float) -> None:
        self.counters["links_lost"] += 1
        self._by_link.pop(session.link, None)
        session.detach(now)
        self.ups.append(Changed(session))
        self._judge(session, now)
        if session.peer.host and session.peer.host == self.local.host and session.peer.pid and not session.ended:
            self._probe(session, now)

    def _attach(self, session: Session, link: Link, now: float) -> None:
        """Go on over this connection."""
        if session.link is not None:
            self._by_link.pop(session.link, None)
        self._by_link[link] = session
        session.attach(link)
        self.ups.append(Changed(session))
        self.timers.cancel(("dead", session.id))
        self.timers.cancel(("probe", session.id))
        self._set_beat(session, now + self._interval(session))

    def _probe(self, session: Session, now: float) -> None:
        if session.link is not None:
            return
        peer = session.peer
        self._out.probes.append(Probe(session.id, peer.host, peer.pid, peer.started))
        session.probes += 1
        if session.probes < len(PROBE_DELAYS):
            self.timers.set(("probe", session.id), now + PROBE_DELAYS[session.probes])

    # ---- the end -----------------------------------------------------------------

    def _say_goodbye(self, session: Session, reason: str, now: float) -> None:
        session.tell(self._out, GOODBYE, reason, session.sent)
        self._end(session, reason, now)

    def _end(self, session: Session, reason: str, now: float) -> None:
        """A session is lost for good. Again: nothing happens."""
        if session.ended:
            return
        del self._by_id[session.id]
        link = session.link
        if link is not None:
            self._by_link.pop(link, None)
        session.end()
        for what in ("beat", "dead", "state", "probe"):
            self.timers.cancel((what, session.id))
        self.counters["sessions_lost"] += 1
        self.ups.append(Lost(session, reason))
        self._out.events.append(PeerLost(self.local.name, session.peer.instance.hex(), reason))
        self._has_ended(session, link, reason, now)
