"""examples/deploy/: what stands there is taken by those whom it is for."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Start
from zmqkit.cli.device_file import read

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"
FILES = pytest.mark.parametrize("path", sorted(DEPLOY.glob("*.toml")), ids=lambda path: path.stem)
UNIT = DEPLOY / "zmqkit-devices.service"
COMPOSE = DEPLOY / "compose.yaml"


@FILES
def test_a_file_has_no_mistakes(path: Path) -> None:
    config = read(path)
    assert config.control == "ipc:///run/zmqkit/control"
    assert config.specs


@FILES
def test_a_file_passes_the_check_where_its_addresses_are_free(zmqkit: Start, path: Path, tmp_path: Path) -> None:
    """Ports of the tests' own, and folders that are there."""
    text = re.sub(r"(tcp://[\d.]+):\d+", r"\1:*", path.read_text())
    text = text.replace("/run/zmqkit", str(tmp_path)).replace("/var/lib/zmqkit", str(tmp_path))
    (tmp_path / "devices.toml").write_text(text)
    zmqkit("device", "run", "--check", "devices.toml").finish()


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    script = Path(sys.executable).with_name("zmqkit")
    (tmp_path / UNIT.name).write_text(UNIT.read_text().replace("/usr/local/bin/zmqkit", str(script)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / UNIT.name)],
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    about_it = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert (done.returncode, about_it) == (0, []), done.stderr


def test_the_unit_gives_the_daemon_what_it_asks_for() -> None:
    unit = UNIT.read_text()
    assert "Type=notify" in unit
    assert re.search(r"^WatchdogSec=\d+$", unit, re.MULTILINE)
    assert "RestartPreventExitStatus=2" in unit
    for folder, setting in (("/run/zmqkit", "RuntimeDirectory"), ("/var/lib/zmqkit", "StateDirectory")):
        assert folder in (DEPLOY / "devices.toml").read_text()
        assert f"{setting}=zmqkit" in unit


def test_docker_compose_takes_the_file() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, timeout=50).returncode:
        pytest.skip("docker compose is not installed")
    done = subprocess.run(
        [docker, "compose", "--file", COMPOSE, "config", "--quiet"], capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr


def test_compose_opens_the_ports_that_are_bound_to_this_host_only() -> None:
    bound = {str(each.address.port) for each in read(DEPLOY / "container.toml").bound if each.address.scheme == "tcp"}
    opened = re.findall(r'- "127\.0\.0\.1:(\d+):\1"', COMPOSE.read_text())
    assert set(opened) == bound
    assert "./container.toml:" in COMPOSE.read_text()
