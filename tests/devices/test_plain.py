"""Plain ZeroMQ peers get through a device, or two in a row, what they get without: the same scenarios over each."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import pytest
import zmq

from tests.devices.plainly import BETWEEN, Ends, ends, received, stay_empty
from zmqkit.devices import Forwarder, Proxy, Queue, Streamer

MESSAGES = [[b"one"], [b""], [b"a", b"", b"c"], [b"", b"", b""], [bytes(range(256))] * 20, [b"x" * 10_000_000, b"end"]]
"""Single frames, several, empty ones, many, and 10 MB."""

between = pytest.fixture(params=BETWEEN, name="between")(lambda request: request.param)


@pytest.fixture
def requests(between: str) -> Iterator[Ends]:
    with ends(between, partial(Queue, plain=True)) as made:
        yield made


@pytest.fixture
def feed(between: str) -> Iterator[Ends]:
    with ends(between, partial(Forwarder, plain=True)) as made:
        yield made


@pytest.fixture
def jobs(between: str) -> Iterator[Ends]:
    with ends(between, partial(Streamer, plain=True)) as made:
        yield made


# ---- request-reply -----------------------------------------------------------------


def test_requests_and_replies_are_frame_for_frame_what_was_sent(requests: Ends) -> None:
    worker = requests.back(zmq.REP)
    client = requests.front(zmq.REQ)
    for frames in MESSAGES:
        client.send_multipart(frames)
        assert received(worker) == frames
        worker.send_multipart(frames[::-1])
        assert received(client) == frames[::-1]


def test_each_client_gets_its_own_replies_whoever_works(requests: Ends) -> None:
    worker = requests.back(zmq.REP)
    clients = [requests.front(zmq.REQ) for _ in range(10)]
    for at, client in enumerate(clients):
        client.send_multipart([b"%d" % at, b""])
    for _ in clients:
        number, empty = received(worker)
        worker.send_multipart([b"reply to " + number, empty])
    for at, client in enumerate(clients):
        assert received(client) == [b"reply to %d" % at, b""]


def test_a_dealer_has_many_requests_in_flight_and_gets_all_replies_in_order(requests: Ends) -> None:
    worker = requests.back(zmq.REP)
    client = requests.front(zmq.DEALER)
    for at in range(500):
        client.send_multipart([b"", b"%d" % at])
    for at in range(500):
        assert received(worker) == [b"%d" % at]
        worker.send(b"%d" % (at * at))
    assert [received(client) for _ in range(500)] == [[b"", b"%d" % (at * at)] for at in range(500)]


def test_a_router_that_works_answers_in_any_order(requests: Ends) -> None:
    worker = requests.back(zmq.ROUTER)
    clients = [requests.front(zmq.REQ) for _ in range(5)]
    for at, client in enumerate(clients):
        client.send(b"%d" % at)
    for frames in reversed([received(worker) for _ in clients]):
        worker.send_multipart([*frames[:-1], b"for " + frames[-1]])
    assert [received(client) for client in clients] == [[b"for %d" % at] for at in range(5)]


def test_clients_with_identities_keep_them(requests: Ends) -> None:
    worker = requests.back(zmq.ROUTER)
    clients = {name: requests.front(zmq.DEALER, IDENTITY=name) for name in (b"anna", b"\x01\xffbert", b"c" * 255)}
    for name, client in clients.items():
        client.send_multipart([b"I am", name])
    for _ in clients:
        *envelope, text, name = received(worker)
        assert text == b"I am"
        assert envelope[-1] == name  # next to the worker stands who is next to him
        worker.send_multipart([*envelope, b"you are", name])
    for name, client in clients.items():
        assert received(client) == [b"you are", name]


# ---- publish-subscribe -------------------------------------------------------------


def test_subscribers_get_what_they_subscribed_frame_for_frame(feed: Ends) -> None:
    publisher, subscriber = feed.front(zmq.XPUB), feed.back(zmq.SUB)
    subscriber.subscribe(b"")
    assert received(publisher) == [b"\x01"]
    for frames in MESSAGES:
        publisher.send_multipart(frames)
        assert received(subscriber) == frames


def test_a_prefix_matches_what_begins_with_it_and_nothing_else(feed: Ends) -> None:
    publisher, subscriber = feed.front(zmq.XPUB), feed.back(zmq.SUB)
    subscriber.subscribe(b"prices.")
    assert received(publisher) == [b"\x01prices."]
    for topic in (b"price", b"prices", b"prices.", b"Prices.eu", b"prices.eu", b"", b"prices.us"):
        publisher.send_multipart([topic, b"1"])
    assert [received(subscriber)[0] for _ in range(3)] == [b"prices.", b"prices.eu", b"prices.us"]
    assert stay_empty(subscriber)


def test_who_unsubscribes_gets_no_more_and_who_subscribes_again_gets_it_again(feed: Ends) -> None:
    publisher, subscriber = feed.front(zmq.XPUB), feed.back(zmq.SUB)
    subscriber.subscribe(b"a")
    assert received(publisher) == [b"\x01a"]
    publisher.send_multipart([b"a", b"1"])
    assert received(subscriber) == [b"a", b"1"]
    for count in range(3):
        subscriber.unsubscribe(b"a")
        assert received(publisher) == [b"\x00a"]
        publisher.send_multipart([b"a", b"lost"])
        subscriber.subscribe(b"a")
        assert received(publisher) == [b"\x01a"]
        publisher.send_multipart([b"a", b"%d" % count])
        assert received(subscriber) == [b"a", b"%d" % count]


def test_a_plain_pub_reaches_a_plain_sub(feed: Ends) -> None:
    publisher, subscriber = feed.front(zmq.PUB), feed.back(zmq.SUB)
    subscriber.subscribe(b"")
    for at in range(1000):  # a PUB does not tell when somebody subscribed
        publisher.send_multipart([b"topic", b"%d" % at])
        if subscriber.poll(10):
            break
    assert received(subscriber)[0] == b"topic"


# ---- pipelines ---------------------------------------------------------------------


def test_jobs_come_in_order_frame_for_frame(jobs: Ends) -> None:
    pull = jobs.back(zmq.PULL)
    push = jobs.front(zmq.PUSH)
    sender = threading.Thread(target=lambda: [push.send_multipart(frames) for frames in MESSAGES * 3])
    sender.start()
    try:
        assert [received(pull) for _ in range(3 * len(MESSAGES))] == MESSAGES * 3
    finally:
        sender.join(20)


def test_several_who_push_are_all_heard(jobs: Ends) -> None:
    pull = jobs.back(zmq.PULL)
    pushes = [jobs.front(zmq.PUSH) for _ in range(5)]
    for at, push in enumerate(pushes):
        for number in range(100):
            push.send_multipart([b"%d" % at, b"%d" % number])
    got: dict[bytes, list[bytes]] = {}
    for _ in range(500):
        who, what = received(pull)
        got.setdefault(who, []).append(what)
    assert got == {b"%d" % at: [b"%d" % number for number in range(100)] for at in range(5)}


def test_several_who_pull_share_the_jobs_and_none_comes_twice() -> None:
    with ends("a device", partial(Streamer, plain=True)) as jobs:
        pulls = [jobs.back(zmq.PULL) for _ in range(3)]
        push = jobs.front(zmq.PUSH)
        idle, got = list(pulls), []
        sent = 0
        while idle:  # until each of them has connected, and got something
            push.send(b"%d" % sent)
            sent += 1
            for pull in pulls:
                while pull.poll(5):
                    got.append(int(pull.recv()))
                    idle = [each for each in idle if each is not pull]
            assert sent < 1000
        while len(got) < sent:
            got += [int(received(pull)[0]) for pull in pulls if pull.poll(10)]
        assert sorted(got) == list(range(sent))
        assert stay_empty(*pulls)


# ---- any two sockets ---------------------------------------------------------------


def test_a_proxy_stands_between_sockets_that_are_turned_round() -> None:
    with ends("a device", partial(Proxy, types=("XPUB", "XSUB"))) as feed:
        subscriber, publisher = feed.front(zmq.SUB), feed.back(zmq.XPUB)
        subscriber.subscribe(b"a")
        assert received(publisher) == [b"\x01a"]
        publisher.send_multipart([b"a", b""])
        assert received(subscriber) == [b"a", b""]
    with ends("a device", partial(Proxy, types=("push", "pull"))) as jobs:
        pull, push = jobs.front(zmq.PULL), jobs.back(zmq.PUSH)
        push.send_multipart([b"", b"1"])
        assert received(pull) == [b"", b"1"]
    with ends("a device", Proxy) as requests:
        worker, client = requests.back(zmq.REP), requests.front(zmq.REQ)
        client.send(b"?")
        assert received(worker) == [b"?"]
        worker.send(b"!")
        assert received(client) == [b"!"]
