"""The daemon's file: what it may say, and each mistake in it with file and line."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.conftest import Start
from zmqkit.cli import device_keys, device_ports
from zmqkit.cli.device_file import Config, FileWrong, read, read_text
from zmqkit.cli.device_specs import KINDS, Spec

GOOD = """\
[control]
address = "ipc:///tmp/zmqkit-test-control"

[log]
format = "json"

[[device]]
name = "orders"
kind = "queue"
frontend = "tcp://127.0.0.1:5555"
backend = ["tcp://127.0.0.1:5556", "ipc:///tmp/zmqkit-test-orders"]
plain = true
control = "tcp://127.0.0.1:5557"
linger = 2.5
heartbeat = { interval = 0.5, liveness = 4 }

[[device]]
name = "prices"
kind = "forwarder"
[device.frontend]
connect = ["tcp://127.0.0.1:6000", "tcp://127.0.0.1:6001"]
[device.backend]
bind = "tcp://127.0.0.1:*"
announce = "prices"
limits = { queued_messages = 5000 }

[[device]]
name = "jobs"
kind = "streamer"
frontend = "@tcp://127.0.0.1:7000"
backend = ">tcp://127.0.0.1:7001"
journal = "jobs.db"
"""


def make(text: str) -> Config:
    return read_text(text, Path("/somewhere/devices.toml"))


def test_a_file_says_which_devices_there_are() -> None:
    config = make(GOOD)
    assert config.control == "ipc:///tmp/zmqkit-test-control"
    assert config.log == "json"
    assert {name: spec.kind for name, spec in config.specs.items()} == {
        "orders": "queue",
        "prices": "forwarder",
        "jobs": "streamer",
    }
    assert config.specs["orders"].options["linger"] == 2.5
    assert config.specs["jobs"].options["journal"] == "/somewhere/jobs.db"
    assert [str(each.address) for each in config.bound] == [
        "ipc:///tmp/zmqkit-test-control",
        "tcp://127.0.0.1:5557",
        "tcp://127.0.0.1:5555",
        "tcp://127.0.0.1:5556",
        "ipc:///tmp/zmqkit-test-orders",
        "tcp://127.0.0.1:*",
        "tcp://127.0.0.1:7000",
    ]


def test_what_a_file_says_can_be_told_to_a_process() -> None:
    for spec in make(GOOD).specs.values():
        assert Spec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_a_device_that_was_bound_to_a_free_port_asks_for_the_same_again() -> None:
    spec = make(GOOD).specs["prices"]
    settled = spec.settled(frontend=[], backend=["tcp://127.0.0.1:41234"])
    assert settled.options["backend"] == {
        "bind": ["tcp://127.0.0.1:41234"],
        "connect": [],
        "announce": "prices",
        "limits": {"queued_messages": 5000},
    }
    assert settled.options["frontend"] == spec.options["frontend"]
    assert settled.make().name == "prices"


DEVICE = '[[device]]\nname = "a"\nkind = "queue"\nfrontend = "tcp://127.0.0.1:1"\nbackend = "tcp://127.0.0.1:2"\n'
OTHER = '[[device]]\nname = "b"\nkind = "queue"\nfrontend = "tcp://127.0.0.1:3"\nbackend = "tcp://127.0.0.1:4"\n'


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ("", {1: "no [[device]] in it"}),
        ("[[device]\n", {1: "not TOML: Expected ']]'"}),
        ("\n\nx = \n", {3: "not TOML: Invalid value, column 5"}),
        (DEVICE + 'journal = "x\n', {6: "not TOML: Illegal character '\\n', column 13"}),
        (DEVICE + 'x = """\n', {6: "not TOML: Unterminated string"}),
        (DEVICE + "kind = 'queue'\n", {6: "not TOML: Cannot overwrite a value"}),
        (DEVICE.replace("frontend", "frontent"), {1: "'a' has no frontend", 4: "did you mean 'frontend'?"}),
        (DEVICE + "secret = 'hunter2'\n", {6: "unknown key 'secret' in device 'a'"}),
        ("[contol]\n" + DEVICE, {1: "unknown key 'contol' in the file; did you mean 'control'?"}),
        ("[log]\nformt = 'json'\n" + DEVICE, {2: "unknown key 'formt' in [log]; did you mean 'format'?"}),
        ("[log]\nformat = 'xml'\n" + DEVICE, {2: "format is 'text' or 'json', not 'xml'"}),
        ("control = 'ipc:///x'\n" + DEVICE, {1: "control in the file must be a table, not text"}),
        ("[device]\nname = 'a'\n", {1: "must be [[device]], once for each, not a table"}),
        (DEVICE.replace('"queue"', '"qeue"'), {3: "no kind 'qeue' of devices: queue, forwarder, streamer, proxy; did"}),
        (DEVICE.replace('"queue"', "7"), {3: "kind in device 'a' must be text, not a whole number"}),
        (DEVICE.replace('"a"', '"a b"'), {2: "a name is 1 to 64 letters"}),
        (DEVICE.replace('name = "a"\n', ""), {1: "this device has no name"}),
        (DEVICE + OTHER.replace('"b"', '"a"'), {7: "there are two devices 'a': the first is on line 2"}),
        (DEVICE + "plain = 1\n", {6: "plain in device 'a' must be true or false, not a whole number"}),
        (DEVICE + "linger = 'soon'\n", {6: "linger in device 'a' must be a number, not text"}),
        (DEVICE + "linger = -1\n", {6: "linger must be 0 or more seconds"}),
        (DEVICE + "journal = 'x'\n", {6: "journal is for a streamer; device 'a' is a queue"}),
        (DEVICE + "types = ['PULL', 'PUSH']\n", {6: "types is for a proxy"}),
        (DEVICE.replace("queue", "proxy") + "plain = false\n", {6: "a proxy, which is plain in any case"}),
        (DEVICE + "limits = { frame_byte = 1 }\n", {6: "'frame_byte' in limits; did you mean 'frame_bytes'?"}),
        (DEVICE + "limits = { frame_bytes = 1 }\n", {6: "frame_bytes must be 65536 or more, got 1"}),
        (DEVICE + "heartbeat = { interval = 0 }\n", {6: "interval must be a positive number"}),
        (DEVICE.replace("tcp://127.0.0.1:2", "tcp//127.0.0.1:2"), {5: "backend: 'tcp//127.0.0.1:2' is not an address"}),
        (DEVICE.replace("tcp://127.0.0.1:2", "tcp://127.0.0.1:1"), {5: "frontend and backend of device 'a' are both"}),
        (DEVICE.replace('"tcp://127.0.0.1:2"', '">tcp://localhost:1"'), {5: "are both at tcp://localhost:1"}),
        (DEVICE.replace('"tcp://127.0.0.1:2"', '">tcp://*:2"'), {5: "nobody can connect to it"}),
        (DEVICE.replace('"tcp://127.0.0.1:2"', "[]"), {5: "backend has no address"}),
        (DEVICE.replace('"tcp://127.0.0.1:2"', "{ bnd = 'x' }"), {5: "'bnd' in backend; did you mean 'bind'?"}),
        (DEVICE.replace('"tcp://127.0.0.1:2"', "2"), {5: "backend in device 'a' must be an address, a list"}),
        (DEVICE.replace("tcp://127.0.0.1:2", "tcp://192.0.2.1:2"), {5: "allow it with insecure = true"}),
        (DEVICE + "control = 'tcp://0.0.0.0:9'\n", {6: "would let others on the network end devices"}),
        ("[control]\naddress = 'tcp://127.0.0.1:4'\n" + OTHER, {7: "at tcp://127.0.0.1:4, where control of [control]"}),
        (
            DEVICE + OTHER.replace('"tcp://127.0.0.1:4"', '[\n"tcp://127.0.0.1:4",\n"tcp://*:1"]\ninsecure = true'),
            {12: "the backend of device 'b' is at tcp://*:1, where the frontend of device 'a' is already, on line 4"},
        ),
        (
            (DEVICE + "journal = 'x'\n" + OTHER + "journal = './x'").replace("queue", "streamer"),
            {12: "device 'b' has the journal of device 'a'"},
        ),
        ("x = 1\n" + DEVICE.replace("tcp:", "udp:") + "y = 1\n", {1: "'x'", 5: "udp", 6: "udp", 7: "'y'"}),
    ],
)  # fmt: skip
def test_each_mistake_is_named_with_its_line(text: str, mistakes: dict[int, str]) -> None:
    with pytest.raises(FileWrong) as wrong:
        make(text)
    found = {each.line: each.text for each in wrong.value.mistakes}
    assert found.keys() == mistakes.keys(), found
    for line, words in mistakes.items():
        assert words in found[line]
    assert str(wrong.value).startswith("/somewhere/devices.toml:")
    assert "hunter2" not in str(wrong.value)


