"""Publishers and subscribers as real processes, killed and stopped, with links that break. ``make chaos`` is the long
form.

The plan follows from a seed (CHAOS_SEED gives another one); when exactly a signal meets what, the machine decides.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.pubsub.links import HOST, Links, host_of
from tests.chaos.pubsub.plan import CREW
from tests.chaos.pubsub.reader import judge
from tests.chaos.pubsub.run import run

SEED = int(os.environ.get("CHAOS_SEED", "20"))
PATIENCE_S = 20.0
MUCH = 1 << 30


def has_loopback_network() -> bool:
    """Whether there is more than one address of this host, as on Linux."""
    try:
        for host in (HOST, host_of(0)):
            socket.create_server((host, 0)).close()
    except OSError:
        return False
    return True


pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(not has_loopback_network(), reason="needs all of 127.0.0.0/8"),
]


@pytest.mark.slow
def test_nothing_is_lost_in_silence_whoever_is_killed_and_whatever_is_cut(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    print(f"seed {SEED}; the same at length: python -m tests.chaos.pubsub --seed {SEED} --verbose")
    outcome = run(SEED, folder, pause_s=(0.05, 0.4), say=print)
    print(outcome.table())
    assert outcome.failures == []
    assert set(outcome.kills) == set(CREW)
    assert outcome.stops.total() >= 1
    assert outcome.links.total() >= 1
    assert outcome.verdict.replayed > 0
    assert outcome.verdict.owed > outcome.verdict.published

    # The same run, doctored, does not pass.
    for kind, doctors in DOCTORS.items():
        for doctor in doctors:
            copy = tmp_path / doctor.__name__
            copy.mkdir()
            for path in folder.iterdir():
                if path.suffix in (".history", ".received", ".journal"):
                    (copy / path.name).symlink_to(path)
                elif path.suffix == ".sqlite":
                    shutil.copy(path, copy)
            assert judge(copy).violations == []
            doctor(copy)
            assert kind in {each.split(":")[0] for each in judge(copy).violations}, doctor.__name__


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_nothing_is_lost_in_silence_with_forwarders_between_that_are_killed_again_and_again(
    count: int, tmp_path: Path
) -> None:
    print(f"seed {SEED}; the same at length: python -m tests.chaos.pubsub --forwarders {count} --seed {SEED} --verbose")
    outcome = run(SEED, tmp_path, pause_s=(0.05, 0.4), forwarders=count, say=print)
    print(outcome.table())
    assert outcome.failures == []
    assert outcome.kills["forwarder"] == 3
    assert outcome.verdict.replayed > 0
    assert outcome.verdict.owed > outcome.verdict.published


def last_life(folder: Path) -> tuple[Path, list[str], list[int]]:
    """What the newest life of a subscriber to all got; and which lines of it are messages of the journal."""
    path = max(folder.glob("live-0.*.received"), key=lambda path: int(path.name.split(".")[1]))
    found = path.read_text().splitlines()
    return path, found, [at for at, line in enumerate(found) if " journalled-0." in line]


def replace(path: Path, lines: list[str]) -> None:
    path.unlink()  # a link
    path.write_text("".join([f"{line}\n" for line in lines]))


def drop(folder: Path) -> None:
    path, found, (*_, at, _) = last_life(folder)
    replace(path, [*found[:at], *found[at + 1 :]])


def drop_the_last(folder: Path) -> None:
    path, found, (*_, at) = last_life(folder)
    replace(path, [*found[:at], *found[at + 1 :]])


def double(folder: Path) -> None:
    path, found, (*_, at) = last_life(folder)
    replace(path, [*found[: at + 1], *found[at:]])


def swap(folder: Path) -> None:
    path, found, (*_, at, other) = last_life(folder)
    found[at], found[other] = found[other], found[at]
    replace(path, found)


def invent(folder: Path) -> None:
    path, found, _ = last_life(folder)
    kind, publisher, epoch, offset, topic, name, how = found[-1].split(" ")
    name = f"{name.rpartition('.')[0]}.{10**9}"
    replace(path, [*found, " ".join([kind, publisher, epoch, str(int(offset) + 1), topic, name, how])])


def drop_an_effect(folder: Path) -> None:
    in_inbox(folder, "DELETE FROM applied WHERE rowid = (SELECT max(rowid) FROM applied)")


def double_an_effect(folder: Path) -> None:
    in_inbox(folder, "INSERT INTO applied SELECT * FROM applied WHERE rowid = (SELECT max(rowid) FROM applied)")


def put_an_effect_last(folder: Path) -> None:
    in_inbox(folder, "UPDATE applied SET rowid = 1000000000 WHERE rowid = (SELECT min(rowid) FROM applied)")


def in_inbox(folder: Path, statement: str) -> None:
    connection = sqlite3.connect(folder / "inbox-0.sqlite")
    with connection:
        assert connection.execute(statement).rowcount == 1
    connection.close()


DOCTORS: dict[str, list[Callable[[Path], None]]] = {
    "hole": [drop, drop_the_last],
    "order": [double, swap, put_an_effect_last],
    "invented": [invent],
    "lost": [drop_an_effect],
    "doubled": [double_an_effect],
}
"""What the reader must say of a run that each of these has been at."""


# ---- links -------------------------------------------------------------------------


Ends = tuple[Links, socket.socket, socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Links, the two ends of a connection over one of them, and the listener at its far end."""
    links = Links()
    links.add("pub", ["sub"])
    with links, socket.create_server((HOST, links.ports["pub", "data"])) as server:
        server.settimeout(PATIENCE_S)
        with socket.create_connection((host_of(0), links.ports["pub", "data"]), timeout=PATIENCE_S) as near:
            far, _ = server.accept()
            far.settimeout(PATIENCE_S)
            with far:
                yield links, near, far, server


