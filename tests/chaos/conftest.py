"""In the suite a process that has imported everything begins the many lives; `make chaos` starts each anew."""

from __future__ import annotations

import pytest

from tests.chaos.fleet import Fleet
from tests.preloaded import Preloaded


@pytest.fixture(autouse=True)
def lives_begin_quickly(preloaded: Preloaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fleet, "preloaded", preloaded)
