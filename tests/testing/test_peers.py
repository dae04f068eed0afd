"""A simulated peer pumps its core as the driver does, and dies where it is told to."""

from __future__ import annotations

import pytest

from tests.testing.recorder import ADDRESS, LINK, Recorder, core, couple
from zmqkit.protocol.core import Probe, Read, Write
from zmqkit.testing.contract import ContractBroken
from zmqkit.testing.peers import SimPeer
from zmqkit.testing.tickets import SimTicket
from zmqkit.testing.world import World


def lonely(*, threaded: bool = False, seed: int = 0) -> tuple[World, SimPeer]:
    world = World(seed, threaded_journals=1.0 if threaded else 0.0)
    peer = world.peer("peer", lambda peer: Recorder(), journal=True)
    world.run(0.1)
    return world, peer


def put(recorder: Recorder, key: int, now: float) -> None:
    recorder.out.write("messages", key, 1, b"x")


def keys(peer: SimPeer) -> list[int]:
    assert peer.disk is not None
    return [row.key for row in peer.disk.rows("messages")]


@pytest.mark.parametrize("threaded", [False, True])
def test_writes_are_committed_and_then_told(threaded: bool):
    world, peer = lonely(threaded=threaded)
    for key in (1, 2, 3):
        peer.post(put, key)
    world.run(1.0)
    assert keys(peer) == [1, 2, 3]
    assert core(peer).kinds("stored")[-1] == ("stored", 3)


@pytest.mark.parametrize("threaded", [False, True])
def test_reads_come_after_the_writes_before_them(threaded: bool):
    world, peer = lonely(threaded=threaded)

    def put_and_read(recorder: Recorder, now: float) -> None:
        put(recorder, 7, now)
        recorder.out.reads.append(Read("messages", 1, 9, 1000))

    peer.post(put_and_read)
    world.run(1.0)
    assert core(peer).kinds("stored", "loaded") == [("stored", 1), ("loaded", [7])]


@pytest.mark.parametrize("threaded", [False, True])
@pytest.mark.parametrize(
    ("fate", "kept"),
    [("crash before", []), ("crash in", []), ("crash in, stored", [1]), ("crash after", [1])],
)
def test_a_crash_around_a_commit_keeps_it_whole_or_not_at_all_and_tells_nobody(threaded, fate, kept):
    world, peer = lonely(threaded=threaded)
    assert peer.disk is not None
    peer.disk.fates[1] = fate
    before = core(peer)
    peer.post(put, 1)
    world.run(1.0)
    assert not peer.alive
    assert not before.kinds("stored")
    assert keys(peer) == kept
    assert world.counts[f"crash: {fate}"] == 1
    peer.start()
    assert core(peer) is not before
    assert peer.journal is not None
    assert peer.journal.highest("messages") == len(kept)


@pytest.mark.parametrize("threaded", [False, True])
def test_a_full_disk_fails_the_commit_and_passes(threaded: bool):
    world, peer = lonely(threaded=threaded)
    assert peer.disk is not None
    peer.disk.full = True
    peer.post(put, 1)
    world.run(1.0)
    peer.disk.full = False
    peer.post(put, 2)
    world.run(1.0)
    assert core(peer).heard == [("store failed", 1, "JournalFull"), ("stored", 2)]
    assert keys(peer) == [2]


def test_the_deadline_is_kept_on_the_hosts_own_clock():
    world, peer = lonely()
    due = peer.now() + 3.0
    core(peer).deadline = due
    peer.post("send", ("b", "tcp://nowhere:1", 1), b"wakes it")
    world.run(2.9)
    assert not core(peer).kinds("timer")
    world.run(0.2)
    assert core(peer).kinds("timer") == ["timer"]
    assert due <= core(peer).times[-1] <= due + 0.01


def test_a_frozen_peer_has_its_timer_late():
    world, peer = lonely()
    core(peer).deadline = due = peer.now() + 1.0
    peer.post(lambda core, now: None)
    world.run(0.5)
    peer.freeze(3.5)
    world.run(3.4)
    assert not core(peer).kinds("timer")
    world.run(0.2)
    assert core(peer).times[-1] == pytest.approx(due + 3.0, abs=0.05)


