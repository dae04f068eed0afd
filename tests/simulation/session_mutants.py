"""Bugs planted into the session layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tests.simulation.mutants import Mutant, replaced
from zmqkit.protocol.core import Frames, Link, Outputs
from zmqkit.protocol.handshake import Handshake
from zmqkit.protocol.liveness import Liveness
from zmqkit.protocol.session import Session
from zmqkit.protocol.sessions import Sessions
from zmqkit.protocol.wire import DATA, PING


def credit_is_an_increment(old: Callable[..., bool | None]) -> Callable[..., bool | None]:
    def hear(self: Session, heard: int, credit_messages: int, credit_bytes: int) -> bool | None:
        messages, size = self.peer_messages, self.peer_bytes
        found = old(self, heard, credit_messages, credit_bytes)
        if credit_messages > messages:
            self.peer_messages = messages + credit_messages
            self.peer_bytes = size + credit_bytes
        return found

    return hear


def an_old_frame_lowers_limits(old: Callable[..., bool | None]) -> Callable[..., bool | None]:
    def hear(self: Session, heard: int, credit_messages: int, credit_bytes: int) -> bool | None:
        self.peer_messages, self.peer_bytes = credit_messages, credit_bytes
        return old(self, heard, credit_messages, credit_bytes)

    return hear


def hears_one_too_many(old: Callable[..., bool | None]) -> Callable[..., bool | None]:
    def hear(self: Session, heard: int, credit_messages: int, credit_bytes: int) -> bool | None:
        return old(self, min(heard + 1, self.sent) if heard < self.sent else heard, credit_messages, credit_bytes)

    return hear


def resend_forgets_one(old: Callable[..., int]) -> Callable[..., int]:
    def resend(self: Session, out: Outputs, now: float) -> int:
        if len(self._unheard) > 1:
            self._unheard.popleft()
        return old(self, out, now)

    return resend


def counts_before_the_hole_check(old: Callable[..., str]) -> Callable[..., str]:
    def take(self: Session, number: int, messages: int, body: Sequence[bytes]) -> str:
        verdict = old(self, number, messages, body)
        if verdict == "hole":
            self.heard = number
        return verdict

    return take


def takes_what_was_heard(old: Callable[..., str]) -> Callable[..., str]:
    def take(self: Session, number: int, messages: int, body: Sequence[bytes]) -> str:
        verdict = old(self, number, messages, body)
        return "next" if verdict == "old" and number == self.heard else verdict

    return take


def jumps_over_holes(old: Callable[..., str]) -> Callable[..., str]:
    def take(self: Session, number: int, messages: int, body: Sequence[bytes]) -> str:
        if number > self.heard + 1:
            self.heard = number - 1
        return old(self, number, messages, body)

    return take


def never_asks_to_resume(old: Callable[..., bool]) -> Callable[..., bool]:
    def ask_resume(self: Session, out: Outputs, now: float, again_after: float) -> bool:
        return False

    return ask_resume


def ignores_lost(old: Callable[..., None]) -> Callable[..., None]:
    def receive_lost(self: Handshake, link: Link, name: object, now: float) -> None:
        self.counters["frames_stray"] += 1

    return receive_lost


def busy_is_dead(old: Callable[..., None]) -> Callable[..., None]:
    def judge(self: Liveness, session: Session, now: float) -> None:
        old(self, session, now)
        if session.busy and not session.ended:
            self._end(session, "silent", now)

    return judge


def any_frame_is_life(old: Callable[..., None]) -> Callable[..., None]:
    def receive(self: Sessions, link: Link, kind: int, header: list[Any], frames: Frames, now: float) -> None:
        old(self, link, kind, header, frames, now)
        session = self._by_link.get(link)
        if session is not None and kind in (DATA, PING):
            self._alive(session, session.ping, now)

    return receive


def gives_no_grace(old: Callable[..., None]) -> Callable[..., None]:
    def link_lost(self: Liveness, session: Session, now: float) -> None:
        old(self, session, now)
        if not session.ended:
            self._end(session, "silent", now)

    return link_lost


def silence_is_no_death(old: Callable[..., None]) -> Callable[..., None]:
    def judge(self: Liveness, session: Session, now: float) -> None:
        if session.link is not None:
            old(self, session, now)

    return judge


def an_id_begins_again(old: Callable[..., None]) -> Callable[..., None]:
    def has_ended(self: Handshake, session: Session, *more: Any) -> None:
        old(self, session, *more)
        self._past.clear()

    return has_ended


def lost_answers_a_wanted_id(old: Callable[..., None]) -> Callable[..., None]:
    def receive_stray(self: Sessions, link: Link, kind: int, name: object) -> None:
        dial = self._dials.get(link)
        wanted = dial.wanted if dial is not None else b""
        if dial is not None:
            dial.wanted = b""
        old(self, link, kind, name)
        if dial is not None:
            dial.wanted = wanted

    return receive_stray


def attaches_without_resending(old: Callable[..., None]) -> Callable[..., None]:
    def attach(self: Session, link: Link) -> None:
        old(self, link)
        self._unheard.clear()

    return attach


def ping_tells_nothing_of_holes(old: Callable[..., None]) -> Callable[..., None]:
    def check_hole(self: Handshake, session: Session, sent: int, now: float) -> None:
        return None

    return check_hole


MUTANTS = [
    Mutant(name, "sessions", lambda owner=owner, method=method, make=make: replaced(owner, method, make))  # type: ignore[misc]
    for name, owner, method, make in (
        ("takes credit for an increment", Session, "hear", credit_is_an_increment),
        ("lets an old frame lower the limits", Session, "hear", an_old_frame_lowers_limits),
        ("takes one more for heard", Session, "hear", hears_one_too_many),
        ("forgets one when it sends again", Session, "resend", resend_forgets_one),
        ("counts as heard before it looks for a hole", Session, "take", counts_before_the_hole_check),
        ("takes a message twice", Session, "take", takes_what_was_heard),
        ("jumps over holes", Session, "take", jumps_over_holes),
        ("never asks for what is missing", Session, "ask_resume", never_asks_to_resume),
        ("looks for no holes", Handshake, "_check_hole", ping_tells_nothing_of_holes),
        ("forgets the unheard at a new connection", Session, "attach", attaches_without_resending),
        ("ignores LOST", Handshake, "_receive_lost", ignores_lost),
        ("takes busy for dead", Liveness, "_judge", busy_is_dead),
        ("takes any frame for life", Sessions, "_receive_in_session", any_frame_is_life),
        ("gives no grace to come back", Liveness, "_link_lost", gives_no_grace),
        ("never takes silence for death", Liveness, "_judge", silence_is_no_death),
        ("begins a session twice under one id", Handshake, "_has_ended", an_id_begins_again),
        ("answers LOST for the id that it asked for", Sessions, "_receive_stray", lost_answers_a_wanted_id),
    )
]
