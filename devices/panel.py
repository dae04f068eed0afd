"""What can be asked of a device that runs, and done to it: for one device in this process, or for many by name.

Knows a device by its few verbs. How it is reached from outside is not known here: see `zmqkit.devices.control`.
"""

from __future__ import annotations

import abc
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from zmqkit.devices.rates import Number, Rates
from zmqkit.errors import ServiceError

UNKNOWN_DEVICE: Final = "unknown-device"
"""The code of the error for a name that no device bears."""

Described = dict[str, Any]


class Steered(Protocol):
    """What control needs of a device."""

    @property
    def name(self) -> str: ...
    @property
    def paused(self) -> bool: ...
    @property
    def carries(self) -> str | None: ...
    @property
    def frontend_addresses(self) -> Sequence[str]: ...
    @property
    def backend_addresses(self) -> Sequence[str]: ...
    def pause(self) -> object: ...
    def resume(self) -> object: ...
    def stats(self) -> Mapping[str, Number]: ...
    def stop(self) -> object: ...


class Panel(abc.ABC):
    """What `Control` serves: one device, or many by name. Called from several threads.

    Each method answers with a map for each device that was meant; ``name`` is always in it.

    Raises:
        ServiceError: nobody bears that name.
    """

    @abc.abstractmethod
    def describe(self, device: str | None = None) -> list[Described]: ...
    @abc.abstractmethod
    def stats(self, device: str | None = None) -> list[Described]: ...
    @abc.abstractmethod
    def pause(self, device: str | None = None) -> list[Described]: ...
    @abc.abstractmethod
    def resume(self, device: str | None = None) -> list[Described]: ...
    @abc.abstractmethod
    def terminate(self, device: str | None = None) -> list[Described]: ...


class DevicePanel(Panel):
    """The panel of one device in this process.

    Args:
        device: an open one.
    """

    def __init__(self, device: Steered) -> None:
        self._device = device
        self._since = time.monotonic()
        self._rates = Rates()
        self._lock = threading.Lock()

    def describe(self, device: str | None = None) -> list[Described]:
        one = self._meant(device)
        return [
            {
                "name": one.name,
                "kind": kind_of(one),
                "state": "paused" if one.paused else "running",
                "frontend": list(one.frontend_addresses),
                "backend": list(one.backend_addresses),
                "carries": one.carries,
                "paused": one.paused,
                "uptime": round(time.monotonic() - self._since, 1),
            }
        ]

    def stats(self, device: str | None = None) -> list[Described]:
        one = self._meant(device)
        counters = self.sample()
        with self._lock:
            return [{"name": one.name, **counters, "rates": self._rates.per_second()}]

    def pause(self, device: str | None = None) -> list[Described]:
        one = self._meant(device)
        one.pause()
        return [{"name": one.name, "paused": True}]

    def resume(self, device: str | None = None) -> list[Described]:
        one = self._meant(device)
        one.resume()
        return [{"name": one.name, "paused": False}]

    def terminate(self, device: str | None = None) -> list[Described]:
        one = self._meant(device)
        one.stop()
        return [{"name": one.name, "state": "ending"}]

    def sample(self) -> dict[str, Number]:
        """The counters as they are, which the rates take note of."""
        counters = dict(self._device.stats())
        with self._lock:
            self._rates.add(time.monotonic(), counters)
        return counters

    def _meant(self, name: str | None) -> Steered:
        check_name(name, [self._device.name])
        return self._device


def kind_of(device: object) -> str:
    """``queue``, ``forwarder``, ``streamer``, ``proxy``: the name of its class, in small letters."""
    kind: str = getattr(device, "kind", None) or type(device).__name__.lower()
    return kind


def check_name(name: object, names: Sequence[str]) -> None:
    """Raises `ServiceError` unless it is one of these, or None."""
    if name is not None and name not in names:
        shown = ", ".join(names[:20]) or "none"
        raise ServiceError(UNKNOWN_DEVICE, f"there is no device {str(name)[:60]!r} here; there is: {shown}")
