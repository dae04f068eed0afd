"""One interface over all ways to find peers: `watch` an address, whatever its scheme.

``static://`` is what it says; ``env://`` is read when the watch begins; ``zeroconf://`` follows what multicast DNS
(RFC 6762, 6763) announces on this host and its networks. Discovery is a hint, never an authority: what was found is
dialled, and the handshake decides.

Multicast DNS is imported where it is used: most addresses are plain ones, and zeroconf and asyncio take their time.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

from zmqkit.address import Address, parse, parse_several
from zmqkit.discovery import interfaces, records
from zmqkit.discovery.records import Found, Record
from zmqkit.errors import AddressError, DiscoveryError

if TYPE_CHECKING:
    from zeroconf import ServiceInfo

    from zmqkit.discovery import network

log = logging.getLogger("zmqkit.discovery")

OnChange = Callable[[frozenset[Found]], None]

_CLOSE_TIMEOUT_S = 1.0


# ---- looking up ------------------------------------------------------------------


def watch(url: str | Address, *, on_change: OnChange, roles: Collection[str] | None = None) -> Watch:
    """Follow who can be reached at an address.

    Args:
        url: any address. A plain one stands for itself.
        on_change: called with the full current set whenever it changed; never with an empty one before anything was
            found. What is fixed is told before this returns; the rest from another thread. One call at a time, in
            order. It should be brief, and what it raises is logged.
        roles: the announced roles to take; None: all. Fixed addresses have no role and are always taken.

    Raises:
        DiscoveryError: a variable that is not set, a name that cannot be one, or no usable multicast.
        AddressError: the address, or the variable's value, cannot be read.
    """
    fixed: set[Found] = set()
    names: set[str] = set()
    for address in expand(parse(url)):
        if address.scheme == "zeroconf":
            names.add(records.check_name(address.rest))
        else:
            fixed.add(Found(str(address), None, str(address)))
    opened = _open_networks() if names else _Networks((), interfaces.Interfaces((), (), (), ()))
    return Watch(frozenset(fixed), frozenset(names), opened, on_change, None if roles is None else frozenset(roles))


class Watch:
    """What `watch` returns. Closing it ends the calls; a watch that a forked child inherited is closed."""

    def __init__(
        self,
        fixed: frozenset[Found],
        names: frozenset[str],
        networks: _Networks,
        on_change: OnChange,
        roles: frozenset[str] | None,
    ) -> None:
        self._fixed = fixed
        self._names = names
        self._networks = networks
        self._on_change = on_change
        self._roles = roles
        self._pid = os.getpid()
        self._turn = threading.RLock()
        self._closed = False
        self._told: frozenset[Found] = frozenset()
        self._warned: set[object] = set()
        self._stops = [net.listen(self._changed) for net in networks.opened]
        self._changed()

    @property
    def found(self) -> frozenset[Found]:
        """The set that `on_change` was told last."""
        return self._told

    def close(self) -> None:
        """End the calls: none begins after this returns, and it waits (1 s at most) for one that is under way."""
        if self._closed or self._pid != os.getpid():
            return
        self._closed = True
        for stop in self._stops:
            stop()
        if self._turn.acquire(timeout=_CLOSE_TIMEOUT_S):
            self._turn.release()
        self._networks.release()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _changed(self) -> None:
        with self._turn:
            found = self._fixed | self._announced()
            if self._closed or found == self._told:
                return
            self._told = found
            try:
                self._on_change(found)
            except Exception:
                log.exception("on_change failed")

    def _announced(self) -> frozenset[Found]:
        heard: dict[tuple[str, str], list[tuple[Record, network.Network]]] = {}
        for net in self._networks.opened:
            for record in net.records():
                if record.name in self._names and self._takes(record):
                    heard.setdefault((record.name, record.instance), []).append((record, net))
        found = set()
        for key, sightings in heard.items():
            record = sightings[0][0]
            if len({(other.host, other.pid) for other, _ in sightings}) > 1:
                self._warn(key, f"two processes announce {record.name} with one instance id, {record.instance}")
            # One way to each instance: what was heard on the loopback interface comes first.
            reachable = (self._networks.reach(seen, net) for seen, net in sightings)
            address = next(filter(None, reachable), None)
            if address is not None:
                found.add(Found(address, record.instance, record.name, record.role))
        return frozenset(found)

    def _takes(self, record: Record) -> bool:
        if self._roles is None or record.role in self._roles:
            return True
        self._warn(
            (record.name, record.role),
            f"zeroconf://{record.name}: a {record.role} ({record.peer_name}) announces this name too; only "
            f"{' or '.join(sorted(self._roles))} is taken here: give one of them another name",
        )
        return False

    def _warn(self, key: object, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            log.warning("%s", message)


def browse(timeout: float) -> list[dict[str, Any]]:
    """Everything that is announced within reach.

    Args:
        timeout: how long to listen, in seconds; all have answered after 1.5.

    Returns:
        One dict an instance: name, role, instance, peer_name, pid, host (an id), here (whether that is this host),
        address (where it would be reached from here, or None) and addresses; sorted by name, role and instance.

    Raises:
        DiscoveryError: no usable multicast.
    """
    networks = _open_networks()
    try:
        threading.Event().wait(timeout)
        rows: dict[tuple[str, str, str], dict[str, Any]] = {}
        for net in networks.opened:
            for record in net.records():
                row = rows.setdefault(
                    (record.name, record.role, record.instance),
                    {
                        "name": record.name,
                        "role": record.role,
                        "instance": record.instance,
                        "peer_name": record.peer_name,
                        "pid": record.pid,
                        "host": record.host,
                        "here": record.host == interfaces.host_id(),
                        "address": None,
                        "addresses": [],
                    },
                )
                row["address"] = row["address"] or networks.reach(record, net)
                row["addresses"] += [address for address in record.addresses if address not in row["addresses"]]
        return [rows[key] for key in sorted(rows)]
    finally:
        networks.release()


# ---- announcing ------------------------------------------------------------------


def announce(
    name: str, addresses: Iterable[str | Address], *, role: str, instance: str, peer_name: str = ""
) -> Announcement:
    """Let others find this instance by name. The first announcement is out when this returns.

    Loopback addresses and ipc paths are announced on the loopback interface only, for this host; ``*`` and
    ``0.0.0.0`` stand for the host's addresses on its networks; others are announced as they are, on both.

    Args:
        name: to be found by; a DNS label, in any case.
        addresses: bound ones, ports filled in, the best first. inproc cannot be announced.
        role: what this instance does, such as "push".
        instance: its id; unique.
        peer_name: for people.

    Raises:
        DiscoveryError: a name or address that cannot be announced, or no usable multicast.
        AddressError: an address that cannot be read.
    """
    name = records.check_name(name)
    records.check_word(role, "a role")
    records.check_word(instance, "an instance id")
    bound = [parse(address) for address in addresses]
    records.to_announce(bound, ())  # what cannot be announced is refused before anything is opened
    networks = _open_networks()
    announcement = Announcement(name, networks)
    try:
        here, beyond = records.to_announce(bound, networks.chosen.network)
        ports = [address.port for address in bound if address.port]
        twice = bool(here) and any(map(networks.is_loopback, networks.opened))
        for net in networks.opened:
            reachable = here if networks.is_loopback(net) else beyond
            if reachable:
                record = Record(name, role, instance, peer_name, interfaces.host_id(), os.getpid(), reachable, twice)
                announcement.add(net, net.register(record, ports[0] if ports else 0, list(net.interfaces)))
        if not announcement.announced:
            raise DiscoveryError(
                f"{', '.join(map(str, bound)) or 'nothing'} can be announced on the loopback interface only, which "
                f"{interfaces.VARIABLE} leaves out or cannot be used: add 127.0.0.1 to it, or bind another address"
            )
    except BaseException:
        announcement.close()
        raise
    return announcement


class Announcement:
    """What `announce` returns. A forked child's close() changes nothing: it is the parent who announces."""

    def __init__(self, name: str, networks: _Networks) -> None:
        self.name = name
        self._networks = networks
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self.announced: list[tuple[network.Network, ServiceInfo]] = []

    def add(self, net: network.Network, info: ServiceInfo) -> None:
        """For `announce`: this is out."""
        self.announced.append((net, info))

    def close(self) -> None:
        """Say goodbye: others hear it at once. Waits until it is out, some ms, 0.5 s at most a network."""
        if self._pid != os.getpid():
            return
        with self._lock:
            announced, self.announced = self.announced, []
            networks, self._networks = self._networks, _Networks((), self._networks.chosen)
        for net, info in announced:
            net.unregister(info)
        networks.release()

    def __enter__(self) -> Announcement:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def wait_closed(timeout: float) -> bool:
    """Wait until all that was let go of is closed; whether it came to that within `timeout` seconds."""
    from zmqkit.discovery import network

    return network.wait_closed(timeout)


