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
from typing import Final, NamedTuple

PF_EXITING: Final = 0x4
"""A flag of a task that has run its last instruction, until it is gone (Linux, include/linux/sched.h)."""

LOOKS: Final = 10
"""So often at most it is looked for threads that are new."""


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
    """True only when that process is proven dead: on this host, and gone, ending, or its pid was given to another.

    A process is ending when each of its threads is a zombie, or has run its last instruction: killed, with its files
    closed, but not wound up by the kernel, or by its parent.
    """
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
    return _has_ended(stat) and _all_have_ended(pid)


class _Stat(NamedTuple):
    state: str
    flags: int
    started: str


def _has_ended(task: _Stat) -> bool:
    return task.state in "ZX" or bool(task.flags & PF_EXITING)


def _all_have_ended(pid: int) -> bool:
    """Whether all threads of a process have ended. Where only the main thread has, it lives."""
    known: set[str] = set()
    for _ in range(LOOKS):
        try:
            found = set(os.listdir(f"/proc/{pid}/task")) - known
        except OSError:
            return False
        if not found:
            return True  # none of those that ended can have begun another one since
        for each in found:
            task = _stat(pid, int(each))
            if task is None or not _has_ended(task):
                return False
        known |= found
    return False


def _stat(pid: int, thread: int = 0) -> _Stat | None:
    """Some fields of /proc/PID/stat (proc(5)), or of that of a thread; None where it cannot be read."""
    if not _proc_is_ours(os.getpid()):
        return None
    try:
        with open(f"/proc/{pid}/task/{thread}/stat" if thread else f"/proc/{pid}/stat", "rb") as file:
            data = file.read()
    except OSError:
        return None
    # The second field is the program's name in parentheses and may itself hold spaces and parentheses.
    fields = data[data.rfind(b")") + 1 :].split()
    if len(fields) < 20:
        return None
    return _Stat(fields[0].decode(), int(fields[6]), fields[19].decode())


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
