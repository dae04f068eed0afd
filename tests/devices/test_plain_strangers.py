"""A plain device beside strangers, silent peers and too large frames: who behaves is served all the same."""

from __future__ import annotations

import contextlib
import socket
import threading
from functools import partial

import pytest
import zmq

import zmqkit
from tests.devices.plainly import ANY, Ends, at, closing, ends, received
from zmqkit.devices import DeviceProcess, Forwarder, Queue, Streamer
from zmqkit.transport.knocks import GREETING

PATIENCE_S = 20.0
MIB = 1 << 20


def ready(kind: bytes) -> bytes:
    body = b"\x05READY" + b"\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
    return b"\x04" + bytes([len(body)]) + body


GARBAGE = [
    b"",
    b"GET / HTTP/1.1\r\n\r\n" + bytes(100),
    b"\xff" * 10_000,
    GREETING,
    GREETING + b"\x04\x01\x00",
    GREETING + ready(b"DEALER") + b"\x01\xff",  # a message that is never ended
    GREETING + ready(b"DEALER") + b"\x02" + (1 << 62).to_bytes(8, "big"),  # one of 4 EiB
    GREETING + ready(b"NONSENSE"),
]


def stranger(address: str, said: bytes) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=PATIENCE_S)
    made.sendall(said)
    return made


def test_strangers_at_both_sides_of_a_queue_disturb_nobody() -> None:
    with Queue(ANY, ANY, plain=True) as device:
        healthy = at(device)
        with closing(healthy):
            client, worker = healthy.front(zmq.REQ), healthy.back(zmq.REP)
            for number, said in enumerate(GARBAGE * 2):
                # Who gets through the handshake there is a worker, and would be given requests.
                behind = b"" if ready(b"DEALER") in said else said
                with stranger(device.frontend_addresses[0], said), stranger(device.backend_addresses[0], behind):
                    client.send(b"%d" % number)
                    assert received(worker) == [b"%d" % number]
                    worker.send(b"ok")
                    assert received(client) == [b"ok"]


def test_a_subscription_that_is_garbage_goes_through_as_any_other() -> None:
    with ends("a device", partial(Forwarder, plain=True)) as feed:
        publisher, odd, subscriber = feed.front(zmq.XPUB), feed.back(zmq.XSUB), feed.back(zmq.SUB)
        for said in (b"", b"\x02what", b"\x00never subscribed", b"\x01" + bytes(range(256))):
            odd.send(said)
        subscriber.subscribe(b"a")
        while received(publisher) != [b"\x01a"]:
            pass  # what the other one said
        publisher.send_multipart([b"a", b"1"])
        assert received(subscriber) == [b"a", b"1"]


def test_a_subscription_so_long_that_its_end_would_end_the_device_is_not_taken() -> None:
    with DeviceProcess(Forwarder, ANY, ANY, plain=True) as device:
        long = b"\x02" + (4 * MIB).to_bytes(8, "big") + b"\x01" + bytes(4 * MIB - 1)
        there = stranger(device.backend_addresses[0], GREETING + ready(b"SUB"))
        with there, contextlib.suppress(ConnectionError):  # it hangs up while this is sent
            there.sendall(long)
            while there.recv(4096):
                pass
        healthy = Ends(device.frontend_addresses[0], device.backend_addresses[0])
        with closing(healthy):
            publisher, subscriber = healthy.front(zmq.XPUB), healthy.back(zmq.SUB)
            subscriber.subscribe(b"a")
            assert received(publisher) == [b"\x01a"]
            publisher.send_multipart([b"a", b"1"])
            assert received(subscriber) == [b"a", b"1"]
        assert device.alive


def test_who_sends_too_large_a_frame_is_disconnected_and_others_are_not() -> None:
    with Streamer(ANY, ANY, plain=True, limits=zmqkit.Limits(frame_bytes=MIB)) as device:
        healthy = at(device)
        with closing(healthy):
            large, push, pull = healthy.front(zmq.PUSH), healthy.front(zmq.PUSH), healthy.back(zmq.PULL)
            large.send(bytes(MIB + 1))
            push.send(bytes(MIB))
            assert received(pull) == [bytes(MIB)]


def talks(made: socket.socket) -> bool:
    """Whether it says anything more; False: it has hung up."""
    try:
        return bool(made.recv(MIB))
    except ConnectionResetError:
        return False


def test_a_peer_that_answers_no_heartbeat_is_hung_up_on_if_heartbeats_are_wanted() -> None:
    beat = zmqkit.Heartbeat(interval=0.1, liveness=3)
    with Streamer(ANY, ANY, plain=True, heartbeat=beat) as device:
        with stranger(device.backend_addresses[0], GREETING + ready(b"PULL")) as silent:
            silent.settimeout(PATIENCE_S)
            while talks(silent):  # its greeting, READY, and some PINGs
                pass
        healthy = at(device)
        with closing(healthy):
            pull, push = healthy.back(zmq.PULL), healthy.front(zmq.PUSH)
            push.send(b"job")
            assert received(pull) == [b"job"]


@pytest.mark.slow
def test_requests_go_on_while_a_worker_is_not_rid_of_his_answers() -> None:
    """libzmq's own loop stands still for ever here: it waits for the worker to read, and he for it."""
    total, large = 150, bytes(500_000)
    with Queue(ANY, ANY, plain=True, limits=zmqkit.Limits(queued_messages=2)) as device:
        made = at(device)
        with closing(made):
            worker = made.back(zmq.ROUTER, SNDHWM=2, RCVHWM=2, ROUTER_MANDATORY=1, SNDTIMEO=30_000)
            client = made.front(zmq.DEALER, SNDHWM=2, RCVHWM=2, SNDTIMEO=30_000)

            def work() -> None:
                for _ in range(total):
                    worker.send_multipart(received(worker, 30_000))

            working = threading.Thread(target=work)
            working.start()
            for _ in range(total):
                client.send_multipart([b"", large])
                while client.poll(0):  # a ROUTER drops what one does not take in time: so it is ZeroMQ's
                    client.recv_multipart()
            working.join(40)
            assert not working.is_alive()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:99999", "tcp://nowhere", "ipc://" + "x" * 200, "http://a", ""])
def test_an_address_that_cannot_be_read_is_refused_at_once(address: str) -> None:
    with pytest.raises(zmqkit.AddressError):
        Queue(address, ANY)


def test_an_address_that_is_not_of_this_host_cannot_be_bound() -> None:
    device = Queue("tcp://192.0.2.1:5555", ANY, plain=True, insecure=True)
    with pytest.raises(zmqkit.AddressError, match=r"cannot bind 'tcp://192.0.2.1:5555'"):
        device.open()
    assert device.addresses == ()
