"""The leak check of conftest.py does find leaks, and lets alone what ends by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

CONFTEST = """
from tests import conftest
from tests.conftest import nothing_is_left_behind

conftest.LEAK_GRACE_S = 0.3
"""

LEAKS = {
    "thread": (
        "threading.Thread(target=threading.Event().wait, name='zmqkit-forgotten', daemon=True).start()",
        "left threads running: zmqkit-forgotten",
    ),
    "process": (
        "subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'], stdin=subprocess.PIPE)",
        "left processes behind",
    ),
}


def run_test(folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(
        f"import subprocess, sys, threading, time\nkept = []\ndef test_it():\n    kept.append({body})\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "-p", "no:cacheprovider", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LEAKS)
def test_a_leak_fails_the_test_that_made_it(tmp_path: Path, kind: str) -> None:
    body, complaint = LEAKS[kind]
    done = run_test(tmp_path, body)
    assert done.returncode == 1, done.stdout + done.stderr
    assert complaint in done.stdout


@pytest.mark.slow
def test_what_ends_by_itself_is_no_leak(tmp_path: Path) -> None:
    done = run_test(tmp_path, "threading.Thread(target=time.sleep, args=(0.05,), name='zmqkit-leaving').start()")
    assert done.returncode == 0, done.stdout + done.stderr
