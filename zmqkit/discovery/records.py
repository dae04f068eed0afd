"""What an announcement says, and which of its addresses to take. Pure: opens nothing, asks nobody.

An instance announces itself in a DNS-SD TXT record (RFC 6763, section 6): one ``key=value`` per fact. What arrives
comes from strangers: whatever cannot be read is no record at all.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Iterable, Mapping

from zmqkit.address import Address, is_loopback, parse
from zmqkit.errors import AddressError, DiscoveryError

VERSION = "1"
MOST_ADDRESSES = 16
_LONGEST_VALUE_BYTES = 200  # a TXT string holds 255 bytes, key included
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """One peer to connect to.

    Attributes:
        address: a transport's: tcp, ipc or inproc.
        instance: the announcer's; None where the address was given by hand.
        name: that led here; of an address given by hand, the address.
        role: the announcer's, such as "push"; None where the address was given by hand.
    """

    address: str
    instance: str | None
    name: str
    role: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """What one instance announces on one network.

    Attributes:
        name: to be found by, in lower case.
        role: what it does: a connecting side takes only the roles that it can talk to.
        instance: its id.
        peer_name: for people.
        host: id of the host and network namespace in which loopback addresses mean the same.
        pid: of its process.
        addresses: where it can be reached, the best first.
        on_loopback: announced on its host's loopback interface too; on that host one waits for what is said there.
    """

    name: str
    role: str
    instance: str
    peer_name: str
    host: str
    pid: int
    addresses: tuple[str, ...]
    on_loopback: bool = False

    def encode(self) -> dict[str, bytes]:
        """The record as the properties of a TXT record.

        Raises:
            DiscoveryError: an address is too long to be announced.
        """
        properties = {
            "v": VERSION,
            "name": self.name,
            "role": self.role,
            "id": self.instance,
            "peer": self.peer_name.encode()[:_LONGEST_VALUE_BYTES].decode(errors="ignore"),
            "host": self.host,
            "pid": str(self.pid),
            "lo": str(int(self.on_loopback)),
        }
        for index, address in enumerate(self.addresses[:MOST_ADDRESSES]):
            if len(address.encode()) > _LONGEST_VALUE_BYTES:
                raise DiscoveryError(f"{address} is too long to be announced: use a shorter one")
            properties[f"a{index}"] = address
        return {key: value.encode() for key, value in properties.items()}

    @classmethod
    def decode(cls, properties: Mapping[bytes, bytes | None]) -> Record | None:
        """The record that `encode` made these properties of, or None where there is none in them."""
        texts = {}
        for key, value in properties.items():
            try:
                texts[key.decode()] = (value or b"").decode()
            except UnicodeDecodeError:
                return None
        name, pid = texts.get("name", ""), texts.get("pid", "")
        role, instance, host = (texts.get(key, "") for key in ("role", "id", "host"))
        words = (role, instance, host)
        if texts.get("v") != VERSION or not _LABEL.fullmatch(name) or not all(map(_is_word, words)):
            return None
        addresses = tuple(
            texts[f"a{index}"]
            for index in range(MOST_ADDRESSES)
            if f"a{index}" in texts and _is_connectable(texts[f"a{index}"])
        )
        peer_name = texts.get("peer", "")
        return cls(
            name=name,
            role=role,
            instance=instance,
            peer_name=peer_name if peer_name.isprintable() else "",
            host=host,
            pid=int(pid) if re.fullmatch(r"[0-9]{1,10}", pid) else 0,
            addresses=addresses,
            on_loopback=texts.get("lo") == "1",
        )


def check_name(name: str) -> str:
    """The name in the form in which it is compared: lower case.

    Raises:
        DiscoveryError: it is not a DNS label (RFC 1035, section 2.3.1).
    """
    lowered = name.lower()
    if _LABEL.fullmatch(lowered):
        return lowered
    fixed = re.sub(r"[^a-z0-9]+", "-", lowered)[:63].strip("-") or "my-service"
    raise DiscoveryError(
        f"{name!r} cannot be announced or looked up: a name has 1 to 63 letters, digits and hyphens, and neither "
        f"begins nor ends with a hyphen; {fixed!r} would do"
    )


def check_word(value: str, what: str) -> str:
    """Raise `DiscoveryError` unless `value` is short, printable and not empty; `what` names it."""
    if not _is_word(value):
        raise DiscoveryError(f"{what} has to be 1 to 64 printable ASCII characters without blanks, not {value!r}")
    return value


def to_announce(addresses: Iterable[Address], interfaces: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What bound addresses are called by those who connect: (on this host, on the network).

    Args:
        addresses: bound ones, with their ports.
        interfaces: the host's own addresses on the network, which stand in for ``*``.

    Raises:
        DiscoveryError: an address nobody else can reach, or without a port.
    """
    here: list[str] = []
    network: list[str] = []
    for address in addresses:
        if address.scheme not in ("tcp", "ipc"):
            raise DiscoveryError(f"{address} cannot be announced, nobody else can reach it: bind tcp:// or ipc:// too")
        if address.scheme == "tcp" and not address.port:
            raise DiscoveryError(f"{address} cannot be announced before it is bound and has its port")
        if address.wildcard:
            here.append(f"tcp://127.0.0.1:{address.port}")
            network += [f"tcp://{interface}:{address.port}" for interface in interfaces]
        else:
            here.append(str(address))
            if not is_loopback(address):
                network.append(str(address))
    # Two processes may share a network namespace but no file system: tcp reaches both.
    here.sort(key=lambda text: text.startswith("ipc"))
    return tuple(here), tuple(network)


def best_address(
    record: Record, *, heard_on_loopback: bool, host: str, subnets: Iterable[ipaddress.IPv4Network]
) -> str | None:
    """Where to reach the announcer from here, or None.

    Loopback addresses mean something only where they were announced: they count if they were heard on the loopback
    interface, from this very host. Of several others the first in a subnet of ours is taken.
    """
    nets = list(subnets)
    elsewhere = None
    for text in record.addresses:
        address = parse(text)
        if is_loopback(address):
            if heard_on_loopback and record.host == host:
                return text
        elif heard_on_loopback and record.host == host:
            return text
        elif not heard_on_loopback:
            if _is_near(address.host, nets):
                return text
            elsewhere = elsewhere or text
    return elsewhere


def _is_word(value: str) -> bool:
    return re.fullmatch(r"[\x21-\x7e]{1,64}", value) is not None


def _is_connectable(text: str) -> bool:
    try:
        address = parse(text)
    except AddressError:
        return False
    if address.scheme == "tcp":
        return address.port != 0 and not address.wildcard
    return address.scheme == "ipc"


def _is_near(host: str, subnets: list[ipaddress.IPv4Network]) -> bool:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(ip in subnet for subnet in subnets)
