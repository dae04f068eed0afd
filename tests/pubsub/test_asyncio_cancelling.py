"""asyncio's own cancellation of a close: a server, a subscriber with an inbox and a device close all the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.pipeline.test_asyncio_cancelling import cancelled_while_no_thread_is_free
from tests.pubsub.faces import LOCAL
from zmqkit import aio
from zmqkit.devices import aio as devices


@pytest.mark.parametrize("kind", ["server", "subscriber", "device"])
def test_a_close_that_is_cancelled_closes(tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        peer: aio.Server | aio.Subscriber | devices.Streamer
        if kind == "server":
            peer = aio.Server(LOCAL)
        elif kind == "subscriber":
            peer = aio.Subscriber(bind=LOCAL, inbox=tmp_path / "state.db")
        else:
            peer = devices.Streamer(LOCAL, LOCAL)
        await peer.open()
        await cancelled_while_no_thread_is_free(peer.close())
        address = peer.frontend_addresses[0] if isinstance(peer, devices.Streamer) else peer.addresses[0]
        async with aio.Puller(bind=address):  # not AddressInUse
            pass

    asyncio.run(main())
