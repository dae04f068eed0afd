"""Lines of a source that pauses."""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path
from typing import Any

import pytest

from zmqkit.cli import feed


def test_who_waits_for_more_looks_up_again_and_again_so_that_a_signal_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python calls a signal's handler between two instructions: never, while one endless read goes on."""
    ours, theirs = os.pipe()
    looks = 0

    def look(files: list[Any], _: list[Any], __: list[Any], seconds: float) -> Any:
        nonlocal looks
        looks += 1
        if looks == 3:
            os.write(theirs, b"one\ntwo\nthr")
        elif looks == 5:
            os.write(theirs, b"ee")
            os.close(theirs)
        assert 0 < seconds <= 1
        return select.select(files, [], [], 0)

    with open(ours, "rb") as stdin:
        monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": stdin}))
        monkeypatch.setattr(feed, "select", type("Select", (), {"select": staticmethod(look)}))
        batches = list(feed.batches([Path("-")], feed.text_line, skip_blank=False))
    assert [batch.bodies for batch in batches] == [["one", "two"], ["three"]]
    assert looks == 6
