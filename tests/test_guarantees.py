"""docs/guarantees.md names what holds each promise; here it is seen that all of it is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "guarantees.md").read_text()
CITED = re.findall(r"`(tests/[\w/]+\.py)::([\w.]+)`", PAGE)


def names_in(path: Path) -> set[str]:
    """Functions and classes of a module, and methods as Class.method."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return found


def test_every_proof_that_the_guarantees_name_exists() -> None:
    assert len(CITED) >= 50
    missing = [
        f"{path}::{name}" for path, name in CITED if not (ROOT / path).exists() or name not in names_in(ROOT / path)
    ]
    assert not missing


def test_every_section_of_failures_names_what_holds_it() -> None:
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    claims = [text for text in sections if not text.startswith(("Not promised", "How sure"))]
    assert [text.splitlines()[0] for text in claims if "> Held by" not in text] == []
