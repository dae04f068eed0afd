"""Who poses as a device: what it may say to those who dialled it, and to those whom it dialled (section 15)."""

from __future__ import annotations

import pytest

from tests.bad_input.scenes import bound_puller, bound_pusher, dialling_puller, dialling_pusher
from tests.bad_input.strangers import HELLO, Dealer, Router, greeting, pack
from zmqkit.events import BadFrame

GONE, LISTEN, MORE = 11, 12, 13
SAID = {"GONE": pack([GONE]), "LISTEN": pack([LISTEN]), "MORE": pack([MORE, 10**9])}


@pytest.mark.parametrize("said", SAID.values(), ids=list(SAID))
@pytest.mark.parametrize("kind", ["pusher", "puller"])
def test_who_dialled_us_may_not_speak_as_a_device(kind: str, said: bytes) -> None:
    make, role = {"pusher": (bound_pusher, "pull"), "puller": (bound_puller, "push")}[kind]
    with make() as scene:
        with Dealer(scene.peer.addresses[0], role) as stranger:
            stranger.enter()
            for _ in range(20):
                stranger.say(said)
            stranger.settled()
            scene.expect(frames_bad=20, io_connections=0, links_expelled=0)
            assert len(scene.told(BadFrame, 20)) == 20
            for _ in range(100):
                stranger.say(said)
            scene.expect(links_expelled=1)
        scene.finish()


@pytest.mark.parametrize("kind", ["puller", "pusher"])
def test_an_endless_number_of_connections_that_a_device_asks_for_is_256(kind: str) -> None:
    make, role = {"puller": (dialling_puller, "push"), "pusher": (dialling_pusher, "pull")}[kind]
    with Router() as router, make(router.address) as scene:
        first = router.guest()
        first.welcome(role)
        for _ in range(50):
            first.say(SAID["MORE"])
            first.say(pack([MORE, 1]))
        first.say(SAID["MORE"])
        others = {router.guest().session for _ in range(255)}
        assert len(others) == 255
        scene.expect(io_connections=257, frames_bad=0)
        router.settled(first)
        scene.finish()
        assert scene.count("io_connections") == 257


def test_who_says_for_ever_that_it_leads_nowhere_is_dialled_again_and_harms_nobody() -> None:
    with Router() as router, dialling_puller(router.address) as scene:
        guest = router.guest()
        guest.welcome("push")
        scene.expect(sessions_opened=2)
        attempts = [guest.hello["attempt"]]
        for _ in range(3):
            for _ in range(10):
                guest.say(SAID["GONE"])
            guest = router.guest()
            assert guest.hello["resume"]
            attempts.append(guest.hello["attempt"])
        assert attempts == sorted(set(attempts))
        scene.finish()
        scene.expect(frames_bad=0, sessions_opened=2)


def test_who_was_told_to_listen_takes_no_more_than_one_session_a_connection_from_whoever_is_there() -> None:
    with Router() as router, dialling_puller(router.address) as scene:
        guest = router.guest()
        guest.say(SAID["LISTEN"])
        for at in range(50):
            guest.say(pack([HELLO, greeting("push", session=b"%08d" % at, attempt=at + 1)]))
        scene.expect(sessions_opened=51, sessions_lost=49, frames_bad=0)
        scene.finish()
