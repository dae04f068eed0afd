"""A small peer with pyzmq and msgpack alone, written from docs/protocol.md; sections are cited.

Nothing of zmqkit is imported here: it stands for a peer in another language. One thread, no timers of its own: it
lives while somebody calls `step`. It keeps to the protocol's MUSTs and leaves out what only makes it faster.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import msgpack
import zmq

HELLO, WELCOME, REFUSED, LOST, DATA, STATE, PING, PONG, RESUME, GOODBYE, GONE, LISTEN, MORE = range(1, 14)  # 2.2
DELIVER, SETTLE, SETTLED, HELD = range(1, 5)  # 7
NACK, REJECT, RELEASE, ISOLATE = range(1, 5)  # 7.3


def pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def unpack(data: bytes) -> Any:
    return msgpack.unpackb(data, raw=False, strict_map_key=False)


class RawPeer:
    """One session with one other side.

    Attributes:
        drop: asked for each frame that would go out: (header) -> it is lost.
        log: headers received, in order.
        refused: code and reason, if it was.
        over: why the session ended, if it did.
        listening: a device said that HELLO comes from the other side, over the connection that we made (15.1).
    """

    role = ""
    heartbeat = (1.0, 20)
    """Interval in seconds, and liveness, by which the other side judges us."""

    def __init__(
        self, *, connect: str = "", bind: str = "", credit: tuple[int, int] = (0, 0), instance: bytes = b""
    ) -> None:
        self.instance = instance or os.urandom(16)
        self.context = zmq.Context()
        self.binds = bool(bind)
        self.address = connect or bind
        self.credit = credit
        self.drop: Callable[[list[Any]], bool] = lambda header: False
        self.log: list[list[Any]] = []
        self.refused: tuple[str, str] | None = None
        self.over: str | None = None
        self.listening = False
        self.about: dict[str, Any] = {}
        self.other: dict[str, Any] = {}
        self.session = b""
        self.is_greeted = self.binds
        """HELLO comes from the other side: the session is its to resume."""
        self.welcomed = False
        self.link = b""
        self.attempt = 0
        self.taken_attempt = 0
        self.heard = self.sent = 0
        self.kept: dict[int, tuple[int, list[bytes]]] = {}
        self.used_messages = self.used_bytes = 0
        self.limits = (0, 0)
        self.ping = 0
        self.repeated = 0
        self.socket = self._open()
        if self.binds:
            self.socket.bind(bind)
            self.address = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        else:
            self.socket.connect(connect)
            self.say_hello()

    def _open(self) -> zmq.Socket[bytes]:
        made = self.context.socket(zmq.ROUTER if self.binds else zmq.DEALER)
        made.setsockopt(zmq.LINGER, 0)
        made.setsockopt(zmq.SNDHWM, 0)
        made.setsockopt(zmq.RCVHWM, 0)
        if self.binds:
            made.setsockopt(zmq.ROUTER_MANDATORY, 1)
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        self.socket.close(0)
        self.context.term()

    def reconnect(self) -> None:
        """1.1: a new socket for a new connection; 4.4: HELLO that resumes."""
        self.socket.close(0)
        self.socket = self._open()
        self.socket.connect(self.address)
        self.welcomed = self.listening = False
        if self.is_greeted:
            self.knock()
        else:
            self.say_hello(resume=True)

    # ---- out ------------------------------------------------------------------------

    def _put(self, header: list[Any], body: list[bytes]) -> None:
        if self.drop(header):
            return
        frames = [pack(header), *body]
        try:
            self.socket.send_multipart([self.link, *frames] if self.binds else frames, zmq.NOBLOCK)
        except zmq.ZMQError:
            assert self.binds  # EHOSTUNREACH: it will come back with HELLO

    def _session_frame(self, kind: int, *more: Any, body: list[bytes] | None = None) -> None:
        self._put([kind, self.session, self.heard, *self.credit, *more], body or [])

    def _greeting(self, resume: bool) -> dict[str, Any]:
        return {
            "zmqkit": [1, 1],
            "role": self.role,
            "instance": self.instance,
            "session": self.session,
            "attempt": self.taken_attempt if self.is_greeted else self.attempt,
            "resume": resume,
            "heard": self.heard,
            "sent": self.sent,
            "credit": list(self.credit),
            "heartbeat": list(self.heartbeat),
            "about": self.about,
        }

    def say_hello(self, resume: bool = False) -> None:
        """3.2"""
        if not resume:
            self.session = os.urandom(8)
        self.attempt += 1
        self._put([HELLO, self._greeting(resume)], [])

    def knock(self) -> None:
        """15.1: the session is the other side's to resume; LISTEN will answer this HELLO."""
        self.attempt += 1
        new = {"session": os.urandom(8), "attempt": self.attempt, "heard": 0, "sent": 0}
        self._put([HELLO, {**self._greeting(False), **new}], [])

    def send(self, body: list[bytes], messages: int) -> int:
        """4.1; the caller minds the credit (5.2)."""
        self.sent += 1
        self.kept[self.sent] = (messages, body)
        if messages:
            self.used_messages += messages
            self.used_bytes += sum(map(len, body))
        if self.welcomed:
            self._session_frame(DATA, self.sent, messages, body=body)
        return self.sent

    def has_room(self, messages: int) -> bool:
        """5.2"""
        return self.used_messages + messages <= self.limits[0] and self.used_bytes < self.limits[1]

    def say_ping(self) -> None:
        """6.1"""
        self.ping += 1
        self._session_frame(PING, self.ping, self.sent)

    def say_state(self) -> None:
        """4.2"""
        self._session_frame(STATE)

    def say_goodbye(self, reason: str) -> None:
        """6.4"""
        self._session_frame(GOODBYE, reason, self.sent)
        self.over = reason

    def _resend(self) -> None:
        for number, (messages, body) in sorted(self.kept.items()):
            self._session_frame(DATA, number, messages, body=body)

    # ---- in --------------------------------------------------------------------------

    def step(self, timeout_s: float = 0.05) -> bool:
        """Take one message, if one comes in time."""
        if not self.socket.poll(int(timeout_s * 1000)):
            return False
        frames = self.socket.recv_multipart()
        link = frames.pop(0) if self.binds else b""
        header = unpack(frames[0])
        self.log.append(header)
        kind = header[0]
        if kind == HELLO:
            self._take_hello(link, header[1])
        elif kind == WELCOME:
            self._take_welcome(header[1])
        elif kind == REFUSED:
            self.refused = (header[1], header[2])
        elif kind in (GONE, LISTEN, MORE):
            self._take_from_device(kind)
        elif header[1] != self.session or link != self.link:
            pass  # stray
        elif kind == LOST:
            self.over = "forgotten"
        else:
            self._take_session_frame(header, frames[1:])
        return True

    def until(self, done: Callable[[], object], patience_s: float = 20.0) -> None:
        """Step until something is so; a ping a quarter of a second keeps holes from staying (4.3)."""
        end = time.monotonic() + patience_s
        next_ping = 0.0
        while not done():
            assert time.monotonic() < end, f"waited in vain; the last frames were {self.log[-5:]}"
            if self.welcomed and time.monotonic() > next_ping:
                next_ping = time.monotonic() + 0.25
                self.say_ping()
            self.step()

    def _take_from_device(self, kind: int) -> None:
        """15.1; to have one connection where MORE says more is to reach one peer where there are more."""
        assert not self.binds
        if kind == GONE:
            self.reconnect()
        elif kind == LISTEN and not self.listening:
            self.listening = True
            if not self.is_greeted:
                self.is_greeted, self.session = True, b""

    def _take_hello(self, link: bytes, said: dict[str, Any]) -> None:
        assert self.binds or self.listening
        if said["session"] == self.session:
            if said["attempt"] <= self.taken_attempt:
                return  # 3.3
        else:
            self.session = said["session"]
            self.heard = self.sent = 0
            self.kept.clear()
        self.link, self.taken_attempt, self.other = link, said["attempt"], said
        self._put([WELCOME, self._greeting(True)], [])
        self._begin(said)

    def _take_welcome(self, said: dict[str, Any]) -> None:
        if said["session"] == self.session and said["attempt"] == self.attempt:
            self.other = said
            self._begin(said)

    def _begin(self, said: dict[str, Any]) -> None:
        self.welcomed = True
        self._hear(said["heard"], *said["credit"])
        self._resend()

    def _hear(self, heard: int, messages: int, size_bytes: int) -> None:
        assert heard <= self.sent, "it claims to have heard what was not said"
        for number in [each for each in self.kept if each <= heard]:
            del self.kept[number]
        self.limits = (max(self.limits[0], messages), max(self.limits[1], size_bytes))

    def _take_session_frame(self, header: list[Any], body: list[bytes]) -> None:
        kind = header[0]
        self._hear(*header[2:5])
        if kind == DATA:
            number, messages = header[5:7]
            if len(header) > 7 and header[7] is not None:
                assert not body
                body = [header[7]]
            if number == self.heard + 1:
                self.heard = number
                self.take(body, messages)
            elif number <= self.heard:
                self.repeated += 1
            else:
                self._session_frame(RESUME)
        elif kind == PING:
            self._session_frame(PONG, header[5], self.sent)
        elif kind == RESUME:
            self._resend()
        elif kind == GOODBYE:
            self.over = header[5]
        if kind in (PING, PONG) and header[6] > self.heard:
            self._session_frame(RESUME)

    def take(self, body: list[bytes], messages: int) -> None:
        """The pattern's business."""


