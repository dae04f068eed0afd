"""How sessions begin and go on over a new connection (docs/protocol.md, section 3).

Pure. The connecting side says HELLO on each new connection, until the binding side answers; the table of sessions and
their judgement lie below, in `zmqkit.protocol.liveness`.
"""

from __future__ import annotations

import random
from typing import Any, Final

from zmqkit.address import bare
from zmqkit.errors import DecodeError
from zmqkit.events import PeerFound, PeerRefused, PeerResumed
from zmqkit.options import Backoff
from zmqkit.protocol import wire
from zmqkit.protocol.core import Link, Outputs
from zmqkit.protocol.liveness import Liveness
from zmqkit.protocol.local import Heard, Local, Opened
from zmqkit.protocol.session import Session
from zmqkit.protocol.wire import GOODBYE, HELLO, LOST, REFUSED, VERSION, WELCOME, Hello

MAX_SESSIONS: Final = 10_000
"""More peers than these are refused."""

MAX_PAST: Final = 4096
"""The ids of so many ended sessions are remembered: none of them begins again."""

REDIAL: Final = Backoff(first=0.25, factor=2.0, cap=5.0)
"""How long to wait for a WELCOME before HELLO is said again."""

REFUSED_FACTOR: Final = 5
"""Who was refused asks again so many times slower than `REDIAL.cap`: another program may come to be there."""

OFFENCES_OF_REFUSED: Final = 10
"""See `zmqkit.protocol.sessions.MAX_OFFENCES`."""

FORGOTTEN: Final = "forgotten by the other side"
WENT_BACK: Final = "the other side went back in time"


class Dial:
    """A connection that we make: which session runs, or shall run, over it."""

    __slots__ = ("left", "link", "listening", "refused", "replaces", "session", "since", "tries", "wanted")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.session: Session | None = None
        self.wanted = b""
        self.replaces = b""
        self.refused = False
        self.since = 0
        """The first attempt over the connection that stands: what answers an older one is old."""
        self.tries = 0
        self.listening = False
        """The other side says HELLO over the connection that stands."""
        self.left = False
        """We dial there no more: all that is left is its session."""


