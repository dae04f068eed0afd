"""The devices that are killed: ``python -m tests.chaos.devices.roles ROLE ...``. Their address is a `Spec`."""

from __future__ import annotations

import time

import zmqkit
from tests.chaos.devices.plan import BOUND_S, INTERVAL_S, Spec
from tests.chaos.process import Process, main
from zmqkit.devices import Queue, Streamer

HEARTBEAT = zmqkit.Heartbeat(interval=INTERVAL_S, liveness=round(BOUND_S / INTERVAL_S))
BIND_S = 20.0
"""So long it tries to bind its addresses."""
LOOK_S = 0.02
"""How often it looks who is there, until all are."""


class Carry(Process):
    """A queue or a streamer. It is busy when all sessions go through it."""

    kind: type[Queue] | type[Streamer]

    def __call__(self) -> None:
        """Carry until told to finish."""
        spec = Spec.read(self.address)
        deadline = time.monotonic() + BIND_S
        while True:
            device = self.kind(spec.front, spec.back, plain=False, heartbeat=HEARTBEAT, name=f"{self.name}.{self.life}")
            try:
                device.open()
                break
            except zmqkit.AddressInUse:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        with device:
            self.follow_the_leash(device)
            self.tell("open")
            while not self.finish.wait(LOOK_S):
                if device.stats()["sessions"] >= spec.sessions:
                    self.busy()
                    break
            self.finish.wait()
        self.tell("done")


class CarryCalls(Carry):
    """Between clients and servers."""

    kind = Queue


class CarryJobs(Carry):
    """Between pushers and pullers."""

    kind = Streamer


if __name__ == "__main__":
    main({"queue": CarryCalls, "streamer": CarryJobs})