class RawPuller(RawPeer):
    """7, from the puller's side.

    Attributes:
        held: lease -> (body, what is known of it).
        deliveries: all that came, in order.
        settled: ask -> stale ranges.
    """

    role = "pull"

    def __init__(self, *, connect: str = "", bind: str = "", credit: tuple[int, int] = (100, 1 << 20)) -> None:
        self.held: dict[int, tuple[Any, dict[str, Any]]] = {}
        self.deliveries: list[tuple[Any, dict[str, Any]]] = []
        self.settled: dict[int, list[int]] = {}
        self.highest = 0
        self.most_held = 0
        super().__init__(connect=connect, bind=bind, credit=credit)

    @property
    def epoch(self) -> bytes:
        epoch: bytes = self.other["about"]["epoch"]
        return epoch

    def take(self, body: list[bytes], messages: int) -> None:
        head = unpack(body[0])
        if head[0] == SETTLED:
            self.settled[head[1]] = head[2]
            return
        assert head[0] == DELIVER
        _, lease, sequence, origin, _, codec, lengths, more = head[:8]
        assert messages == len(lengths)
        assert sum(lengths) == len(body[1])
        assert lease > self.highest
        assert codec == "msgpack"
        at = 0
        for index, length in enumerate(lengths):
            value = unpack(body[1][at : at + length])
            at += length
            known = {name: each[index] for name, each in more.items() if name != "alone" and index in each}
            known["id"] = known.pop("ids", f"{origin}-{sequence + index}")
            known["alone"] = more.get("alone", False)
            self.held[lease + index] = (value, known)
            self.deliveries.append((value, known))
        self.highest = lease + len(lengths) - 1
        self.most_held = max(self.most_held, len(self.held))
        # 5: a message for a message; bytes at once, for nothing is kept.
        self.credit = (self.credit[0], self.credit[1] + sum(map(len, body)))

    def settle(self, acks: list[int], others: list[list[Any]], ask: int = 0, epoch: bytes | None = None) -> None:
        """7.3; acks are leases, one by one."""
        ranges = [each for lease in acks for each in (lease, lease)]
        for lease in [*acks, *(other[0] for other in others)]:
            if self.held.pop(lease, None) is not None:
                self.credit = (self.credit[0] + 1, self.credit[1])
        self.send([pack([SETTLE, self.epoch if epoch is None else epoch, ranges, others, ask])], 0)

    def say_held(self) -> None:
        """7.5"""
        ranges = [each for lease in sorted(self.held) for each in (lease, lease)]
        self.send([pack([HELD, self.epoch, self.highest, ranges])], 0)


