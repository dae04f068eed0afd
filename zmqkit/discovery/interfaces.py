"""Which interfaces discovery speaks on, and what names this host.

``ZMQKIT_INTERFACES`` chooses them: IPv4 addresses or interface names, separated by commas or blanks, as in
``127.0.0.1`` or ``lo eth0``; unset, all. The loopback interface needs no multicast route and no MULTICAST flag: each
socket is told its interface by address, so discovery works on a host where nothing but ``lo`` is up.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import hashlib
import ipaddress
import os
import platform
import re
import socket
import struct
import sys
import uuid

from zmqkit.errors import DiscoveryError

VARIABLE = "ZMQKIT_INTERFACES"
_SO_ATTACH_FILTER = 26  # Linux, socket(7)
_GROUP, _PORT = "224.0.0.251", 5353  # RFC 6762, section 3


@dataclasses.dataclass(frozen=True, slots=True)
class Interfaces:
    """Addresses to speak on.

    Attributes:
        loopback: those that stay on this host.
        network: those that do not.
        subnets: of the network ones.
        unusable: why others were left out, for the error where none is left.
    """

    loopback: tuple[str, ...]
    network: tuple[str, ...]
    subnets: tuple[ipaddress.IPv4Network, ...]
    unusable: tuple[str, ...]


def choose() -> Interfaces:
    """The interfaces that the environment chooses and multicast works on.

    Raises:
        DiscoveryError: there is none; the message says what to do.
    """
    present = _present()
    wanted = [word for word in re.split(r"[\s,]+", os.environ.get(VARIABLE, "")) if word]
    chosen: dict[str, int] = {}
    unusable = []
    for word in wanted:
        # An address that no interface bears may still be one: all of 127/8 is this host.
        matches = {ip: bits for ip, (name, bits, _) in present.items() if word in (ip, name)} or {word: 32}
        chosen.update(matches)
    for ip, bits in list((chosen if wanted else {ip: bits for ip, (_, bits, _) in present.items()}).items()):
        problem = _problem(ip)
        if problem is None:
            chosen[ip] = bits
        else:
            chosen.pop(ip, None)
            unusable.append(f"{ip}: {problem}")
    loopback = tuple(ip for ip in chosen if ipaddress.IPv4Address(ip).is_loopback)
    network = tuple(ip for ip in chosen if not ipaddress.IPv4Address(ip).is_loopback)
    if not chosen:
        raise DiscoveryError(
            f"no interface to look up or announce names on ({'; '.join(unusable) or 'the host has none that is up'}): "
            f"bring one up ('ip link set lo up' is enough within one host), choose others with {VARIABLE}, or name "
            f"the addresses with static:// or env://"
        )
    subnets = tuple(ipaddress.IPv4Network(f"{ip}/{chosen[ip]}", strict=False) for ip in network)
    return Interfaces(loopback, network, subnets, tuple(unusable))


def hear_only(listener: socket.socket, *, loopback: bool) -> None:
    """Make a socket bound to every address hear the loopback interface only, or all but it (on Linux).

    Else each hears what any socket of the host joined, and a question from the network, which may ask for its answer
    by unicast, would be answered with what is meant for this host. IP_MULTICAST_ALL is not the way: where it leaves
    one socket to deliver to, Linux (6.18) hands the packet to any other one that shares the port by SO_REUSEPORT. A
    filter comes after that choice.
    """
    index = next((index for ip, (_, _, index) in _present().items() if ipaddress.IPv4Address(ip).is_loopback), None)
    if sys.platform != "linux" or index is None:
        return
    whole, nothing = (6, 0, 0, 0x40000), (6, 0, 0, 0)  # BPF_RET
    program = [
        (0x20, 0, 0, 0xFFFFF008),  # BPF_LD | BPF_W | BPF_ABS: the interface's index (SKF_AD_OFF + SKF_AD_IFINDEX)
        (0x15, 0, 1, index),  # BPF_JMP | BPF_JEQ | BPF_K: the next one if equal, else the one after
        *((whole, nothing) if loopback else (nothing, whole)),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    attached = struct.pack("@HP", len(program), ctypes.addressof(code))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, attached)


@functools.cache
def host_id() -> str:
    """32 hex digits for this boot of this host and this network namespace: where 127.0.0.1 means the same."""
    parts = []
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            parts.append(file.read().strip())
        parts.append(os.readlink("/proc/self/ns/net"))
    except OSError:  # no /proc: such systems have no network namespaces either
        parts += [f"{uuid.getnode():x}", platform.node()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _present() -> dict[str, tuple[str, int, int | None]]:
    """IPv4 address to (interface's name, length of its prefix, interface's index)."""
    try:
        import ifaddr  # here, as all that only multicast needs; zeroconf depends on it and lists interfaces with it

        adapters = list(ifaddr.get_adapters())
    except OSError as error:
        raise DiscoveryError(
            f"the host's interfaces cannot be listed ({error}): name the addresses with static:// or env://"
        ) from error
    found = {}
    for adapter in adapters:
        for ip in adapter.ips:
            if isinstance(ip.ip, str):
                found[ip.ip] = (adapter.name, ip.network_prefix, adapter.index)
    return found


def _problem(ip: str) -> str | None:
    """Why multicast DNS cannot be spoken on the interface of this address; None where it can. Sends nothing."""
    try:
        packed = socket.inet_pton(socket.AF_INET, ip)
    except OSError:
        return "neither an IPv4 address nor an interface of this host"
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((ip, 0))
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(_GROUP) + packed)
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, packed)
            probe.connect((_GROUP, _PORT))
    except OSError as error:
        return error.strerror or str(error)
    return None
