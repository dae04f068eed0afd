"""Runs tests that are coroutines over the face that they ask for."""

from __future__ import annotations

import functools
import inspect
import tempfile
from collections.abc import Iterator

import pytest

from tests.pipeline.faces import FACES, Face
from tests.pipeline.processes import Program
from tests.preloaded import Preloaded


@pytest.fixture(scope="session", autouse=True)
def programs_begin_quickly(preloaded: Preloaded) -> None:
    """See `tests.pipeline.processes`."""
    Program.preloaded = preloaded


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> Face:
    """Each of the three faces."""
    return Face(request.param)


@pytest.fixture(params=FACES[1:])
def async_face(request: pytest.FixtureRequest) -> Face:
    """Each face that has a loop."""
    return Face(request.param)


@pytest.fixture
def folder() -> Iterator[str]:
    """A folder with a short name: an ipc:// path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="zk-") as name:
        yield name


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A test that is a coroutine function is a scenario: its face runs it."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    given = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    face = given.get("face", given.get("async_face"))
    assert isinstance(face, Face), "a scenario needs a face"
    face.run(functools.partial(pyfuncitem.obj, **given))
    return True
