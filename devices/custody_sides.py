"""What a streamer with a journal is made of: a puller that does not look into bodies, a pusher that serves both kinds.

Knows the pipeline's faces and what they share, discovery, and the sides of a device.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from zmqkit import discovery
from zmqkit.devices.sides import Side, resolved
from zmqkit.errors import Closed
from zmqkit.patterns.pipeline import Puller, Pusher
from zmqkit.patterns.pipeline.hands import PusherSettings
from zmqkit.patterns.pipeline.outlets import FRAMES, OutletPusherCore
from zmqkit.patterns.pipeline.puller import Parcel
from zmqkit.patterns.pipeline.rows import Pack, Plan
from zmqkit.patterns.pipeline.sending import CHUNK_BYTES, CHUNK_MESSAGES, Path, counted
from zmqkit.peer.found import reachable
from zmqkit.protocol.local import Local
from zmqkit.transport.driver import Driver
from zmqkit.transport.tickets import WaitExpired, wait

log = logging.getLogger("zmqkit.devices")


class Source(Puller[Any]):
    """A side where jobs come in. Bodies are not looked into: they need not be of a codec that is known here."""

    _tells = False
    _ends_leases = False

    def _decode(self, parcel: Parcel) -> None:
        parcel.bodies = [None] * len(parcel)


class Sink(Pusher):
    """The side where they go out; plain PULLs, if there are any, have addresses of their own beside the pullers'."""

    _tells = False
    _core: OutletPusherCore

    def __init__(self, side: Side, beside: Side | None, *, journal: Path, plain: bool, **common: Any) -> None:
        super().__init__(journal=journal, plain=plain, **places(side), **common)
        self._beside = beside
        self._found_beside: dict[str, frozenset[str]] = {}
        """What each name of plain PULLs stands for now."""
        for each in (*beside.binds, *beside.connects) if beside is not None else ():
            self._check_plain_address(each)

    def _make_core(self, local: Local, settings: PusherSettings) -> OutletPusherCore:
        return OutletPusherCore(local, settings, self._random(), mixed=not self._plain)

    def _endpoints(self, binds: list[str]) -> dict[str, Any]:
        found = super()._endpoints(binds)
        if self._beside is not None:
            found |= {"data": "PUSH", "data_binds": list(map(str, resolved(self._beside, self._insecure)))}
        return found

    def _set_up(self, driver: Driver) -> None:
        super()._set_up(driver)
        side = self._beside
        if side is None:
            return
        for address in side.connects:
            if address.looked_up:
                on_change = partial(self._changed_beside, str(address))
                self._watches.append(discovery.watch(address, on_change=on_change, roles=self._accepts))
            else:
                driver.connect_data(str(address))
        if side.announce is not None:
            instance = os.urandom(16).hex()  # not the pusher's own: it is another kind of peer that is found there
            made = discovery.announce(
                side.announce, driver.data_addresses, role=self._role, instance=instance, peer_name=self.name
            )
            self._announcements.append(made)

    def _changed_beside(self, name: str, found: Iterable[discovery.Found]) -> None:
        """What stands behind a name of plain PULLs came or went."""
        there = reachable(found, own="", insecure=self._insecure, who=self.name, name=name)
        with self._state_lock:
            before = frozenset[str]().union(*self._found_beside.values())
            self._found_beside[name] = there
            after = frozenset[str]().union(*self._found_beside.values())
        driver = self._driver
        if driver is not None and not self._closed:
            with contextlib.suppress(Closed):
                for address in after - before:
                    driver.connect_data(address)
                for address in before - after:
                    driver.post(self._hang_up_beside, address)

    def _hang_up_beside(self, address: str, now: float) -> None:
        driver = self._driver
        if driver is not None:
            self._core.link_forgotten(("d", address), now)
            driver.disconnect_data(address)

    def _close(self, linger: float | None) -> None:
        # Nothing is waited for but the sockets: what is not settled stays in the journal, and leases outlive this.
        ended, seconds = self._begin_end(linger)
        with contextlib.suppress(WaitExpired):
            wait(ended, seconds)
        failure = self._driver.failure if self._driver is not None else None
        if failure is not None:
            raise failure
        if self._core.unsettled:
            log.info("%s: %s in %s", self.name, f"{counted(self._core.unsettled)} left", self._journal_path)


def places(side: Side) -> dict[str, Any]:
    """A side, as the keywords of a peer."""
    return {"bind": list(side.bind), "connect": list(side.connect), "announce": side.announce}


def packs(parcel: Parcel, indexes: list[int], plain: bool) -> Iterator[tuple[list[int], Pack]]:
    """Jobs as they came, in runs of what a row takes: their ids, headers, keys, priority and time as they were."""
    delivery = parcel.delivery
    starts = [0]
    for length in delivery.lengths:
        starts.append(starts[-1] + length)
    lists = plain and delivery.codec == "msgpack"  # a plain message of several frames
    chunk: list[int] = []
    size = 0

    def pack() -> tuple[list[int], Pack]:
        ids = {
            at: delivery.ids.get(index) or f"{delivery.origin}-{delivery.sequence + index}"
            for at, index in enumerate(chunk)
        }
        headers = {at: delivery.headers[index] for at, index in enumerate(chunk) if index in delivery.headers}
        if lists:
            headers = {at: {FRAMES: "several"} for at in range(len(chunk))}
        whole = len(chunk) == len(parcel)
        blob = delivery.blob if whole else b"".join([delivery.blob[starts[at] : starts[at + 1]] for at in chunk])
        lengths = [delivery.lengths[at] for at in chunk]
        keys = {at: delivery.keys[index] for at, index in enumerate(chunk) if index in delivery.keys}
        plan = Plan(keys, delivery.priority) if keys or delivery.priority else None
        return chunk, Pack(delivery.codec, delivery.sent_at, lengths, blob, ids, headers, True, plan)

    for index in indexes:
        if chunk and (len(chunk) >= CHUNK_MESSAGES or size + delivery.lengths[index] > CHUNK_BYTES):
            yield pack()
            chunk, size = [], 0
        chunk.append(index)
        size += delivery.lengths[index]
    if chunk:
        yield pack()
