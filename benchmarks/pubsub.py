"""Publish-subscribe beside raw ZeroMQ and other libraries: processes of their own, loopback TCP.

Run it with ``python -m benchmarks.pubsub [--only WORD] [--peers WORD ...] [--messages N]
[--rounds N]``. Parts:

- *fan*: one topic, to one and to ten subscribers; dicts of about 100 bytes, and bodies of 64 KB.
- *topics*: 1,000 topics in turns, to one and to ten subscribers.
- *latency*: one-way, of messages published 10,000 a second, one by one.
- *replay*: a journal's messages from the earliest on, to one subscriber.
- *curves*: what publishing costs with more and more topics, and what it costs to subscribe more and more patterns.
- *memory*: a million messages published past a subscriber that is stopped (SIGSTOP).

All encode with msgpack when they publish and decode where they subscribe, and read each message's topic. No mark, limit
or queue may drop anything (`RCVHWM` and `SNDHWM` are 0, zmqkit's limits are high), and every run adds up what came: a
library that lost messages is printed with how many. Rounds alternate, medians are quoted: messages a second from the
first publish until the last subscriber has the last message, and the CPU time of each side. What counts are the
ratios: absolute figures drift with the machine. Brokers are started for a run, on ports of their own. What is not
installed (``pip install zmqkit[bench]``, redis-server, nats-server) is named.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import os
import resource
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import pubsub_peers as peers
from benchmarks.places import folder, run_folder
from benchmarks.pubsub_peers import Load, Peer, Pipe, Told, hear, process


def row(name: str, *values: str) -> None:
    """One line of a table."""
    print(f"  {name:<28}" + "".join(f"{value:>20}" for value in values), flush=True)


# ---- throughput ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Run:
    """What one run found.

    Attributes:
        rate: messages a second, until the slowest subscriber had the last.
        publisher: microseconds of CPU time a message.
        subscriber: likewise, the median of all subscribers.
        lost: messages of all subscribers together.
    """

    rate: float
    publisher: float
    subscriber: float
    lost: int


def run(peer: Peer, load: Load, subscribers: int) -> Run:
    """One load, from one publisher to so many subscribers."""
    load = dataclasses.replace(load, count=max(load.count // peer.slower, 1))
    with contextlib.ExitStack() as stack:
        publisher, _ = stack.enter_context(process(peer.publish, load))
        address = hear(publisher)
        takers = [stack.enter_context(process(peer.subscribe, address, load))[0] for _ in range(subscribers)]
        publisher.send("say ready")
        for taker in takers:
            hear(taker)
        publisher.send("go")
        hear(publisher)
        told: list[Told] = [hear(taker) for taker in takers]
        publisher.send("all there")
        ours: Told = hear(publisher)
    wrong = [each for each in told if each.count == load.count and each.weight != load.weight]
    assert not wrong, f"{peer.name}: the sum of what came is not that of what was published: {wrong}"
    got = min(each.count for each in told)
    return Run(
        got / (max(each.at for each in told) - ours.at),
        ours.cpu / load.count * 1e6,
        statistics.median(each.cpu / max(each.count, 1) for each in told) * 1e6,
        sum(load.count - each.count for each in told),
    )


def compare(title: str, them: Sequence[Peer], load: Load, subscribers: int, rounds: int) -> None:
    """A table: all peers, alternated. Ratios are those of the medians to that of the first."""
    print(f"\n{title}: {load.count:,} messages, medians of {rounds} alternated rounds", flush=True)
    row("", "messages/s", "x raw, one frame", "publisher, CPU", "subscriber, CPU")
    there = [peer for peer in them if not peer.missing]
    runs: dict[str, list[Run]] = {peer.name: [] for peer in there}
    broken: dict[str, str] = {}
    for _ in range(rounds):
        for peer in there:
            if peer.name in broken:
                continue
            try:
                runs[peer.name].append(run(peer, load, subscribers))
            except (TimeoutError, EOFError) as error:
                broken[peer.name] = str(error) or "its process died"
    base = statistics.median(each.rate for each in runs[them[0].name])
    for peer in them:
        each = runs.get(peer.name)
        if peer.missing or peer.name in broken or not each:
            row(peer.name, peer.missing or f"failed: {broken.get(peer.name)}")
            continue
        rate = statistics.median(one.rate for one in each)
        lost = sum(one.lost for one in each) / (max(load.count // peer.slower, 1) * subscribers * len(each))
        row(
            peer.name,
            f"{rate:,.0f}",
            f"{rate / base:.2f}",
            f"{statistics.median(one.publisher for one in each):.2f} us",
            "-" if lost else f"{statistics.median(one.subscriber for one in each):.2f} us",
            *([f"lost {lost:.1%}"] if lost else []),
        )


ALL = (peers.RAW, peers.ZMQKIT, peers.MANY, peers.JOURNAL, peers.PARTS, *peers.OTHERS)


def fan(them: Sequence[Peer], messages: int, rounds: int) -> None:
    """One topic."""
    few = max(messages // 10, 1)
    compare("one topic, one subscriber", them, Load(messages), 1, rounds)
    compare("one topic, ten subscribers", them, Load(few), 10, rounds)
    compare("64 KB, one subscriber", them, Load(max(messages // 200, 1), size=65536), 1, rounds)
    compare("64 KB, ten subscribers", them, Load(max(messages // 1000, 1), size=65536), 10, rounds)


def topics(them: Sequence[Peer], messages: int, rounds: int) -> None:
    """A thousand topics."""
    compare("1,000 topics in turns, one subscriber", them, Load(messages, 1000), 1, rounds)
    compare("1,000 topics in turns, ten subscribers", them, Load(max(messages // 10, 1), 1000), 10, rounds)


# ---- latency -----------------------------------------------------------------------

RATE = 10_000


def paced(count: int, send: Callable[[dict[str, Any]], object]) -> None:
    """Publish so many, one by one, `RATE` a second; each says when it was published."""
    clock, sleep = time.perf_counter, time.sleep
    begun = clock()
    for number in range(count):
        early = begun + number / RATE - clock()
        if early > 0:
            sleep(early)
        send({"at": clock(), "text": "x" * 70, "n": number})


def _sharp() -> None:
    """Let sleeps end when they should, and not 50 us later."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(29, 1, 0, 0, 0)  # PR_SET_TIMERSLACK


