"""The control socket: a zmqkit server beside a device, by which it is paused, asked and ended from outside.

Knows a device by its few verbs, and the faces of request-reply. What one device offers here a daemon offers for many:
both answer with a list of maps, one a device, so that whoever asks need not know which it is. The methods, for clients
in any language (docs/protocol.md, section 12):

=============  ==================================================================================
``describe``   name, kind, addresses of both sides, what it carries, whether it is paused, uptime
``stats``      its counters, and ``rates``: messages and bytes a second
``pause``      let nothing through; peers keep what they have to send
``resume``     go on
``terminate``  end it, as SIGTERM does
=============  ==================================================================================

Each takes ``device``, a name; without it, it is for all of them. An unknown name is a `ServiceError`.
"""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Final, Self

from zmqkit.address import Address, is_loopback, parse
from zmqkit.devices.panel import Described, DevicePanel, Panel, Steered
from zmqkit.errors import InsecureAddress, UsageError, ZmqkitError
from zmqkit.patterns.reqrep.serving import Server

log = logging.getLogger("zmqkit.devices")

THREADS: Final = 2
"""Who waits for one slow answer must not keep out who wants to end it."""

SAMPLE_S: Final = 1.0
"""Counters are read so often for the rates."""


def check_address(address: str) -> Address:
    """The address of a control socket, if it can be one.

    Raises:
        InsecureAddress: others than this host's could reach it. No option allows that: whoever reaches it ends devices.
        UsageError: it is none to bind.
    """
    found = parse(address)
    if found.looked_up:
        raise UsageError(f"{address} cannot be bound for control: name the address itself, as in ipc:///run/NAME")
    if not is_loopback(found):
        raise InsecureAddress(
            f"control at {address} would let others on the network end devices: use ipc://PATH or tcp://127.0.0.1:PORT"
        )
    return found


class Control:
    """Serves a panel at an address of this host, in threads of its own.

    Whoever may open a ``ipc://`` path may steer; at a ``tcp://`` address that is everybody on this host.

    Args:
        device: an open device; or a panel of several, as a daemon has.
        address: to bind; ``ipc://PATH`` or loopback.
        name: in logs.

    Raises:
        InsecureAddress: others than this host's could reach the address.
        UsageError: it is none to bind.
    """

    def __init__(self, device: Steered | Panel, address: str, *, name: str | None = None) -> None:
        check_address(address)
        self._device = device
        self._panel: Panel | None = None
        self._server = Server(address, threads=THREADS, name=name or "control")
        self._ended = threading.Event()
        self._sampler: threading.Thread | None = None
        for method in (self.describe, self.stats, self.pause, self.resume, self.terminate):
            self._server.method(idempotent=True)(method)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it is bound, ports filled in; empty before `open`."""
        return self._server.addresses

    def open(self) -> Self:
        """Bind, and begin to answer.

        Raises:
            AddressInUse: somebody else is bound there.
        """
        if isinstance(self._device, Panel):
            self._panel = self._device
        else:
            self._panel = panel = DevicePanel(self._device)
            self._sampler = threading.Thread(
                target=self._sample, args=(panel,), name=f"zmqkit-rates-{self._server.name}"[:60], daemon=True
            )
        self._server.open()
        if self._sampler is not None:
            self._sampler.start()
        return self

    def close(self, timeout: float = 1.0) -> None:
        """Let what was asked be answered, for so many seconds, and end. Not from one of its own methods."""
        self._ended.set()
        self._server.close(timeout)
        if self._sampler is not None and self._sampler.ident is not None:
            self._sampler.join(timeout)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # ---- what clients call -----------------------------------------------------------

    def describe(self, device: str | None = None) -> list[Described]:
        """What it is: name, kind, addresses of both sides, what it carries, whether it is paused, uptime."""
        return self._asked().describe(device)

    def stats(self, device: str | None = None) -> list[Described]:
        """Counters since its start, and rates: messages and bytes a second."""
        return self._asked().stats(device)

    def pause(self, device: str | None = None) -> list[Described]:
        """Let nothing through until `resume`."""
        return self._asked().pause(device)

    def resume(self, device: str | None = None) -> list[Described]:
        """Go on after `pause`."""
        return self._asked().resume(device)

    def terminate(self, device: str | None = None) -> list[Described]:
        """End it, as SIGTERM does."""
        return self._asked().terminate(device)

    def _asked(self) -> Panel:
        assert self._panel is not None  # the server, which calls this, is opened after it was set
        return self._panel

    def _sample(self, panel: DevicePanel) -> None:
        """Keep the rates up to date until the end."""
        while not self._ended.wait(SAMPLE_S):
            try:
                panel.sample()
            except ZmqkitError as error:
                log.debug("%s: no counters now: %s", self._server.name, error)
