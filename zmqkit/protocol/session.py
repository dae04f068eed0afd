"""One session: numbering, resumption and credit between two instances (docs/protocol.md, sections 4 and 5).

Pure. This file knows one session and nothing of handshakes, timers or other sessions; `zmqkit.protocol.sessions`
holds those. A session outlives its connections: `link` is the one it runs over now, None while there is none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from zmqkit.protocol.core import Frames, Link, Outputs
from zmqkit.protocol.wire import DATA, RESUME, STATE, Hello, pack

STATE_EVERY: Final = 32
"""After so many messages without an answer of ours, tell at once how far we have heard."""

STATE_BYTES: Final = 1 << 20
"""After so many bytes likewise, so that the other side need not keep them for long."""

INLINE_BYTES: Final = 16 * 1024
"""A body of one frame that is no larger rides in the header: to a small one a frame of its own costs more."""

MAX_PINGS_OUT: Final = 8
"""So many unanswered pings are remembered: the oldest one judges, the newest ones may be answered."""


class Session:
    """An ordered, lossless channel to one instance, over connections that break.

    Attributes:
        id: 8 bytes, chosen by the connecting side.
        peer: what the other instance said of itself.
        home: the link that we made for it; None where the other side made the connection.
        link: the connection that it runs over, None while there is none.
        attempt: of the newest HELLO that was taken; older ones come from connections that are gone.
        welcomed: of one that the other side connected for: it is known that WELCOME has come there.
        ended: it is lost for good; nothing is sent in it any more.
        sent: the newest number sent.
        heard: the newest number heard, all before it included.
        heard_by_peer: the newest number that the other side is known to have heard.
        outstanding: set by the pattern while something is owed either way: the heart then beats at full rate.
        beat_at: when the next ping is due.
        stating: it is set when the other side is to be told what we heard, if nothing else tells it before.
        unstated: how many messages came that nothing has told the other side of.
        unstated_bytes: of these.
        busy: the loop over there is silent, but its connection stands.
        trip: seconds from the newest ping that was answered to its answer; 0 before there is one.
    """

    __slots__ = (
        "_resent_at",
        "_resent_from",
        "_resume_asked",
        "_taken_bytes",
        "_taken_messages",
        "_told_bytes",
        "_told_messages",
        "_unheard",
        "attempt",
        "beat_at",
        "busy",
        "detached_at",
        "down_at",
        "ended",
        "heard",
        "heard_by_peer",
        "home",
        "id",
        "limit_bytes",
        "limit_messages",
        "link",
        "outstanding",
        "peer",
        "peer_bytes",
        "peer_messages",
        "ping",
        "pings_out",
        "probes",
        "sent",
        "stating",
        "trip",
        "unstated",
        "unstated_bytes",
        "used_bytes",
        "used_messages",
        "welcomed",
    )

    def __init__(self, peer: Hello, link: Link, *, dialled: bool) -> None:
        self.id = peer.session
        self.peer = peer
        self.home = link if dialled else None
        self.link: Link | None = link
        self.attempt = peer.attempt
        self.welcomed = False
        self.ended = False
        self.sent = 0
        self.heard = 0
        self.heard_by_peer = 0
        self._unheard: deque[tuple[int, int, Frames]] = deque()
        """(number, what it counts, frames) of messages that may have to be sent again."""
        self.stating = False
        self.unstated = 0
        self.unstated_bytes = 0
        self._resume_asked: float | None = None
        self._resent_at: float | None = None
        self._resent_from = 0
        # What the other side may send us: absolute limits, what of them it was told, what it has used.
        self.limit_messages = 0
        self.limit_bytes = 0
        self._told_messages = 0
        self._told_bytes = 0
        self._taken_messages = 0
        self._taken_bytes = 0
        # What we may send: the limits we were told, and what we have used.
        self.peer_messages = peer.credit_messages
        self.peer_bytes = peer.credit_bytes
        self.used_messages = 0
        self.used_bytes = 0
        # Liveness: the newest ping, and (number, time) of those not answered yet.
        self.beat_at = 0.0
        self.ping = 0
        self.pings_out: deque[tuple[int, float]] = deque()
        # Without a connection: since when, and when there was last a sign of one.
        self.detached_at = 0.0
        self.down_at = 0.0
        self.probes = 0
        self.busy = False
        self.outstanding = False
        self.trip = 0.0

    # ---- credit ------------------------------------------------------------------

    @property
    def room_messages(self) -> int:
        """How many more messages may be sent now; 0 when the limit in bytes is reached.

        A message may pass the limit in bytes if it began below it: a limit smaller than one message is no trap.
        """
        if self.used_bytes >= self.peer_bytes:
            return 0
        return self.peer_messages - self.used_messages

    @property
    def room_bytes(self) -> int:
        """How many more bytes may be sent now; one message may pass it."""
        return max(0, self.peer_bytes - self.used_bytes)

    @property
    def spent(self) -> bool:
        """The other side has used all the messages that it was allowed."""
        return self._taken_messages >= self.limit_messages

    @property
    def untold(self) -> bool:
        """The limits were raised since the other side was last told."""
        return self.limit_messages != self._told_messages or self.limit_bytes != self._told_bytes

    @property
    def active(self) -> bool:
        """Something is owed: beat at full rate."""
        return self.outstanding or bool(self._unheard) or bool(self.pings_out)

    @property
    def unheard(self) -> int:
        """How many messages were sent and are not known to be heard."""
        return len(self._unheard)

    def told(self) -> None:
        """A frame with our state goes out now."""
        self.unstated = self.unstated_bytes = 0
        self._told_messages, self._told_bytes = self.limit_messages, self.limit_bytes

    # ---- sending -----------------------------------------------------------------

    def header(self, kind: int, *more: object) -> bytes:
        """A header with the state that each frame carries: how far we heard, and the credit we give."""
        # `told` written out, for each frame without a number comes here.
        self.unstated = self.unstated_bytes = 0
        self._told_messages, self._told_bytes = self.limit_messages, self.limit_bytes
        return pack((kind, self.id, self.heard, self.limit_messages, self.limit_bytes, *more))

    def send(self, out: Outputs, frames: Frames, messages: int) -> int:
        """Number one message and send it, or keep it for the next connection. Returns its number."""
        if self.ended:
            return self.sent
        self.sent = number = self.sent + 1
        self._unheard.append((number, messages, frames))
        if messages:
            self.used_messages += messages
            self.used_bytes += sum(map(len, frames))
        if self.link is not None:
            out.sends.append((self.link, self._data(number, messages, frames)))
        return number

    def _data(self, number: int, messages: int, frames: Frames) -> Frames:
        """The frames of DATA: a small body rides in the header."""
        # `header` written out, for each message comes here.
        self.unstated = self.unstated_bytes = 0
        self._told_messages, self._told_bytes = self.limit_messages, self.limit_bytes
        state = [DATA, self.id, self.heard, self.limit_messages, self.limit_bytes, number, messages]
        if len(frames) == 1 and len(frames[0]) <= INLINE_BYTES:
            state.append(frames[0])
            return (pack(state),)
        return (pack(state), *frames)

    def tell(self, out: Outputs, kind: int = STATE, *more: object) -> None:
        """Send a frame that is not numbered, if there is a connection."""
        if self.link is not None:
            out.sends.append((self.link, [self.header(kind, *more)]))

    def may_resend(self, now: float, pause: float) -> bool:
        """Whether to answer another request to send again: only if something was heard since, or after a pause.

        Otherwise a few bytes from a stranger, repeated, would fetch all that is unheard each time.
        """
        return self._resent_at is None or self.heard_by_peer > self._resent_from or now >= self._resent_at + pause

    def resend(self, out: Outputs, now: float) -> int:
        """Send again all that is not known to be heard. Returns how many messages those are."""
        if self.link is None:
            return 0
        self._resent_at, self._resent_from = now, self.heard_by_peer
        for number, messages, frames in self._unheard:
            out.sends.append((self.link, self._data(number, messages, frames)))
        return len(self._unheard)

    # ---- receiving ---------------------------------------------------------------

    def hear(self, heard: int, credit_messages: int, credit_bytes: int) -> bool | None:
        """Take in the state of a frame. True: news of what was heard; False: none; None: it claims the impossible."""
        if heard > self.sent:
            return None
        # Frames may overtake each other over a new connection: limits only ever rise.
        if credit_messages > self.peer_messages:
            self.peer_messages = credit_messages
        if credit_bytes > self.peer_bytes:
            self.peer_bytes = credit_bytes
        if heard <= self.heard_by_peer:
            return False
        self.heard_by_peer = heard
        unheard = self._unheard
        while unheard and unheard[0][0] <= heard:
            unheard.popleft()
        return True

    def take(self, number: int, messages: int, body: Sequence[bytes]) -> str:
        """Take in a numbered message.

        Returns "next", "old" (heard before), "hole" (one before it is missing) or "excess" (over the credit).
        """
        if number <= self.heard:
            return "old"
        if number > self.heard + 1:
            return "hole"
        size = sum(map(len, body))
        if messages:
            if self._taken_messages + messages > self.limit_messages or self._taken_bytes >= self.limit_bytes:
                return "excess"
            self._taken_messages += messages
            self._taken_bytes += size
        self.heard = number
        self.unstated += 1
        self.unstated_bytes += size
        self._resume_asked = None
        return "next"

    def ask_resume(self, out: Outputs, now: float, again_after: float) -> bool:
        """A number is missing: ask for all after the newest heard, once in a while. Returns whether it was asked."""
        if self._resume_asked is not None and now < self._resume_asked + again_after:
            return False
        self._resume_asked = now
        self.tell(out, RESUME)
        return True

    # ---- liveness ----------------------------------------------------------------

    def ping_out(self, now: float) -> int:
        """Number a ping, and remember that it waits for its answer."""
        self.ping += 1
        if len(self.pings_out) >= MAX_PINGS_OUT:
            self.pings_out.pop()
        self.pings_out.append((self.ping, now))
        return self.ping

    def answered(self, number: int, now: float) -> bool:
        """A ping was answered, and with it all before it. False: that is old news."""
        pings = self.pings_out
        if not pings or pings[0][0] > number:
            return False
        while pings and pings[0][0] <= number:
            self.trip = now - pings.popleft()[1]
        return True

    # ---- connections -------------------------------------------------------------

    def attach(self, link: Link) -> None:
        """Go on over this connection. Pings that the old one swallowed are no proof of death."""
        self.link = link
        self.probes = 0
        self.busy = False
        self.pings_out.clear()
        self._resume_asked = None

    def detach(self, now: float) -> None:
        """The connection is gone; the session is not."""
        self.link = None
        self.detached_at = self.down_at = now

    def end(self) -> None:
        """It is lost for good."""
        self.ended = True
        self.link = None
