"""What of the benchmarks is not a measurement: which stage a sample belongs to, and what is said of what is missing."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import pytest

from benchmarks.pipeline_peers import PEERS, Peer
from benchmarks.pipeline_stages import STAGES, shares, stage_of
from benchmarks.places import broker, folder, free_port, listens, run_folder

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("name", "where"), STAGES)
def test_each_stage_is_made_of_files_that_are_there(name: str, where: str) -> None:
    files = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/**/*.py")]
    names = re.search(r"\((.+?)\)\\.py", where)
    for each in names[1].split("|") if names else [""]:
        one = where.replace(names[0], f"{each}\\.py") if names else where
        assert [path for path in files if re.search(one, path)], f"{name}: {one}"


def test_a_sample_belongs_to_the_innermost_function_of_a_stage() -> None:
    outer = "main (benchmarks/pipeline.py:9);send (patterns/pipeline/pushing.py:7)"
    assert stage_of(f"{outer};encode (zmqkit/codec.py:3);pack (msgpack/x.py:1)") == "encode, decode"
    assert stage_of(f"{outer};_wait (zmqkit/peer/sync.py:3)") == "turns, wake-ups, waiting"
    assert stage_of(outer) == "face: send"
    assert stage_of("main (threading.py:3)") == stage_of("x (<frozen importlib>:1);y (zmqkit/codec.py:1)")


def test_samples_are_told_apart_by_process_and_added_up() -> None:
    encode, commit = "encode (zmqkit/codec.py:3)", "commit (zmqkit/journal/sqlite.py:3)"
    lines = [f"{encode} 3", f"run (a.py:1);{encode} 4", f"{commit} 5", f"spawn_main (spawn.py:1);{encode} 6\n"]
    found = shares(lines)
    assert found["pusher"] == {"encode, decode": 7, "journal: SQLite and the disk": 5}
    assert found["puller"] == {"encode, decode": 6}


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_of_what_is_missing_it_is_said_how_to_install_it(peer: Peer) -> None:
    no_program = dataclasses.replace(peer, needs="json", program="no-such-program")
    assert "no-such-program is not installed" in no_program.missing
    assert "apt-get install" in no_program.missing
    unable = dataclasses.replace(peer, needs="json", program=sys.executable, unable="it is too old")
    assert unable.missing == "it is too old"
    no_module = dataclasses.replace(peer, needs="no_such_module")
    assert "pip install 'zmqkit[bench]'" in no_module.missing


def test_a_broker_that_ends_at_once_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZMQKIT_BENCH", raising=False)
    with (
        run_folder(),
        folder(),
        pytest.raises(RuntimeError, match="does not listen"),
        broker([sys.executable, "-c", "raise SystemExit(3)"], free_port()),
    ):
        raise AssertionError("it never listened")
    assert list(tmp_path.iterdir()) == []


def test_a_broker_ends_with_its_block_also_when_that_fails() -> None:
    port = free_port()
    serve = f"import socket; s = socket.create_server(('127.0.0.1', {port}))\nwhile True: s.accept()"

    def fail() -> None:
        with broker([sys.executable, "-c", serve], port):
            assert listens(port)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not listens(port)