def latency_of_raw(pipe: Pipe, count: int) -> None:
    """The publisher."""
    import msgpack
    import zmq

    _sharp()
    pub = peers._raw_socket(zmq.PUB)
    pipe.send(f"tcp://127.0.0.1:{pub.bind_to_random_port('tcp://127.0.0.1')}")
    send, pack = pub.send, msgpack.packb
    pipe.recv()
    while not pipe.poll(0.005):
        send(b"lone\0" + pack(peers.READY))
    pipe.recv()
    paced(count, lambda body: send(b"lone\0" + pack(body)))
    pipe.recv()


def latency_at_raw(pipe: Pipe, address: str, count: int) -> None:
    """The subscriber."""
    import msgpack
    import zmq

    sub = peers._raw_socket(zmq.SUB, SUBSCRIBE=b"lone\0")
    sub.connect(address)
    recv, unpack = sub.recv, msgpack.unpackb
    _measure(pipe, count, lambda: unpack(recv().partition(b"\0")[2]))


def latency_of_zmqkit(pipe: Pipe, count: int) -> None:
    """The publisher."""
    import zmqkit

    _sharp()
    with zmqkit.Publisher("tcp://127.0.0.1:*") as pub:
        pipe.send(pub.addresses[0])
        pipe.recv()
        while not pipe.poll(0.005):
            pub.publish("lone", peers.READY)
        pipe.recv()
        paced(count, lambda body: pub.publish("lone", body))
        pipe.recv()


def latency_at_zmqkit(pipe: Pipe, address: str, count: int) -> None:
    """The subscriber."""
    import zmqkit

    with zmqkit.Subscriber(address, topics="lone") as sub:
        _measure(pipe, count, lambda: sub.receive().body)


