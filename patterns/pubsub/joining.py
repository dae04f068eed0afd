"""The subscriber's core, fifth part: data links, fences, and which streams live on the data plane (14.3 and 14.7).

Pure. A fence says who publishes here, and from which offset on what comes is whole. A link whose user is slow is left,
its streams are followed by feeds, and it is joined again when they have caught up.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

from zmqkit.errors import MessagesLost
from zmqkit.events import EpochChanged, FellBehind, RecoveryUnreachable
from zmqkit.options import Backoff
from zmqkit.patterns.pubsub import talk
from zmqkit.patterns.pubsub.fetching import COMPARED
from zmqkit.patterns.pubsub.links import DataLink
from zmqkit.patterns.pubsub.living import Living
from zmqkit.patterns.pubsub.reach import recovery_address
from zmqkit.patterns.pubsub.settings import SubscriberSettings
from zmqkit.patterns.pubsub.streams import FEED, FEEDING, LIVE, WAITING, Stream, Task
from zmqkit.patterns.pubsub.topics import Filter
from zmqkit.patterns.pubsub.wire import Fence
from zmqkit.protocol.local import Local
from zmqkit.protocol.session import Session

MAX_STREAMS: Final = 10_000
"""So many publishers at most; those that are away are forgotten first."""

MAX_LEFT: Final = 1_000
"""So many positions are remembered of publishers that were forgotten, the newest: they may come back elsewhere."""

MAX_STREAMS_OF_LINK: Final = 1_000
"""So many publishers may be behind one address that we connected to; more than one only where something forwards..."""

MAX_DIALS_OF_LINK: Final = 256
"""...and to so many recovery channels we connect, because of what is said there."""

FENCE_WAIT: Final = Backoff(first=2.0, factor=2.0, cap=30.0)
"""How long a fence is waited for before another one is asked for."""

FENCES_IN_VAIN: Final = 3
"""After so many it is told that there seems to be no publisher."""


class Joining(Living):
    """The data links of a subscriber's core."""

    def __init__(self, local: Local, rng: random.Random, settings: SubscriberSettings) -> None:
        super().__init__(local, rng, settings)
        self._links: dict[str, DataLink] = {}
        self._hints: dict[str, str] = {}
        self._numbers = 0
        self._by_name: dict[bytes, Stream] = {}
        self._left: dict[str, tuple[str, int]] = {}
        """Where publishers were that are forgotten now: epoch and offset."""
        self._sessions_by_name: dict[bytes, list[Session]] = {}

    # ---- links -----------------------------------------------------------------------

    def tell_recovery(self, hints: Mapping[str, str], now: float) -> None:
        """A verb of the face: our bound data addresses, and how publishers find our recovery channel from each.

        Args:
            hints: bound data address to ":PORT", a whole address, or "" (see `wire.Private`).
            now: the time.
        """
        self._hints = dict(hints)
        for address, hint in hints.items():
            link = self._links.get(address)
            if link is not None and not (link.bound and link.hint == hint):
                link.bound, link.hint = True, hint
                if link.up:
                    self._subscribe(link, now)

    def connected(self) -> set[str]:
        """Addresses of data endpoints that are up."""
        return {address for address, link in self._links.items() if link.up}

    def data_up(self, address: str, now: float) -> None:
        """A data link has a connection: a new one, which knows nothing."""
        link = self._links.get(address)
        if link is None:
            bound = address in self._hints
            hint = self._hints.get(address, "")
            link = self._links[address] = DataLink(address, bound=bound, quiet=self.settings.durable, hint=hint)
        elif link.up:
            self.data_down(address, now)
        link.up = True
        if not self.ended:
            self._subscribe(link, now)

    def data_down(self, address: str, now: float) -> None:
        """A data link's connection is gone, and with it the fences."""
        link = self._links.get(address)
        if link is None or not link.up:
            return
        if link.streams:
            link.before = next(iter(link.streams.values())) if len(link.streams) == 1 else None
        streams = list(link.streams.values())
        link.cleared()
        self._timers.cancel(("fence", address))
        for stream in streams:
            self._unlink(stream, now)

    def data_forgotten(self, address: str, now: float) -> None:
        """The driver will not make this connection again."""
        self.data_down(address, now)
        link = self._links.pop(address, None)
        for stream in list(self.streams.values()):
            if link is not None and stream.home is link:
                self._forget(stream, "its address was taken away", now)

    def _unlink(self, stream: Stream, now: float) -> None:
        """A stream has no data link now; another one may bring it, too."""
        stream.link = None
        if stream.behind_fence:
            self.drop_held(stream)
            stream.state = WAITING
            stream.pending, stream.adopting = None, False
            self._say(stream, talk.Left(), now)
        for other in self._links.values():
            if other.up and stream.name in other.spare:
                self._subscribe(other, now)

    def _subscribe(self, link: DataLink, now: float) -> None:
        """Subscribe over a link what is wanted, and ask for a fence."""
        self._numbers += 1
        link.subscribe(self.filter, self.local.instance, self._numbers, self.out.sends)
        link.spare.clear()
        if not link.bound or link.streams:
            pause = FENCE_WAIT.ceiling(link.tries + 1) * (0.75 + 0.25 * self.rng.random())
            self._timers.set(("fence", link.address), now + pause)

    def fence_late(self, address: str, now: float) -> None:
        """A fence was waited for long enough."""
        link = self._links.get(address)
        if link is None or not link.up or self.ended:
            return
        if link.fenced and all(stream.number == link.number for stream in link.streams.values()):
            return
        link.tries += 1
        if link.tries == FENCES_IN_VAIN and not link.streams and not link.told:
            link.told = True
            reason = "nobody answers there who publishes as zmqkit does"
            self.out.events.append(RecoveryUnreachable(self.local.name, "", address, reason))
        self._subscribe(link, now)

    # ---- topics ----------------------------------------------------------------------

    def use_topics(self, filter: Filter, now: float) -> None:
        """The user wants other topics."""
        self.filter = filter
        self.share_memory()
        for stream in self.streams.values():
            if not stream.behind_fence and (stream.state is FEED or stream.position is None):
                stream.filter = filter
                self.tell_topics(stream, now)
        for link in self._links.values():
            if link.up and not link.quiet:
                self._subscribe(link, now)

    # ---- fences ----------------------------------------------------------------------

    def take_fence(self, link: DataLink, fence: Fence, now: float) -> None:
        """A fence came over a link."""
        if fence.private != link.private or self.ended:
            return
        self.counters["fences"] += 1
        link.fenced = True
        link.tries = 0
        link.told = False
        stream = self.streams.get(fence.publisher)
        if stream is None:
            stream = self._begin_stream(link, fence, now)
            if stream is None:
                return
        elif stream.link is not None and stream.link is not link and stream.name == fence.stream:
            link.spare[fence.stream] = stream
            return
        elif stream.name != fence.stream or stream.epoch != fence.epoch:
            self._opened_anew(stream, fence, now)
        if link.before is not None and link.before is stream:
            link.before = None
        again = stream.link is link and stream.number != link.number
        if stream.link is not link:
            stream.seen_beat = 0  # what came over another connection says nothing of this one
        link.streams[fence.stream] = stream
        stream.link = stream.home = link
        stream.seat = fence.seat
        stream.number = link.number
        self._dial(stream, link, fence)
        self._match(stream, now)
        # Who binds and stood still may read the fence of a connection that is gone after that of the present one.
        offset = max(fence.offset, stream.fence)
        if link.quiet:
            self._follow(stream, offset, now)
        else:
            self._join(stream, link, offset, again, now)
        if not link.quiet and all(each.number == link.number for each in link.streams.values()):
            link.trim(self.out.sends)
        self._rejoin(link, now)

    def _begin_stream(self, link: DataLink, fence: Fence, now: float) -> Stream | None:
        crowded = not link.bound and len(link.streams) >= MAX_STREAMS_OF_LINK
        if crowded or (len(self.streams) >= MAX_STREAMS and not self._make_room(now)):
            self.counters["publishers_refused"] += 1
            return None
        stream = Stream(fence.publisher, fence.stream, fence.epoch, self.filter, now)
        stream.durable = fence.publisher != fence.instance
        self.streams[fence.publisher] = stream
        self._by_name[fence.stream] = stream
        self.share_memory()
        known = self._left.pop(fence.publisher, None) or self.settings.positions.get(fence.publisher)
        if known is None:
            stream.met = fence.epoch, fence.offset
        else:
            epoch, offset = known
            stream.turn_over(offset, epoch)
        before = self._predecessor(link, fence)
        if before is not None:
            # Who was here is gone, and somebody else came in his place.
            self._leave_seat(before, now)
            stream.anew = known is None
            last = before.position or 0
            self.out.events.append(EpochChanged(self.local.name, fence.publisher, fence.epoch, last, tail_unknown=True))
            if not before.durable and self.streams.get(before.publisher) is before:
                self._forget(before, "another publisher came in its place", now)
        return stream

    def _predecessor(self, link: DataLink, fence: Fence) -> Stream | None:
        """In whose place a new publisher came: over a connection of its own, the only one's there before; behind a
        forwarder, which knows each by its seat, the one's who had it."""
        if not fence.seat:
            before, link.before = link.before, None
            alone = before is not None and not link.bound and before.link is None and not before.seat
            return before if alone else None
        for stream in self.streams.values():
            if stream.seat == fence.seat and stream.home is link and stream.publisher != fence.publisher:
                return stream
        return None

    def _leave_seat(self, stream: Stream, now: float) -> None:
        """Another publisher came in its place, while the forwarder between stood."""
        if stream.link is not None:
            stream.link.streams.pop(stream.name, None)
            self._unlink(stream, now)
        stream.seat = ""

    def _make_room(self, now: float) -> bool:
        for stream in self.streams.values():
            if stream.link is None and stream.session is None:
                self._forget(stream, "there are too many publishers", now)
                return True
        return False

    def _forget(self, stream: Stream, reason: str, now: float) -> None:
        """A publisher will not come back, as far as one can tell."""
        stream.state = WAITING
        if stream.position is not None:
            self._left[stream.publisher] = (stream.position_epoch, stream.position)
            if len(self._left) > MAX_LEFT:
                del self._left[next(iter(self._left))]
        self.drop_held(stream)
        self.stop(stream, now)
        del self.streams[stream.publisher]
        if self._by_name.get(stream.name) is stream:
            del self._by_name[stream.name]
        if stream.session is not None:
            self._by_session.pop(stream.session.id, None)
            stream.session = None
        for what in ("reach", "again", "seen", "compare"):
            self._timers.cancel((what, stream.publisher))
        if stream.address:
            self.sessions.hang_up(stream.address)
            stream.address = ""
        self.drop_commits(stream.publisher, reason)

    def _opened_anew(self, stream: Stream, fence: Fence, now: float) -> None:
        """The same publisher, with its journal, in a new epoch."""
        last = stream.position
        unknown = last is not None and fence.offset < last
        self.out.events.append(
            EpochChanged(self.local.name, stream.publisher, fence.epoch, last or 0, tail_unknown=unknown)
        )
        stream.announced = fence.epoch
        if stream.link is not None:
            stream.link.streams.pop(stream.name, None)
            self._unlink(stream, now)
        if self._by_name.get(stream.name) is stream:
            del self._by_name[stream.name]
        if stream.session is not None and _name_of(stream.session) != fence.stream:
            # It ends soon; or else the fence was an old one, and another one is asked for.
            self._timers.set(("unmatched", stream.session.id), now + FENCE_WAIT.first)
            self.detach(stream.session, now)
        stream.name, stream.epoch, stream.fence = fence.stream, fence.epoch, 0
        self._by_name[fence.stream] = stream

    # ---- the recovery channel --------------------------------------------------------

    def _dial(self, stream: Stream, link: DataLink, fence: Fence) -> None:
        """Connect to where the fence says; whoever connects to us is not trusted to say whom we should connect to."""
        wanted = "" if link.bound else recovery_address(link.address, fence.recovery)
        if wanted is None:
            told = f"a fence whose recovery address is none of {link.address}'s host: {fence.recovery!r}"
            self.sessions.bad_frame(None, told)
            wanted = ""
        if wanted and not stream.address:
            # Behind a device all have one: the sessions there are told apart by what their publishers say.
            dialled = {each.address for each in link.streams.values() if each.address}
            if wanted not in dialled and len(dialled) >= MAX_DIALS_OF_LINK:
                self.counters["publishers_refused"] += 1
                wanted = ""
        if wanted != stream.address:
            if wanted:
                self.sessions.dial(wanted)
            if stream.address:
                self.sessions.hang_up(stream.address)
            stream.address = wanted

    def _match(self, stream: Stream, now: float) -> None:
        if stream.session is None:
            sessions = self._sessions_by_name.get(stream.name)
            if sessions:
                self.attach(stream, sessions[0], now)
            else:
                self.await_session(stream, now)

    def opened(self, session: Session, now: float) -> None:
        """A publisher's recovery channel stands; whose it is, its fence says."""
        name = _name_of(session)
        if name is None:
            self.sessions.bad_frame(session.link, "a publisher that does not name its stream")
            self.sessions.goodbye(session, "no stream", now)
            return
        self._sessions_by_name.setdefault(name, []).append(session)
        stream = self._by_name.get(name)
        if stream is not None and stream.session is None:
            self.attach(stream, session, now)
        if stream is None or stream.link is None:
            self._timers.set(("unmatched", session.id), now + FENCE_WAIT.first)

    def unmatched_still(self, session_id: bytes, now: float) -> None:
        """A session's stream has no fence: perhaps it was lost."""
        for name, sessions in self._sessions_by_name.items():
            if any(each.id == session_id for each in sessions):
                stream = self._by_name.get(name)
                if stream is None or stream.link is None:
                    for link in self._links.values():
                        if link.up and not self.ended:
                            self._subscribe(link, now)
                    self._timers.set(("unmatched", session_id), now + FENCE_WAIT.cap)
                return

    def lost(self, session: Session, reason: str, now: float) -> None:
        """A publisher's recovery channel is gone for good."""
        self._timers.cancel(("unmatched", session.id))
        name = _name_of(session)
        sessions = self._sessions_by_name.get(name or b"", [])
        if session in sessions:
            sessions.remove(session)
            if not sessions:
                del self._sessions_by_name[name or b""]
        stream = self.detach(session, now)
        self._released.pop(session.id, None)
        if stream is None:
            return
        if sessions:
            self.attach(stream, sessions[0], now)
        elif stream.link is not None and stream.link.bound:
            # A bound link is never down: this is how we learn that a publisher has left it.
            stream.link.streams.pop(stream.name, None)
            self._unlink(stream, now)

    # ---- on the data plane, and off it -----------------------------------------------

    def _join(self, stream: Stream, link: DataLink, fence: int, again: bool, now: float) -> None:
        """What comes over the link after this is whole."""
        filter = link.filter or self.filter
        if again and stream.behind_fence and self._unbroken(stream, link, fence):
            # The connection is the same; another fence was asked for because of other topics, or of other streams.
            if stream.filter is not filter:
                group = stream.groups.take()
                if group:
                    self._complete(stream, group, now)
                if stream.behind_fence:
                    stream.pending = (filter, fence)
                    stream.fence = fence
                    if stream.state is LIVE:
                        self.change_topics(stream, now)
                    else:
                        if [] in stream.held:
                            stream.held.remove([])  # where topics would have begun that are wanted no more
                        self._hold(stream, [])
            self._say(stream, talk.Joined(stream.number, fence), now)
            return
        self.drop_held(stream)
        stream.fence = fence
        stream.state = FEEDING
        stream.pending, stream.adopting = None, False
        if stream.position is None:
            stream.filter = filter
            self.tell_topics(stream, now)
        elif stream.filter is not filter:
            stream.pending, stream.adopting = (filter, fence), True
        self._say(stream, talk.Joined(stream.number, fence), now)
        task = stream.task
        if task is not None and task.why == "values":
            if stream.unreachable:
                self.give_up(stream, now)
            return
        task = self._first_task(stream, fence)
        if task is not None:
            self.begin(stream, task, now)
        else:
            self.stop(stream, now)
            stream.tally.restart(stream.position or 0)
            self.done_with(stream, Task("catch up", "after", stream.epoch, fence, fence), now)

    @staticmethod
    def _unbroken(stream: Stream, link: DataLink, fence: int) -> bool:
        """Whether all before a fence came over the connection of the one before it.

        A bound link is never down: a publisher that comes back over a new connection is told our newest subscriptions
        first, and answers with a fence as if we had asked for another one. Nothing is missing there if all up to the
        fence has come; else it is fetched, as after any break.
        """
        if not link.bound:
            return True
        return not stream.groups.frames and not stream.held and (stream.position or 0) >= fence

    def _first_task(self, stream: Stream, fence: int) -> Task | None:
        """What must be fetched before the fence; None: nothing."""
        start = self.settings.start
        safe = stream.safe
        doubt = self._doubt(stream)
        if doubt is not None:
            return doubt
        if safe is not None:
            if stream.position_epoch != stream.epoch or (stream.lossy and safe != stream.position):
                safe = min(safe, stream.tally.after)
            if safe >= fence and stream.position_epoch == stream.epoch:
                return None
            return Task("catch up", "after", stream.position_epoch, safe, fence)
        if stream.anew or start in ("earliest", "resume"):
            return Task("catch up", "earliest", stream.epoch, 0, fence)
        if isinstance(start, int):
            return Task("catch up", "time", stream.epoch, start, fence)
        stream.turn_over(fence, stream.epoch)
        return Task("values", "after", stream.epoch, 0, fence)

    def _doubt(self, stream: Stream) -> Task | None:
        """What came over the last connection may have had holes, if something between loses frames: compare it.

        Only the publisher that sent it can tell. From one that was opened anew all that is in doubt is fetched again.
        """
        safe = stream.safe
        if safe is None or safe != stream.position or stream.tally.after >= safe:
            return None
        span = stream.tally.span(safe, COMPARED)
        if span.after >= safe or stream.position_epoch != stream.epoch:
            return None
        return Task("compare", "after", stream.epoch, span.after, safe, span=span)

    def follow_on(self, stream: Stream, now: float) -> None:
        """See `Living`."""
        self._follow(stream, stream.fence, now)

    def _follow(self, stream: Stream, fence: int, now: float) -> None:
        """The stream is not on the data plane: a feed brings what there is, and what will be."""
        stream.state = FEED
        if stream.task is not None and stream.task.why == "values":
            return  # what there was before the first fence comes first
        if stream.task is None or stream.task.why not in ("compare", "repair", "follow"):
            doubt = self._doubt(stream)
            if doubt is not None:
                self.begin(stream, doubt, now)
                return
        if stream.filter is not self.filter:
            stream.filter = self.filter
            self.tell_topics(stream, now)
        if stream.task is not None and stream.task.why == "follow":
            return
        start, safe = self.settings.start, stream.safe
        if safe is not None:
            if stream.lossy or stream.position_epoch != stream.epoch:
                safe = min(safe, stream.tally.after)
            task = Task("follow", "after", stream.position_epoch, safe, None)
        elif self.settings.cursor:
            task = Task("follow", "resume", stream.epoch, 0, None)
        elif isinstance(start, int) and not stream.anew:
            task = Task("follow", "time", stream.epoch, start, None)
        elif start in ("earliest", "resume") or stream.anew or (start is None and self.settings.durable):
            task = Task("follow", "earliest", stream.epoch, 0, None)
        else:
            stream.turn_over(fence, stream.epoch)
            task = Task("values", "after", stream.epoch, 0, fence)
        self.begin(stream, task, now)

    def _leave(self, link: DataLink, reason: str, now: float) -> None:
        """Off the data plane: what comes over this link is not taken any more."""
        if link.quiet or self.ended:
            return
        link.quiet = True
        self.counters["times_behind"] += 1
        self.out.events.append(FellBehind(self.local.name, link.address, reason))
        for stream in link.streams.values():
            self.drop_held(stream)
            self._say(stream, talk.Left(), now)
            stream.pending, stream.adopting = None, False
            self._follow(stream, stream.fence, now)
        if link.bound:
            link.trim(self.out.sends)
        else:
            self.out.disconnects.append(link.link)

    def _rejoin(self, link: DataLink, now: float) -> None:
        """On the data plane again, if there is room, and all streams have caught up."""
        if not link.quiet or self.settings.durable or not link.up or self.ended or not self.room.half_empty:
            return
        for stream in link.streams.values():
            if stream.session is not None and not (stream.task is not None and stream.task.caught_up):
                return
        link.quiet = False
        self._subscribe(link, now)

    def has_room(self, now: float) -> None:
        """See `Delivering`."""
        for link in self._links.values():
            self._rejoin(link, now)

    def caught_up(self, stream: Stream, now: float) -> None:
        """See `Fetching`."""
        if stream.link is not None:
            self._rejoin(stream.link, now)

    def told_to_leave(self, stream: Stream, reason: str, now: float) -> None:
        """See `Fetching`."""
        if stream.link is not None:
            self._leave(stream.link, f"the publisher said so: {reason}", now)

    def held_too_much(self, stream: Stream, now: float) -> None:
        """See `Living`."""
        if stream.link is not None:
            self._leave(stream.link, "too much was published until what was missing had been fetched", now)

    def too_slow(self, now: float) -> None:
        """See `Delivering`."""
        if self.settings.on_slow == "conflate" or self.ended:
            return
        if self.settings.on_slow == "recover":
            for link in list(self._links.values()):
                self._leave(link, f"{self.room.messages} messages wait for the user", now)
            return
        waiting = self.room.messages
        for stream in self.streams.values():
            if stream.position is not None:
                self._end_slowly(stream, waiting)
                break
        self.ended = True
        for link in self._links.values():
            if not link.bound:
                self.out.disconnects.append(link.link)
            link.quiet = True
            link.trim(self.out.sends)
            link.streams.clear()
        for stream in list(self.streams.values()):
            self._forget(stream, "the user was too slow", now)
        for session in list(self.sessions):
            self.sessions.goodbye(session, "too slow", now)

    def _end_slowly(self, stream: Stream, waiting: int) -> None:
        assert stream.position is not None
        message = f"too slow: {waiting} messages wait, and on_slow is disconnect; what comes after them is not taken"
        after = stream.position + 1
        error = MessagesLost(message, publisher=stream.publisher, epoch=stream.epoch, first=after, last=after)
        self.raise_at_place(error, final=True)


def _name_of(session: Session) -> bytes | None:
    name = session.peer.about.get("stream")
    return name if type(name) is bytes and len(name) == 8 else None