class RawPusher(RawPeer):
    """7, from the pusher's side: no journal, one puller, every body by itself or in runs.

    Attributes:
        leased: lease -> index of the body.
        acked: indexes, in the order of their settling.
        others: (index, outcome, delay, reason) of what was not acked.
    """

    role = "push"

    def __init__(self, bodies: list[Any], *, connect: str = "", bind: str = "", run: int = 1) -> None:
        self.bodies = bodies
        self.run = run
        self.ready = list(range(len(bodies)))
        self.leased: dict[int, int] = {}
        self.acked: list[int] = []
        self.others: list[tuple[int, int, Any, str]] = []
        self.lease = 1
        self.stale = 0
        super().__init__(connect=connect, bind=bind)

    def _open(self) -> zmq.Socket[bytes]:
        self.about = {"epoch": self.instance}
        return super()._open()

    def deliver(self) -> None:
        """As far as there is credit."""
        while self.welcomed and self.ready and self.has_room(1):
            count = min(self.run, len(self.ready), self.limits[0] - self.used_messages)
            taken, self.ready = self.ready[:count], self.ready[count:]
            packed = [pack(self.bodies[index]) for index in taken]
            head = [DELIVER, self.lease, taken[0], "raw", 0, "msgpack", list(map(len, packed)), {}]
            for index in taken:
                self.leased[self.lease] = index
                self.lease += 1
            self.send([pack(head), b"".join(packed)], count)

    def take(self, body: list[bytes], messages: int) -> None:
        head = unpack(body[0])
        if head[0] == HELD:
            return
        assert head[0] == SETTLE
        _, epoch, acks, others, ask = head[:5]
        assert epoch == self.instance
        stale: list[int] = []
        for at in range(0, len(acks), 2):
            for lease in range(acks[at], acks[at + 1] + 1):
                if lease in self.leased:
                    self.acked.append(self.leased.pop(lease))
                else:
                    stale += (lease, lease)
        for lease, outcome, delay, reason, _ in others:
            if lease in self.leased:
                index = self.leased.pop(lease)
                self.others.append((index, outcome, delay, reason))
                if outcome != REJECT:
                    self.ready.append(index)
        self.stale += len(stale) // 2
        if ask or stale:
            self.send([pack([SETTLED, ask, stale])], 0)
