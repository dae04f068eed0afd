"""Plain PUSH and PULL sockets of other languages beside zmqkit's (docs/protocol.md, section 7.6).

What C and Node take stands at the beginning of test_plain_clients.py. What is missing is skipped, by its name. Plain
sockets from Python are in tests/pipeline/test_plain.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import zmqkit
from tests.conformance.test_plain_clients import HERE, NODE_MODULES, PATIENCE_S

Command = tuple[list[str], dict[str, str]]


@pytest.fixture(scope="module")
def c(tmp_path_factory: pytest.TempPathFactory) -> Command:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (gcc)")
    folder = tmp_path_factory.mktemp("c")
    probe = folder / "probe.c"
    probe.write_text("#include <zmq.h>\nint main(void) { return zmq_errno(); }\n")
    program = str(folder / "plain_pipe")

    def compile_it(source: Path) -> subprocess.CompletedProcess[str]:
        command = [compiler, "-Wall", "-Werror", str(source), "-o", program, "-lzmq"]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)

    if compile_it(probe).returncode:
        pytest.skip("there are no headers of libzmq, or no libzmq to link with (libzmq3-dev)")
    compiled = compile_it(HERE / "plain_pipe.c")
    assert compiled.returncode == 0, compiled.stderr
    return [program], {}


@pytest.fixture(scope="module")
def node() -> Command:
    program = shutil.which("node")
    if program is None:
        pytest.skip("there is no Node (node)")
    place = {"NODE_PATH": str(NODE_MODULES)}
    probe = subprocess.run(
        [program, "-e", "require('zeromq')"], capture_output=True, timeout=PATIENCE_S, env={**os.environ, **place}
    )
    if probe.returncode:
        pytest.skip(f"Node finds no package zeromq in {NODE_MODULES} (see test_plain_clients.py)")
    return [program, str(HERE / "plain_pipe.js")], place


@pytest.fixture(params=["c", "node"])
def foreign(request: pytest.FixtureRequest) -> Command:
    command: Command = request.getfixturevalue(request.param)
    return command


@contextlib.contextmanager
def running(foreign: Command, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command, environment = foreign
    with subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **environment},
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def test_a_pull_of_another_language_reads_what_a_pusher_sends(foreign: Command) -> None:
    with zmqkit.Pusher("tcp://127.0.0.1:*", plain=True, codec="json") as push:
        push.send_many({"n": n, "ä": [None, 1.5]} for n in range(1_000))
        with running(foreign, "pull", push.addresses[0], "1000") as process:
            out, told = process.communicate(timeout=PATIENCE_S)
        assert push.flush(PATIENCE_S).acked == 1_000
    assert process.returncode == 0, told
    assert [json.loads(line) for line in out.splitlines()] == [{"n": n, "ä": [None, 1.5]} for n in range(1_000)]


def test_a_puller_reads_what_a_push_of_another_language_sends(foreign: Command) -> None:
    with (
        zmqkit.Puller(bind="tcp://127.0.0.1:*", plain=True, codec="json") as pull,
        running(foreign, "push", pull.addresses[0], "1000") as process,
    ):
        found = []
        for _ in range(1_000):
            job = pull.receive(PATIENCE_S)
            assert job is not None, "no job came"
            with job:
                found.append(job.body)
        _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, told
    assert found == list(range(1_000))
