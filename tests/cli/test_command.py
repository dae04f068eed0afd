"""The command itself: help, versions, errors, what it says where typer is missing."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

import zmqkit as library
from tests.cli.conftest import Start
from tests.cli.terminal import ANYWHERE
from zmqkit import errors
from zmqkit.cli import outcome

COMMANDS = [
    ("demo",),
    ("push",),
    ("pull",),
    ("publish",),
    ("subscribe",),
    ("tap",),
    ("journal", "ls"),
    ("journal", "show"),
    ("journal", "serve"),
    ("journal", "dead", "ls"),
    ("peers",),
]

BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
from zmqkit.cli import main
sys.exit(main({arguments!r}))
"""


@pytest.mark.parametrize(
    ("blocked", "arguments"), [(("typer",), ["push", ANYWHERE]), (("rich",), ["--help"]), (("typer", "rich"), [])]
)
def test_without_the_extra_it_says_what_to_install(blocked: tuple[str, ...], arguments: list[str]) -> None:
    program = BLOCKED.format(blocked=blocked, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert 'pip install "zmqkit[cli]"' in line


SEVERAL = """
import contextlib, io, json, sys
from zmqkit.cli import main

found = []
for arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    found.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(found))
"""


def run_several(commands: list[list[str]], folder: Path) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of commands that end at once, in one process."""
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL], input=json.dumps(commands), capture_output=True, text=True, timeout=60,
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [(code, out, err) for code, out, err in json.loads(done.stdout)]


def test_each_command_explains_itself_and_its_exit_codes(tmp_path: Path) -> None:
    shown = run_several([[*command, "--help"] for command in COMMANDS], tmp_path)
    for command, (code, out, _) in zip(COMMANDS, shown, strict=True):
        text = " ".join(out.split())
        assert code == 0
        assert f"Usage: zmqkit {' '.join(command)}" in text
        assert "Exit codes: 0 done; 1 failed" in text
        assert "--json" in text


WRONG = [
    ["push"],
    ["push", "127.0.0.1:5557"],
    ["push", "tcp://0.0.0.0:*"],
    ["push", ANYWHERE, "no-such-file"],
    ["push", ANYWHERE, "."],
    ["push", ANYWHERE, "--no-wait"],
    ["push", ANYWHERE, "--max-failures", "0"],
    ["push", ANYWHERE, "--durability", "memory"],
    ["pull", "tcp://192.0.2.1:5557"],
    ["pull", "tcp://127.0.0.1:5557", "--reject-status", "3"],
    ["pull", "tcp://127.0.0.1:5557", "--raw", "--exec", "true"],
    ["pull", "tcp://127.0.0.1:5557", "--raw", "--json"],
    ["publish", "tcp://127.0.0.1:*"],
    ["publish", ANYWHERE, "prices.*"],
    ["publish", ANYWHERE, "two..dots"],
    ["publish", ANYWHERE, "t", "no-such-file"],
    ["publish", ANYWHERE, "t", "--timeout", "1"],
    ["publish", ANYWHERE, "t", "--keep-count", "5"],
    ["subscribe", "tcp://127.0.0.1:5556", "#.gold"],
    ["subscribe", "tcp://127.0.0.1:5556", "--from", "soon"],
    ["subscribe", "tcp://127.0.0.1:5556", "--from", "resume"],
    ["subscribe", "tcp://127.0.0.1:5556", "--cursor", ""],
    ["subscribe", "tcp://127.0.0.1:5556", "--cursor", "a", "--from", "latest"],
    ["subscribe", "tcp://127.0.0.1:5556", "--raw", "--json"],
    ["subscribe", "tcp://192.0.2.1:5556"],
    ["tap", "tcp://127.0.0.1:5556", "a..b"],
    ["demo", "--workers", "0"],
    ["journal", "ls"],
    ["peers", "--name", "a b"],
    ["nonsense"],
]


def test_a_wrong_command_line_exits_with_2_and_says_why(tmp_path: Path) -> None:
    shown = run_several(WRONG, tmp_path)
    assert [code for code, _, _ in shown] == [2] * len(WRONG)
    assert all(err and not out for _, out, err in shown)
    assert not list(tmp_path.iterdir())


def test_the_version_is_the_packages(zmqkit: Start) -> None:
    assert zmqkit("--version").finish() == f"zmqkit {library.version()}\n"


@pytest.mark.parametrize("module", ["zmqkit", "zmqkit.cli"])
def test_it_runs_as_a_module_too(module: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--version"], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (0, f"zmqkit {library.version()}\n")


def test_a_traceback_is_shown_only_on_demand(zmqkit: Start) -> None:
    refused = ("pull", "tcp://192.0.2.1:5557")
    plain = zmqkit(*refused)
    plain.finish(2)
    assert len(plain.err.text.splitlines()) == 1
    debugged = zmqkit(*refused, environment={"ZMQKIT_DEBUG": "1"})
    assert debugged.process.wait(60) == 2
    debugged.said("Traceback")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.JournalBusy("x"), 3),
        (errors.JournalDamaged("x"), 5),
        (errors.JournalFull("x"), 5),
        (errors.CommitIndeterminate("x"), 5),
        (errors.WaitTimeout("x"), 4),
        (errors.Full("x"), 4),
        (errors.AddressError("x"), 2),
        (errors.InsecureAddress("x"), 2),
        (errors.AddressInUse("x"), 1),
        (errors.EncodeError("x"), 1),
        (errors.DiscoveryError("x"), 1),
        (outcome.Failed("x", 7), 7),
        (outcome.Stopped(15), 143),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 141),
        (FileNotFoundError("x"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_each_error_has_its_exit_code(error: BaseException, code: int) -> None:
    assert outcome.code_of(error) == code

    def fail() -> int:
        raise error

    if not isinstance(error, BrokenPipeError):  # that one gives stdout away
        assert outcome.run_to_code(fail) == code


def test_importing_the_command_loads_nothing_of_it() -> None:
    program = "import sys, zmqkit.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60).stdout.split()
    assert not {"typer", "rich", "zmq", "apsw"} & set(loaded)


# ---- peers and demo --------------------------------------------------------------


def test_peers_lists_who_announces_a_name(zmqkit: Start) -> None:
    name = f"cli-{uuid.uuid4().hex[:8]}"
    push = zmqkit("push", ANYWHERE, "--announce", name, stdin=None)
    address = push.address
    (peer,) = zmqkit("peers", "--name", name, "--timeout", "2", "--json").finish_json()
    assert (peer["name"], peer["role"], peer["address"], peer["pid"]) == (name, "push", address, push.process.pid)
    table = zmqkit("peers", "--timeout", "2").finish()
    assert name in table
    assert address in table
    push.finish()


def test_peers_exits_with_1_when_nobody_is_there(zmqkit: Start) -> None:
    peers = zmqkit("peers", "--name", f"nobody-{uuid.uuid4().hex[:8]}", "--timeout", "0.1", "--json")
    assert peers.finish_json(1) == []
    assert "nobody announces" in peers.err.text


def test_demo_counts_a_folder(zmqkit: Start, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for name in ("json", "argparse", "enum"):
        module = importlib.import_module(name)
        assert module.__file__ is not None
        (tmp_path / "source" / f"{name}.py").write_bytes(Path(module.__file__).read_bytes())
    demo = zmqkit("demo", "--files", "source", "--workers", "2", "--no-kill", "--json", environment=dict(os.environ))
    report = demo.finish_json()
    assert report["files"] == 3
