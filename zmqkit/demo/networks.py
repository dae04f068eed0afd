"""Two networks that only a host between them reaches: namespaces, or two loopback addresses where those cannot be.

This module knows ``ip``; nothing of processes that run there, and nothing of messages.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Literal, NamedTuple

Where = Literal["left", "between", "right"]

PREFIX = "zmqkit-demo-"
"""Of the names of our namespaces; the process id of the demo and the place follow."""

IP_TIMEOUT_S = 20.0


class NoNamespaces(Exception):
    """Namespaces cannot be made here; the message says why."""


class Networks(NamedTuple):
    """Where the demo's processes run.

    Attributes:
        kind: in namespaces of their own, or all in ours.
        left: the address of the devices towards the left; what stands there dials it.
        right: the same towards the right.
        about: for people: what this is.
        namespaces: name by place; empty if there are none.
    """

    kind: Literal["namespaces", "loopback"]
    left: str
    right: str
    about: str
    namespaces: dict[Where, str]

    def at(self, where: Where, command: list[str]) -> list[str]:
        """The command that runs `command` there."""
        return ["ip", "netns", "exec", self.namespaces[where], *command] if self.namespaces else command


LOOPBACK = Networks("loopback", "127.0.0.1", "127.0.0.2", "two loopback addresses, 127.0.0.1 and 127.0.0.2", {})


@contextlib.contextmanager
def namespaces() -> Iterator[Networks]:
    """Make three namespaces, joined by two veth pairs: left - between - right. They go with the block.

    Nothing of the host's own network is touched. Nothing routes between left and right: between forwards no packets.

    Raises:
        NoNamespaces: it takes root, and ``ip``, and a kernel or container that lets us.
    """
    if os.geteuid() != 0:
        raise NoNamespaces("it takes root to make network namespaces")
    if shutil.which("ip") is None:
        raise NoNamespaces("there is no command ip here (of iproute2)")
    remove_left_over()
    pid = os.getpid()
    names: dict[Where, str] = {where: f"{PREFIX}{pid}-{where}" for where in ("left", "between", "right")}
    try:
        for name in names.values():
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _join(names["left"], names["between"], f"zk{pid}l", "10.231.1")
        _join(names["right"], names["between"], f"zk{pid}r", "10.231.2")
        if _reaches(names["left"], "10.231.2.2"):
            raise NoNamespaces("left reaches right although nothing leads there")
        about = "two network namespaces, 10.231.1.2 and 10.231.2.2, and no route from one to the other"
        yield Networks("namespaces", "10.231.1.1", "10.231.2.1", about, names)
    finally:
        for name in names.values():
            _remove(name)


def remove_left_over() -> None:
    """Remove the namespaces of demos that were killed with kill -9."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, timeout=IP_TIMEOUT_S).stdout
    for name, pid in re.findall(rf"^({PREFIX}(\d+)-\w+)", listed, re.MULTILINE):
        if not os.path.exists(f"/proc/{pid}"):
            _remove(name)


def _join(one: str, between: str, link: str, net: str) -> None:
    """A veth pair from `one`, which gets address .2, to `between`, which gets .1. What is in it goes with it."""
    _ip("link", "add", f"{link}2", "netns", one, "type", "veth", "peer", "name", f"{link}1", "netns", between)
    for name, end in ((one, 2), (between, 1)):
        _ip("-n", name, "address", "add", f"{net}.{end}/24", "dev", f"{link}{end}")
        _ip("-n", name, "link", "set", f"{link}{end}", "up")


def _reaches(name: str, address: str) -> bool:
    return _run("-n", name, "route", "get", address).returncode == 0


def _ip(*words: str) -> None:
    done = _run(*words)
    if done.returncode != 0:
        raise NoNamespaces(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _remove(name: str) -> None:
    if os.path.exists(f"/run/netns/{name}") or os.path.exists(f"/var/run/netns/{name}"):
        _run("netns", "delete", name)


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    # In a session of its own: Ctrl-C is for us, and what was begun is to be finished.
    return subprocess.run(["ip", *words], capture_output=True, text=True, timeout=IP_TIMEOUT_S, start_new_session=True)
