"""The repository as a reader finds it: sizes, versions, and nothing that belongs to one machine only."""

from __future__ import annotations

import configparser
import re
import socket
import subprocess
from pathlib import Path

import pytest

import zmqkit

ROOT = Path(__file__).parents[1]
MAX_LINES = 600
BINARY = {".png", ".ico", ".gif", ".bin", ".db", ".sqlite"}

PRIVATE = re.compile(
    r"""
    /home/\w+                                   # somebody's home
    | /root/ | /Users/\w+
    | (?<![\w.])/work/ | /opt/(?:wheels|pypi)
    | \.\./shared
    | [\w.+-]+@(?!example\.)[\w-]+\.(?:com|org|net|io|de)\b        # somebody's address
    """,
    re.VERBOSE,
)
SIGNS = ("@", "/home/", "/root/", "/Users/", "/work/", "/opt/", "../shared")
"""Without one of these in it no line can hold what `PRIVATE` finds."""
ALLOWED = {
    "tests/test_repository.py": "spells the pattern",
}
"""Files that may name such a thing, and why."""


def repository_files() -> list[Path]:
    """What git keeps, or would keep; in an unpacked archive, everything that is not hidden or made."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    if listed.returncode == 0 and listed.stdout:
        names = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        made = {"build", "dist", "__pycache__"}
        names = [
            path
            for path in ROOT.rglob("*")
            if not any(part.startswith(".") or part in made for part in path.relative_to(ROOT).parts)
        ]
    return [path for path in names if path.is_file() and not path.is_symlink() and path.suffix not in BINARY]


FILES = repository_files()


def version_in_setup() -> str:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return setup["metadata"]["version"]


def test_there_are_files_to_look_at() -> None:
    assert {ROOT / "setup.cfg", ROOT / "zmqkit" / "errors.py"} <= set(FILES)


def test_nothing_names_a_machine_or_a_person() -> None:
    # A plain word may be some machine's name; a long one with digits in it is nobody else's.
    hosts = [host for host in {socket.gethostname()} if len(host) >= 8 and re.search(r"\d", host)]
    found = []
    for path in FILES:
        name = path.relative_to(ROOT).as_posix()
        if name in ALLOWED:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if any(sign in line for sign in SIGNS):  # the pattern takes long over a long line
                found += [f"{name}:{number}: {match[0]}" for match in PRIVATE.finditer(line)]
            found += [f"{name}:{number}: {host}" for host in hosts if host in line]
    assert not found, "\n".join(found)


def test_no_python_file_is_too_long_to_read() -> None:
    sizes = {path: len(path.read_text().splitlines()) for path in FILES if path.suffix in {".py", ".pyi"}}
    long = {path.relative_to(ROOT).as_posix(): size for path, size in sizes.items() if size > MAX_LINES}
    assert not long, f"over {MAX_LINES} lines: {long}"


def test_every_module_says_what_it_is() -> None:
    """A file of the package begins with a docstring: what it holds and what it may know."""
    sources = [path for path in FILES if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in SOURCE_FOLDERS]
    texts = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sources}
    silent = [name for name, text in texts.items() if text and not text.startswith(('"""', 'r"""', "#!"))]
    assert not silent, silent


SOURCE_FOLDERS = {"zmqkit", "patterns", "devices", "tests", "examples", "benchmarks"}


def test_the_version_is_the_same_everywhere() -> None:
    version = version_in_setup()
    assert zmqkit.version() == version, "the installation is older than setup.cfg: run `make test` or install again"
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings
    assert headings[0] == "Unreleased" or headings[0] == version


def test_an_unreleased_change_is_of_a_later_version_than_the_last_release() -> None:
    headings = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    released = [tuple(map(int, heading.split("."))) for heading in headings]
    assert released == sorted(released, reverse=True)
    assert not released or released[0] <= tuple(map(int, version_in_setup().split(".")))


@pytest.mark.parametrize("name", ["patterns", "devices"])
def test_the_links_for_mypy_point_at_the_folders(name: str) -> None:
    link = ROOT / ".mypy" / "zmqkit" / name
    assert link.is_symlink()
    assert link.resolve() == ROOT / name


def test_every_make_target_is_explained_and_known_to_contributors() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    assert {"demo", "demo-devices", "test", "lint", "types", "bench", "simulate", "chaos", "mutants"} <= targets
    assert not [target for target in targets - {"help"} if f"make {target}" not in contributing]


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in (path for path in FILES if path.suffix == ".md"):
        targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
        inside = [target for target in targets if "://" not in target and not target.startswith("mailto:")]
        broken += [f"{page.relative_to(ROOT)}: {target}" for target in inside if not (page.parent / target).exists()]
    assert not broken, "\n".join(broken)
