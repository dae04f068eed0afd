"""The one zmq context of this process. Knows libzmq's settings and the process id; no socket, no thread of ours.

One context for all peers, so that ``inproc://`` works between them. It is never terminated: terminating waits for
every socket, and a leaked one would hang the interpreter's exit.
"""

from __future__ import annotations

import os
import threading

import zmq

FLOOR = (4, 3, 5)
"""Earlier versions of libzmq can be overflowed by a stranger before any authentication."""

MAX_SOCKETS = 16_384
"""libzmq's own default is 1023, which a busy process with its monitors reaches."""

if zmq.zmq_version_info() < FLOOR:
    raise ImportError(
        f"zmqkit needs libzmq {'.'.join(map(str, FLOOR))} or later, this pyzmq brings {zmq.zmq_version()}: "
        "upgrade it with `pip install --upgrade pyzmq`"
    )

_lock = threading.Lock()
_current: tuple[int, zmq.Context[zmq.Socket[bytes]]] | None = None
_inherited: list[object] = []
"""Contexts of parent processes: kept for ever, because nothing of libzmq may be touched after a fork."""


def context() -> zmq.Context[zmq.Socket[bytes]]:
    """The context of this process; a forked child gets a new one."""
    global _current
    with _lock:
        pid = os.getpid()
        if _current is None or _current[0] != pid:
            if _current is not None:
                _inherited.append(_current)
            made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            made.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
            made.set(zmq.BLOCKY, 0)
            made.linger = 0
            _current = (pid, made)
        return _current[1]


def _forked() -> None:
    """The lock may have been held by a thread that does not exist in the child."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forked)
