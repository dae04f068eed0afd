"""Discovery on hosts of other kinds: nothing but a loopback interface, no multicast at all, two hosts on one wire.

Each host is a network namespace of its own; making one takes root and the commands of iproute2 and util-linux.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.discovery.helpers import ANNOUNCER, Script

Run = Callable[..., Script]

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"),
    reason="network namespaces take root and the commands ip and unshare",
)

ALONE = """
    import subprocess, sys
    from tests.discovery.helpers import Seen
    from zmqkit import discovery
    from zmqkit.errors import DiscoveryError
    name, state = sys.argv[1:]
    subprocess.run(["ip", "link", "set", "lo", state], check=True)
    seen = Seen()
    try:
        with discovery.watch("zeroconf://" + name, on_change=seen):
            addresses = ["tcp://127.0.0.1:5557", "tcp://*:5558"]
            with discovery.announce(name, addresses, role="push", instance="here"):
                routes = subprocess.run(["ip", "route"], check=True, capture_output=True, text=True).stdout.strip()
                other = subprocess.run(
                    [sys.executable, "-c", sys.stdin.readline().replace("@", chr(10)), name],
                    check=True, capture_output=True, text=True, timeout=40,
                ).stdout.strip()
                print(sorted(found.address for found in seen.wait_for_instances("here")), repr(routes), other)
    except DiscoveryError as error:
        print(error)
    sys.stdout.flush()
"""

OTHER = """\
import sys
from tests.discovery.helpers import Seen
from zmqkit import discovery
seen = Seen()
with discovery.watch("zeroconf://" + sys.argv[1], on_change=seen): print(seen.wait_for_instances("here") and "found")
"""


def python(code: str, *args: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code), *args]


@needs_root
def test_a_host_with_only_a_loopback_interface_finds_and_is_found(name: str) -> None:
    said = subprocess.run(
        ["unshare", "--net", *python(ALONE, name, "up")],
        input=OTHER.replace("\n", "@") + "\n",
        capture_output=True,
        text=True,
        timeout=50,
        env={key: value for key, value in os.environ.items() if key != "ZMQKIT_INTERFACES"},
        check=True,
    ).stdout
    assert said == "['tcp://127.0.0.1:5557'] '' found\n"


@needs_root
@pytest.mark.parametrize("interfaces", ["", "127.0.0.1", "lo"])
def test_a_host_with_no_interface_up_is_told_what_to_do(name: str, interfaces: str) -> None:
    said = subprocess.run(
        ["unshare", "--net", *python(ALONE, name, "down")],
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "ZMQKIT_INTERFACES": interfaces},
        check=True,
    ).stdout
    assert said.startswith("no interface to look up or announce names on (")
    assert "ip link set lo up" in said
    assert "static://" in said


NO_SOCKETS = """
    import os, resource
    from zmqkit import discovery
    from zmqkit.errors import DiscoveryError
    import encodings.idna
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    try:
        discovery.watch("zeroconf://jobs", on_change=print)
    except DiscoveryError as error:
        print(error, flush=True)
"""


def test_a_process_that_can_open_no_socket_is_told_what_to_do(run: Run) -> None:
    said = run(NO_SOCKETS).said
    assert "Too many open files" in said
    assert "static://" in said


@pytest.fixture
def two_hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a wire between them: 10.99.0.1 and 10.99.0.2."""
    hosts = [f"zmqkit-{uuid.uuid4().hex[:8]}" for _ in range(2)]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    made = []
    try:
        for host in hosts:
            ip("netns", "add", host)
            made.append(host)
            ip("-n", host, "link", "set", "lo", "up")
        ip("-n", hosts[0], "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", hosts[1])
        for number, host in enumerate(hosts, 1):
            ip("-n", host, "address", "add", f"10.99.0.{number}/24", "dev", "wire")
            ip("-n", host, "link", "set", "wire", "up")
        yield hosts[0], hosts[1]
    finally:
        for host in made:
            ip("netns", "delete", host)


WATCHER = """
    import json, sys
    from tests.discovery.helpers import Seen
    from zmqkit import discovery
    seen = Seen()
    with discovery.watch("zeroconf://" + sys.argv[1], on_change=seen):
        wanted = {tuple(each.split("=")) for each in sys.argv[2:]}
        # The network may answer before the loopback does; then the nearer address takes the place of the other.
        seen.wait(lambda found: {(each.instance, each.address) for each in found} == wanted)
        rows = [row for row in discovery.browse(0.01) if row["name"] == sys.argv[1]]
        ever = {found.instance for told in seen.told for found in told}
        print(json.dumps([sorted(ever), len(rows)]), flush=True)
"""


@pytest.mark.slow
@needs_root
def test_two_hosts_on_one_wire_find_each_others_network_addresses_only(
    name: str, run: Run, two_hosts: tuple[str, str]
) -> None:
    here, there = (("ip", "netns", "exec", host) for host in two_hosts)
    anywhere = {"ZMQKIT_INTERFACES": None}
    run(ANNOUNCER, name, "tcp://127.0.0.1:1,ipc:///tmp/x", "push", "local", prefix=here, **anywhere)
    run(ANNOUNCER, name, "tcp://*:2,ipc:///tmp/x", "push", "everywhere", prefix=here, **anywhere)
    run(ANNOUNCER, name, "tcp://10.99.0.1:3", "push", "wire", prefix=here, **anywhere)
    run(ANNOUNCER, name, "tcp://127.0.0.1:4", "push", "theirs", prefix=there, **anywhere)
    at_home = ("everywhere=tcp://127.0.0.1:2", "local=tcp://127.0.0.1:1", "wire=tcp://10.99.0.1:3")
    abroad = ("everywhere=tcp://10.99.0.1:2", "theirs=tcp://127.0.0.1:4", "wire=tcp://10.99.0.1:3")
    seen_here = run(WATCHER, name, *at_home, prefix=here, **anywhere).said
    seen_there = run(WATCHER, name, *abroad, prefix=there, **anywhere).said
    assert json.loads(seen_here) == [["everywhere", "local", "wire"], 3]
    assert json.loads(seen_there) == [["everywhere", "theirs", "wire"], 3]


STRANGER = """
    import sys, threading
    import zeroconf
    mdns = zeroconf.Zeroconf(interfaces=["10.99.0.2"])
    seen, wanted = [], threading.Event()
    def noted(zeroconf, service_type, name, state_change):
        seen.append(name.rpartition("-")[0] if name.startswith("test-") else "")
        if seen[-1] == sys.argv[1]:
            wanted.set()
    zeroconf.ServiceBrowser(mdns, "_zmqkit._tcp.local.", handlers=[noted])  # asks for a unicast answer first
    assert wanted.wait(30)
    mdns.close()
    print(sorted({name[-1] for name in seen if name[:-1] == sys.argv[1][:-1]}), flush=True)
"""


@needs_root
@pytest.mark.slow
def test_a_question_from_the_network_is_not_answered_with_what_is_meant_for_this_host(
    name: str, run: Run, two_hosts: tuple[str, str]
) -> None:
    here, there = (("ip", "netns", "exec", host) for host in two_hosts)
    anywhere = {"ZMQKIT_INTERFACES": None}
    for each in range(4):  # which of several sockets hears a packet has been a matter of chance
        run(ANNOUNCER, f"{name}{each}l", "tcp://127.0.0.1:1", "push", "local", prefix=here, **anywhere)
        run(ANNOUNCER, f"{name}{each}n", "tcp://10.99.0.1:2", "push", "wire", prefix=here, **anywhere)
        assert run(STRANGER, f"{name}{each}n", prefix=there, **anywhere).said == "['n']"
