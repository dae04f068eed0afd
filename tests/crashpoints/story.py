"""One story that goes through every operation, and what whoever opens the files after a crash does to go on."""

from __future__ import annotations

from collections.abc import Callable

from tests.crashpoints.history import check, read
from tests.crashpoints.player import Player
from tests.crashpoints.stage import BOUND, WINDOW
from zmqkit.patterns.pipeline.lanes import LANES
from zmqkit.patterns.pipeline.rows import MARKS, MESSAGES

Chapter = Callable[[Player], None]


def plain(player: Player) -> None:
    """A row of which some are done, and then the others."""
    player.begin_pulling()
    player.send_many("a1", "a2", "a3", "a4")
    player.take()
    player.ack("a2")
    player.effect("a1")
    player.send("a5")
    player.effect("a4")
    player.ack("a3")
    player.look("a5")


def ids(player: Player) -> None:
    """Sent twice, stored once; and the window moves on."""
    player.send("b1", id="order 1")
    player.send_again("b1")
    player.take()
    player.effect("b1")
    player.look("b1")
    player.send_again("b1")
    for number in range(2, 3 + WINDOW.count):
        player.send(f"b{number}", id=f"order {number}")
    player.take()
    for number in range(2, 2 + WINDOW.count):
        player.effect(f"b{number}")


def scheduled(player: Player) -> None:
    """Keys, priorities, delays, and times to live that end."""
    for number in range(1, 4):
        player.send(f"c{number}", key="tram", priority=number)
    player.send("c4", key="bus")
    player.send("c5", delay=30.0)
    player.send("c6", key="tram", delay=1.0)
    player.send("c7", id="order 100", delay=5.0, ttl=1.0)
    player.send("c8", ttl=500.0)
    player.take()
    player.effect("c1")
    player.take()
    player.effect("c2")
    player.pass_time(10.0)
    player.look("c7")
    player.take()
    player.ack("c4")
    player.effect("c3")
    player.take()
    player.effect("c8")


def mixed(player: Player) -> None:
    """Rows of messages that want different things, of which some are done."""
    player.send_many("g1", g2={"key": "ship"}, g3={}, g4={"key": "ship"}, g5={"key": "cart", "id": "order 101"})
    player.send_many(g6={"id": "order 102", "delay": 5.0, "ttl": 1.0}, g7={"delay": 5.0, "ttl": 1.0})
    player.send_many(g8={"priority": 3, "key": "cart"}, g9={"priority": 3})
    player.take()
    player.ack("g3")
    player.effect("g2")
    player.take()
    player.effect("g9")
    player.pass_time(10.0)
    player.effect("g5")
    player.restart()
    player.begin_pulling()
    player.pass_time(2 * BOUND)
    player.take()
    player.effect("g4")
    player.reject("g1")  # it was begun before the restart: its letter goes back to the same inbox only
    player.retry("g1")
    player.take()
    player.effect("g1")


def failures(player: Player) -> None:
    """Handlers fail, messages die, are sent again, and thrown away."""
    player.send_many("d1", "d2", "d3", "d4", d5={"key": "ship"}, d6={"key": "ship"})
    player.take()
    player.reject("d5")
    player.take()
    player.effect("d1", fails=True)
    player.nack("d2")
    player.reject("d3")
    player.reject("d4")
    player.pass_time(2.0)
    player.take()
    player.effect("d1")
    player.nack("d2")
    player.retry("d2")
    player.drop("d3")
    player.take()
    player.effect("d2")


def outboxes(player: Player) -> None:
    """Messages that are sent if and only if a transaction is committed: of the user's own, and of a job."""
    player.outbox("e1", "e2")
    player.outbox("e3", fails=True)
    player.relay()
    player.outbox("e4", key="tram")
    player.take()
    player.effect("e1")
    player.effect("e2", fails=True)
    player.relay()
    player.take()
    player.effect("e5")


def another_life(player: Player) -> None:
    """All is closed and opened, and goes on; something is left at each point."""
    player.restart()
    player.begin_pulling()
    player.pass_time(2 * BOUND)
    player.take()
    player.send("f1", key="tram")
    player.send("f2", id="order 200")
    player.send_again("f2")
    player.send("f4")
    player.begin_pulling()
    player.take()
    player.ack("f2")
    player.claim("f4")
    player.outbox("f3")
    player.retry()
    player.sync()
    player.restart()


CHAPTERS: tuple[Chapter, ...] = (plain, ids, scheduled, mixed, failures, outboxes, another_life)


def tell(player: Player) -> None:
    """The whole story."""
    for chapter in CHAPTERS:
        chapter(player)
    player.stage.close()


def recover(player: Player) -> None:
    """After a crash: look what is there, do all that is left to do, and see that all of it was.

    Raises:
        AssertionError: something is there that must not be, or is not there that must be.
    """
    stage = player.stage
    found = read(stage.journal, stage.database)
    check(player.steps, found)
    player.begin_pulling()
    _forge(player)
    for _ in range(4):
        _drain(player)
        player.pass_time(2 * BOUND)
    # In the first round some are there twice, by the outbox: then the second one is known.
    if player.dead():
        player.retry()
        _drain(player)
    _send_again(player)
    settled = stage.push.flush(timeout=0)
    assert not settled.not_due
    for log in (MESSAGES, MARKS, LANES):
        assert stage.journal.totals(log).rows == 0, f"the log {log} is not empty"
    assert not len(stage.push.dead_letters())
    check(player.steps, read(stage.journal, stage.database), over=True)
    stage.close()


def _drain(player: Player) -> None:
    while True:
        player.relay()
        player.take()
        if not player.jobs:
            return
        while player.jobs:
            player.effect(next(iter(player.jobs)))


def _forge(player: Player) -> None:
    """What another epoch lent means nothing in this one."""
    core = player.stage.push._core
    before, dead = core.unsettled, core.letters.count
    player.stage.forge(bytes(16))
    assert (core.unsettled, core.letters.count) == (before, dead), "a stale settle changed something"
    assert core.counters["settles_stale"] > 0


def _send_again(player: Player) -> None:
    """The last ids are known still."""
    core = player.stage.push._core
    for name in player.own_ids(WINDOW.count):
        before = core.counters["duplicates"]
        player.send_again(name)
        assert core.counters["duplicates"] == before + 1, f"{name} was stored once more under its id"
