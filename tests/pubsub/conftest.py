"""Runs tests that are coroutines over the face that they ask for, as those of the pipeline."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest

from tests.pipeline.conftest import programs_begin_quickly, pytest_pyfunc_call
from tests.pipeline.faces import FACES

__all__ = ["programs_begin_quickly", "pytest_pyfunc_call"]


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> object:
    """Each of the three faces."""
    from tests.pubsub.faces import Face  # here: the tests of pure cores need no sockets

    return Face(request.param)


@pytest.fixture(params=FACES[1:])
def async_face(request: pytest.FixtureRequest) -> object:
    """Each face that has a loop."""
    from tests.pubsub.faces import Face

    return Face(request.param)


@pytest.fixture
def folder() -> Iterator[str]:
    """A folder with a short name: an ipc:// path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="zk-") as name:
        yield name