@atexit.register
def _close_all() -> None:
    # Registered here, which peers import: theirs runs before this.
    if "zmqkit.discovery.network" in sys.modules:
        from zmqkit.discovery import network

        network.close_all()


# ---- what both need --------------------------------------------------------------


class _Networks:
    """The networks that the environment chooses: one of the loopback addresses, one of all others."""

    def __init__(self, opened: tuple[network.Network, ...], chosen: interfaces.Interfaces) -> None:
        self.opened = opened
        self.chosen = chosen

    def is_loopback(self, net: network.Network) -> bool:
        return net.interfaces == self.chosen.loopback

    def reach(self, record: Record, net: network.Network) -> str | None:
        """The address to connect to, from here, of what was heard there."""
        host, on_loopback = interfaces.host_id(), self.is_loopback(net)
        if record.on_loopback and record.host == host and not on_loopback and any(map(self.is_loopback, self.opened)):
            return None  # it says so there itself, and better
        return records.best_address(record, heard_on_loopback=on_loopback, host=host, subnets=self.chosen.subnets)

    def release(self) -> None:
        if self.opened:
            from zmqkit.discovery import network

            for net in self.opened:
                network.release(net)


def _open_networks() -> _Networks:
    chosen = interfaces.choose()
    try:
        from zmqkit.discovery import network
    except OSError as error:  # too many files are open
        raise DiscoveryError(
            f"multicast DNS cannot be loaded ({error}): name the addresses with static:// or env://"
        ) from error
    opened = []
    failure: DiscoveryError | None = None
    for group in (chosen.loopback, chosen.network):
        if group:
            try:
                opened.append(network.acquire(group))
            except DiscoveryError as error:
                failure = error
                log.warning("%s", error)
    if not opened:
        assert failure is not None  # choose() leaves at least one
        raise failure
    return _Networks(tuple(opened), chosen)


def expand(address: Address) -> Iterable[Address]:
    """What an address stands for, up to names that are looked up.

    Raises:
        DiscoveryError: the environment does not say.
        AddressError: what it says cannot be read.
    """
    if address.scheme == "static":
        return address.members
    if address.scheme != "env":
        return (address,)
    value = os.environ.get(address.rest, "")
    if not value.strip():
        state = "empty" if address.rest in os.environ else "not set"
        raise DiscoveryError(
            f"{address}: the environment variable {address.rest} is {state}; set it to one or several addresses, as "
            f"in {address.rest}=tcp://127.0.0.1:5555"
        )
    try:
        several = parse_several(value)
    except AddressError as error:
        raise AddressError(f"{address}: {error}") from error
    if any(member.scheme == "env" for member in several):
        raise AddressError(f"{address}: its value {value!r} names another variable; give the addresses themselves")
    return [resolved for member in several for resolved in expand(member)]
