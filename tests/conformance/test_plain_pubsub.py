"""Plain SUB sockets of other languages read a zmqkit Publisher (docs/protocol.md, section 14.8).

What C and Node take stands at the beginning of test_plain_clients.py. What is missing is skipped, by its name. Plain
sockets from Python are in tests/pubsub/test_plain.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
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
    program = str(folder / "plain_subscriber")

    def compile_it(source: Path) -> subprocess.CompletedProcess[str]:
        command = [compiler, "-Wall", "-Werror", str(source), "-o", program, "-lzmq"]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)

    if compile_it(probe).returncode:
        pytest.skip("there are no headers of libzmq, or no libzmq to link with (libzmq3-dev)")
    compiled = compile_it(HERE / "plain_subscriber.c")
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
    return [program, str(HERE / "plain_subscriber.js")], place


@pytest.fixture(params=["c", "node"])
def foreign(request: pytest.FixtureRequest) -> Command:
    command: Command = request.getfixturevalue(request.param)
    return command


def test_a_sub_of_another_language_reads_what_begins_with_its_prefix(foreign: Command) -> None:
    command, environment = foreign
    with zmqkit.Publisher("tcp://127.0.0.1:*", plain=True, codec="json") as pub:
        process = subprocess.Popen(
            [*command, pub.addresses[0], "prices.", "100"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **environment},
        )  # fmt: skip
        try:
            pub.wait_for_subscribers(1, topic="prices.eu", timeout=PATIENCE_S)
            for n in range(100):
                pub.publish("price", "not this")
                pub.publish(f"prices.{n % 3}", {"n": n, "ä": [None, 1.5]})
            out, told = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == 0, told
    found = [line.split(" ", 1) for line in out.splitlines()]
    assert [(topic, json.loads(body)) for topic, body in found] == [
        (f"prices.{n % 3}", {"n": n, "ä": [None, 1.5]}) for n in range(100)
    ]