def test_time_never_goes_back_and_hosts_share_nothing():
    world, binder, dialler = couple()
    for number in range(50):
        dialler.post("send", LINK, b"%d" % number)
        world.run(0.001)
    assert core(binder).times == sorted(core(binder).times)
    assert abs(binder.now() - dialler.now()) > 1.0
    assert world.host_clock(binder.host).true(binder.now()) == pytest.approx(world.clock.now)


def test_a_crash_amid_sends_lets_the_first_ones_out():
    world, binder, dialler = couple()

    def send_five(recorder: Recorder, now: float) -> None:
        for number in range(5):
            recorder.send(LINK, b"%d" % number, now)

    dialler.doom = 3
    dialler.post(send_five)
    world.run(1.0)
    assert not dialler.alive
    heard = core(binder).messages()
    assert heard == [b"0", b"1", b"2"][: len(heard)]


def test_a_probe_finds_the_dead_and_not_the_living():
    world = World(0)
    alive = world.peer("alive", lambda peer: Recorder(), host="one")
    dead = world.peer("dead", lambda peer: Recorder(), host="one")
    away = world.peer("away", lambda peer: Recorder(), host="two")
    asker = world.peer("asker", lambda peer: Recorder(), host="one")
    who = {peer.name: (peer.host, peer.pid, peer.started) for peer in (alive, dead, away)}
    dead.crash()
    away.crash()
    dead.start()  # perhaps with the same pid, but another start time

    def probe(recorder: Recorder, now: float) -> None:
        recorder.out.probes += [Probe(name, *process) for name, process in who.items()]

    asker.post(probe)
    world.run(0.5)
    assert core(asker).kinds("gone") == [("gone", "dead")]
    alive.crash()
    world.run(2.0)
    assert core(asker).kinds("gone") == [("gone", "dead"), ("gone", "alive")]


def test_a_ticket_takes_one_reply():
    ticket = SimTicket("one verb")
    ticket.resolve(1)
    assert (ticket.done, ticket.result) == (True, 1)
    with pytest.raises(ContractBroken, match="one verb"):
        ticket.resolve(1)


def test_replies_items_and_counters_reach_the_world():
    world, peer = lonely()
    ticket = SimTicket()
    told: list[object] = []
    peer.on_items = lambda peer, items: told.extend(items)

    def do(recorder: Recorder, now: float) -> None:
        recorder.out.replies += [(ticket, "done"), (None, "nobody waits")]
        recorder.out.items.append("item")
        recorder.count("deeds")

    peer.post(do)
    world.run(0.1)
    assert ticket.result == "done"
    assert told == list(peer.mailbox) == ["item"]
    assert world.totals()["deeds"] == 1
    peer.crash()
    assert world.totals()["deeds"] == 1
    assert not peer.post(do)


def spin(recorder: Recorder, now: float) -> None:
    recorder.handle_timer = lambda now: None  # type: ignore[method-assign]
    recorder.deadline = now


@pytest.mark.parametrize(
    ("deed", "complaint"),
    [
        (lambda core, now: core.out.sends.append((LINK, [])), "at least one"),
        (lambda core, now: core.out.sends.append((LINK, ["text"])), "must be bytes"),
        (lambda core, now: core.out.sends.append(("nonsense", [b"x"])), "never a link"),
        (lambda core, now: core.out.writes.append(Write("messages", 1, -1, b"")), "no journal can store"),
        (lambda core, now: core.out.writes.append(("messages", 1, 1, b"")), "not a Write"),
        (spin, "drained"),
    ],
)
def test_a_broken_contract_is_named(deed, complaint):
    world, peer = lonely()
    peer.post(deed)
    with pytest.raises(ContractBroken, match=complaint):
        world.run(0.1)


def test_a_clock_that_leaps_makes_what_was_due_meanwhile_due_at_once():
    world, peer = lonely()
    core(peer).deadline = due = peer.now() + 5.0
    peer.post(lambda core, now: None)
    world.run(0.5)
    world.leap(peer.host, 60.0)
    world.run(0.01)
    assert core(peer).kinds("timer") == ["timer"]
    assert core(peer).times[-1] == pytest.approx(due + 55.5, abs=0.02)
    assert core(peer).times == sorted(core(peer).times)


