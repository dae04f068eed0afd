"""Plain sockets at both ends of what is tested: nothing between them, a device, or two devices in a row."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import zmq

from zmqkit.devices import Device
from zmqkit.transport.context import context

ANY = "tcp://127.0.0.1:*"
WAIT_MS = 10_000
BETWEEN = ("nothing", "a device", "two devices")

Frames = list[bytes]


class Ends:
    """Makes sockets for the two ends. All are closed with it.

    Args:
        front: where those in front connect; None: nothing is between the ends, and the first socket binds.
        back: where those behind connect.
    """

    def __init__(self, front: str | None = None, back: str | None = None) -> None:
        self._front = front
        self._back = back
        self._stack = contextlib.ExitStack()

    def front(self, kind: int, **options: Any) -> zmq.Socket[bytes]:
        """A client, a publisher, one who pushes."""
        return self._joined(self._front, self._made(kind, options))

    def back(self, kind: int, **options: Any) -> zmq.Socket[bytes]:
        """A worker, a subscriber, one who pulls."""
        return self._joined(self._back, self._made(kind, options))

    @property
    def front_address(self) -> str:
        assert self._front is not None
        return self._front

    @property
    def back_address(self) -> str:
        assert self._back is not None
        return self._back

    def _joined(self, at: str | None, made: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
        if at is None:
            made.bind(ANY)
            self._front = self._back = made.getsockopt_string(zmq.LAST_ENDPOINT)
        else:
            made.connect(at)
        return made

    def _made(self, kind: int, options: dict[str, Any]) -> zmq.Socket[bytes]:
        made = context().socket(kind)
        self._stack.callback(made.close, 0)
        for name, value in {"LINGER": 0, "SNDTIMEO": WAIT_MS, **options}.items():
            made.setsockopt(getattr(zmq, name), value)
        return made

    def close(self) -> None:
        self._stack.close()


@contextlib.contextmanager
def ends(between: str, make: Callable[[str, str], Device]) -> Iterator[Ends]:
    """Both ends, with so much between them; `make` makes a device of its two sides."""
    with contextlib.ExitStack() as stack:
        made = Ends()
        if between == "a device":
            device = stack.enter_context(make(ANY, ANY))
            made = Ends(device.frontend_addresses[0], device.backend_addresses[0])
        elif between == "two devices":
            second = stack.enter_context(make(ANY, ANY))
            first = stack.enter_context(make(ANY, f">{second.frontend_addresses[0]}"))
            made = Ends(first.frontend_addresses[0], second.backend_addresses[0])
        stack.callback(made.close)
        yield made


def at(device: Device) -> Ends:
    """Ends for one open device."""
    return Ends(device.frontend_addresses[0], device.backend_addresses[0])


def received(socket: zmq.Socket[bytes], patience_ms: int = WAIT_MS) -> Frames:
    """One message, which must come."""
    assert socket.poll(patience_ms), "nothing came"
    return socket.recv_multipart()


def stay_empty(*sockets: zmq.Socket[bytes]) -> bool:
    """Nothing comes in a time in which it would have come."""
    return not any(socket.poll(100) for socket in sockets)


@contextlib.contextmanager
def closing(*each: Ends) -> Iterator[None]:
    try:
        yield
    finally:
        for one in each:
            one.close()
