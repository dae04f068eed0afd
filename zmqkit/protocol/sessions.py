"""All sessions of one peer object: handshakes, resumption, liveness, endings (docs/protocol.md, sections 3 to 6).

Pure. Knows nothing of patterns: it is told the role it plays and the roles it accepts, and puts what the pattern
must know into `ups`. The pattern's core hands on the link inputs and timers, then empties `ups`.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterator
from typing import Any, Final

from zmqkit.errors import DecodeError
from zmqkit.events import BadFrame, PeerBusy, PeerFound, PeerLost, PeerRefused, PeerResumed
from zmqkit.options import Backoff
from zmqkit.protocol import wire
from zmqkit.protocol.core import Frames, Link, Outputs, Probe
from zmqkit.protocol.local import Heard, Local, Lost, Opened, Received, Up
from zmqkit.protocol.session import Session
from zmqkit.protocol.timers import Timers
from zmqkit.protocol.wire import (
    DATA,
    GOODBYE,
    HELLO,
    LOST,
    PING,
    PONG,
    REFUSED,
    RESUME,
    VERSION,
    WELCOME,
    Hello,
)

IDLE_FACTOR: Final = 5
"""An idle pair beats this many times slower."""

STATE_DELAY: Final = 0.02
"""Seconds after which the other side is told what we heard, if nothing else has told it."""

PROBE_DELAYS: Final = (0.0, 0.005, 0.02, 0.1, 0.5)
"""When to ask whether a process on this host still lives, in seconds after its connection broke.

