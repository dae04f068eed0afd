"""Garbage at the door: messages that are none of ours. Each is counted, and an honest peer beside it does its work."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from tests.bad_input.scenes import Scene, bound_puller, bound_pusher, dialling_puller, dialling_pusher, until
from tests.bad_input.strangers import (
    DATA,
    GOODBYE,
    LOST,
    REFUSED,
    STATE,
    WELCOME,
    Dealer,
    Router,
    deliver,
    greeting,
    pack,
)
from zmqkit import Pusher
from zmqkit.events import BadFrame, PeerFound, PeerLost, PeerRefused

NONSENSE: dict[str, list[bytes]] = {
    "bytes": [b"\xc1\xff garbage"],
    "text": [b"GET / HTTP/1.1\r\n\r\n"],
    "an empty frame": [b""],
    "several empty frames": [b"", b"", b""],
    "a number": [pack(7)],
    "a map": [pack({"kind": 1})],
    "an empty list": [pack([])],
    "a kind alone": [pack([5])],
    "a kind that is text": [pack(["5", b"session!"])],
    "a kind that is true": [pack([True, {}])],
    "a kind that is a float": [pack([1.0, {}])],
    "a kind that is negative": [pack([-1, {}])],
    "a kind that does not exist": [pack([14, b"session!", 0, 0, 0])],
    "a kind of 2**63": [pack([2**63, b"session!", 0, 0, 0])],
    "HELLO without a map": [pack([1, None])],
    "HELLO that is cut": [pack([1, greeting("pull")])[:-5]],
    "a header and more behind it": [pack([5, b"session!"]) + b"more"],
    "nests deeply": [b"\x91" * 60_000],
    "nests deeper than C": [b"\x81\x01" * 30_000],
    "claims a huge list": [b"\xdd\xff\xff\xff\xff" + b"\x00" * 50],
    "claims a huge map": [b"\xdf\xff\xff\xff\xff" + b"\x00" * 50],
    "claims huge bytes": [b"\x92\x01\xc6\xff\xff\xff\xff"],
    "claims huge text": [b"\x92\x01\xdb\xff\xff\xff\xff"],
    "an ext type": [b"\x92\x01\xc7\x04\x2atest"],
    "text that is not UTF-8": [b"\x92\x01\x81\xa4role\xa2\xff\xfe"],
    "a header of 70 KB": [pack([1, {"x": b"." * 70_000}])],
    "DATA with a session of 3 bytes": [pack([DATA, b"abc", 0, 0, 0, 1, 0])],
    "DATA of a session that is a list": [pack([DATA, [b"session!"], 0, 0, 0, 1, 0])],
    "DATA of a session that is a map": [pack([DATA, {}, 0, 0, 0, 1, 0])],
}

Bound = Callable[[], AbstractContextManager[Scene]]
BOUND: dict[str, tuple[Bound, str]] = {"pusher": (bound_pusher, "pull"), "puller": (bound_puller, "push")}


@pytest.mark.parametrize("kind", BOUND)
def test_nonsense_is_counted_and_told_each_time(kind: str) -> None:
    make, role = BOUND[kind]
    with make() as scene, Dealer(scene.peer.addresses[0], role) as stranger:
        stranger.enter()
        for count, frames in enumerate(NONSENSE.values(), start=1):
            stranger.say(*frames)
            stranger.settled()
            assert scene.count("frames_bad") == count, list(NONSENSE)[count - 1]
        assert len(scene.told(BadFrame, len(NONSENSE))) == len(NONSENSE)
        assert all(len(event.reason) < 300 for event in scene.told(BadFrame))
        scene.finish()
        scene.expect(sessions_lost=0, links_expelled=0)


@pytest.mark.parametrize("kind", ["puller", "pusher"])
def test_nonsense_from_an_address_that_we_dialled_is_counted(kind: str) -> None:
    make, role = {"puller": (dialling_puller, "push"), "pusher": (dialling_pusher, "pull")}[kind]
    with Router() as router, make(router.address) as scene:
        guest = router.guest()
        for frames in NONSENSE.values():
            guest.say(*frames)
        guest.welcome(role)
        router.settled(guest)
        scene.expect(frames_bad=len(NONSENSE), sessions_opened=2)
        scene.finish()


def test_a_message_of_thousands_of_frames_is_read_to_its_end_and_dropped() -> None:
    with bound_pusher() as scene, Dealer(scene.push.addresses[0], "pull") as stranger:
        stranger.enter()
        stranger.say(*[b""] * 20_000)
        stranger.say(stranger.header(STATE), *[b"x"] * 5_000)
        stranger.settled()
        scene.expect(io_oversize_messages=2, frames_bad=0)
        scene.finish()


def test_who_says_garbage_again_and_again_is_shown_the_door() -> None:
    with bound_pusher() as scene, Dealer(scene.push.addresses[0], "pull") as stranger:
        for _ in range(3000):
            stranger.say(b"\xc1")
        until(lambda: scene.count("links_expelled") >= 1)
        until(lambda: scene.count("io_connections_broken") >= 1)
        # 200 messages are taken at a time: what stands behind them is thrown away unseen.
        until(lambda: scene.count("frames_bad") + scene.count("io_expelled_messages") >= 1)
        assert scene.count("frames_bad") < 3000
        scene.finish()


def test_who_speaks_of_sessions_that_do_not_exist_is_answered_and_then_shown_the_door() -> None:
    with bound_puller() as scene, Dealer(scene.pull.addresses[0], "push") as stranger:
        stranger.session = b"nowhere!"
        stranger.say(stranger.header(STATE))
        assert stranger.answer(LOST) == [LOST, b"nowhere!"]
        stranger.say(stranger.header(GOODBYE, "never mind", 0))
        scene.expect(frames_stray=2)
        for _ in range(2000):
            stranger.say(stranger.header(STATE))
        until(lambda: scene.count("links_expelled") == 1)
        scene.finish()


# ---- wrong versions, wrong roles ---------------------------------------------------------


@pytest.mark.parametrize("versions", [[2, 9], [0, 0], [2**62, 2**63 - 1], [5, 3]])
def test_another_version_is_refused_by_name(versions: list[int]) -> None:
    with bound_puller() as scene, Dealer(scene.pull.addresses[0], "push") as stranger:
        answer = stranger.hello(zmqkit=versions, instance=b"i" * 16)
        assert answer[:2] == [REFUSED, "version"]
        assert f"version 1, the other {versions[0]} to {versions[1]}" in answer[2]
        scene.expect(handshakes_refused=1, frames_bad=0)
        (event,) = scene.told(PeerRefused, 1)
        assert (event.instance, event.code, event.reason) == ((b"i" * 16).hex(), "version", answer[2])
        scene.finish()


def test_a_version_of_the_future_may_have_other_fields() -> None:
    with bound_puller() as scene, Dealer(scene.pull.addresses[0], "push") as stranger:
        stranger.say(pack([1, {"zmqkit": [2, 3], "instance": 5, "anything": [1, {}]}, "more"]))
        assert stranger.answer(REFUSED)[1] == "version"
        scene.finish()


@pytest.mark.parametrize("role", ["pull", "serve", "", "PUSH", "\u1234" * 30])
def test_another_role_is_refused_by_name(role: str) -> None:
    with bound_puller() as scene, Dealer(scene.pull.addresses[0], "push") as stranger:
        answer = stranger.hello(role=role)
        assert answer == [REFUSED, "role", f"this side is pull and works with push, not {role}"]
        scene.expect(handshakes_refused=1)
        scene.finish()


def test_two_pushers_are_told_of_each_other_on_both_sides() -> None:
    with bound_pusher() as scene:
        told: list[PeerRefused] = []
        mistaken = Pusher(connect=scene.push.addresses[0], name="mistaken", linger=0)
        mistaken.on(PeerRefused, told.append)
        with mistaken:
            until(lambda: told and scene.told(PeerRefused))
            assert int(mistaken.stats()["handshakes_refused"]) == 1
            instance = mistaken._core.local.instance.hex()
        reason = "this side is push and works with pull, not push"
        assert told == [PeerRefused("mistaken", "", "role", reason)]
        assert scene.told(PeerRefused) == [PeerRefused(scene.peer.name, instance, "role", reason)]
        scene.finish()


@pytest.mark.parametrize(("changed", "code"), [({"zmqkit": [7, 8]}, "version"), ({"role": "pull"}, "role")])
def test_a_welcome_of_another_version_or_role_is_turned_away(changed: dict[str, object], code: str) -> None:
    with Router() as router, dialling_puller(router.address) as scene:
        guest = router.guest()
        guest.welcome("push", **changed)
        _, header, _ = router.hear()
        assert header == [LOST, guest.session]
        (event,) = scene.told(PeerRefused, 1)
        assert event.code == code
        scene.expect(handshakes_refused=1, sessions_opened=1)
        scene.finish()


def test_a_refusal_that_is_repeated_is_told_once() -> None:
    with Router() as router, dialling_puller(router.address) as scene:
        guest = router.guest()
        for _ in range(20):
            guest.say(pack([REFUSED, "role", "go away"]))
        guest.say(b"\xc1")
        until(lambda: scene.count("frames_bad") == 1)
        assert len(scene.told(PeerRefused, 1)) == 1
        scene.finish()


# ---- sessions that are not one's own --------------------------------------------------------


def test_a_session_of_somebody_else_cannot_be_taken_by_its_id_alone() -> None:
    with bound_pusher() as scene, Dealer(scene.push.addresses[0], "pull") as thief:
        (session,) = scene.peer._core.sessions
        assert thief.hello(session=session.id)[:2] == [REFUSED, "session"]
        assert thief.hello(session=session.id, resume=True, attempt=10**9)[:2] == [REFUSED, "session"]
        scene.finish()
        scene.expect(sessions_lost=0)


def test_a_session_that_ended_does_not_begin_again() -> None:
    with bound_pusher() as scene, Dealer(scene.push.addresses[0], "pull") as stranger:
        stranger.enter(instance=b"i" * 16)
        stranger.say(stranger.header(GOODBYE, "bye", 0))
        said: dict[str, Any] = {"session": stranger.session, "instance": b"i" * 16}
        assert stranger.hello(**said) == [LOST, stranger.session]
        assert stranger.hello(**said, resume=True) == [LOST, stranger.session]
        (event,) = scene.told(PeerLost, 1)
        assert event.reason == "goodbye: bye"
        scene.finish()


def test_a_new_session_in_which_something_was_said_is_bad() -> None:
    with bound_pusher() as scene, Dealer(scene.push.addresses[0], "pull") as stranger:
        for number, said in enumerate(({"heard": 1}, {"sent": 1}), start=1):
            stranger.say(pack([1, greeting("pull", **said)]))
            stranger.settled()
            scene.expect(frames_bad=number)
        scene.finish()


def test_hello_from_a_side_that_we_dialled_is_bad_and_its_other_answers_are_stray() -> None:
    with Router() as router, dialling_puller(router.address) as scene:
        guest = router.guest()
        guest.say(pack([1, greeting("push")]))
        guest.welcome("push", session=b"another!")
        guest.welcome("push", attempt=guest.hello["attempt"] + 5)
        guest.say(pack([LOST, b"whoever."]))
        guest.welcome("push")
        router.settled(guest)
        scene.expect(frames_bad=1, frames_stray=3, sessions_opened=2)
        scene.finish()


def test_a_pusher_without_an_epoch_is_sent_away() -> None:
    for about in ({}, {"epoch": b"short"}, {"epoch": "sixteen letters!"}, {"epoch": [b"e" * 16]}):
        with bound_puller() as scene, Dealer(scene.pull.addresses[0], "push") as stranger:
            stranger.enter(about=about)
            assert stranger.answer(GOODBYE)[5] == "no epoch"
            stranger.data(*deliver(), messages=1)
            assert stranger.answer(LOST) == [LOST, stranger.session]
            scene.expect(frames_bad=1, sessions_lost=1, received=0)
            scene.finish()


def test_a_peer_that_claims_to_have_heard_what_was_never_said_is_not_believed() -> None:
    with bound_pusher() as scene, Dealer(scene.push.addresses[0], "pull") as stranger:
        stranger.enter()
        stranger.heard = 2**62
        stranger.say(stranger.header(STATE))
        stranger.heard = 0
        stranger.settled()
        scene.expect(frames_bad=1)
        scene.finish()


def test_every_stranger_that_greeted_is_told_of_and_forgotten() -> None:
    with bound_pusher() as scene:
        for _ in range(30):
            with Dealer(scene.push.addresses[0], "pull") as stranger:
                stranger.enter()
                stranger.say(stranger.header(GOODBYE, "", 0))
                stranger.settled()
        scene.expect(sessions_opened=31, sessions_lost=30)
        assert len(scene.told(PeerFound, 30)) >= 30
        assert len(scene.peer._core.sessions) == 1
        scene.finish()


def test_welcome_and_refused_at_a_bound_peer_are_stray() -> None:
    with bound_pusher() as scene, Dealer(scene.push.addresses[0], "pull") as stranger:
        stranger.enter()
        stranger.say(pack([WELCOME, greeting("push")]))
        stranger.say(pack([REFUSED, "role", "no"]))
        stranger.settled()
        scene.expect(frames_stray=2, sessions_lost=0)
        scene.finish()
