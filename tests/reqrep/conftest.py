"""Runs tests that are coroutines over the face that they ask for, as those of the pipeline."""

from __future__ import annotations

import pytest

from tests.pipeline.conftest import programs_begin_quickly, pytest_pyfunc_call
from tests.reqrep.faces import FACES, Face

__all__ = ["programs_begin_quickly", "pytest_pyfunc_call"]


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> Face:
    """Each of the three faces."""
    return Face(request.param)


@pytest.fixture(params=FACES[1:])
def async_face(request: pytest.FixtureRequest) -> Face:
    """Each face that has a loop."""
    return Face(request.param)