class Handshake(Liveness):
    """Begins and resumes sessions. See `Liveness` for the arguments."""

    def __init__(self, local: Local, out: Outputs, counters: dict[str, int | float], rng: random.Random) -> None:
        super().__init__(local, out, counters, rng)
        self._dials: dict[Link, Dial] = {}
        self._attempts = 0
        self._past: dict[bytes, None] = {}

    # ---- the connecting side -----------------------------------------------------

    def _hello(self, session: Session | None, name: bytes, attempt: int, *, resume: bool, replaces: bytes) -> Hello:
        local = self.local
        return Hello(
            session=name,
            attempt=attempt,
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

    def _say_hello(self, dial: Dial, now: float) -> None:
        if dial.link not in self._standing:
            return
        session = dial.session
        if session is None and not dial.wanted:
            dial.wanted = self._rng.randbytes(8)
        name = session.id if session is not None else dial.wanted
        self._attempts += 1
        hello = self._hello(session, name, self._attempts, resume=session is not None, replaces=dial.replaces)
        self._out.sends.append((dial.link, [hello.pack(HELLO)]))
        dial.tries += 1
        ceiling = REDIAL.ceiling(dial.tries)
        self.timers.set(("hello", dial.link), now + ceiling * (0.5 + 0.5 * self._rng.random()))

    def _greet_again(self, session: Session, now: float) -> None:
        dial = self._dials.get(session.home) if session.home is not None else None
        if dial is not None and dial.session is session:
            self._say_hello(dial, now)

    def _take_back(self, dial: Dial, reason: str) -> None:
        """Say GOODBYE in a session that was asked for: whoever has begun it need not learn by silence that we are
        gone."""
        if dial.wanted and dial.link in self._standing:
            self._out.sends.append((dial.link, [wire.pack([GOODBYE, dial.wanted, 0, 0, 0, reason, 0])]))

    def _receive_welcome(self, link: Link, fields: object, now: float) -> None:
        low, high = wire.versions(fields)
        hello = wire.read_hello(fields)
        dial = self._dials.get(link)
        if dial is None or link not in self._standing or not dial.since <= hello.attempt <= self._attempts:
            self.counters["frames_stray"] += 1
            return
        session = dial.session
        if hello.session != (dial.wanted if session is None else session.id):
            self.counters["frames_stray"] += 1
            return
        code, reason = self._objection(low, high, hello.role)
        if code:
            self._out.sends.append((link, [wire.pack([LOST, hello.session])]))
            self._turned_away(dial, code, reason, now)
            return
        if session is None:
            if hello.heard:
                raise DecodeError("WELCOME to a new session in which something was heard")
            dial.wanted = dial.replaces = b""
            dial.session = session = self._begin(hello, link, now, dialled=True)
            if hello.sent:  # an earlier WELCOME was lost, and what followed it
                self._check_hole(session, hello.sent, now)
        else:
            resumed = session.link is None
            if resumed and (
                session.peer.instance != hello.instance
                or hello.heard < session.heard_by_peer
                or hello.sent < session.heard
            ):
                # It was restored from an earlier state of itself: what it forgot cannot be sent again.
                self._end(session, WENT_BACK, now)
                return
            if resumed:
                self._attach(session, link, now)
            self._take_state(session, hello)
            if resumed:
                self._resume(session, now)
        self._astray.discard(link)
        dial.tries = 0
        dial.refused = False
        self.timers.cancel(("hello", link))

    def _receive_refused(self, link: Link, header: list[Any], now: float) -> None:
        code = wire.text(header[1], "code", 32)
        reason = wire.text(header[2], "reason") if len(header) > 2 else ""
        dial = self._dials.get(link)
        if (
            dial is None
            or dial.listening
            or link not in self._standing
            or (dial.session is not None and dial.session.link is not None)
        ):
            self.counters["frames_stray"] += 1
            return
        self._turned_away(dial, code, reason, now)

    def _turned_away(self, dial: Dial, code: str, reason: str, now: float) -> None:
        self.counters["handshakes_refused"] += 1
        if dial.session is not None:
            self._end(dial.session, f"refused: {code}", now)
        if code == "session":
            dial.wanted = b""
        if not dial.refused:
            dial.refused = True
            self._out.events.append(PeerRefused(self.local.name, "", code, reason))
        pause = REFUSED_FACTOR * REDIAL.cap * (0.5 + 0.5 * self._rng.random())
        self.timers.set(("hello", dial.link), now + pause)

    def _receive_lost(self, link: Link, name: object, now: float) -> None:
        dial = self._dials.get(link)
        session = dial.session if dial is not None and not dial.listening else self._by_link.get(link)
        if session is not None and session.id == name:
            self._end(session, FORGOTTEN, now)
            return
        if dial is not None and session is None and dial.wanted == name:
            dial.wanted = b""  # that id was used up: the next HELLO takes another
        self.counters["frames_stray"] += 1

    # ---- the binding side --------------------------------------------------------

    def _receive_hello(self, link: Link, fields: object, now: float) -> None:
        low, high = wire.versions(fields)
        if not low <= VERSION <= high:
            self._refuse(link, *self._objection(low, high, ""), fields)
            return
        hello = wire.read_hello(fields)
        code, reason = self._objection(low, high, hello.role)
        if code:
            self._refuse(link, code, reason, fields)
            return
        if self._closed:
            self._refuse(link, "closed", "this side is closing", fields)
            return
        dial = self._dials.get(link)
        if dial is not None and not dial.listening:
            raise DecodeError("HELLO from a side that we dialled")
        session = self._by_id.get(hello.session)
        if session is None:
            self._open(link, hello, fields, now)
        elif session.home is not None or session.peer.instance != hello.instance:
            self._refuse(link, "session", "that session belongs to another instance", fields)
        else:
            self._go_on(session, link, hello, now)

    def _open(self, link: Link, hello: Hello, fields: object, now: float) -> None:
        if hello.resume or hello.session in self._past:
            self._out.sends.append((link, [wire.pack([LOST, hello.session])]))
            return
        if hello.heard or hello.sent:
            raise DecodeError("HELLO to a new session in which something was said")
        given_up = self._by_id.get(hello.replaces)
        if given_up is not None and given_up.home is None and given_up.peer.instance == hello.instance:
            self._end(given_up, "replaced", now)
        self._take_over(link, None, now)
        if len(self._by_id) >= MAX_SESSIONS:
            self._refuse(link, "full", f"{MAX_SESSIONS} sessions are open", fields)
            return
        self._welcome(self._begin(hello, link, now, dialled=False))

    def _go_on(self, session: Session, link: Link, hello: Hello, now: float) -> None:
        moved = session.link != link
        if hello.attempt <= session.attempt or (
            moved and (hello.heard < session.heard_by_peer or hello.sent < session.heard)
        ):
            # Of a connection that is gone: a stopped reader finds several, and libzmq deals them in any order. Or a
            # peer that was restored from an earlier state of itself, which must not go on.
            self.counters["frames_stray"] += 1
            return
        elsewhere = session.welcomed and link != session.link
        if not hello.resume and (elsewhere or hello.about != session.peer.about):
            # Restored from a state before it was welcomed, with the same ids; perhaps opened anew: it is another peer.
            # Over the link of the session it may have been said before WELCOME came.
            self._end(session, WENT_BACK, now)
            self._out.sends.append((link, [wire.pack([LOST, hello.session])]))
            return
        if hello.heard > session.sent:
            raise DecodeError(f"HELLO claims to have heard {hello.heard}; only {session.sent} were sent")
        session.attempt = hello.attempt
        self._take_over(link, session, now)
        if moved:
            self._attach(session, link, now)
        self._welcome(session)
        self._take_state(session, hello)
        if moved:
            self._resume(session, now)
        else:
            self._resend(session, now)  # our WELCOME was lost, and perhaps what followed it

    def _take_over(self, link: Link, session: Session | None, now: float) -> None:
        """One connection carries one session: what ran over it before was given up."""
        other = self._by_link.get(link)
        if other is not None and other is not session:
            self._end(other, "replaced", now)

    def _welcome(self, session: Session) -> None:
        assert session.link is not None
        welcome = self._hello(session, session.id, session.attempt, resume=True, replaces=b"")
        session.told()
        self._out.sends.append((session.link, [welcome.pack(WELCOME)]))

    def _refuse(self, link: Link, code: str, reason: str, fields: object) -> None:
        self.counters["handshakes_refused"] += 1
        self._offended(link, OFFENCES_OF_REFUSED)
        self._out.sends.append((link, [wire.pack([REFUSED, code, reason])]))
        instance = fields.get("instance") if isinstance(fields, dict) else b""
        shown = instance[:16].hex() if isinstance(instance, bytes) else ""
        self._out.events.append(PeerRefused(self.local.name, shown, code, reason))

    # ---- both --------------------------------------------------------------------

    def _objection(self, low: int, high: int, role: str) -> tuple[str, str]:
        """Why we do not work with such a side, as a code and for people; empty if we do."""
        if not low <= VERSION <= high:
            return "version", f"this side speaks version {VERSION}, the other {low} to {high}"
        if role not in self.local.accepts:
            wanted = " or ".join(sorted(self.local.accepts))
            return "role", f"this side is {self.local.role} and works with {wanted}, not {role}"
        return "", ""

    def _begin(self, hello: Hello, link: Link, now: float, *, dialled: bool) -> Session:
        session = Session(hello, link, dialled=dialled)
        session.limit_messages, session.limit_bytes = self.local.credit_messages, self.local.credit_bytes
        self._by_id[session.id] = self._by_link[link] = session
        self.counters["sessions_opened"] += 1
        self._set_beat(session, now + self._interval(session))
        self.ups.append(Opened(session))
        self._out.events.append(PeerFound(self.local.name, hello.instance.hex(), _spoken(link)))
        return session

    def _take_state(self, session: Session, hello: Hello) -> None:
        if session.hear(hello.heard, hello.credit_messages, hello.credit_bytes) is None:
            raise DecodeError(f"HELLO claims to have heard {hello.heard}; only {session.sent} were sent")
        self.ups.append(Heard(session))

    def _resume(self, session: Session, now: float) -> None:
        resent = session.resend(self._out, now)
        self.counters["sessions_resumed"] += 1
        self.counters["messages_resent"] += resent
        self._out.events.append(PeerResumed(self.local.name, session.peer.instance.hex(), resent))

    def _resend(self, session: Session, now: float) -> None:
        """Send again what is not heard, unless that was done a moment ago."""
        pause = 0.5 * min(self.local.heartbeat.interval, session.peer.interval)
        if session.may_resend(now, pause):
            self.counters["messages_resent"] += session.resend(self._out, now)

    def _check_hole(self, session: Session, sent: int, now: float) -> None:
        if sent > session.heard and session.ask_resume(self._out, now, self.local.heartbeat.interval):
            self.counters["resumes_asked"] += 1

    def _has_ended(self, session: Session, link: Link | None, reason: str, now: float) -> None:
        home = session.home
        if home is None:
            self._past[session.id] = None
            if len(self._past) > MAX_PAST:
                del self._past[next(iter(self._past))]
            return
        self._astray.discard(home)
        dial = self._dials.get(home)
        if dial is None or dial.session is not session:
            return
        if dial.left:
            del self._dials[home]
            self.timers.cancel(("hello", home))
            return
        dial.session = None
        dial.replaces = session.id
        if home in self._standing and not self._closed:
            dial.tries = 0
            if reason in (FORGOTTEN, WENT_BACK):
                self._say_hello(dial, now)
            else:  # after a goodbye somebody else may come to be there
                self.timers.set(("hello", home), now + session.peer.bound)


def _spoken(link: Link) -> str:
    return bare(str(link[1])) if isinstance(link, tuple) and len(link) > 1 else str(link)
