"""A TCP relay whose connections a test may cut at any moment. Nothing of zmqkit, nothing of libzmq."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from types import TracebackType
from typing import Self


class Cutter:
    """Relays bytes from its own port to another, until `cut`; then new connections are relayed again."""

    def __init__(self, target: str) -> None:
        host, _, port = target.removeprefix("tcp://").rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self.lose_after: int | None = None
        """Cut each connection when so many bytes more have come through it."""
        self._others: dict[socket.socket, socket.socket] = {}
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="cutter", daemon=True)

    def cut(self) -> None:
        """Break all connections, with what is on its way."""
        with self._lock:
            for one in list(self._others):
                self._drop(one)

    def __enter__(self) -> Self:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        self._ended = True
        self._wake.send(b"!")
        self._thread.join(10)
        self.cut()
        self._selector.close()
        for each in (self._listener, self._wake, self._woken):
            each.close()

    def _run(self) -> None:
        while not self._ended:
            for key, _ in self._selector.select():
                one = key.fileobj
                assert isinstance(one, socket.socket)
                with self._lock:
                    if one is self._listener:
                        self._accept()
                    elif one is not self._woken and one in self._others:
                        self._relay(one)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(self._target, timeout=5)
        except OSError:
            near.close()
            return
        self.connections += 1
        for one, other in ((near, far), (far, near)):
            self._others[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _relay(self, one: socket.socket) -> None:
        try:
            data = one.recv(65536)
            if self.lose_after is not None:
                data, left = data[: self.lose_after], self.lose_after - len(data)
                self.lose_after = None if left <= 0 else left
                if left <= 0:
                    self._others[one].sendall(data)
                    data = b""
            if data:
                self._others[one].sendall(data)
                return
        except OSError:
            pass  # cut by an end of it
        self._drop(one)

    def _drop(self, one: socket.socket) -> None:
        other = self._others.pop(one, None)
        for each in (one, other):
            if each is not None:
                self._others.pop(each, None)
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(each)
                each.close()
