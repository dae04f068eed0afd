"""The installed wheel, seen from outside the checkout: its layout, and a program that uses it.

An editable installation hides what a wheel forgets, so this one goes into an environment of its own, which sees
the requirements of this one but not the checkout. Nothing is downloaded.
"""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "zmqkit", "patterns", "devices")

PROGRAM = """
import zmqkit
from zmqkit.patterns import pipeline

assert zmqkit.__file__ == pipeline.__file__.replace("patterns/pipeline/", ""), (zmqkit.__file__, pipeline.__file__)
with zmqkit.Pusher("tcp://127.0.0.1:*", journal="jobs.db") as push, zmqkit.Puller(*push.addresses) as pull:
    push.send_many({"n": n} for n in range(10))
    numbers = []
    for job in pull:
        with job:
            numbers.append(job.body["n"])
        if len(numbers) == 10:
            break
    settled = push.flush(timeout=30)
print(zmqkit.version(), sorted(numbers) == list(range(10)), settled.acked)
"""


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: setuptools would take leftovers in the checkout's build/ along."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist", folder, cwd=folder)
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; the folder of its programs."""
    folder = tmp_path_factory.mktemp("elsewhere") / "environment"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    (site,) = (folder / "lib").glob("python*/site-packages")
    # A folder named in a .pth file is searched last and its own .pth files are not read: the requirements are
    # seen from there, the editable installation of the checkout is not.
    (site / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def packages_in_setup() -> set[str]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return set(setup["options"]["packages"].split())


def test_setup_lists_every_package() -> None:
    """`packages` is written by hand; a forgotten line would leave the folder out of the wheel."""
    found = set()
    for top, folder in {"zmqkit": "zmqkit", "zmqkit.patterns": "patterns", "zmqkit.devices": "devices"}.items():
        for path in (ROOT / folder).rglob("*.py"):
            found.add(".".join((top, *path.parent.relative_to(ROOT / folder).parts)))
    assert found == packages_in_setup()


def test_the_wheel_holds_zmqkit_and_nothing_beside_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2, tops
    assert {top for top in tops if not top.endswith(".dist-info")} == {"zmqkit"}
    for package in packages_in_setup():
        assert f"{package.replace('.', '/')}/__init__.py" in names
    assert "zmqkit/py.typed" in names


def test_the_wheel_holds_every_module_of_the_checkout(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "zmqkit").rglob("*.py")}
    for top in ("patterns", "devices"):
        expected |= {f"zmqkit/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / top).rglob("*.py")}
    assert names == expected


def test_an_installed_zmqkit_runs_a_pipeline(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    version, whole, acked = run(installed / "python", "program.py", cwd=tmp_path).split()
    assert (whole, acked) == ("True", "10")
    assert version in (ROOT / "setup.cfg").read_text()


def test_the_installed_zmqkit_is_the_one_of_the_wheel(installed: Path, tmp_path: Path) -> None:
    program = "import zmqkit, zmqkit.patterns, zmqkit.devices; print(zmqkit.__file__, zmqkit.patterns.__file__)"
    for name in run(installed / "python", "-c", program, cwd=tmp_path).split():
        assert Path(name).is_relative_to(installed.parent)


@pytest.mark.parametrize("name", ["patterns", "devices"])
def test_no_plain_name_is_installed(installed: Path, tmp_path: Path, name: str) -> None:
    program = f"import importlib.util as u; print(u.find_spec({name!r}))"
    assert run(installed / "python", "-c", program, cwd=tmp_path) == "None\n"


def test_the_installed_command_answers(installed: Path, tmp_path: Path) -> None:
    shown = run(installed / "zmqkit", "--help", cwd=tmp_path)
    for command in ("demo", "push", "pull", "journal", "peers"):
        assert command in shown


@pytest.mark.slow
def test_a_type_checker_knows_the_installed_zmqkit(installed: Path, tmp_path: Path) -> None:
    """What `make types` sees through links, a user's mypy must see through py.typed and the wheel's layout."""
    shutil.copy(ROOT / "tests" / "typing" / "public_face.py", tmp_path)
    mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", installed / "python")
    assert "Success" in run(*mypy, "public_face.py", cwd=tmp_path)
