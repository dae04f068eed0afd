"""Pullers that settle what they were never lent, or twice, or never; pushers that lend beyond the credit."""

from __future__ import annotations

import itertools

import pytest

import zmqkit
from tests.bad_input.scenes import bound_puller, bound_pusher, dialling_puller, dialling_pusher, until
from tests.bad_input.strangers import (
    DATA,
    GOODBYE,
    HELD,
    ISOLATE,
    LOST,
    NACK,
    REJECT,
    RELEASE,
    SETTLE,
    SETTLED,
    Dealer,
    Router,
    deliver,
    pack,
    unpack,
)
from zmqkit.events import JobDead, JobFailed, JobRedelivered, PeerLost, StaleSettle

ALL = [0, 2**63 - 1]


def test_settles_of_leases_that_were_never_given_change_nothing_and_are_answered() -> None:
    with bound_pusher() as scene, Dealer(scene.push.addresses[0], "pull") as stranger:
        stranger.enter()
        epoch = stranger.welcome["about"]["epoch"]
        settles = [
            ([7, 9], [], 1, [7, 9]),
            (ALL, [], 2, ALL),
            ([], [[5, kind, None, "", ""] for kind in (NACK, REJECT, RELEASE, ISOLATE)], 3, [5, 5] * 4),
            (ALL * 100, [], 4, ALL * 100),
            ([2**63 - 1] * 2, [], 0, [2**63 - 1] * 2),
        ]
        for acks, others, ask, stale in settles:
            stranger.data([SETTLE, epoch, acks, others, ask])
            _, (head,) = stranger.message(DATA)
            assert unpack(head) == [SETTLED, ask, stale]
        scene.expect(settles_stale=1 + 1 + 4 + 100 + 1, frames_bad=0)
        events = scene.told(StaleSettle, len(settles))
        assert [event.count for event in events] == [1, 1, 4, 100, 1]
        scene.finish()
        scene.expect(acked=20, dead=0, failed=0)


def test_nobody_settles_what_another_holds() -> None:
    with bound_pusher() as scene, Dealer(scene.push.addresses[0], "pull") as stranger:
        stranger.enter()
        epoch = stranger.welcome["about"]["epoch"]
        scene.push.send_many(range(20))
        held = [scene.pull.receive(20) for _ in range(20)]
        stranger.data([SETTLE, epoch, ALL, [[lease, REJECT, None, "mine", ""] for lease in range(1, 21)], 1])
        stranger.data([HELD, epoch, 2**63 - 1, []])
        stranger.settled()
        scene.expect(acked=0, dead=0, redelivered=0)
        for job in held:
            assert job is not None
            job.ack(wait=True)
        scene.expect(acked=20)
        scene.finish()


def test_leases_of_another_epoch_are_stale() -> None:
    with bound_pusher() as scene, Dealer(scene.push.addresses[0], "pull", credit=10) as stranger:
        stranger.enter()
        stranger.settled()
        scene.leave_to_the_stranger()
        scene.push.send_many(range(3))
        assert stranger.delivery()[1] == 1
        stranger.data([SETTLE, b"e" * 16, ALL, [[1, REJECT, None, "", ""]], 1])
        stranger.data([HELD, b"e" * 16, 2**63 - 1, []])
        stranger.settled()
        scene.expect(settles_stale=2, acked=0, dead=0, redelivered=0)
        stranger.data([SETTLE, stranger.welcome["about"]["epoch"], [1, 3], [], 0])
        scene.push.flush(20)
        scene.expect(acked=3)


