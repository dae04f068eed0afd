"""The README and the pages under docs/ run as they are written. How a block is run: see tests/pages.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pages import Page, read_blocks
from tests.preloaded import Preloaded

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "how-to").glob("*.md"))]
FRESH = ("README.md", "docs/cli.md")
"""Here all is started anew, as on a reader's machine; what other pages call has been imported before."""
MAKEFILE = (ROOT / "Makefile").read_text()


def test_the_readme_shows_a_first_program_and_how_to_run_it() -> None:
    languages = {block.language for block in read_blocks((ROOT / "README.md").read_text())}
    assert {"python", "console"} <= languages


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_runs_as_it_is_written(path: Path, tmp_path: Path, preloaded: Preloaded) -> None:
    fresh = path.relative_to(ROOT).as_posix() in FRESH
    Page(path.read_text(), tmp_path, MAKEFILE, None if fresh else preloaded).run()