def _measure(pipe: Pipe, count: int, receive: Callable[[], Any]) -> None:
    while receive() != peers.READY:
        pass
    pipe.send("ready")
    took = []
    clock = time.perf_counter
    number = 0
    while number < count:
        body = receive()
        if body == peers.READY:
            continue
        took.append(clock() - body["at"])
        assert body["n"] == number, f"message {body['n']} came instead of {number}"
        number += 1
    took.sort()
    pipe.send([took[int(count * share)] * 1e6 for share in (0.5, 0.99, 0.999)])
    pipe.recv()


def latency(count: int, rounds: int) -> None:
    """zmqkit and raw, in turns."""
    print(f"\nlatency: {count:,} messages, {RATE:,} a second, one by one; medians of {rounds} alternated rounds")
    row("", "p50", "p99", "p99.9")
    pairs: dict[str, tuple[Callable[..., None], Callable[..., None]]] = {
        "raw PUB/SUB, one frame": (latency_of_raw, latency_at_raw),
        "zmqkit": (latency_of_zmqkit, latency_at_zmqkit),
    }
    found: dict[str, list[list[float]]] = {name: [] for name in pairs}
    for _ in range(rounds):
        for name, (publish, subscribe) in pairs.items():
            with contextlib.ExitStack() as stack:
                publisher, _ = stack.enter_context(process(publish, count))
                subscriber, _ = stack.enter_context(process(subscribe, hear(publisher), count))
                publisher.send("say ready")
                hear(subscriber)
                publisher.send("go")
                found[name].append(hear(subscriber))
    medians = {name: [statistics.median(each) for each in zip(*runs, strict=True)] for name, runs in found.items()}
    for name, values in medians.items():
        row(name, *(f"{value:.0f} us" for value in values))
    raw, ours = medians.values()
    row("zmqkit / raw", *(f"{here / there:.2f}" for here, there in zip(ours, raw, strict=True)))


# ---- replay ------------------------------------------------------------------------


def replaying(pipe: Pipe, journal: str, load: Load) -> None:
    """Fills a journal with nobody there, then serves it."""
    import zmqkit

    with zmqkit.Publisher("tcp://127.0.0.1:*", journal=journal) as pub:
        if load.count:
            begun = time.perf_counter()
            pub.publish_many(load.pairs())
            pipe.send((pub.addresses[0], time.perf_counter() - begun))
        else:
            pipe.send((pub.addresses[0], 0.0))
        pipe.recv()


def replayed(pipe: Pipe, address: str, load: Load, pattern: str, options: dict[str, Any]) -> None:
    """Reads it."""
    import zmqkit

    begun, busy = time.perf_counter(), time.process_time()
    weight = 0
    with zmqkit.Subscriber(address, topics=pattern, start="earliest", **options) as sub:
        for message in itertools.islice(sub, load.count):
            message.topic  # noqa: B018 - which all others have at hand
            weight += message.body["n"]
        seconds, cpu = time.perf_counter() - begun, time.process_time() - busy
    assert weight == load.weight, "what was replayed is not what was published"
    pipe.send((seconds, cpu))
    pipe.recv()


def replay(messages: int, rounds: int) -> None:
    """From a journal, with one topic and with 1,000."""
    print(f"\nreplay: {messages:,} messages of a journal, start='earliest', medians of {rounds} rounds")
    row("", "messages/s", "subscriber, CPU", "at least")
    for name, count in (("one topic", 1), ("1,000 topics", 1000)):
        load = Load(messages, count)
        with folder() as kept:
            journal = os.path.join(kept, "journal.db")
            with process(replaying, journal, load) as (publisher, _):
                address, filled = hear(publisher)
                ways: dict[str, tuple[str, dict[str, Any]]] = {"": ("#", {}), ", cursor": ("#", {"cursor": "reader"})}
                rates: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
                for number in range(rounds):
                    for way, (pattern, options) in ways.items():
                        if options:
                            options = {"cursor": f"reader {number}"}
                        with process(replayed, address, load, pattern, options) as (reader, _):
                            rates[way].append(hear(reader))
                            reader.send("end")
        row(f"publish_many, {name}", f"{messages / filled:,.0f}")
        for way, each in rates.items():
            rate = messages / statistics.median(seconds for seconds, _ in each)
            cpu = statistics.median(cpu for _, cpu in each) / messages
            row(f"replay, {name}{way}", f"{rate:,.0f}", f"{cpu * 1e6:.2f} us", "300,000")