def test_a_link_carries_both_ways_until_it_is_cut_and_is_made_anew_then(ends: Ends) -> None:
    links, near, far, server = ends
    near.sendall(b"there")
    assert far.recv(100) == b"there"
    far.sendall(b"back")
    assert near.recv(100) == b"back"
    links.harm("pub", "sub", "data", "cut", 0.0)
    assert (near.recv(100), far.recv(100)) == (b"", b"")
    with socket.create_connection((host_of(0), links.ports["pub", "data"]), timeout=PATIENCE_S) as again:
        again.sendall(b"again")
        anew, _ = server.accept()
        with anew:
            anew.settimeout(PATIENCE_S)
            assert anew.recv(100) == b"again"


def test_a_deaf_link_carries_the_other_way_and_everything_when_it_is_healed(ends: Ends) -> None:
    links, near, far, _ = ends
    links.harm("pub", "sub", "both", "deafen", 3600.0)
    far.sendall(b"unheard")
    near.sendall(b"heard")
    assert far.recv(100) == b"heard"
    near.setblocking(False)
    with pytest.raises(BlockingIOError):
        near.recv(100)
    near.settimeout(PATIENCE_S)
    links.heal()
    assert near.recv(100) == b"unheard"


def test_a_stalled_link_holds_little_and_loses_nothing(ends: Ends) -> None:
    links, near, far, _ = ends
    links.harm("pub", "sub", "data", "stall", 3600.0)
    far.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < MUCH:
            sent += far.send(bytes(65536))
    assert 0 < sent < MUCH
    links.heal()
    while sent:
        found = len(near.recv(min(sent, 65536)))
        assert found
        sent -= found


def test_a_link_that_is_down_refuses_connections(ends: Ends) -> None:
    links, near, _, _ = ends
    links.harm("pub", "sub", "data", "cut", 3600.0)
    assert near.recv(100) == b""
    with socket.create_connection((host_of(0), links.ports["pub", "data"]), timeout=PATIENCE_S) as again:
        assert again.recv(100) == b""