def test_who_acks_everything_twice_acks_it_once() -> None:
    with bound_pusher() as scene, Dealer(scene.push.addresses[0], "pull", credit=10**6) as stranger:
        scene.leave_to_the_stranger()
        stranger.enter()
        epoch = stranger.welcome["about"]["epoch"]
        count = 0
        for _ in range(5):
            scene.push.send_many(range(100))
            while count % 100 or not count or count < 100 * (scene.count("sent") // 100):
                head = stranger.delivery()
                acks = [head[1], head[1] + len(head[6]) - 1]
                count += len(head[6])
                stranger.data([SETTLE, epoch, acks, [], 0])
                stranger.data([SETTLE, epoch, acks + acks, [], 0])
        stranger.settled()
        scene.push.flush(20)
        scene.expect(acked=500, sent=500, waiting=0)
        assert scene.count("settles_stale") >= 10
        assert scene.push.flush().acked == 500


def test_who_never_acks_holds_what_he_has_credit_for_and_no_more() -> None:
    with bound_pusher() as scene, Dealer(scene.push.addresses[0], "pull", credit=7) as sloth:
        sloth.enter(heartbeat=[0.2, 2])
        got: list[object] = []
        scene.push.send_many(range(100))
        while scene.count("delivered") < 100:  # the honest one goes on round him
            take(scene.pull, got)
        sloth.settled()
        sloth.settled()  # now it has said, too, that it heard what came before the first answer
        scene.push.flush(20, until="received")
        while len(got) < scene.pull.stats()["received"]:
            take(scene.pull, got)
        held = scene.count("delivered") - len(got)
        assert 0 < held <= 7
        until(lambda: scene.count("waiting") == held)
        scene.expect(sessions_lost=0)
        sloth.close()
        for _ in range(held):
            take(scene.pull, got)
        assert sorted(got, key=str) == sorted(range(100), key=str)
        scene.push.flush(20)
        assert len(scene.told(JobRedelivered, 1)) == 1
        scene.finish()


def take(pull: zmqkit.Puller[object], got: list[object]) -> None:
    """One more job, which must come, acked."""
    job = pull.receive(20)
    assert job is not None
    got.append(job.body)
    job.ack()


def test_a_report_of_absurd_ranges_takes_back_what_it_does_not_list() -> None:
    with bound_pusher() as scene, Dealer(scene.push.addresses[0], "pull", credit=10**6) as stranger:
        scene.leave_to_the_stranger()
        stranger.enter()
        epoch = stranger.welcome["about"]["epoch"]
        for number in range(500):
            scene.push.send(number)
        while scene.count("delivered") < 500:
            stranger.settled()
        for up_to, listed, missing in (
            (2**63 - 1, ALL, 0),
            (2**63 - 1, ALL * 30_000, 0),  # once eleven seconds of work
            (2**63 - 1, [501, 2**63 - 1] * 30_000, 500),
            (0, [], 0),
        ):
            before = scene.count("redelivered")
            stranger.data([HELD, epoch, up_to, listed])
            stranger.settled()
            assert scene.count("redelivered") - before == missing
        stranger.settled()
        while scene.count("delivered") < 1000:
            stranger.settled()
        stranger.data([SETTLE, epoch, ALL, [], 0])
        stranger.settled()
        scene.push.flush(20)
        scene.expect(acked=500, frames_bad=0)


def test_a_hostile_holder_can_kill_its_own_jobs_only() -> None:
    with bound_pusher(max_failures=2) as scene, Dealer(scene.push.addresses[0], "pull", credit=3) as stranger:
        stranger.enter()
        epoch = stranger.welcome["about"]["epoch"]
        scene.leave_to_the_stranger()
        scene.push.send_many(["a", "b", "c"])
        (lease,) = {stranger.delivery()[1]}
        others = [
            [lease, REJECT, None, "no \U0001f600" * 100, "t" * 20_000],
            [lease + 1, NACK, 0, "", ""],
            [lease + 2, ISOLATE, None, "", ""],
        ]
        stranger.credit[0] = 10
        stranger.data([SETTLE, epoch, [], others, 0])
        for _ in range(2):
            head = stranger.delivery()
            again = [head[1], head[1] + len(head[6]) - 1]
            stranger.data([SETTLE, epoch, again, [], 0])
        scene.push.flush(20)
        scene.expect(acked=2, dead=1, failed=1)
        assert len(scene.told(JobDead, 1)) == len(scene.told(JobFailed, 1)) == 1


# ---- pushers that lend too much ---------------------------------------------------------------


def test_more_than_the_credit_ends_the_session_and_is_counted() -> None:
    with bound_puller(prefetch=4) as scene, Dealer(scene.pull.addresses[0], "push") as greedy:
        greedy.enter()
        assert greedy.room == 4
        greedy.data(*deliver(["a", "b", "c"]), messages=3)
        greedy.data(*deliver(["d", "e"], lease=4), messages=2)
        assert greedy.answer(GOODBYE)[5] == "credit exceeded"
        greedy.data(*deliver(["f"], lease=6), messages=1)
        assert greedy.answer(LOST) == [LOST, greedy.session]
        scene.expect(credit_exceeded=1, sessions_lost=1, received=3, jobs_lost=3)
        (event,) = scene.told(PeerLost, 1)
        assert event.reason == "credit exceeded"
        scene.finish()
        assert scene.strange == []


@pytest.mark.parametrize("claimed", [0, 1, 2, 2**62])
def test_a_batch_that_counts_otherwise_than_its_session_says_is_bad(claimed: int) -> None:
    with bound_puller(prefetch=4) as scene, Dealer(scene.pull.addresses[0], "push") as stranger:
        stranger.enter()
        stranger.data(*deliver(["a", "b", "c"]), messages=claimed)
        stranger.settled()
        if claimed > 4:
            scene.expect(credit_exceeded=1, frames_bad=0)
        else:
            scene.expect(frames_bad=1, sessions_lost=0)
        scene.finish()
        assert scene.strange == []


def test_lease_numbers_that_do_not_rise_are_bad() -> None:
    with bound_puller() as scene, Dealer(scene.pull.addresses[0], "push") as stranger:
        stranger.enter()
        for lease in (10, 10, 9, 0, 11):
            stranger.data(*deliver([f"job {lease}"], lease=lease), messages=1)
        stranger.settled()
        scene.expect(frames_bad=3, received=2)
        scene.finish()
        assert scene.strange == ["job 10", "job 11"]


def test_numbers_that_come_twice_or_with_holes_are_dropped_and_asked_for() -> None:
    with bound_puller() as scene, Dealer(scene.pull.addresses[0], "push") as stranger:
        stranger.enter()
        stranger.data(*deliver(["first"], lease=1), messages=1)
        for number in (0, 1, 1, 5, 2**63 - 1):
            stranger.sent = number - 1 if number else -1
            if number:
                stranger.data(*deliver(["again"], lease=9), messages=1)
        stranger.sent = 1
        stranger.settled()
        scene.expect(messages_repeated=2, messages_missed=2, resumes_asked=1, received=1, frames_bad=0)
        scene.finish()
        assert scene.strange == ["first"]


def test_a_hostile_pusher_that_we_dialled_is_judged_alike() -> None:
    with Router() as router, dialling_puller(router.address, prefetch=4) as scene:
        guest = router.guest()
        guest.welcome("push")
        guest.data(*deliver(["a"]), messages=1)
        guest.data([SETTLED, 77, ALL])
        guest.data([SETTLED, 0, ALL * 1000])
        guest.data([SETTLE, b"e" * 16, [], [], 0])
        router.settled(guest)
        scene.expect(received=1, frames_bad=1)
        for lease in itertools.count(2):
            guest.data(*deliver(["b"], lease=lease), messages=1)
            if lease == 5:
                break
        until(lambda: scene.count("credit_exceeded") == 1)
        scene.finish()
        assert set(scene.strange) <= {"a", "b"}


def test_a_hostile_puller_that_we_dialled_gets_no_more_than_it_may() -> None:
    with Router() as router, dialling_pusher(router.address) as scene:
        guest = router.guest()
        guest.welcome("pull", credit=[3, 10**9])
        scene.push.send_many(range(3))
        guest.say(pack([99]))
        router.settled(guest)
        guest.data([SETTLE, guest.hello["about"]["epoch"], ALL, [], 0])
        guest.data([HELD, guest.hello["about"]["epoch"], 2**63 - 1, ALL])
        guest.data(*deliver(["I am no pusher"]), messages=1)
        router.settled(guest)
        until(lambda: scene.count("frames_bad") + scene.count("credit_exceeded") == 2)
        guest.say(guest.header(GOODBYE, "", 0))
        scene.finish()
