"""Who this process is, and proof that another process of this host is dead. Knows /proc; no zmq, no thread.

A process is named by its host, its pid, and the moment it started: a pid alone is used again. Only proof counts:
whatever cannot be established means "not proven dead".
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import uuid
from typing import NamedTuple


class ProcessId(NamedTuple):
    """One process, never to be mistaken for another."""

    host: str
    """See `host_id`."""
    pid: int
    started: str
    """When it started, in clock ticks since boot; empty where the system does not tell."""


def this_process() -> ProcessId:
    """The name of this process."""
    pid = os.getpid()
    stat = _stat(pid)
    return ProcessId(host_id(), pid, stat.started if stat is not None else "")


def host_id() -> str:
    """The boot of this host and the namespaces in which its pids and start times mean something.

    Two processes with the same host id see each other's pids. Without /proc, a hash of what names the machine.
    """
    return _host_id(os.getpid())


def is_dead(host: str, pid: int, started: str) -> bool:
    """True only when that process is proven dead: on this host, and gone, a zombie, or its pid was given to another."""
    if not host or host != host_id() or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # EPERM: it lives and is not ours
        pass
    stat = _stat(pid)
    if stat is None:
        return False
    if started and stat.started != started:
        return True
    # A zombie was killed and waits for its parent. With threads left only the main thread has ended.
    return stat.state in "ZX" and stat.threads <= 1


class _Stat(NamedTuple):
    state: str
    threads: int
    started: str


def _stat(pid: int) -> _Stat | None:
    """Three fields of /proc/PID/stat (proc(5)); None where it cannot be read."""
    if not _proc_is_ours(os.getpid()):
        return None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            data = file.read()
    except OSError:
        return None
    # The second field is the program's name in parentheses and may itself hold spaces and parentheses.
    fields = data[data.rfind(b")") + 1 :].split()
    if len(fields) < 20:
        return None
    return _Stat(fields[0].decode(), int(fields[17]), fields[19].decode())


@functools.lru_cache(maxsize=1)
def _proc_is_ours(pid: int) -> bool:
    """Whether /proc is mounted and speaks of our pid namespace (a container may show the outer one)."""
    try:
        return os.readlink("/proc/self") == str(pid)
    except OSError:
        return False


@functools.lru_cache(maxsize=1)
def _host_id(pid: int) -> str:
    if _proc_is_ours(pid):
        try:
            with open("/proc/sys/kernel/random/boot_id") as file:
                boot = file.read().strip()
            namespaces = [os.stat(f"/proc/self/ns/{name}").st_ino for name in ("pid", "time")]
        except OSError:
            namespaces = []
            boot = ""
        if boot and namespaces:
            return f"{boot}-{namespaces[0]:x}-{namespaces[1]:x}"
    # getnode() is random where there is no network card: then no two processes share a host id, and nothing is proven.
    name = f"{platform.node()} {platform.system()} {uuid.getnode():x}"
    return hashlib.sha256(name.encode()).hexdigest()[:32]