A killed process closes its sockets a moment before it is gone."""

MAX_SESSIONS: Final = 10_000
"""More peers than these are refused."""

REDIAL: Final = Backoff(first=0.25, factor=2.0, cap=5.0)
"""How long to wait for a WELCOME before HELLO is said again."""


class _Dial:
    """A connection that we make: which session runs, or shall run, over it."""

    __slots__ = ("link", "refused", "replaces", "session", "tries", "up", "wanted")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.session: Session | None = None
        self.wanted = b""
        self.replaces = b""
        self.up = False
        self.refused = False
        self.tries = 0


class Sessions:
    """The sessions of one peer object.

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
        self._out = out
        self._rng = rng
        self._by_id: dict[bytes, Session] = {}
        self._by_link: dict[Link, Session] = {}
        self._dials: dict[Link, _Dial] = {}
        self._granted: dict[bytes, Session] = {}
        self._closed = False
        self.counters = counters
        for name in (
            "sessions_opened", "sessions_lost", "sessions_resumed", "links_lost", "frames_bad", "frames_stray",
            "handshakes_refused", "messages_repeated", "messages_missed", "resumes_asked", "messages_resent",
            "credit_exceeded", "peers_busy", "overslept",
        ):  # fmt: skip
            counters.setdefault(name, 0)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    # ---- verbs of the pattern ----------------------------------------------------

    def send(self, session: Session, frames: Frames, messages: int, now: float) -> int:
        """Send one message; `messages` is what it counts against the credit (0: control). Returns its number."""
        number = session.send(self._out, frames, messages)
        self._quicken(session, now)
        return number

    def grant(self, session: Session, messages: int, size_bytes: int) -> None:
        """Raise the absolute limits of what the other side may send; told with the next frame or at the turn's end."""
        session.limit_messages = max(session.limit_messages, messages)
        session.limit_bytes = max(session.limit_bytes, size_bytes)
        self._granted[session.id] = session

    def owe(self, session: Session, outstanding: bool, now: float) -> None:
        """Say whether something is owed in this session, so that it beats at full rate."""
        if session.outstanding != outstanding:
            session.outstanding = outstanding
            if outstanding:
                self._quicken(session, now)

    def end_turn(self, now: float) -> None:
        """Tell those whose credit was raised and who heard nothing from us since."""
        if self._granted:
            for session in self._granted.values():
                if session.untold:
                    session.tell(self._out)
            self._granted.clear()

    def goodbye(self, session: Session, reason: str, now: float) -> None:
        """End a session from our side."""
        session.tell(self._out, GOODBYE, reason, session.sent)
        self._end(session, reason, now)

    def close(self, now: float, reason: str = "closed") -> None:
        """Say goodbye to all, for good."""
        self._closed = True
        for session in list(self._by_id.values()):
            self.goodbye(session, reason, now)
        for dial in self._dials.values():
            self.timers.cancel(("hello", dial.link))
        self._dials.clear()

    # ---- links -------------------------------------------------------------------

    def link_up(self, link: Link, now: float) -> None:
        """A connection that we made stands: say HELLO."""
        if self._closed:
            return
        dial = self._dials.get(link)
        if dial is None:
            dial = self._dials[link] = _Dial(link)
        elif dial.up and dial.session is not None and dial.session.link is not None:
            self._link_lost(dial.session, now)  # the driver saw it come back before it saw it go
        dial.up = True
        dial.refused = False
        dial.tries = 0
        self._say_hello(dial, now)

    def link_down(self, link: Link, now: float) -> None:
        """A connection is gone, ours or theirs."""
        dial = self._dials.get(link)
        if dial is not None:
            dial.up = False
            self.timers.cancel(("hello", link))
        session = self._by_link.get(link)
        if session is not None:
            self._link_lost(session, now)

    def link_forgotten(self, link: Link, now: float) -> None:
        """We shall not make this connection again: end its session."""
        dial = self._dials.pop(link, None)
        self.timers.cancel(("hello", link))
        if dial is not None and dial.session is not None:
            self.goodbye(dial.session, "disconnected", now)

    def links_disturbed(self, group: Hashable, now: float) -> None:
        """Some connection of a bound socket broke: a ping finds out whose."""
        for link, session in list(self._by_link.items()):
            if isinstance(link, tuple) and link[:2] == group:
                self._beat(session, now)

    def process_gone(self, key: Hashable, now: float) -> None:
        """A probe found the process dead: no need to wait for silence."""
        session = self._by_id.get(key) if isinstance(key, bytes) else None
        if session is not None and session.link is None:
            self._end(session, "process gone", now)

    def _link_lost(self, session: Session, now: float) -> None:
        self.counters["links_lost"] += 1
        self._by_link.pop(session.link, None)
        session.detach(now)
        self._judge(session, now)
        if session.peer.host and session.peer.host == self.local.host and session.peer.pid:
            self.timers.set(("probe", session.id), now)

    # ---- messages ----------------------------------------------------------------

    def receive_message(self, link: Link, frames: Frames, now: float) -> None:
        """One message from the wire. Never raises: what is bad is counted."""
        try:
            header = wire.unpack(frames[0]) if frames else None
            if type(header) is not list or len(header) < 2 or type(header[0]) is not int:
                raise DecodeError("a message without a header")
            kind = header[0]
            if kind >= DATA:
                self._receive_in_session(link, kind, header, frames, now)
            elif kind == HELLO:
                self._receive_hello(link, header[1], now)
            elif kind == WELCOME:
                self._receive_welcome(link, header[1], now)
            elif kind == LOST:
                self._receive_lost(link, header[1], now)
            elif kind == REFUSED:
                self._receive_refused(link, header, now)
            else:
                raise DecodeError(f"a frame of kind {kind}")
        except DecodeError as error:
            self.bad_frame(str(error))

    def bad_frame(self, reason: str) -> None:
        """Count, and tell by an event, something that breaks the protocol."""
        self.counters["frames_bad"] += 1
        self._out.events.append(BadFrame(self.local.name, reason))

    def _receive_in_session(self, link: Link, kind: int, header: list[Any], frames: Frames, now: float) -> None:
        if len(header) < 5 or kind > GOODBYE:
            raise DecodeError(f"a frame of kind {kind} with {len(header)} fields")
        session = self._by_link.get(link)
        if session is None or session.id != header[1]:
            # Of a session that we do not know (any more), or left over on an old connection.
            self.counters["frames_stray"] += 1
            if kind != GOODBYE and header[1] not in self._by_id and not self._closed:
                name = wire.octets(header[1], "session", 8)
                self._out.sends.append((link, [wire.pack([LOST, name])]))
            return
        heard = wire.number(header[2], "heard")
        before = session.room_messages
        news = session.hear(heard, wire.number(header[3], "credit"), wire.number(header[4], "credit"))
        if news is None:
            raise DecodeError(f"{wire.NAMES[kind]} claims to have heard {heard}; only {session.sent} were sent")
        if news or session.room_messages != before:
            self.ups.append(Heard(session))
        if kind == DATA:
            self._receive_data(session, header, frames, now)
        elif kind == PING:
            number, sent = self._two_numbers(header)
            session.tell(self._out, PONG, number, session.sent)
            self._check_hole(session, sent, now)
        elif kind == PONG:
            number, sent = self._two_numbers(header)
            self._alive(session, number, now)
            self._check_hole(session, sent, now)
        elif kind == RESUME:
            self.counters["messages_resent"] += session.resend(self._out)
        elif kind == GOODBYE:
            reason = wire.text(header[5], "reason") if len(header) > 5 else ""
            self._end(session, f"goodbye: {reason}" if reason else "goodbye", now)

    @staticmethod
    def _two_numbers(header: list[Any]) -> tuple[int, int]:
        if len(header) < 7:
            raise DecodeError("a frame with fields missing")
        return wire.number(header[5], "number"), wire.number(header[6], "number")

    def _receive_data(self, session: Session, header: list[Any], frames: Frames, now: float) -> None:
        number, messages = self._two_numbers(header)
        body = frames[1:]
        verdict = session.take(number, messages, body)
        if verdict == "next":
            self.ups.append(Received(session, body, messages))
            if session.must_state:
                session.tell(self._out)
            else:
                key = ("state", session.id)
                if key not in self.timers:
                    self.timers.set(key, now + STATE_DELAY)
        elif verdict == "old":
            self.counters["messages_repeated"] += 1
        elif verdict == "hole":
            self.counters["messages_missed"] += 1
            self._check_hole(session, number, now)
        else:
            self.counters["credit_exceeded"] += 1
            self.goodbye(session, "credit exceeded", now)

    def _check_hole(self, session: Session, sent: int, now: float) -> None:
        if sent > session.heard and session.ask_resume(self._out, now, self.local.heartbeat.interval):
            self.counters["resumes_asked"] += 1

    # ---- handshake ---------------------------------------------------------------

    def _hello(self, session: Session | None, name: bytes, *, resume: bool, replaces: bytes = b"") -> Hello:
        local = self.local
        return Hello(
            session=name,
            resume=resume,
            replaces=replaces,
            role=local.role,
            instance=local.instance,
            heard=session.heard if session else 0,
            sent=session.sent if session else 0,
            credit_messages=session.limit_messages if session else local.credit_messages,
            credit_bytes=session.limit_bytes if session else local.credit_bytes,
            interval=local.heartbeat.interval,
            liveness=local.heartbeat.liveness,
            busy_bound=local.busy_bound,
            frame_bytes=local.frame_bytes,
            name=local.name,
            host=local.host,
            pid=local.pid,
            started=local.started,
            about=local.about,
        )

    def _say_hello(self, dial: _Dial, now: float) -> None:
        if not dial.up or dial.refused:
            return
        if dial.session is None and not dial.wanted:
            dial.wanted = self._rng.randbytes(8)
        name = dial.session.id if dial.session is not None else dial.wanted
        hello = self._hello(dial.session, name, resume=dial.session is not None, replaces=dial.replaces)
        self._out.sends.append((dial.link, [hello.pack(HELLO)]))
        dial.tries += 1
        ceiling = REDIAL.ceiling(dial.tries)
        self.timers.set(("hello", dial.link), now + ceiling * (0.5 + 0.5 * self._rng.random()))

    def _receive_hello(self, link: Link, fields: object, now: float) -> None:
        low, high = wire.versions(fields)
        if not low <= VERSION <= high:
            self._refuse(link, "version", f"this side speaks version {VERSION}, the other {low} to {high}", fields)
            return
        hello = wire.read_hello(fields)
        if hello.role not in self.local.accepts:
            wanted = " or ".join(sorted(self.local.accepts))
            self._refuse(
                link, "role", f"this side is {self.local.role} and works with {wanted}, not {hello.role}", fields
            )
            return
        if self._closed:
            self._refuse(link, "closed", "this side is closing", fields)
            return
        if link in self._dials:
            raise DecodeError("HELLO from a side that we dialled")
        session = self._by_id.get(hello.session)
        if session is not None and (session.dialled or session.peer.instance != hello.instance):
            self._refuse(link, "session", "that session belongs to another instance", fields)
            return
        if session is None and hello.resume:
            self._out.sends.append((link, [wire.pack([LOST, hello.session])]))
            return
        if hello.replaces:
            given_up = self._by_id.get(hello.replaces)
            if given_up is not None and given_up.peer.instance == hello.instance:
                self._end(given_up, "replaced", now)
        other = self._by_link.get(link)
        if other is not None and other is not session:
            self._end(other, "replaced", now)
        if session is None:
            if len(self._by_id) >= MAX_SESSIONS:
                self._refuse(link, "full", f"{MAX_SESSIONS} sessions are open", fields)
                return
            session = self._begin(hello, link, now, dialled=False)
            self._welcome(session)
            return
        resumed = session.link != link
        if resumed:
            self._attach(session, link, now)
        self._welcome(session)
        self._take_state(session, hello)
        if resumed:
            self._resume(session, now)

    def _welcome(self, session: Session) -> None:
        assert session.link is not None
        welcome = self._hello(session, session.id, resume=True)
        session.told()
        self._out.sends.append((session.link, [welcome.pack(WELCOME)]))

    def _receive_welcome(self, link: Link, fields: object, now: float) -> None:
        hello = wire.read_hello(fields)
        dial = self._dials.get(link)
        if dial is None or not dial.up:
            self.counters["frames_stray"] += 1
            return
        if hello.role not in self.local.accepts:
            self._refuse(link, "role", f"this side is {self.local.role} and does not work with {hello.role}", fields)
            return
        session = dial.session
        if session is None:
            if hello.session != dial.wanted:
                self.counters["frames_stray"] += 1
                return
            dial.wanted = dial.replaces = b""
            dial.session = self._begin(hello, link, now, dialled=True)
        elif session.id != hello.session or session.peer.instance != hello.instance:
            self.counters["frames_stray"] += 1
            return
        else:
            resumed = session.link is None
            if resumed:
                self._attach(session, link, now)
            self._take_state(session, hello)
            if resumed:
                self._resume(session, now)
        dial.tries = 0
        self.timers.cancel(("hello", link))

    def _take_state(self, session: Session, hello: Hello) -> None:
        if session.hear(hello.heard, hello.credit_messages, hello.credit_bytes) is None:
            raise DecodeError(f"HELLO claims to have heard {hello.heard}; only {session.sent} were sent")
        self.ups.append(Heard(session))

    def _begin(self, hello: Hello, link: Link, now: float, *, dialled: bool) -> Session:
        session = Session(hello, link, dialled=dialled)
        session.limit_messages, session.limit_bytes = self.local.credit_messages, self.local.credit_bytes
        self._by_id[session.id] = self._by_link[link] = session
        self.counters["sessions_opened"] += 1
        self.timers.set(("beat", session.id), now + self._interval(session))
        self.ups.append(Opened(session))
        self._out.events.append(PeerFound(self.local.name, hello.instance.hex(), _spoken(link)))
        return session

    def _attach(self, session: Session, link: Link, now: float) -> None:
        if session.link is not None:
            self._by_link.pop(session.link, None)
        self._by_link[link] = session
        session.attach(link)
        self.timers.cancel(("dead", session.id))
        self.timers.cancel(("probe", session.id))
        self.timers.set(("beat", session.id), now + self._interval(session))

    def _resume(self, session: Session, now: float) -> None:
        resent = session.resend(self._out)
        self.counters["sessions_resumed"] += 1
        self.counters["messages_resent"] += resent
        self._out.events.append(PeerResumed(self.local.name, session.peer.instance.hex(), resent))

    def _receive_lost(self, link: Link, name: object, now: float) -> None:
        dial = self._dials.get(link)
        session = self._by_link.get(link)
        if dial is not None and dial.session is not None and dial.session.id == name:
            self._end(dial.session, "forgotten by the other side", now)
        elif session is not None and session.id == name:
            self._end(session, "forgotten by the other side", now)
        else:
            self.counters["frames_stray"] += 1

    def _refuse(self, link: Link, code: str, reason: str, fields: object) -> None:
        self.counters["handshakes_refused"] += 1
        self._out.sends.append((link, [wire.pack([REFUSED, code, reason])]))
        instance = fields.get("instance") if isinstance(fields, dict) else b""
        shown = instance.hex() if isinstance(instance, bytes) else ""
        self._out.events.append(PeerRefused(self.local.name, shown, code, reason))

    def _receive_refused(self, link: Link, header: list[Any], now: float) -> None:
        code = wire.text(header[1], "code", 32)
        reason = wire.text(header[2], "reason") if len(header) > 2 else ""
        dial = self._dials.get(link)
        if dial is None:
            self.counters["frames_stray"] += 1
            return
        if not dial.refused:
            self.counters["handshakes_refused"] += 1
            self._out.events.append(PeerRefused(self.local.name, "", code, reason))
        # It may be another program there after a while: ask again, slowly.
        dial.refused = code in ("version", "role")
        self.timers.set(("hello", link), now + 5 * REDIAL.cap * (0.5 + 0.5 * self._rng.random()))

    # ---- liveness ----------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `handle_timer` must be called. Changes nothing."""
        return self.timers.next()

    def handle_timer(self, now: float) -> None:
        """Beat, judge, redial: whatever is due."""
        due = self.timers.next()
        if due is not None and now > due + self.local.heartbeat.interval:
            self._overslept(now)
        while (key := self.timers.pop(now)) is not None:
            assert isinstance(key, tuple)
            what, name = key
            if what == "hello":
                self._redial(self._dials[name], now)
                continue
            session = self._by_id[name]
            if what == "beat":
                self._beat(session, now)
            elif what == "dead":
                self._judge(session, now)
            elif what == "state":
                if session.should_state:
                    session.tell(self._out)
            else:
                self._probe(session, now)

    def _overslept(self, now: float) -> None:
        """We ourselves stood still: the silence that we see may be our own. Ask again before judging anybody."""
        self.counters["overslept"] += 1
        for session in self._by_id.values():
            if session.link is None:
                session.down_at = now
            session.pings_out.clear()
            if ("dead", session.id) in self.timers:
                self._judge(session, now)

    def _redial(self, dial: _Dial, now: float) -> None:
        dial.refused = False
        self._say_hello(dial, now)

    def _interval(self, session: Session) -> float:
        pace = 1 if session.active else IDLE_FACTOR
        return session.peer.interval * pace

    def _quicken(self, session: Session, now: float) -> None:
        self.timers.sooner(("beat", session.id), now + session.peer.interval)

    def _beat(self, session: Session, now: float) -> None:
        if session.link is not None:
            session.ping += 1
            session.pings_out.append((session.ping, now))
            session.tell(self._out, PING, session.ping, session.sent)
            if ("dead", session.id) not in self.timers:
                self.timers.set(("dead", session.id), session.pings_out[0][1] + session.peer.bound)
        self.timers.set(("beat", session.id), now + self._interval(session))

    def _alive(self, session: Session, number: int, now: float) -> None:
        """An answer to a ping proves both directions, up to the moment when that ping was sent."""
        pings = session.pings_out
        while pings and pings[0][0] <= number:
            pings.popleft()
        session.busy = False
        if pings:
            self.timers.set(("dead", session.id), pings[0][1] + session.peer.bound)
        else:
            self.timers.cancel(("dead", session.id))

    def _judge(self, session: Session, now: float) -> None:
        """Alive, busy or dead? Sets the time of the next judgement, if there is anything to judge."""
        key = ("dead", session.id)
        asked = session.pings_out[0][1] if session.pings_out else None
        bound = session.peer.bound
        if session.link is None:
            assert session.down_at is not None
            # Silent before the connection broke: the hop's own heartbeats gave up too. Else a grace to come back.
            end = session.down_at + bound
            if asked is not None:
                end = min(end, max(asked + bound, session.down_at + session.peer.interval))
            if now >= end:
                self._end(session, "silent", now)
            else:
                self.timers.set(key, end)
        elif asked is None:
            self.timers.cancel(key)
        elif now < asked + bound:
            self.timers.set(key, asked + bound)
        else:
            patience = min(session.peer.busy_bound, self.local.busy_bound)
            if now >= asked + bound + patience:
                self.goodbye(session, "busy for too long", now)
                return
            if not session.busy:
                session.busy = True
                self.counters["peers_busy"] += 1
                self._out.events.append(PeerBusy(self.local.name, session.peer.instance.hex()))
            self.timers.set(key, asked + bound + patience)

    def _probe(self, session: Session, now: float) -> None:
        if session.link is not None:
            return
        peer = session.peer
        self._out.probes.append(Probe(session.id, peer.host, peer.pid, peer.started))
        session.probes += 1
        if session.probes < len(PROBE_DELAYS):
            self.timers.set(("probe", session.id), now + PROBE_DELAYS[session.probes])

    def _end(self, session: Session, reason: str, now: float) -> None:
        del self._by_id[session.id]
        if session.link is not None:
            self._by_link.pop(session.link, None)
        self._granted.pop(session.id, None)
        for what in ("beat", "dead", "state", "probe"):
            self.timers.cancel((what, session.id))
        self.counters["sessions_lost"] += 1
        self.ups.append(Lost(session, reason))
        self._out.events.append(PeerLost(self.local.name, session.peer.instance.hex(), reason))
        for dial in self._dials.values():
            if dial.session is session:
                dial.session = None
                dial.replaces = session.id
                if dial.up and not self._closed:
                    # At once if it forgot us; after a goodbye somebody else may come to be there.
                    pause = 0.0 if reason.startswith("forgotten") else session.peer.bound
                    dial.tries = 0
                    self.timers.set(("hello", dial.link), now + pause)


def _spoken(link: Link) -> str:
    return str(link[1]) if isinstance(link, tuple) and len(link) > 1 else str(link)
