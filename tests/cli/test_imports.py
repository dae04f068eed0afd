"""What a command may not import: whoever pushes a line waits for nothing that only other commands need.

By name and not by time: a time would say something of the machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import zmqkit

PROGRAM = """
import sys
before = set(sys.modules)  # of an editable installation, say
from zmqkit.cli import main
code = main(sys.argv[1:])
print(code, *set(sys.modules) - before, file=sys.stderr)
"""

SCREENS = {"rich.console", "rich.live", "rich.progress", "rich.table"}
MULTICAST = {"ifaddr", "zeroconf", "zmqkit.discovery.network"}
JOBS = {"zmqkit.patterns.pipeline.sending", "zmqkit.patterns.pipeline.taking", "zmqkit.patterns.pipeline.worker"}
CALLS = {"zmqkit.patterns.reqrep.calling", "zmqkit.patterns.reqrep.hosting", "zmqkit.aio"}
TOPICS = {"zmqkit.patterns.pubsub.publishing", "zmqkit.patterns.pubsub.subscribing"}
DEVICES = {"zmqkit.devices", "zmqkit.cli.device_daemon", "tomllib"}
BASE = {"apsw", "asyncio", "msgpack", "sqlite3", "zmq", "zmqkit.patterns", "zmqkit.peer"}
ELSEWHERE = SCREENS | MULTICAST | CALLS | TOPICS | DEVICES | {"trio", "zmqkit.demo", "zmqkit.testing"}
"""What is heavy, and needed by a few commands only."""


def imported_by(*arguments: str | Path, stdin: str = "") -> set[str]:
    """The modules that a command brings, which must succeed."""
    program = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    done = subprocess.run(program, input=stdin, capture_output=True, text=True, timeout=60)
    code, *modules = done.stderr.splitlines()[-1].split()
    assert code == "0", done.stderr
    return set(modules)


def test_the_version_takes_no_socket_journal_or_pattern() -> None:
    found = imported_by("--version")
    assert "zmqkit.cli.app" in found
    assert not found & (ELSEWHERE | JOBS | BASE)


def test_a_look_into_a_journal_takes_no_socket(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning), zmqkit.Pusher("inproc://nobody", journal=tmp_path / "jobs.db", linger=0) as push:
        push.send("kept")
    for look in ("ls", "show"):
        found = imported_by("journal", look, tmp_path / "jobs.db", "--json")
        assert "zmqkit.journal.sqlite" in found
        assert not found & (ELSEWHERE | JOBS | {"asyncio", "zmq", "zmqkit.peer", "zmqkit.transport"})


def test_a_push_takes_what_pushes_and_nothing_else() -> None:
    found = imported_by("push", "tcp://127.0.0.1:*", "--timeout", "0")
    assert {"zmq", "zmqkit.patterns.pipeline.sending"} <= found
    assert not found & ELSEWHERE


def test_each_of_these_names_is_of_a_module_that_there_is() -> None:
    """A module that was renamed would be missed by nobody."""
    names = json.dumps(sorted(ELSEWHERE | JOBS | BASE))
    program = f"import importlib; [importlib.import_module(each) for each in {names}]"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
