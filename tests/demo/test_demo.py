"""The demo as a user runs it: real processes, a real kill, exit codes and what is printed."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

WAIT_S = 50.0
"""How long a run, or one line of it, may take."""

BAD = "letters/never_closed.py"
FILES = 23

LIAR = """
import sys
if "zmqkit.demo.worker" in sys.orig_argv:
    import tokenize
    honest = tokenize.tokenize
    tokenize.tokenize = lambda readline: (token for token in honest(readline) if token.string != "number_7")
"""
"""A worker that this stands in the way of leaves one name out."""

NO_RICH = """
import sys
sys.modules["rich"] = None
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of its own: some files that tokenize, and one that does not."""
    folder = tmp_path / "files"
    (folder / "letters").mkdir(parents=True)
    for number in range(FILES - 1):
        text = f"def number_{number}(x):\n    return x + {number}\n" * (number + 1)
        (folder / f"number_{number}.py").write_text(text)
    (folder / BAD).write_text("text = '''\n")
    return folder


def command(*options: object) -> list[str]:
    return [sys.executable, "-P", "-m", "zmqkit.demo", *map(str, options)]


def environment(tmp_path: Path, customize: str = "") -> dict[str, str]:
    """That of this process; `customize` runs in every Python that the demo starts, before anything else."""
    (tmp_path / "custom").mkdir()
    (tmp_path / "custom" / "sitecustomize.py").write_text(customize)
    return {**os.environ, "PYTHONPATH": str(tmp_path / "custom"), "TMPDIR": str(tmp_path)}


def run(*options: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*options), env=env, capture_output=True, text=True, timeout=WAIT_S)


@pytest.mark.slow
def test_a_killed_worker_sender_and_sink_change_no_total(files: Path):
    done = run("--files", files, "--workers", 2, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"], told["equal"], told["problems"]) == (0, True, True, []), done.stderr
    assert told["redelivered"] > 0
    assert [name.partition("-")[0] for name in sorted(told["killed"])] == ["sender", "sink", "worker"]
    assert [worker["state"] for worker in told["workers"]].count("killed") == 1
    assert len(told["workers"]) == 3
    assert (told["files"], told["counted"], told["dead_letters"]) == (FILES, FILES - 1, 1)
    assert told["inbox_records"] == FILES - 1
    assert [reason.partition(":")[0] for reason in told["rejected"]] == [BAD]
    assert sum(worker["files"] for worker in told["workers"]) == FILES - 1
    assert told["top_names"]["number_7"] == 8


@pytest.mark.slow
def test_without_a_kill_nothing_is_delivered_again(files: Path):
    done = run("--files", files, "--workers", 2, "--no-kill", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"], told["redelivered"]) == (0, True, 0), done.stderr
    assert [worker["state"] for worker in told["workers"]] == ["stopped", "stopped"]
    assert told["killed"] == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_one_file_is_enough_to_kill_all_three_over(tmp_path: Path, workers: int):
    (tmp_path / "only.py").write_text("x = 1\n")
    done = run("--files", tmp_path, "--workers", workers, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"], len(told["killed"]), told["counted"]) == (0, True, 3, 1), done.stderr


@pytest.mark.slow
def test_a_reader_gets_tables_and_a_last_word(files: Path):
    done = run("--files", files, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"(worker-\d) \(process \d+\) has jobs in hand and gets SIGKILL\n[^┏]* takes the place of \1"
        r"[^┏]*sender-1 \(process \d+\) has files to send and gets SIGKILL\n[^┏]* takes the place of sender-1"
        r"[^┏]*sink-1 \(process \d+\) has counts that are not committed and gets SIGKILL\n"
        r"[^┏]* takes the place of sink-1",
        done.stdout,
    )
    assert re.search(r"files rejected +\S +1 +\S +1 +\S +equal", done.stdout)
    assert f"rejected {BAD}: TokenError" in done.stdout
    assert done.stdout.rstrip().endswith("All equal: nothing was lost, nothing was counted twice.")
    assert done.stderr == ""


@pytest.mark.slow
def test_totals_that_differ_are_a_failure(files: Path, tmp_path: Path):
    done = run("--files", files, "--workers", 2, "--json", env=environment(tmp_path, LIAR))
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"], told["equal"]) == (1, False, False)
    assert "names, each with its number" in done.stderr


@pytest.mark.slow
def test_without_rich_the_demo_says_what_to_install_and_json_works(files: Path, tmp_path: Path):
    env = environment(tmp_path, NO_RICH)
    done = run("--files", files, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'zmqkit[cli]'" in done.stderr
    done = run("--files", files, "--no-kill", "--json", env=env)
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (0, True), done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--files", "missing"], "--files: .*missing is not there"),
        (["--files", "file.py"], "--files: .*file.py is not a folder"),
        (["--files", "empty"], "--files: there is no .py file below .*empty"),
        (["--workers", "0"], "--workers takes a number from 1 to 64, not 0"),
        (["--workers", "65"], "--workers takes a number from 1 to 64, not 65"),
    ],
)
def test_what_cannot_be_is_refused_in_words(tmp_path: Path, options: list[str], words: str):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.py").write_text("")
    for more in ([], ["--json"]):
        done = subprocess.run(
            command(*options, *more), cwd=tmp_path, capture_output=True, text=True, timeout=WAIT_S, check=False
        )
        assert done.returncode == 2
        assert re.search(words, done.stderr), done.stderr
        assert "Traceback" not in done.stderr
    told = json.loads(done.stdout)
    assert told["ok"] is False
    assert re.search(words, told["error"])


# ---- ended from outside, in the midst of a run that is long enough for that --------


@contextlib.contextmanager
def started(env: dict[str, str], *options: object) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command("--workers", 2, "--no-kill", *options),
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def children_of(process: subprocess.Popen[str]) -> dict[str, int]:
    """The process ids of its processes by name, once it has said that they are at work."""
    found: dict[str, int] = {}
    assert process.stdout is not None
    while len(found) < 4:
        line = process.stdout.readline()
        assert line, f"it ended early: {process.communicate()}"
        found |= {name: int(pid) for name, pid in re.findall(r"(\S+) \(process (\d+)\) joined", line)}
    return found


def wait_until_gone(handles: Sequence[int]) -> None:
    for handle in handles:
        assert select.select([handle], [], [], WAIT_S)[0], "a process outlives the demo"
        os.close(handle)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="watches processes that are not its own by pidfd")
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
    ids=["Ctrl-C", "SIGTERM", "SIGKILL"],
)
def test_a_demo_that_is_ended_leaves_no_process_behind(tmp_path: Path, number: signal.Signals, code: int):
    with started(environment(tmp_path)) as process:
        handles = [os.pidfd_open(pid) for pid in children_of(process).values()]
        process.send_signal(number)
        _, stderr = process.communicate(timeout=WAIT_S)
        wait_until_gone(handles)
    assert process.returncode == code
    assert "Traceback" not in stderr
    assert "Warning" not in stderr
    left = [path.name for path in tmp_path.glob("zmqkit-demo-*")]
    assert not left or number == signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["sender-1", "worker-1", "sink-1"])
def test_who_is_killed_by_somebody_else_is_replaced(tmp_path: Path, victim: str):
    (tmp_path / "files").mkdir()
    for number in range(20):
        (tmp_path / "files" / f"{number}.py").write_bytes(Path(argparse.__file__).read_bytes())
    with started(environment(tmp_path), "--files", tmp_path / "files") as process:
        os.kill(children_of(process)[victim], signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, stdout + stderr
    assert f"{victim} (process" in stdout
    assert "was killed by somebody else" in stdout
    assert f"takes the place of {victim}" in stdout
    assert "All equal" in stdout