# ---- curves ------------------------------------------------------------------------

MANY = (1, 100, 10_000, 100_000)
"""Topics, and patterns."""


def publish_topics(pipe: Pipe, load: Load, way: str) -> None:
    """Publishes to many topics; tells the CPU time."""
    import zmqkit

    with zmqkit.Publisher("tcp://127.0.0.1:*", limits=peers.our_limits()) as pub:
        pairs = load.pairs()
        pipe.send(pub.addresses[0])
        pub.wait_for_subscribers(1, timeout=peers.PATIENCE_S)
        pub.publish(pairs[0][0], peers.READY)
        for topic in load.names:  # that they are new is no part of it
            pub.publish(topic, {"n": 0})
        pipe.recv()
        busy = time.process_time()
        if way == "lone":
            for topic, body in pairs:
                pub.publish(topic, body)
                time.sleep(0.0001)
        else:
            for topic, body in pairs:
                pub.publish(topic, body)
        pipe.recv()  # all has come
        pipe.send(time.process_time() - busy)
        pipe.recv()


def take_topics(pipe: Pipe, address: str, load: Load, patterns: list[str]) -> None:
    """Subscribes many patterns; tells how long joining took, then the CPU time."""
    import zmqkit

    begun = time.perf_counter()
    with zmqkit.Subscriber(address, topics=patterns, limits=peers.our_limits()) as sub:
        for message in sub:
            if message.body == peers.READY:
                break
        joined = time.perf_counter() - begun
        for _ in load.names:
            sub.receive()
        pipe.send(joined)
        weight = 0
        busy = time.process_time()
        for message in itertools.islice(sub, load.count):
            weight += message.body["n"]
        cpu = time.process_time() - busy
        assert weight == load.weight, "what came is not what was published"
        pipe.send(cpu)
        pipe.recv()


def cost(load: Load, patterns: list[str], way: str = "flood") -> tuple[float, float, float]:
    """Microseconds a message of the publisher's and the subscriber's CPU time, and seconds until it was subscribed."""
    with contextlib.ExitStack() as stack:
        publisher, _ = stack.enter_context(process(publish_topics, load, way))
        subscriber, _ = stack.enter_context(process(take_topics, hear(publisher), load, patterns))
        joined = hear(subscriber)
        publisher.send("go")
        theirs = hear(subscriber)
        publisher.send("all there")
        ours = hear(publisher)
    return ours / load.count * 1e6, theirs / load.count * 1e6, joined


def costs(rounds: int, *args: Any) -> list[float]:
    """The medians of `cost`."""
    return [statistics.median(each) for each in zip(*(cost(*args) for _ in range(rounds)), strict=True)]


def curves(messages: int, rounds: int) -> None:
    """More and more topics, and patterns."""
    print(f"\ntopics: CPU time a message, medians of {rounds} rounds; asked: at 100,000 at most 1.5 x that at 100")
    row("", "publisher", "x 100 topics", "subscriber")
    for way, count in (("flood", messages), ("lone", min(messages, 50_000))):
        found = {n: costs(rounds, Load(max(count, n), n), ["#"], way) for n in MANY}
        for n, (ours, theirs, _) in found.items():
            row(f"{way}, {n:,} topics", f"{ours:.2f} us", f"{ours / found[100][0]:.2f}", f"{theirs:.2f} us")
    print("\npatterns of one subscriber: CPU time a message of 100 topics that some let in")
    row("", "publisher", "subscriber", "until subscribed")
    load = Load(messages, 100)
    for kind, pattern in (("literals", "other.word{}"), ("wildcards", "other.*.word{}")):
        for n in MANY:
            mine = load.names if kind == "literals" else ["bench.*"]
            ours, theirs, joined = costs(rounds, load, mine + [pattern.format(number) for number in range(n)])
            row(f"{n:,} {kind}", f"{ours:.2f} us", f"{theirs:.2f} us", f"{joined:.2f} s")