def test_a_suspended_host_notices_nothing_of_it():
    world = World(0, threaded_journals=0.0)
    sleeper = world.peer("sleeper", lambda peer: Recorder(), host="one")
    late = world.peer("late", lambda peer: Recorder(), host="one", start=False)
    other = world.peer("other", lambda peer: Recorder(), host="two")
    for peer in (sleeper, other):
        core(peer).deadline = peer.now() + 1.0
        peer.post(lambda core, now: None)
    world.run(0.5)
    before = sleeper.now()
    world.suspend("one", 10.0)
    late.start()
    sleeper.resume()
    world.run(9.9)
    assert sleeper.now() == before
    assert sleeper.stopped
    assert late.stopped
    assert not core(sleeper).kinds("timer")
    assert core(other).kinds("timer") == ["timer"]
    world.run(0.2)
    assert sleeper.now() == pytest.approx(before + 0.1, abs=0.01)
    assert not core(sleeper).kinds("timer")
    world.run(0.5)
    assert core(sleeper).kinds("timer") == ["timer"]
    assert not late.stopped


@pytest.mark.parametrize("threaded", [False, True])
def test_a_read_that_fails_ends_the_process(threaded: bool):
    world, peer = lonely(threaded=threaded)
    assert peer.disk is not None
    peer.disk.bad_reads = 1
    peer.post(lambda core, now: core.out.reads.append(Read("messages", 1, 9, 1)))
    world.run(1.0)
    assert not peer.alive
    assert world.counts["read failed"] == world.counts["crash: a read failed"] == 1
    assert peer.start()


def test_a_journal_that_lost_something_starts_nobody_until_it_is_replaced():
    world, peer = lonely()
    assert peer.disk is not None
    peer.disk.may_lie = peer.disk.lying = True
    for key in range(1, 9):
        peer.disk.apply([Write("messages", key, 1, b"x")])
        peer.disk.mark = peer.disk.present
    peer.crash("power cut")
    assert 1 <= world.counts["synced commits lost"] <= 5
    assert not peer.start()
    assert not peer.alive
    assert world.counts["start failed: JournalDamaged"] == 1
    peer.disk.replace()
    assert peer.start()
    assert keys(peer) == []


def test_a_journal_that_cannot_be_read_starts_nobody():
    world = World(0)

    def make(peer: SimPeer) -> Recorder:
        assert peer.journal is not None
        peer.journal.read(Read("messages", 1, 9, 1))
        return Recorder()

    peer = world.peer("peer", make, journal=True, start=False)
    assert peer.disk is not None
    peer.disk.bad_reads = 1
    assert not peer.start()
    assert peer.start()
    assert world.counts["start failed: JournalError"] == 1


def test_a_restored_process_is_the_same_once_more():
    world = World(0)
    drawn: list[bytes] = []

    def make(peer: SimPeer) -> Recorder:
        drawn.append(peer.random.randbytes(16))
        return Recorder()

    peer = world.peer("peer", make)
    first = (peer.pid, peer.started)
    peer.crash()
    peer.start()
    peer.crash()
    assert (peer.host, *first) not in world.processes
    peer.start(life=1)
    assert drawn[2] == drawn[0] != drawn[1]
    assert (peer.pid, peer.started) == first
    assert (peer.host, *first) in world.processes
    assert world.counts["restored"] == 1
    assert peer.life == 1


def test_an_address_can_be_given_to_another():
    world, binder, dialler = couple()
    heir = world.peer("heir", lambda peer: Recorder(), bind=["tcp://heir:1"])
    with pytest.raises(ValueError, match="runs"):
        binder.unbind(ADDRESS)
    binder.crash()
    binder.unbind(ADDRESS)
    heir.bind(ADDRESS)
    assert binder.binds == ()
    world.run(2.0)
    dialler.post("send", LINK, b"hello")
    world.run(1.0)
    assert core(heir).messages()[-1:] == [b"hello"]
