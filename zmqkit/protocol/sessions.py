"""All sessions of one peer object: what runs in them, and the layer's face (docs/protocol.md, sections 4 to 6).

Pure. Knows nothing of patterns: it is told the role it plays and the roles it accepts, and puts what the pattern
must know into `ups`. The pattern's core hands on the link inputs and timers, then empties `ups`. Connections are in
`zmqkit.protocol.links`, handshakes in `zmqkit.protocol.handshake`, life and death in `zmqkit.protocol.liveness`.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterator
from typing import Any, Final

import msgpack

from zmqkit.errors import DecodeError
from zmqkit.events import BadFrame
from zmqkit.protocol import wire
from zmqkit.protocol.core import Frames, Link, Outputs
from zmqkit.protocol.handshake import MAX_SESSIONS
from zmqkit.protocol.links import Links
from zmqkit.protocol.local import Heard, Local, Received
from zmqkit.protocol.session import STATE_BYTES, STATE_EVERY, Session
from zmqkit.protocol.wire import (
    DATA,
    GONE,
    GOODBYE,
    HELLO,
    LOST,
    MAX_NUMBER,
    MORE,
    PING,
    PONG,
    REFUSED,
    RESUME,
    WELCOME,
)  # fmt: skip

MAX_OFFENCES: Final = 1000
"""A connection over which so many frames came for sessions that are not there is of no more use..."""

OFFENCES_OF_BAD: Final = 10
"""...and one that is bad, or a HELLO that is refused, counts for so many: an honest peer has hardly any."""

STATE_DELAY: Final = 0.02
"""Seconds after which the other side is told what we heard, if nothing else has told it."""

_unpack = msgpack.unpackb
_INT = {int}
_DATA_WITH_BODY = bytes((0x98, DATA))
"""How msgpack begins a list of eight whose first is DATA; whoever writes it longer goes the long way."""


class Sessions(Links):
    """The sessions of one peer object.

    Args:
        local: what we say of ourselves.
        out: where sends, events and probes go.
        counters: what is counted by name.
        rng: ids and jitter; `random.SystemRandom` outside of simulations.

    Attributes:
        ups: what the pattern above must know, in order; it empties the list.
        granted: sessions whose limits were raised in this turn.
    """

    def __init__(self, local: Local, out: Outputs, counters: dict[str, int | float], rng: random.Random) -> None:
        super().__init__(local, out, counters, rng)
        self.granted: dict[bytes, Session] = {}
        counters.setdefault("links_expelled", 0)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    # ---- verbs of the pattern ----------------------------------------------------

    def send(self, session: Session, frames: Frames, messages: int, now: float) -> int:
        """Send one message; `messages` is what it counts against the credit (0: control). Returns its number.

        In a session that has ended nothing is sent: its `Lost` is on the way up.
        """
        number = session.send(self._out, frames, messages)
        if session.beat_at > now + session.peer.interval:
            self._quicken(session, now)
        return number

    def grant(self, session: Session, messages: int, size_bytes: int) -> None:
        """Raise the absolute limits of what the other side may send; told with the next frame or at the turn's end."""
        session.limit_messages = max(session.limit_messages, messages)
        session.limit_bytes = max(session.limit_bytes, size_bytes)
        self.granted[session.id] = session

    def owe(self, session: Session, outstanding: bool, now: float) -> None:
        """Say whether something is owed in this session, so that it beats at full rate."""
        if session.outstanding != outstanding:
            session.outstanding = outstanding
            if outstanding and session.beat_at > now + session.peer.interval:
                self._quicken(session, now)

    def end_turn(self, now: float) -> None:
        """Tell those whose credit was raised and who heard nothing from us since."""
        if self.granted:
            for session in self.granted.values():
                if session.untold:
                    session.tell(self._out)
            self.granted.clear()

    def goodbye(self, session: Session, reason: str, now: float) -> None:
        """End a session from our side. Again: nothing happens."""
        self._say_goodbye(session, reason, now)

    def close(self, now: float, reason: str = "closed") -> None:
        """Say goodbye to all, for good."""
        self._closed = True
        for session in list(self._by_id.values()):
            self._say_goodbye(session, reason, now)
        for dial in self._dials.values():
            self.timers.cancel(("hello", dial.link))
            self._take_back(dial, reason)
        for address in self._further:
            self.timers.cancel(("fewer", address))
        self._dials.clear()
        self._standing.clear()

    # ---- links -------------------------------------------------------------------

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

    # ---- messages ----------------------------------------------------------------

    def receive_message(self, link: Link, frames: Frames, now: float) -> None:
        """One message from the wire. Never raises: what is bad is counted."""
        try:
            if not frames or len(frames[0]) > wire.MAX_SESSION_HEADER_BYTES:
                raise DecodeError("a message without a header, or with one that is too large")
            header = wire.unpack(frames[0])
            if type(header) is not list or not header or type(header[0]) is not int:
                raise DecodeError("a message without a header")
            kind = header[0]
            if DATA <= kind <= GOODBYE:
                self._receive_in_session(link, kind, header, frames, now)
            elif GONE <= kind <= MORE:
                self._receive_from_device(link, kind, header, now)
            elif len(header) < 2:
                raise DecodeError(f"a frame of kind {kind} with one field")
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
            self.bad_frame(link, str(error))

    def receive_next(self, link: Link, frames: Frames, now: float) -> tuple[Session, Frames, int, bool] | None:
        """The short way for nearly all messages: DATA with its body in the header, the next one of its session.

        Returns the session, the body's frames, what it counts, and whether the other side heard more or gave credit.
        None: it is another message, or not sound; nothing was done, and `receive_message` takes it.
        """
        head = frames[0]
        if head[:2] != _DATA_WITH_BODY or len(head) > wire.MAX_SESSION_HEADER_BYTES or len(frames) > 1:
            return None
        try:
            _, name, heard, cm, cb, number, messages, body = _unpack(head, max_ext_len=0)
        except Exception:
            return None
        session = self._by_link.get(link)
        if (
            session is None
            or name != session.id
            or type(body) is not bytes
            or {heard.__class__, cm.__class__, cb.__class__, number.__class__, messages.__class__} != _INT
            or not 0 <= heard <= session.sent
            or not 0 <= cm | cb | messages < MAX_NUMBER  # so is each of them
        ):
            return None
        pattern = (body,)
        if session.take(number, messages, pattern) != "next":
            return None
        news = cm > session.peer_messages or cb > session.peer_bytes
        news |= session.hear(heard, cm, cb) is True
        if not session.stating or session.unstated >= STATE_EVERY or session.unstated_bytes >= STATE_BYTES:
            self._state_soon(session, now)
        return session, pattern, messages, news

    def _state_soon(self, session: Session, now: float) -> None:
        """Tell the other side what we heard: now if it is much, else in a moment, unless something else tells it."""
        if session.unstated >= STATE_EVERY or session.unstated_bytes >= STATE_BYTES:
            session.tell(self._out)
        elif not session.stating:
            session.stating = True
            self.timers.set(("state", session.id), now + STATE_DELAY)

    def bad_frame(self, link: Link | None, reason: str) -> None:
        """Count, and tell by an event, something that breaks the protocol."""
        self.counters["frames_bad"] += 1
        self._out.events.append(BadFrame(self.local.name, reason))
        self._offended(link, OFFENCES_OF_BAD)

    def _offended(self, link: Link | None, weight: int) -> None:
        """Whoever says garbage faster than it can be thrown away would fill our memory with it."""
        if link is None:
            return
        offences = self._offences
        count = offences.pop(link, 0) + weight
        offences[link] = count
        if count - weight < MAX_OFFENCES <= count:
            self.counters["links_expelled"] += 1
            self._out.disconnects.append(link)
        if len(offences) > MAX_SESSIONS:
            del offences[next(iter(offences))]

    def _receive_in_session(self, link: Link, kind: int, header: list[Any], frames: Frames, now: float) -> None:
        if len(header) < 5:
            raise DecodeError(f"a frame of kind {kind} with {len(header)} fields")
        session = self._by_link.get(link)
        if session is None or session.id != header[1]:
            self._receive_stray(link, kind, header[1])
            return
        session.welcomed = True
        heard = wire.number(header[2], "heard")
        before = session.peer_messages, session.peer_bytes
        news = session.hear(heard, wire.number(header[3], "credit"), wire.number(header[4], "credit"))
        if news is None:
            raise DecodeError(f"{wire.NAMES[kind]} claims to have heard {heard}; only {session.sent} were sent")
        if news or (session.peer_messages, session.peer_bytes) != before:
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
            self._resend(session, now)
        elif kind == GOODBYE:
            reason = wire.text(header[5], "reason") if len(header) > 5 else ""
            self._end(session, f"goodbye: {reason}" if reason else "goodbye", now)

    def _receive_stray(self, link: Link, kind: int, name: object) -> None:
        """Of a session that we do not know (any more), or left over on an old connection."""
        known = wire.octets(name, "session", 8) in self._by_id
        self.counters["frames_stray"] += 1
        dial = self._dials.get(link)
        if dial is not None and dial.wanted == name:
            return  # it overtook its WELCOME
        self._offended(link, 1)
        if kind != GOODBYE and not known and not self._closed:
            self._out.sends.append((link, [wire.pack([LOST, name])]))

    @staticmethod
    def _two_numbers(header: list[Any]) -> tuple[int, int]:
        if len(header) < 7:
            raise DecodeError("a frame with fields missing")
        return wire.number(header[5], "number"), wire.number(header[6], "number")

    def _receive_data(self, session: Session, header: list[Any], frames: Frames, now: float) -> None:
        number, messages = self._two_numbers(header)
        body = frames[1:]
        if len(header) > 7 and header[7] is not None:
            if type(header[7]) is not bytes or body:
                raise DecodeError("DATA with two bodies, or one that is none")
            body = (header[7],)
        verdict = session.take(number, messages, body)
        if verdict == "next":
            self.ups.append(Received(session, body, messages))
            self._state_soon(session, now)
        elif verdict == "old":
            self.counters["messages_repeated"] += 1
        elif verdict == "hole":
            self.counters["messages_missed"] += 1
            self._check_hole(session, number, now)
        else:
            self.counters["credit_exceeded"] += 1
            self._say_goodbye(session, "credit exceeded", now)

    # ---- timers ------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `handle_timer` must be called. Changes nothing."""
        heap = self.timers.heap
        return heap[0][0] if heap else None

    def handle_timer(self, now: float) -> None:
        """Beat, judge, greet again: whatever is due."""
        due = self.timers.next()
        if due is not None and now > due + self.local.heartbeat.interval:
            self._overslept(now)
        while (key := self.timers.pop(now)) is not None:
            assert isinstance(key, tuple)
            what, name = key
            if what == "hello":
                self._say_hello(self._dials[name], now)
                continue
            if what == "fewer":
                self._leave_some(name, now)
                continue
            session = self._by_id[name]
            if what == "beat":
                self._beat(session, now)
            elif what == "dead":
                self._judge(session, now)
            elif what == "state":
                session.stating = False
                if session.unstated:
                    session.tell(self._out)
            else:
                self._probe(session, now)
