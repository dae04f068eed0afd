"""The public names: every one resolves, lazily, and the type checker is told the same as the interpreter."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from importlib import resources
from pathlib import Path
from types import ModuleType

import pytest

import zmqkit
import zmqkit.aio
import zmqkit.devices
from zmqkit import errors
from zmqkit.patterns import pipeline, pubsub, reqrep

ROOT = Path(__file__).parents[1]
HEAVY = ("zmq", "apsw", "zeroconf", "msgpack", "asyncio", "anyio", "trio", "sqlite3", "typer", "rich")
ONLY_SYNC = {"aio", "devices", "events", "testing"}
"""Modules that serve both faces (`zmqkit.devices` has an async one of its own); `zmqkit.aio` bears every other name."""


def run_python(program: str) -> str:
    """Run a program in a fresh interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def told_to_type_checkers(module: ModuleType) -> dict[str, str]:
    """Name and home of what stands under ``if TYPE_CHECKING:``."""
    assert module.__file__ is not None
    homes: dict[str, str] = {}
    for node in ast.parse(Path(module.__file__).read_text()).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for statement in node.body:
                assert isinstance(statement, ast.ImportFrom)
                homes |= {alias.name: str(statement.module) for alias in statement.names}
    return homes


FACES = pytest.mark.parametrize("face", [zmqkit, zmqkit.aio], ids=["zmqkit", "zmqkit.aio"])
MODULES = pytest.mark.parametrize(
    "face", [zmqkit, zmqkit.aio, zmqkit.devices, pipeline, pubsub, reqrep], ids=lambda face: face.__name__
)


@MODULES
def test_every_public_name_resolves(face: ModuleType) -> None:
    missing = []
    for name in face.__all__:
        try:
            getattr(face, name)
        except (AttributeError, ImportError) as error:
            missing.append(f"{name}: {error}")
    assert not missing, "\n".join(missing)


@MODULES
def test_type_checkers_and_the_interpreter_are_told_the_same(face: ModuleType) -> None:
    modules = {name: face.__name__ for name in face.__all__ if name in ONLY_SYNC}
    assert told_to_type_checkers(face) == {**face._HOMES, **modules}
    assert set(face.__all__) - {"version"} == {*face._HOMES, *modules}


@MODULES
def test_a_name_that_is_not_there_is_an_attribute_error(face: ModuleType) -> None:
    with pytest.raises(AttributeError, match=f"module '{face.__name__}' has no attribute 'Publsher'"):
        _ = face.Publsher


@MODULES
def test_dir_lists_the_public_names_before_they_are_used(face: ModuleType) -> None:
    names = run_python(f"import {face.__name__}; print(*dir({face.__name__}))").split()
    assert set(face.__all__) <= set(names)


def test_the_async_face_has_the_same_names() -> None:
    assert set(zmqkit.aio.__all__) == set(zmqkit.__all__) - ONLY_SYNC


def test_what_never_waits_is_the_same_object_in_both_faces() -> None:
    same = [name for name, home in zmqkit._HOMES.items() if zmqkit.aio._HOMES[name] == home]
    assert {"Backoff", "Limits", "Full", "Settled", "Outgoing"} <= set(same)
    for name in same:
        assert getattr(zmqkit.aio, name) is getattr(zmqkit, name)


def test_every_error_is_public() -> None:
    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert classes == {name for name, home in zmqkit._HOMES.items() if home == "zmqkit.errors"}


def test_every_error_stands_in_the_drawn_tree() -> None:
    drawing = (errors.__doc__ or "").partition("Outcomes")[0]
    for name, home in zmqkit._HOMES.items():
        if home == "zmqkit.errors":
            assert name in drawing.split(), name


def test_import_loads_nothing_heavy() -> None:
    modules = "sys, zmqkit, zmqkit.aio, zmqkit.devices, zmqkit.events"
    program = f"import {modules}; zmqkit.Full; zmqkit.Backoff; print(*sys.modules)"
    loaded = set(run_python(program).split())
    assert not loaded & set(HEAVY)


def test_public_names_say_where_they_live() -> None:
    """What prints in a traceback can be imported from there."""
    for name, home in zmqkit._HOMES.items():
        value = getattr(zmqkit, name)
        if isinstance(value, type):
            assert value.__module__.startswith("zmqkit."), value
            assert getattr(importlib.import_module(home), name) is value


def test_the_package_says_that_it_is_typed() -> None:
    assert resources.files("zmqkit").joinpath("py.typed").is_file()


@pytest.mark.parametrize("name", ["patterns", "devices"])
def test_the_wrong_top_level_name_says_the_right_one(name: str) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
try:
    import {name}
except ImportError as error:
    print(error)
"""
    message = run_python(program)
    assert message == f"the package is called zmqkit.{name}, not {name}: import zmqkit.{name} instead\n"
