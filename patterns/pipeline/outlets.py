"""A pusher's core that hands messages to plain PULL sockets too (docs/protocol.md, section 7.6).

Pure. A message goes to whichever comes first: a puller with credit, as in any pusher, or an *outlet*, a PUSH socket
with room. What ZeroMQ took of an outlet's messages is settled, as acked: nobody will ever tell what became of it. What
it did not take goes back to its place in the backlog.
"""

from __future__ import annotations

import random
from typing import Any, Final

from zmqkit import codec as codecs
from zmqkit.errors import DecodeError, UsageError
from zmqkit.options import Limits
from zmqkit.patterns.pipeline.hands import PusherSettings
from zmqkit.patterns.pipeline.pusher import PusherCore
from zmqkit.patterns.pipeline.rows import Row
from zmqkit.patterns.pipeline.runs import Run
from zmqkit.protocol.core import Frames, Link
from zmqkit.protocol.local import Local

FRAMES: Final = "zmqkit-frames"
"""The header, of any value, of a message that was, or is to be, several frames. Its body is their list, in msgpack."""

PUSH_MESSAGES: Final = 256
PUSH_BYTES: Final = 1 << 20
"""So much is handed to one outlet at a time, and one message more."""


class OutletPusherCore(PusherCore):
    """The state machine of ``Pusher(plain=True)``, and of what serves both kinds of pullers.

    Args:
        local: see `PusherCore`.
        settings: see `PusherCore`.
        rng: see `PusherCore`.
        mixed: pullers may come, too.
    """

    def __init__(self, local: Local, settings: PusherSettings, rng: random.Random, *, mixed: bool = False) -> None:
        super().__init__(local, settings, rng)
        self.paused = False
        self._mixed = mixed
        self._outlets: dict[Link, bool] = {}
        """The outlets that are up, and whether each has room, as far as is known."""
        self._handed: dict[Link, list[Run]] = {}
        """What is being handed over, until it is known how much of it was taken."""
        for name in ("pushed", "pushed_bytes"):
            self.counters.setdefault(name, 0)

    # ---- verbs ---------------------------------------------------------------------

    def pause(self, paused: bool, ticket: Any, now: float) -> None:
        """Lend and hand over nothing from now on, or go on; `ticket` gets None. What is lent is settled as ever."""
        self.paused = paused
        self.out.replies.append((ticket, None))

    def connected(self) -> set[str]:
        """Addresses of outlets that are up."""
        return {str(link[1]) for link in self._outlets}  # type: ignore[index]

    def wait_for_sessions(self, count: int, ticket: Any, now: float) -> None:
        """See `PatternCore`: plain pullers have no sessions."""
        if self._mixed:
            super().wait_for_sessions(count, ticket, now)
        else:
            self.out.replies.append((ticket, UsageError(
                "plain pullers do not say that they are there: with plain=True send, and wait with flush() until all "
                "is handed over"
            )))  # fmt: skip

    # ---- outlets -------------------------------------------------------------------

    def link_up(self, link: Link, now: float) -> None:
        """See `Core`."""
        if is_data(link):
            self._outlets[link] = True
        else:
            super().link_up(link, now)

    def link_down(self, link: Link, now: float) -> None:
        """See `Core`."""
        if is_data(link):
            self._outlets.pop(link, None)
        else:
            super().link_down(link, now)

    def link_forgotten(self, link: Link, now: float) -> None:
        """See `PatternCore`."""
        if is_data(link):
            self._outlets.pop(link, None)
        else:
            super().link_forgotten(link, now)

    def link_room(self, link: Link, now: float) -> None:
        """See `PushCore`."""
        if link in self._outlets:
            self._outlets[link] = True

    def pushed(self, link: Link, taken: int, now: float) -> None:
        """See `PushCore`. What was taken is settled as soon as the journal knows it."""
        for run in self._handed.pop(link, ()):
            count = min(taken, run.count)
            taken -= count
            row, bits = run.row, ((1 << run.count) - 1) << run.index
            if count:
                gone = ((1 << count) - 1) << run.index
                bits &= ~gone
                row.got |= gone
                self.counters["pushed"] += count
                self.counters["pushed_bytes"] += sum(row.lengths[run.index : run.index + count])
                self._done(row, gone, "acked", "")
            if bits:
                self.backlog.again(row, bits, alone=run.alone)

    def _lend(self, now: float) -> None:
        if self.paused:
            return
        super()._lend(now)
        if self._broken is not None:
            return  # nothing can be settled any more: it would be handed over a second time
        for link, room in self._outlets.items():
            if not self.backlog.ready and not self.backlog.lanes.ready:
                return
            if room and link not in self._handed:
                self._hand_over(link)

    def _hand_over(self, link: Link) -> None:
        messages: list[Frames] = []
        runs: list[Run] = []
        size = 0
        while len(messages) < PUSH_MESSAGES and size < PUSH_BYTES:
            run = self.backlog.take(PUSH_MESSAGES - len(messages), PUSH_BYTES - size)
            if run is None:
                break
            runs.append(run)
            for index in range(run.index, run.index + run.count):
                messages.append(frames_of(run.row, index))
                size += run.row.lengths[index]
        if runs:
            self._outlets[link] = False
            self._handed[link] = runs
            self.out.pushes.append((link, messages))


def is_data(link: Link) -> bool:
    """Whether it is the link of a data endpoint."""
    return isinstance(link, tuple) and link[0] == "d"


def frames_of(row: Row, index: int) -> Frames:
    """One message as a plain PULL reads it: its encoded body; a list of frames as these frames."""
    body = row.body(index)
    if FRAMES in row.headers.get(index, ()):
        found = _list_in(body)
        if found:
            return found
    return (body,)


def _list_in(body: bytes) -> list[bytes] | None:
    try:
        found = codecs.decode(body, "msgpack", limits=Limits(frame_bytes=max(len(body) * 2, 1 << 20)))
    except DecodeError:
        return None  # a header that somebody else set: the body goes as it is
    if not isinstance(found, list) or not all(type(each) is bytes for each in found):
        return None
    return found
