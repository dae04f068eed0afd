"""Bugs planted into what a chain of workers stands on."""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.chain import HandledJob
from tests.simulation.mutants import Mutant, replaced
from zmqkit.patterns.pipeline.custody import Custody
from zmqkit.patterns.pipeline.hands import Arrival
from zmqkit.patterns.pipeline.puller import Parcel
from zmqkit.patterns.pipeline.pusher import PusherCore
from zmqkit.patterns.pipeline.rows import Row
from zmqkit.patterns.pipeline.storing import StoringCore
from zmqkit.testing.peers import SimPeer


def waits_for_no_output(old: Callable[..., None]) -> Callable[..., None]:
    def sent(self: Custody) -> None:
        self._left = 1
        old(self)

    return sent


def waits_for_one_output(old: Callable[..., None]) -> Callable[..., None]:
    def expect(self: Custody, outputs: int) -> None:
        old(self, min(outputs, 1))

    return expect


def takes_a_dead_output_for_settled(old: Callable[..., bool]) -> Callable[..., bool]:
    def resolve(self: Custody, result: object) -> bool:
        return old(self, ("acked", "") if isinstance(result, tuple) else result)

    return resolve


def takes_a_refused_output_for_settled(old: Callable[..., bool]) -> Callable[..., bool]:
    def resolve(self: Custody, result: object) -> bool:
        return old(self, ("acked", "") if isinstance(result, Exception) else result)

    return resolve


def tells_of_a_refused_batch_once(old: Callable[..., None]) -> Callable[..., None]:
    def refuse(self: PusherCore, arrival: Arrival, error: Exception) -> None:
        before = len(self.out.replies)
        old(self, arrival, error)
        self.out.replies[before:] = self.out.replies[before : before + 1]

    return refuse


def names_outputs_after_the_delivery(old: Callable[..., None]) -> Callable[..., None]:
    def init(self: HandledJob, peer: SimPeer, parcel: Parcel, index: int, body: bytes) -> None:
        old(self, peer, parcel, index, body)
        self.id += f"@{parcel.delivery.lease}"

    return init


def forgets_ids_on_disk(old: Callable[..., bytes]) -> Callable[..., bytes]:
    def pack(self: Row) -> bytes:
        ids, self.ids = self.ids, {}
        try:
            return old(self)
        finally:
            self.ids = ids

    return pack


MUTANTS = [
    Mutant(name, "chain", lambda owner=owner, method=method, make=make: replaced(owner, method, make))  # type: ignore[misc]
    for name, owner, method, make in (
        ("acks an input when its outputs are sent", Custody, "sent", waits_for_no_output),
        ("acks an input when one output has settled", Custody, "expect", waits_for_one_output),
        ("takes a dead output for a settled one", Custody, "resolve", takes_a_dead_output_for_settled),
        ("takes a refused output for a settled one", Custody, "resolve", takes_a_refused_output_for_settled),
        ("tells of a refused batch once", StoringCore, "_refuse", tells_of_a_refused_batch_once),
        ("gives an output another id at each try", HandledJob, "__init__", names_outputs_after_the_delivery),
        ("forgets lineage ids on the disk", Row, "pack", forgets_ids_on_disk),
    )
]
