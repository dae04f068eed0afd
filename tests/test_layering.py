"""The layers of zmqkit, read from the imports: who may know whom.

::

    6  cli, demo
    5  devices
    4  patterns
    3  peer                           what the faces of all patterns share
    2  journal, inbox, transport, discovery  siblings: never each other
    1  codec, address, protocol
    0  errors, events, options, checks

``testing`` stands beside them: it uses levels 0 to 4, and no runtime module imports it. ``zmqkit`` and
``zmqkit.aio`` only name what others define; nobody below level 6 imports from them.
"""

from __future__ import annotations

import ast
import configparser
import graphlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

LEVELS = {
    "errors": 0,
    "events": 0,
    "options": 0,
    "checks": 0,
    "lazily": 0,
    "codec": 1,
    "address": 1,
    "protocol": 1,
    "journal": 2,
    "inbox": 2,
    "transport": 2,
    "discovery": 2,
    "peer": 3,
    "patterns": 4,
    "devices": 5,
    "cli": 6,
    "demo": 6,
}
TESTING_MAY_USE = 4
ROOTS = {"zmqkit", "zmqkit.aio"}

OWNERS = {
    "zmq": {"transport"},
    "apsw": {"journal"},
    "sqlite3": {"inbox", "demo"},
    "zeroconf": {"discovery"},
    "typer": {"cli"},
    "rich": {"cli", "demo"},
    "pickle": set[str](),
}
"""Third parties (and temptations), and the only parts that may import them."""

IMPURE = {
    "anyio",
    "apsw",
    "asyncio",
    "datetime",
    "multiprocessing",
    "os",
    "pathlib",
    "secrets",
    "select",
    "socket",
    "sqlite3",
    "subprocess",
    "threading",
    "time",
    "trio",
    "uuid",
    "zmq",
}
"""What a pure core does not know: sockets, threads, files and the clock. Of `random` it may name the class only."""


class Import(NamedTuple):
    source: str
    """The importing module."""
    target: str
    """The imported module: the deepest name that is a module of ours, or the top-level name of somebody else's."""
    where: str
    typing_only: bool
    """Under ``if TYPE_CHECKING:``; it never runs."""
    deferred: bool
    """Inside a function."""


def package_folders() -> dict[str, Path]:
    """Where each top of the mapping in setup.cfg lies."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["package_dir"].strip().splitlines()
    return {name.strip(): ROOT / folder.strip() for name, folder in (line.split("=") for line in lines)}


def find_modules(folders: dict[str, Path]) -> dict[str, Path]:
    modules = {}
    for top, folder in folders.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            modules[".".join((top, *parts)).removesuffix(".__init__")] = path
    return modules


def read_imports(name: str, path: Path, modules: dict[str, Path]) -> Iterator[Import]:
    is_package = path.name == "__init__.py"

    def ours_or_top(target: str) -> str:
        known = target
        while known and known not in modules:
            known = known.rpartition(".")[0]
        return known or target.partition(".")[0]

    def targets(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            return
        base = node.module or ""
        if node.level:
            package = name.split(".") if is_package else name.split(".")[:-1]
            package = package[: len(package) - (node.level - 1)]
            base = ".".join(package + ([base] if base else []))
        yield from (f"{base}.{alias.name}" for alias in node.names)

    def walk(node: ast.AST, typing_only: bool, deferred: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                for target in targets(child):
                    where = f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name}:{child.lineno}"
                    yield Import(name, ours_or_top(target), where, typing_only, deferred)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                for statement in child.body:
                    yield from walk(ast.Module([statement], []), True, deferred)
                for statement in child.orelse:
                    yield from walk(ast.Module([statement], []), typing_only, deferred)
            elif isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):  # no expression imports
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
                yield from walk(child, typing_only, deferred or inside)

    yield from walk(ast.parse(path.read_text(), str(path)), False, False)


def part(module: str) -> str:
    """``zmqkit.journal.sqlite`` -> ``journal``; the roots are parts of their own, ``__main__`` is the CLI's."""
    return module if module in ROOTS else module.split(".")[1].replace("__main__", "cli")


def complaint(found: Import) -> str | None:
    """What is wrong with one import of ours by ours, or None."""
    if found.source in ROOTS:
        return None
    source, target = part(found.source), part(found.target)
    if source == target:
        return None
    if target == "testing":
        return "a runtime module imports testing"
    if source == "testing":
        if target in ROOTS:
            return None  # what users write against: the public face
        return None if LEVELS[target] <= TESTING_MAY_USE else f"testing uses levels 0 to {TESTING_MAY_USE}"
    if target in ROOTS:
        return None if LEVELS[source] == 6 else "only cli, demo and testing use the public face"
    if LEVELS[target] > LEVELS[source]:
        return f"upwards: level {LEVELS[source]} imports level {LEVELS[target]}"
    if LEVELS[target] == LEVELS[source] == 2:
        return "siblings of level 2 import each other"
    return None