# ---- memory ------------------------------------------------------------------------


def rss_mb(pid: int) -> float:
    """A process's resident memory, in MB."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def publish_past(pipe: Pipe, load: Load, journalled: bool) -> None:
    """Publishes; goes on serving."""
    import zmqkit

    with folder() as kept:
        more = {"journal": os.path.join(kept, "journal.db")} if journalled else {}
        with zmqkit.Publisher("tcp://127.0.0.1:*", **more) as pub:  # type: ignore[arg-type]
            pipe.send(pub.addresses[0])
            pub.wait_for_subscribers(1, timeout=peers.PATIENCE_S)
            name = load.names[0]
            pub.publish(name, peers.READY)
            pipe.recv()
            for number in range(load.count):
                pub.publish(name, {"n": number, "text": "x" * 70, "ok": True, "price": 1.5})
            pub.publish(name, peers.GO)
            pipe.send("published")
            pipe.recv()


def take_late(pipe: Pipe, address: str, load: Load) -> None:
    """Counts what comes, and what is named as lost."""
    import zmqkit

    with zmqkit.Subscriber(address, topics=load.names[0]) as sub:
        assert sub.receive().body == peers.READY
        pipe.send("ready")
        came = lost = 0
        while True:
            try:
                body = sub.receive().body
            except zmqkit.MessagesLost as error:
                lost += error.last - error.first + 1
                continue
            if body == peers.GO:
                break
            came += 1
        pipe.send((came, lost))
        pipe.recv()


def memory(messages: int) -> None:
    """Past a subscriber that is stopped."""
    print(f"\nmemory: {messages:,} messages past a subscriber that is stopped; RSS in MB")
    row("", "before", "while stopped", "after", "came", "named as lost")
    load = Load(messages)
    for journalled in (False, True):
        with contextlib.ExitStack() as stack:
            publisher, ours = stack.enter_context(process(publish_past, load, journalled))
            subscriber, theirs = stack.enter_context(process(take_late, hear(publisher), load))
            hear(subscriber)
            pids = {"publisher": ours, "subscriber": theirs}
            before = {name: rss_mb(pid) for name, pid in pids.items()}
            highest = dict(before)
            os.kill(theirs, signal.SIGSTOP)
            publisher.send("go")
            until = time.monotonic() + peers.PATIENCE_S * 2
            while not publisher.poll(0.05):
                highest = {name: max(highest[name], rss_mb(pid)) for name, pid in pids.items()}
                if time.monotonic() > until:
                    raise TimeoutError("the publisher is blocked by a stopped subscriber")
            publisher.recv()
            os.kill(theirs, signal.SIGCONT)
            came, lost = hear(subscriber)
            assert came + lost == messages, f"{messages - came - lost} messages are neither there nor named"
            kind = ", journal" if journalled else ", history"
            for name, pid in pids.items():
                figures = (f"{value:.0f}" for value in (before[name], highest[name], rss_mb(pid)))
                row(name + kind, *figures, *((f"{came:,}", f"{lost:,}") if name == "subscriber" else ()))


def main() -> None:
    """All parts, or those whose name holds a word."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--peers", nargs="+", default=[""], metavar="WORD", help="besides raw: whose name holds one")
    asked = parser.parse_args()
    them = [peer for peer in ALL if peer is peers.RAW or any(word in peer.name for word in asked.peers)]
    parts: dict[str, Callable[[], None]] = {
        "fan": lambda: fan(them, asked.messages, asked.rounds),
        "topics": lambda: topics(them, asked.messages, asked.rounds),
        "latency": lambda: latency(max(asked.messages // 20, 1), asked.rounds),
        "replay": lambda: replay(asked.messages, asked.rounds),
        "curves": lambda: curves(max(asked.messages // 5, 1), max(asked.rounds // 2, 1)),
        "memory": lambda: memory(asked.messages),
    }
    with run_folder():
        for name, part in parts.items():
            if asked.only in name:
                part()


if __name__ == "__main__":
    main()