def written(value: object) -> str:
    """A value as TOML has it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {written(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return json.dumps(value) if not isinstance(value, float) else repr(value)


ADDRESSES = st.sampled_from(
    ["tcp://127.0.0.1:1", ">tcp://[::1]:2", "@zeroconf://x", "static://a:1,b:2", "ipc://x", "x", ""]
)
KEYS = st.sampled_from([*device_keys.SIDE, *device_keys.LIMITS, *device_keys.HEARTBEAT, "x y", ""])
ATOMS = st.one_of(
    ADDRESSES, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.sampled_from([*KINDS, "PULL", "a"])
)
VALUES = st.recursive(ATOMS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))


OVERRIDES = st.dictionaries(st.sampled_from(list(device_keys.DEVICE)), VALUES, max_size=2)


@given(st.lists(OVERRIDES, min_size=1, max_size=2), st.sampled_from(KINDS), st.none() | VALUES)
def test_whatever_stands_there_is_taken_or_told(overrides: list[dict[str, object]], kind: str, control: object) -> None:
    text = "" if control is None else f"[control]\naddress = {written(control)}\n"
    for at, override in enumerate(overrides):
        good = {"name": f"d{at}", "kind": kind, "frontend": f"ipc://f{at}", "backend": f"ipc://b{at}"}
        text += "[[device]]\n" + "".join(f"{key} = {written(each)}\n" for key, each in {**good, **override}.items())
    with contextlib.suppress(FileWrong):
        assert len(make(text).specs) == len(overrides)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"a = {'[' * 3000}{']' * 3000}", "tables or lists stand too deep in one another to be read"),
        (f"a = {'{b=' * 3000}1{'}' * 3000}", "tables or lists stand too deep in one another to be read"),
        (f"a = {'1' * 5000}", "there is a number of too many digits"),
    ],
    ids=["lists", "tables", "digits"],
)
def test_what_toml_allows_and_python_does_not_read_is_a_mistake(text: str, said: str) -> None:
    with pytest.raises(FileWrong, match=f":1: {said}$"):
        make(text)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "devices.toml"
    path.write_bytes(b"# ok\n# \xff\n")
    with pytest.raises(FileWrong, match=r"devices\.toml:2: this is not UTF-8"):
        read(path)


def listen(where: str | tuple[str, int]) -> socket.socket:
    found = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
    found.bind(where)
    found.listen()
    return found


def test_addresses_that_others_hold_are_named(tmp_path: Path) -> None:
    with listen(("127.0.0.1", 0)) as tcp, listen(str(tmp_path / "taken")) as path:
        port = tcp.getsockname()[1]
        text = DEVICE.replace('"tcp://127.0.0.1:1"', f'["tcp://127.0.0.1:*", "tcp://127.0.0.1:{port}"]')
        text = text.replace('"tcp://127.0.0.1:2"', f'["ipc://{path.getsockname()}", "ipc://{tmp_path}/no/where"]')
        assert [(each.line, each.text) for each in device_ports.taken(make(text))] == [
            (4, f"the frontend of device 'a' is at tcp://127.0.0.1:{port}: it is in use by another process"),
            (5, f"the backend of device 'a' is at ipc://{tmp_path}/taken: it is in use by another process"),
            (5, f"the backend of device 'a' is at ipc://{tmp_path}/no/where: there is no folder {tmp_path}/no"),
        ]


def test_a_path_that_a_dead_process_left_is_free(tmp_path: Path) -> None:
    listen(str(tmp_path / "left")).close()
    assert (tmp_path / "left").exists()
    text = DEVICE.replace("tcp://127.0.0.1:1", f"ipc://{tmp_path}/left").replace(
        "tcp://127.0.0.1:2", "tcp://127.0.0.1:*"
    )
    assert device_ports.taken(make(text)) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    text = DEVICE.replace("tcp://127.0.0.1:1", f"ipc://{tmp_path}/x")
    assert "nothing may be made" in device_ports.taken(make(text))[0].text


FREE = DEVICE.replace("127.0.0.1:1", "127.0.0.1:*").replace("127.0.0.1:2", "127.0.0.1:*")


def test_the_command_checks_a_file(zmqkit: Start, tmp_path: Path) -> None:
    (tmp_path / "good.toml").write_text(FREE)
    good = zmqkit("device", "run", "good.toml", "--check")
    assert good.finish() == ""
    assert good.said("1 device") == "zmqkit: good.toml: 1 device, no mistakes"
    (tmp_path / "bad.toml").write_text(FREE + "jornal = 1\nplain = 2\n")
    bad = zmqkit("device", "run", "bad.toml", "--check")
    assert bad.finish(2) == ""
    assert bad.err.text.splitlines() == [
        "zmqkit: bad.toml:6: unknown key 'jornal' in device 'a'; did you mean 'journal'?",
        "zmqkit: bad.toml:7: plain in device 'a' must be true or false, not a whole number",
    ]
    found = zmqkit("device", "run", "bad.toml", "--check", "--json").finish_json(2)
    assert [each["line"] for each in found["mistakes"]] == [6, 7]
    none = zmqkit("device", "run", "none.toml", "--check")
    none.finish(2)
    assert "none.toml: No such file" in none.err.text


def test_a_file_with_mistakes_is_not_run(zmqkit: Start, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(FREE + "jornal = 1\n")
    run = zmqkit("device", "run", "bad.toml")
    run.finish(2)
    assert run.err.text.splitlines() == [
        "zmqkit: bad.toml:6: unknown key 'jornal' in device 'a'; did you mean 'journal'?"
    ]
