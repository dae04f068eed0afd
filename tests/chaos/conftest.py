"""Chaos in the suite: a process that has imported everything begins its many lives, and these take their time.

`make chaos` starts each anew, and has them call and send as fast as they can.
"""

from __future__ import annotations

import pytest

from tests.chaos.fleet import Fleet
from tests.preloaded import Preloaded

LEISURE = 4.0


@pytest.fixture(autouse=True)
def with_little_work(preloaded: Preloaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fleet, "preloaded", preloaded)
    monkeypatch.setattr(Fleet, "leisure", LEISURE)
