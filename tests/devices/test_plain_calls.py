"""Plain clients of zmqkit's own servers, through queues."""

from __future__ import annotations

import contextlib
import json

import pytest
import zmq

import zmqkit
from tests.devices.plainly import ANY, WAIT_MS
from zmqkit.devices import Queue
from zmqkit.transport.context import context


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("kind", [zmq.REQ, zmq.DEALER])
def test_a_plain_client_calls_a_server_through_queues(hops: int, kind: int) -> None:
    server = zmqkit.Server(ANY)

    @server.method
    def add(a: int, b: int) -> int:
        return a + b

    with contextlib.ExitStack() as stack:
        stack.enter_context(server)
        at = server.addresses[0]
        for _ in range(hops):
            at = stack.enter_context(Queue(ANY, f">{at}", plain=True)).frontend_addresses[0]
        clients = [stack.enter_context(context().socket(kind)) for _ in range(3)]
        for number, client in enumerate(clients):
            client.setsockopt(zmq.LINGER, 0)
            client.setsockopt(zmq.RCVTIMEO, WAIT_MS)
            client.connect(at)
            before = [] if kind == zmq.REQ else [b""]
            request = json.dumps({"method": "add", "params": [number, 10], "id": number}).encode()
            client.send_multipart([*before, request])
        for number, client in enumerate(clients):
            reply = json.loads(client.recv_multipart()[-1])
            assert (reply["id"], reply["result"]) == (number, number + 10)
