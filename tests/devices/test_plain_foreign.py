"""Plain peers in C and Node on one side of a device, in Python on the other.

What they take stands at the beginning of tests/conformance/test_plain_clients.py. What is missing is skipped, by name.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import zmq

from tests.conformance.test_plain_clients import HERE, NODE_MODULES, PATIENCE_S
from tests.devices.plainly import ends, received
from zmqkit.devices import Forwarder, Queue

Program = Callable[[str], tuple[list[str], dict[str, str]]]
"""The command and environment of one of the programs beside the vectors, by its name."""


@pytest.fixture(scope="module")
def c(tmp_path_factory: pytest.TempPathFactory) -> Program:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (gcc)")
    folder = tmp_path_factory.mktemp("c")

    def compiled(source: Path, to: Path) -> subprocess.CompletedProcess[str]:
        command = [compiler, "-Wall", "-Werror", str(source), "-o", str(to), "-lzmq"]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)

    probe = folder / "probe.c"
    probe.write_text("#include <zmq.h>\nint main(void) { return zmq_errno(); }\n")
    if compiled(probe, folder / "probe").returncode:
        pytest.skip("there are no headers of libzmq, or no libzmq to link with (libzmq3-dev)")

    def program(name: str) -> tuple[list[str], dict[str, str]]:
        made = compiled(HERE / f"{name}.c", folder / name)
        assert made.returncode == 0, made.stderr
        return [str(folder / name)], {}

    return program


@pytest.fixture(scope="module")
def node() -> Program:
    found = shutil.which("node")
    if found is None:
        pytest.skip("there is no Node (node)")
    place = {"NODE_PATH": str(NODE_MODULES)}
    probe = subprocess.run(
        [found, "-e", "require('zeromq')"], capture_output=True, timeout=PATIENCE_S, env={**os.environ, **place}
    )
    if probe.returncode:
        pytest.skip(f"Node finds no package zeromq in {NODE_MODULES} (see test_plain_clients.py)")
    return lambda name: ([found, str(HERE / f"{name}.js")], place)


@pytest.fixture(params=["c", "node"])
def foreign(request: pytest.FixtureRequest) -> Program:
    program: Program = request.getfixturevalue(request.param)
    return program


@pytest.mark.parametrize("kind", ["REQ", "DEALER"])
@pytest.mark.parametrize("between", ["a device", "two devices"])
def test_a_client_of_another_language_is_answered_through_devices(foreign: Program, kind: str, between: str) -> None:
    command, environment = foreign("plain_client")
    requests = [{"method": "echo", "params": ["ä" * length], "id": length} for length in range(1, 51)]
    with ends(between, partial(Queue, plain=True)) as made:
        worker = made.back(zmq.ROUTER)
        process = subprocess.Popen(
            [*command, made.front_address, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env={**os.environ, **environment},
        )  # fmt: skip
        try:
            assert process.stdin is not None
            process.stdin.write("".join(json.dumps(each) + "\n" for each in requests))
            process.stdin.close()
            process.stdin = None
            for each in requests:
                *envelope, body = received(worker, int(PATIENCE_S * 1000))
                assert json.loads(body) == each
                worker.send_multipart([*envelope, json.dumps({"id": each["id"]}).encode()])
            out, told = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == 0, told
    assert sorted(json.loads(line)["id"] for line in out.splitlines()) == list(range(1, 51))


@pytest.mark.parametrize("between", ["a device", "two devices"])
def test_a_subscriber_of_another_language_reads_through_devices(foreign: Program, between: str) -> None:
    command, environment = foreign("plain_subscriber")
    with ends(between, partial(Forwarder, plain=True)) as made:
        publisher = made.front(zmq.XPUB)
        process = subprocess.Popen(
            [*command, made.back_address, "prices.", "100"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **environment},
        )  # fmt: skip
        try:
            assert received(publisher, int(PATIENCE_S * 1000)) == [b"\x01prices."]
            for number in range(100):
                publisher.send_multipart([b"price", b"not this"])
                publisher.send_multipart([b"prices.eu", b"%d" % number])
            out, told = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == 0, told
    assert out.splitlines() == [f"prices.eu {number}" for number in range(100)]
