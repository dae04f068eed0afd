"""What a device is to be, as data that a process can be told: its kind, its name and its options. Opens nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol, Self

from zmqkit import devices
from zmqkit.devices import sides
from zmqkit.devices.panel import Steered
from zmqkit.devices.sides import Side
from zmqkit.options import Heartbeat, Limits

KINDS: Final = ("queue", "forwarder", "streamer", "proxy")

SIDES: Final = ("frontend", "backend", "plain_frontend", "plain_backend")
"""Options that are sides: an address, a list of them, or a map with what `Side` takes."""

STREAMER_ONLY: Final = frozenset({"journal", "plain_frontend", "plain_backend"})
PROXY_ONLY: Final = frozenset({"types"})


class Device(Steered, Protocol):
    """What is run here: a device that was not opened yet."""

    def open(self) -> object: ...
    def run(self) -> object: ...
    def close(self, timeout: float | None = ...) -> object: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Spec:
    """One device, as it is to be. Equal specs need nothing to be changed.

    Attributes:
        name: in logs and for control.
        kind: one of `KINDS`.
        options: keywords of its class, as JSON and TOML have them.
    """

    name: str
    kind: str
    options: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As a map that JSON can hold."""
        return {"name": self.name, "kind": self.kind, "options": dict(self.options)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The reverse of `to_json`."""
        return cls(value["name"], value["kind"], value["options"])

    @property
    def control(self) -> str | None:
        """Where it has a control socket of its own; None: nowhere."""
        address: str | None = self.options.get("control")
        return address

    def settled(self, control: Sequence[str] = (), /, **bound: Sequence[str]) -> Self:
        """The same with the ports that were bound: started again, it is where its peers look for it.

        Args:
            control: where its control socket is bound.
            **bound: by the name of the side, what is bound there, in the order of its addresses.
        """
        options = dict(self.options)
        for name, addresses in bound.items():
            side = sides.read(name, _read_side(options[name]))
            if len(side.bind) == len(addresses) and tuple(side.bind) != tuple(addresses):
                limits = options[name].get("limits") if isinstance(options[name], Mapping) else None
                options[name] = {"bind": list(addresses), "connect": list(side.connect), "announce": side.announce}
                options[name] |= {} if limits is None else {"limits": limits}
        if control:
            options["control"] = control[0]
        return dataclasses.replace(self, options=options)

    def make(self) -> Device:
        """The device; it is not opened.

        Raises:
            UsageError: it cannot be as it is described.
            TypeError, ValueError: an option is of the wrong kind, or out of bounds.
        """
        options: dict[str, Any] = {}
        for name, value in self.options.items():
            if name == "control":
                continue  # whoever runs it opens that, and tells where it is bound
            options[name] = _read_side(value) if name in SIDES else _OPTIONS.get(name, _as_it_is)(value)
        if self.kind == "proxy":
            options.pop("plain", None)  # it is plain in any case
        make: Callable[..., Device] = getattr(devices, self.kind.capitalize())
        return make(name=self.name, **options)


def _read_side(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    limits = value.get("limits")
    return Side(
        bind=value.get("bind", ()),
        connect=value.get("connect", ()),
        announce=value.get("announce"),
        limits=None if limits is None else Limits(**limits),
    )


def _as_it_is(value: Any) -> Any:
    return value


_OPTIONS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "limits": lambda value: Limits(**value),
    "heartbeat": lambda value: Heartbeat(**value),
    "types": tuple,
}
"""How options are made that JSON has no form for."""
