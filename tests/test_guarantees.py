"""docs/guarantees.md names what holds each promise; here it is seen that all of it is there."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "guarantees.md").read_text()
CITATION = re.compile(r"`(tests/[\w/]+\.py)::([\w.]+)`")
CITED = CITATION.findall(PAGE)


BY_ROW = (
    "The sender", "Keys, priorities, times and ids", "The disk", "The worker", "The handler", "The network",
    "Effects of jobs", "Your program",
)  # fmt: skip
"""Sections whose every row names what holds it."""
ROW = re.compile(r"^\| (.+?) (?<!\\)\| ", re.MULTILINE)
PROOF = re.compile(r"^> - \*(.+?)\*:\n((?:>   .*\n)+)", re.MULTILINE)


def section(title: str) -> str:
    """From a heading to the next one of any level."""
    (found,) = re.findall(rf"^##+ {re.escape(title)}\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert isinstance(found, str)
    return found


@functools.cache
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


@pytest.mark.parametrize("title", BY_ROW)
def test_every_row_about_pipelines_names_what_holds_it(title: str) -> None:
    text = section(title)
    heads = re.findall(r"^\| (.+?) \|.*\n\|---", text, re.MULTILINE)
    rows = [row for row in ROW.findall(text) if row not in heads]
    proofs = dict(PROOF.findall(text))
    assert rows
    assert list(proofs) == rows
    assert [row for row, cited in proofs.items() if not CITATION.search(cited)] == []


def test_what_is_promised_for_pipelines_was_seen_with_real_processes_that_were_killed() -> None:
    killed = {title for title in BY_ROW if "`tests/chaos/test_chaos.py::" in section(title)}
    assert killed >= {"The sender", "Keys, priorities, times and ids", "The disk", "The worker", "Effects of jobs"}
