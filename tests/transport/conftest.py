"""Scenarios over real sockets run over both drivers: ``pytestmark = pytest.mark.usefixtures("tested")``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.transport import raw


@pytest.fixture(params=list(raw.KINDS))
def tested(request: pytest.FixtureRequest) -> Iterator[str]:
    """The driver that `raw.driver` makes, and that the programs use."""
    before, raw.chosen.kind = raw.chosen.kind, request.param
    yield request.param
    raw.chosen.kind = before
