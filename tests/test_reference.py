"""docs/reference.md names every event and every counter that there is, and no other."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

import zmqkit
from zmqkit import events

PAGE = (Path(__file__).parents[1] / "docs" / "reference.md").read_text()
ANYWHERE = "tcp://127.0.0.1:*"
NOWHERE = "inproc://nobody"


def first_column(heading: str) -> set[str]:
    """The names in the first column of the tables under a heading."""
    section = re.split(r"^#+ ", PAGE.partition(f" {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_every_event_is_listed_with_its_fields() -> None:
    found = {
        name: each
        for name, each in vars(events).items()
        if isinstance(each, type) and issubclass(each, events.Event) and each.__module__ == events.__name__
    }
    assert first_column("Events") == set(found)
    for name, event in found.items():
        (row,) = re.findall(rf"^\| `{name}` \|.*$", PAGE, re.MULTILINE)
        assert [field.name for field in dataclasses.fields(event) if f"`{field.name}`" not in row] in ([], ["peer"])


@pytest.mark.parametrize("kind", ["clients", "servers", "pushers", "pullers", "publishers"])
def test_every_counter_is_listed(tmp_path: Path, kind: str) -> None:
    peer = {
        "clients": lambda: zmqkit.Client(NOWHERE, journal=tmp_path / "client.db"),
        "servers": lambda: zmqkit.Server(ANYWHERE, journal=tmp_path / "server.db", inbox=tmp_path / "state.db"),
        "pushers": lambda: zmqkit.Pusher(ANYWHERE, journal=tmp_path / "pusher.db"),
        "pullers": lambda: zmqkit.Puller(NOWHERE),
        "publishers": lambda: zmqkit.Publisher(ANYWHERE, journal=tmp_path / "publisher.db"),
    }[kind]()
    assert peer.stats() == {}
    with peer:
        counters = set(peer.stats())
    assert first_column("Of all peers") | first_column(f"Of {kind}") == counters


def test_every_counter_of_a_subscriber_is_listed() -> None:
    with zmqkit.Subscriber(NOWHERE) as subscriber, zmqkit.Subscriber(NOWHERE, plain=True) as plain:
        counters = set(subscriber.stats()) | set(plain.stats())
    assert first_column("Of all peers") | first_column("Of subscribers") == counters


@pytest.mark.parametrize("kind", ["pushers", "pullers"])
def test_every_counter_of_plain_pipelines_is_listed(kind: str) -> None:
    made = zmqkit.Pusher(ANYWHERE, plain=True) if kind == "pushers" else zmqkit.Puller(bind=ANYWHERE, plain=True)
    with made:
        counters = set(made.stats())
    listed = first_column("Of all peers") | first_column(f"Of {kind}") | first_column(f"Of plain {kind}")
    assert listed == counters


def test_every_counter_of_a_puller_with_an_inbox_is_listed(tmp_path: Path) -> None:
    with zmqkit.Puller(NOWHERE, inbox=tmp_path / "inbox.db") as pull:
        counters = set(pull.stats())
    listed = first_column("Of all peers") | first_column("Of pullers") | first_column("Of pullers with an inbox")
    assert listed == counters


def test_the_counters_of_a_worker_are_those_of_its_two_sides(tmp_path: Path) -> None:
    shared = first_column("Of all peers")
    expected = {f"source_{name}" for name in shared | first_column("Of pullers")}
    expected |= {f"sink_{name}" for name in shared | first_column("Of pushers")}
    with zmqkit.Worker(print, source=NOWHERE, sink=f"{NOWHERE}-else") as worker:
        assert set(worker.stats()) == expected