def complaints(modules: dict[str, Path]) -> list[str]:
    found = [one for name, path in modules.items() for one in read_imports(name, path, modules)]
    ours = [one for one in found if one.target in modules]
    bad = [f"{one.where}: {one.source} -> {one.target}: {why}" for one in ours if (why := complaint(one))]
    for one in found:
        owners = OWNERS.get(one.target)
        if owners is not None and part(one.source) not in owners | {"testing"}:
            bad.append(f"{one.where}: {one.source} imports {one.target}, which belongs to {sorted(owners) or 'nobody'}")
        if is_pure(one.source) and one.target in IMPURE and not one.typing_only:
            bad.append(f"{one.where}: {one.source} is pure and imports {one.target}")
    bad += [
        f"{name} is pure and draws from random itself" for name, path in modules.items() if draws_itself(name, path)
    ]
    return bad


def draws_itself(module: str, path: Path) -> bool:
    """Whether a pure module uses more of `random` than its class, as an annotation or default."""
    if not is_pure(module):
        return False
    text = path.read_text()
    if "random" not in text:
        return False
    nodes = list(ast.walk(ast.parse(text)))
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "random"}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            used |= {alias.name for alias in node.names}
    return not used <= {"Random"}


def is_pure(module: str) -> bool:
    """zmqkit/protocol, of each pattern what is not a face, and the cores of devices."""
    parts = module.split(".")
    if parts[1:2] == ["devices"]:
        return not DEVICE_CORES.isdisjoint(parts[2:])
    if parts[1:2] == ["protocol"]:
        return True
    return parts[1:2] == ["patterns"] and len(parts) > 3 and not PATTERN_FACES & set(parts[3:])


DEVICE_CORES = {"acceptors", "fences", "greetings", "initiators", "rates", "switch", "ways"}

PATTERN_FACES = {
    "sync", "aio", "pushing", "pushing_aio", "pulling", "pulling_aio", "sending", "bulk",
    "taking", "jobs", "custody", "worker", "worker_aio",
    "executing", "children", "beside", "pace", "dead",
    "arrivals", "calling", "reply", "stream", "request", "handling", "elsewhere", "crew", "tasks", "loops", "hosting",
    "effects", "outbox", "steward", "steering_sync", "serving", "serving_aio",
    "publishing", "subscribing", "messages", "handlers", "positions", "endpoints", "places",
}  # fmt: skip


@pytest.fixture(scope="module")
def modules() -> dict[str, Path]:
    return find_modules(package_folders())


def test_every_part_has_a_level(modules: dict[str, Path]) -> None:
    parts = {part(name) for name in modules} - ROOTS
    assert parts - {"testing"} <= LEVELS.keys(), "give the new part a level, here and in docs/architecture.md"


def test_no_module_imports_what_it_may_not_know(modules: dict[str, Path]) -> None:
    bad = complaints(modules)
    assert not bad, "\n".join(bad)


def test_imports_go_in_no_circle(modules: dict[str, Path]) -> None:
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for name, path in modules.items():
        for one in read_imports(name, path, modules):
            if one.target in modules and one.target != name and not one.typing_only and not one.deferred:
                graph[name].add(one.target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail("a circle of imports: " + " <- ".join(error.args[1]))


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ("errors", "from zmqkit import codec", "upwards: level 0 imports level 1"),
        ("journal", "from zmqkit.transport.context import context", "siblings"),
        ("peer", "def f():\n    import zmqkit.testing", "imports testing"),
        ("peer", "from zmqkit import Pusher", "public face"),
        ("protocol", "from time import monotonic", "is pure"),
        ("protocol", "import random\nx = random.random()", "draws from random"),
        ("peer", "import zmq", "belongs to"),
        ("testing", "from zmqkit.cli import main", "testing uses"),
        ("peer", "if TYPE_CHECKING:\n    from zmqkit.devices import x", "upwards"),
        ("codec", "from . import peer", "upwards"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, source: str, text: str, expected: str) -> None:
    for name in [*LEVELS, "testing", "transport/context", "__init__"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text(text if name == source else "")
    (tmp_path / "transport.py").unlink()
    bad = complaints(find_modules({"zmqkit": tmp_path}))
    assert len(bad) == 1
    assert expected in bad[0]
