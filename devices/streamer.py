"""Streamer: jobs from those who push to those who pull."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from zmqkit import checks
from zmqkit.devices.device import At, Device, DeviceBase, DeviceCommon
from zmqkit.devices.engine import Engine
from zmqkit.errors import UsageError


class StreamerBase(DeviceBase):
    """A streamer, without the waiting."""

    _kind = "streamer"
    _role = "streamer"
    _types = ("PULL", "PUSH")

    def __init__(
        self,
        frontend: At | None = None,
        backend: At | None = None,
        *,
        plain: bool | None = None,
        journal: str | PathLike[str] | None = None,
        plain_frontend: At | None = None,
        plain_backend: At | None = None,
        **common: Unpack[DeviceCommon],
    ) -> None:
        self._journal = None if journal is None else Path(checks.file_path("journal", journal))
        asked = {
            "frontend": frontend, "backend": backend, "plain_frontend": plain_frontend, "plain_backend": plain_backend
        }  # fmt: skip
        given = {name: side for name, side in asked.items() if side is not None}
        if journal is None:
            if list(given) != ["frontend", "backend"]:
                raise UsageError(
                    "without journal=, a streamer has frontend= and backend= and no other side: "
                    "it carries either plain traffic or zmqkit's"
                )
        elif plain is not None:
            raise UsageError(
                "with journal=, frontend= and backend= are for zmqkit peers, plain_frontend= and plain_backend= for "
                "plain ones: leave out plain="
            )
        super().__init__(given, plain if journal is None else False, common)

    def _zmqkit_engine(self, **given: Any) -> Engine:
        if self._journal is None:
            from zmqkit.devices.switching import SwitchEngine

            return SwitchEngine(roles=("push", "pull"), **given)
        from zmqkit.devices.custody import CustodyEngine

        return CustodyEngine(
            journal=self._journal,
            plain_frontend=self._sides.get("plain_frontend"),
            plain_backend=self._sides.get("plain_backend"),
            **given,
        )


class Streamer(StreamerBase, Device):
    """Carries jobs from its frontend to its backend (PULL-PUSH).

    ::

        with zmqkit.devices.Streamer("tcp://127.0.0.1:5557", "tcp://127.0.0.1:5558") as streamer:
            streamer.run()

    To plain peers it is ZeroMQ's streamer. To zmqkit peers it is a learning switch: jobs stay with their Pusher until a
    Puller has settled them. With ``journal=`` it takes them into custody instead: to the Pusher they are settled when
    they are stored here, and from here they are delivered as from any Pusher with a journal.

    Args:
        frontend: where those are who push: an address, several, or a `Side`. With a journal, plain_frontend will do.
        backend: where those are who pull. With a journal, plain_backend will do.
        plain: True: plain ZeroMQ peers; False: zmqkit peers; None: whoever comes first decides. Say it where it counts.
        journal: path of the file in which jobs are stored here; then both sides are for zmqkit peers.
        plain_frontend: with a journal: where plain PUSH sockets are.
        plain_backend: with a journal: where plain PULL sockets are. They get each job at most once.
        **common: see `zmqkit.devices.DeviceCommon`.

    Raises:
        AddressError: an address cannot be read.
        InsecureAddress: one is beyond this host, without insecure=True.
        UsageError: two sides have one address, or cannot be served as they are.
    """
