"""Every example runs, alone and as it is, and ends by itself.

An example chooses its ports by ``tcp://127.0.0.1:*`` and makes its discovery names its own, so that any number
of them can run at once.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
INDEX = (ROOT / "examples" / "README.md").read_text()
WAIT_S = 50.0

NEEDS = {"behind_fastapi": ("fastapi", "httpx2")}
"""What an example needs besides zmqkit."""

EACH = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3


def test_the_index_names_every_example_and_no_other() -> None:
    assert sorted(re.findall(r"\]\((\w+\.py)\)", INDEX)) == [path.name for path in EXAMPLES]


@EACH
def test_an_example_says_what_it_shows(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), "begin with a docstring: the idea, and what to expect"


@EACH
def test_an_example_takes_no_port_from_anybody(path: Path) -> None:
    fixed = re.findall(r"(?:tcp://[\w.*]+):([1-9]\d*)", path.read_text())
    assert not fixed, f"bind tcp://127.0.0.1:* and use .addresses instead of port {fixed}"


@pytest.mark.slow
@EACH
def test_an_example_runs_and_ends(path: Path, tmp_path: Path) -> None:
    missing = [name for name in NEEDS.get(path.stem, ()) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{path.name} needs {' and '.join(missing)}")
    process = subprocess.Popen(
        [sys.executable, str(path)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=WAIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        output, _ = process.communicate()
        pytest.fail(f"it did not end within {WAIT_S:.0f} s and said\n{output}")
    assert process.returncode == 0, output
    assert output.strip(), "it says nothing: show what happened"
    assert "Traceback" not in output
