"""A simulated process: one core at a time, pumped exactly as the driver pumps it (zmqkit/transport).

Knows the core's contract, the network and the journal; knows no pattern. A crash drops the core and all that was in
memory; a restart builds a new one, through the factory, over what is on the disk.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Callable, Hashable
from heapq import heappush
from typing import TYPE_CHECKING, Any, Literal
from zlib import crc32

from zmqkit.errors import JournalError
from zmqkit.protocol.core import Core, Frames, Link, Probe
from zmqkit.testing import contract
from zmqkit.testing.contract import ContractBroken, check_deadline, check_purity, check_rest, check_send
from zmqkit.testing.data import DataKind
from zmqkit.testing.journal import Disk, SimulatedCrash, SimulatedJournal
from zmqkit.testing.network import Dial, Way
from zmqkit.testing.places import Places
from zmqkit.testing.storing import Storing

if TYPE_CHECKING:
    from zmqkit.events import Event
    from zmqkit.testing.world import World

Factory = Callable[["SimPeer"], Core]
"""Builds the core of one incarnation. May read ``peer.journal``, ``.random``, ``.host``, ``.pid``, ``.started``."""

_STAMP = struct.Struct("<dI").pack
_TOLD_OF_LINKS = frozenset(("link_up", "link_down"))


class SimPeer(Places):
    """One process of a world. Made by `World.peer`.

    Attributes:
        name: unique in the world.
        host: which machine it runs on; peers of one host share a clock and are never cut off from each other.
        core: the running core, None while it is down.
        journal: as this incarnation opened it, None without one.
        disk: what survives, None without a journal.
        random: this incarnation's source of ids and jitter, for the factory to hand on.
        pid, started: tell this incarnation from all others on its host, as `Probe` does.
        mailbox: what came out of ``out.items`` in this incarnation; the workload takes it from here.
        on_items, on_event, on_turn, on_down: called with the peer (and what came); set them in `Scenario.build`.
        may_crash: whether `Nemesis` may kill it.
        may_move: whether `Nemesis` may have it change places with another that binds.
        life: which incarnation's ids this one has: its own, unless it was restored from a snapshot.
        stopped: it stands still as after SIGSTOP. `frozen` is true in a busy loop too.
    """

    def __init__(
        self, world: World, name: str, factory: Factory, *, host: str, number: int, disk: Disk | None,
        may_crash: bool, data: DataKind | None = None,
    ) -> None:  # fmt: skip
        self.world = world
        self.name = name
        self.host = host
        self.number = number
        self.disk = disk
        self.may_crash = may_crash
        self.may_move = True
        self.core: Core | None = None
        self.journal: SimulatedJournal | None = None
        self.incarnation = 0
        self.life = 0
        self.pid = 0
        self.started = ""
        self.mailbox: deque[Any] = deque()
        self.on_items: Callable[[SimPeer, list[Any]], None] | None = None
        self.on_event: Callable[[SimPeer, Event], None] | None = None
        self.on_turn: Callable[[SimPeer], None] | None = None
        self.on_down: Callable[[SimPeer, str], None] | None = None
        self.stopped = False
        self.stops = 0
        self.closing = False
        self.latency = 0.0
        self.keeps_pipe = False
        self.messages_a_turn = 200
        self.ways: list[Way] = []
        self.routes: dict[Link, Way | Dial] = {}
        self.stays_down = False
        """When True, a crash is for good: nobody restarts it."""
        self.doom: int | None = None
        """When set, the process dies after so many more sends: a crash in the middle of a drain."""
        Places.__init__(self, data)
        self._factory = factory
        self._clock = world.host_clock(host)
        self._pids: dict[int, tuple[int, str]] = {}
        self._shape = world.stream(f"peer {name}")
        self.random = self._shape
        self._reset()

    def _reset(self) -> None:
        self._commands: deque[tuple[str | Callable[..., object], tuple[Any, ...]]] = deque()
        self._notices: deque[tuple[float, str, tuple[Any, ...]]] = deque()
        self._probing: set[Hashable] = set()
        self._dialled.clear()
        self._due = math.inf
        self._ready = 0.0
        self._lag = 0.0
        self._now = -math.inf
        self._turns = 0
        self._in_turn = False
        self._deadline: float | None = None
        """What the core said at the end of its turn."""

    # ---- life --------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Does the process run?"""
        return self.core is not None

    @property
    def frozen(self) -> bool:
        """Does its loop stand still?"""
        return self.stopped or self._ready > self.world.clock.now + 1e-9

    @property
    def turn_at(self) -> float:
        """What its core was last told the time is."""
        return self._now

    @property
    def has_commands(self) -> bool:
        """Verbs were posted that its core was not given yet."""
        return bool(self._commands)

    @property
    def threaded(self) -> bool:
        """Its journal works in a thread of its own, in this incarnation."""
        return self._storing.threaded

    def now(self) -> float:
        """What the clock of its host says."""
        return self._clock()

    def start(self, *, life: int = 0) -> bool:
        """Begin an incarnation: open the journal, build the core, bind and connect.

        Args:
            life: restored from a snapshot that was taken when this earlier incarnation began: the same process,
                which draws the same ids once more. 0: a new one.

        Returns:
            False if its journal cannot be opened, or read: it is not running.
        """
        if self.core is not None:
            raise ValueError(f"{self.name} runs already")
        world = self.world
        self.incarnation += 1
        self.life = life or self.incarnation
        shape = self._shape
        self._reset()
        self.random = world.stream(f"core {self.name} {self.life}")
        self.closing = self.stopped = False
        self.doom = None
        # Kernels give a pid out again; with another start time.
        nth = self.number + self.incarnation + world.seed
        self._purity = -1 if nth % contract.PURITY_OF else 20 + 20 * (nth // contract.PURITY_OF % 5)
        before = self.pid
        self.pid = 1000 + self.number if shape.random() < 0.3 else 10_000 + 100 * self.number + self.incarnation
        self.started = f"{world.clock.now:.6f}/{self.incarnation}"
        if life:
            self.pid, self.started = self._pids[life]
            world.counts["restored"] += 1
        elif self.pid == before:
            world.counts["pid used again"] += 1
        self._pids[self.incarnation] = (self.pid, self.started)
        self.keeps_pipe = shape.random() < 0.25
        self.latency = 0.0 if shape.random() < 0.2 else 0.0004 * shape.random()
        self.messages_a_turn = 200 if shape.random() < 0.7 else shape.randint(1, 8)
        self.mailbox = deque()
        world.note(self, "starts" if not life else f"starts as it was in its life {life}")
        try:
            self._storing = Storing(self, self.disk, shape)
            self.journal = self._storing.journal
            self.core = self._factory(self)
        except (JournalError, SimulatedCrash) as error:
            self._could_not_start(error)
            return False
        world.processes.add((self.host, self.pid, self.started))
        for address in self._binds:
            world.network.listen(self, address)
        for address in self._connects:
            self.dials[address] = world.network.dial(self, address)
        for address in self._data_binds:
            self._open_data(address, bind=True)
        for address in self._data_connects:
            self._open_data(address, bind=False)
        self.wake_by(world.clock.now)
        if self._clock.held is not None:
            self.stop()
        return True

    def _could_not_start(self, error: JournalError | SimulatedCrash) -> None:
        """Its journal is no use, now or for ever; or it died as soon as it began."""
        self.world.counts[f"start failed: {type(error).__name__}"] += 1
        self.world.note(self, f"could not start: {error}")
        if self.journal is not None:
            self.journal.close()
            self.journal = None
        self.world.went_down(self, "not started")

    def crash(self, how: Literal["killed", "power cut"] = "killed") -> None:
        """Die at once: the core is gone, what was committed stays."""
        if self._in_turn:
            raise SimulatedCrash("in a turn")
        if self.core is not None:
            self._end(how)

    def crashed(self, crash: SimulatedCrash) -> None:
        """It ran into a crash that was planned for it."""
        self.world.counts[f"crash: {crash}"] += 1
        self._end("killed")

    def close(self, timeout_s: float = 8.0) -> None:
        """Ask the core to say goodbye; the process ends when it is `finished`, or out of time."""
        if self.core is not None and not self.closing:
            self.closing = True
            self.post("close")
            self.world.after(timeout_s, self._close_now, self.incarnation)

    def _close_now(self, incarnation: int) -> None:
        if self.core is not None and self.closing and self.incarnation == incarnation:
            self.world.counts["closed unfinished"] += 1
            self._end("closed")

    def _end(self, how: Literal["closed", "killed", "power cut"]) -> None:
        world = self.world
        assert self.core is not None
        world.note(self, f"ends: {how}")
        world.retire(self)
        self._storing.close()
        self.journal = None
        disk = self.disk
        if how == "power cut" and disk is not None and (disk.durability != "power" or disk.lying):
            name = "synced commits lost" if disk.durability == "power" else "commits lost"
            world.counts[name] += disk.cut_power(self._shape.randint(1 if disk.lying else 0, world.undone))
        self.core = None
        world.processes.discard((self.host, self.pid, self.started))
        world.network.vanish(self, how=how)
        self.ways.clear()
        self.routes.clear()
        self.dials.clear()
        self.data.clear()
        self._reset()
        world.went_down(self, how)
        if self.on_down is not None:
            self.on_down(self, how)

    def freeze(self, seconds: float) -> None:
        """Its loop stands still, as behind a handler that holds the GIL; its hop heartbeats go on."""
        self._ready = max(self._ready, self.world.clock.now + seconds)

    def stop(self) -> None:
        """Stand still altogether, as after SIGSTOP, until `resume`."""
        if not self.stopped:
            self.stopped = True
            self.stops += 1
            self.world.network.silence(self)

    def resume(self) -> None:
        """End `stop` and `freeze`; but on a suspended host all stands still."""
        if self._clock.held is not None:
            return
        self.stopped = False
        self._ready = self.world.clock.now
        if self.core is not None:
            self.wake_by(self._ready)

    # ---- verbs -------------------------------------------------------------------

    def post(self, verb: str | Callable[..., object], *args: Any) -> bool:
        """Have ``core.<verb>(*args, now)`` called in the next turn; False while the process is down.

        A callable is called as ``verb(core, *args, now)``.
        """
        if self.core is None:
            return False
        self._commands.append((verb, args))
        self.wake_by(self.world.clock.now + self.latency)
        return True

    def notify(self, delay: float, verb: str, *args: Any) -> None:
        """Have an input of the contract given after `delay` seconds, in the order of these calls."""
        if self.core is None:
            return
        due = self.world.clock.now + delay
        if self._notices:
            due = max(due, self._notices[-1][0])
        self._notices.append((due, verb, args))
        self.wake_by(due)

    def wake_by(self, when: float) -> None:
        """Have a turn at that time, or before."""
        if when < self._ready:
            when = self._ready
        if when < self._due and self.core is not None:
            self._due = when
            world = self.world  # `World.at` written out: there is no turn without it
            world._order = order = world._order + 1
            heappush(world._heap, (when, order, self._wake, (when, self.incarnation)))

    # ---- the driver's turn -------------------------------------------------------

    def _wake(self, when: float, incarnation: int) -> None:
        if when != self._due or incarnation != self.incarnation or self.core is None:
            return
        self._due = math.inf
        if self.stopped:
            return
        if when < self._ready:
            self.wake_by(self._ready)
            return
        self._lag = 0.0
        self._in_turn = True
        try:
            self._turn(when)
            self._in_turn = False
        except SimulatedCrash as crash:
            self._in_turn = False
            self.crashed(crash)
            return
        core = self.core
        if self.closing and core.finished and not self._storing.work and not self._commands:
            self._end("closed")
            return
        if self._lag:
            self._ready = max(self._ready, self.world.clock.now + self._lag)
        self._arm()
        if self.on_turn is not None:
            self.on_turn(self)

    def _arm(self) -> None:
        assert self.core is not None
        latency = self.latency
        due = math.inf
        dead = False
        for way in self.ways:
            if way.queue:
                if way.part is None and way.queue[0][0] + latency < due:
                    due = way.queue[0][0] + latency
            elif way.dead:
                dead = True
        if dead:
            self.ways = [way for way in self.ways if way.queue or not way.dead]
        deadline = self._deadline
        now = self.world.clock.now
        if deadline is not None:
            true = self._clock.true(deadline) + latency
            if true < due:
                due = true
        if self._notices and self._notices[0][0] < due:
            due = self._notices[0][0]
        if self._commands and now + latency < due:
            due = now + latency
        if due < math.inf:
            self.wake_by(due if due > now else now)

    def _turn(self, true: float) -> None:
        core = self.core
        assert core is not None
        world = self.world
        text = world.text
        clock = self._clock
        now = clock.offset + true * clock.rate if clock.held is None else clock.held
        if now < self._now:
            now = self._now
        self._now = now
        world.digest = crc32(_STAMP(now, self.number), world.digest)
        world.turns += 1
        commands = self._commands
        while commands:
            verb, args = commands.popleft()
            if text is not None:
                world.note(self, f"{verb} {args!r}")
            if callable(verb):
                verb(core, *args, now)
            else:
                getattr(core, verb)(*args, now)
        notices_first = True
        if self._notices and self._notices[0][0] <= true:
            notices_first = self._shape.random() < 0.5
            if notices_first:
                self._take_notices(core, true, now)
        crc = world.digest
        ways = self.ways
        if len(ways) > 1 and self._shape.random() < 0.3:
            ways = ways[::-1]  # one socket's connections are read in turn: a new one may well come first
        for way in ways:
            queue = way.queue
            if queue and queue[0][0] <= true and way.part is None:
                count, limit = 0, self.messages_a_turn
                link, data, receive = way.link, way.data, core.receive_message
                crc = crc32(way.mark, crc)
                while queue and queue[0][0] <= true and count < limit:
                    frames = queue.popleft()[1]
                    if data is not None:
                        given = data.incoming(way, frames)
                        if given is None:
                            continue
                        frames = given
                    for frame in frames:
                        crc = crc32(frame, crc)
                    if text is not None:
                        world.note(self, f"{link} -> {world.show(frames)}")
                    receive(link, frames, now)
                    count += 1
                world.received += count
        world.digest = crc
        if not notices_first:
            self._take_notices(core, true, now)
        # A frame that came while the deadline passed: the driver takes what is there before it looks at the time.
        deadline = core.next_deadline()
        if deadline is not None and deadline <= now + 1e-9:
            now = self._now = max(deadline, now)
            if text is not None:
                world.note(self, "timer")
            core.handle_timer(now)
        self._drain(core, now)

    def _take_notices(self, core: Core, true: float, now: float) -> None:
        notices = self._notices
        while notices and notices[0][0] <= true:
            _, verb, args = notices.popleft()
            if self.world.text is not None:
                self.world.note(self, f"{verb} {args!r:.200}")
            self.world.digest = crc32(verb.encode(), self.world.digest)
            if verb in _TOLD_OF_LINKS:
                kind, name = args[0][:2]
                if kind == "d":
                    endpoint = self.data[name]
                    if endpoint.dial is not None:
                        (endpoint.told_up if verb == "link_up" else endpoint.told_down)()
                elif verb == "link_up":
                    self.world.network.told_up(self, args[0])
            getattr(core, verb)(*args, now)

    def _drain(self, core: Core, now: float) -> None:
        """Carry out what the core wants done; once more as long as that gave it inputs."""
        world = self.world
        rounds = 0
        while True:
            core.end_turn(now)
            out = core.out
            again = False
            if world.checks and (out.writes or out.events or out.reads or out.probes):
                check_rest(core)
            if out.writes:
                writes, out.writes = out.writes, []
                again = True
                later = self._storing.store(core, writes, now)
                if later > now:
                    self._lag += later - now
                    self._now = now = later
            if out.replies:
                replies, out.replies = out.replies, []
                for ticket, result in replies:
                    if world.text is not None:
                        world.note(self, f"reply {getattr(ticket, 'about', ticket)!r}: {result!r:.100}")
                    if ticket is not None:
                        ticket.resolve(result)
            if out.items:
                items, out.items = out.items, []
                self.mailbox.extend(items)
                if self.on_items is not None:
                    self.on_items(self, items)
            if out.events:
                events, out.events = out.events, []
                for event in events:
                    world.events[type(event).__name__] += 1
                    if world.text is not None:
                        world.note(self, repr(event))
                    if self.on_event is not None:
                        self.on_event(self, event)
            if out.sends:
                sends, out.sends = out.sends, []
                again |= self._send(core, sends, now)
            if out.disconnects:
                links, out.disconnects = out.disconnects, []
                again = True
                for link in links:
                    if isinstance(link, tuple) and link[0] == "d":
                        endpoint = self.data[link[1]]
                        if len(link) == 2:
                            endpoint.redial()
                        else:
                            endpoint.expel(link[2])
                        continue
                    route = self.routes.get(link)
                    dial = route if isinstance(route, Dial) else route.connection.dial if route is not None else None
                    if dial is not None and dial.peer is self and link == dial.link:
                        world.network.redial(dial)
            if out.dials:
                dials, out.dials = out.dials, []
                again = True
                for address, wanted in dials:
                    self._dial(address, wanted)
            if out.reads:
                reads, out.reads = out.reads, []
                again = True
                self._storing.load(core, reads, now)
            if out.probes:
                probes, out.probes = out.probes, []
                again = True
                self._probe(core, probes, now)
            if not again:
                deadline = core.next_deadline()
                if deadline is None or deadline > now:
                    break
                core.handle_timer(now)
            rounds += 1
            if rounds > contract.MAX_ROUNDS:
                raise ContractBroken(
                    f"still not drained after {rounds} rounds: deadline {core.next_deadline()!r} at {now!r}"
                )
        self._turns += 1
        self._deadline = deadline  # None, or later than now, or it were not drained
        if world.checks:
            if self._turns % contract.REPEAT_EVERY == 0:
                check_deadline(core, now, deadline)
            if self._turns % contract.PURITY_EVERY == self._purity:
                check_purity(core)

    def _send(self, core: Core, sends: list[tuple[Link, Frames]], now: float) -> bool:
        """True if somebody was not there, and the core was told."""
        world = self.world
        network_send, checks, text = world.network.send, world.checks, world.text
        true = world.clock.now + self._lag
        find = self.routes.get
        told = False
        for link, frames in sends:
            if checks:
                check_send(link, frames)
            if self.doom is not None:
                self.doom -= 1
                if self.doom < 0:
                    raise SimulatedCrash("amid sends")
            if text is not None:
                world.note(self, f"{link} <- {world.show(frames)}")
            route = find(link)
            if route.__class__ is Way:
                network_send(route, frames, true)
            elif route is not None:
                world.network.send_unconnected(route, frames)  # type: ignore[arg-type]
            elif isinstance(link, tuple) and link[0] == "d" and link[1] in self.data:
                self.data[link[1]].send(frames, true)
            else:
                self._nowhere(core, link, now)
                told = True
        world.sent += len(sends)
        return told

    def _nowhere(self, core: Core, link: Link, now: float) -> None:
        """A ROUTER's send that raises EHOSTUNREACH; a DEALER's to an address given up in this turn."""
        if not isinstance(link, tuple) or not link or link[0] not in ("b", "c"):
            raise ContractBroken(f"a send to {link!r}, which was never a link")
        self.world.counts["unreachable"] += 1
        if link[0] == "b":
            core.link_down(link, now)

    def _probe(self, core: Core, probes: list[Probe], now: float) -> None:
        """Look now, and for a while: a process is dead a little after its connections broke."""
        for probe in probes:
            if probe.host != self.host or probe.key in self._probing:
                continue
            self.world.counts["probe"] += 1
            if self._is_dead(probe):
                core.process_gone(probe.key, now)
            else:
                self._probing.add(probe.key)
                self.world.after(0.05, self._probe_again, probe, (0.2, 0.8), self.incarnation)

    def _probe_again(self, probe: Probe, delays: tuple[float, ...], incarnation: int) -> None:
        if self.core is None or self.incarnation != incarnation:
            return
        if self._is_dead(probe):
            self._probing.discard(probe.key)
            self.notify(0.0, "process_gone", probe.key)
        elif delays:
            self.world.after(delays[0], self._probe_again, probe, delays[1:], incarnation)
        else:
            self._probing.discard(probe.key)

    def _is_dead(self, probe: Probe) -> bool:
        dead = (probe.host, probe.pid, probe.started) not in self.world.processes
        self.world.counts["process proven dead"] += dead
        return dead
