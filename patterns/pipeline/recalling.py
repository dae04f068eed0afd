"""Who should give back what it has not started, because another has nothing to do (docs/protocol.md, section 7.12).

Pure. The pusher asks; the puller decides what of it is still to be had. Nobody is asked for more than half of what it
holds, and only while another holds nothing at all: so jobs do not go to and fro.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from zmqkit.patterns.pipeline.leases import Holder

PAUSE: Final = 0.25
"""Seconds between two recalls from one puller: what it gave back is lent by then, or it had nothing to give..."""
LONGEST_PAUSE: Final = 8.0
"""...and then they double, up to this, until it holds another number of jobs."""

LEAST: Final = 2
"""Who holds less has begun with it, or is about to."""


class Recalls:
    """Whom a pusher asked, and when."""

    def __init__(self) -> None:
        self._asked: dict[bytes, tuple[float, float, int]] = {}
        """By session: not again before, the pause until then, and how much it held."""

    def forget(self, session: bytes) -> None:
        """This puller is gone."""
        self._asked.pop(session, None)

    def due(self, holders: Iterable[Holder], now: float) -> tuple[list[tuple[Holder, int]], float | None]:
        """Whom to ask for how many jobs, nothing being ready; and when to look again, None if there is no need."""
        idle = 0
        others: list[Holder] = []
        for each in holders:
            session = each.session
            if session.link is None or session.busy:
                continue
            if each.held >= LEAST:
                if session.peer.about.get("recall") is True:
                    others.append(each)
            elif not each.held and session.room_messages > 0:
                idle += 1
        if not idle or not others:
            return [], None
        found: list[tuple[Holder, int]] = []
        again: float | None = None
        for each in sorted(others, key=lambda other: -other.held)[:idle]:
            may, pause, held = self._asked.get(each.session.id, (now, PAUSE, 0))
            if now >= may or (held != each.held and now >= may - pause + PAUSE):
                pause = min(2 * pause, LONGEST_PAUSE) if held == each.held else PAUSE
                may = now + pause
                self._asked[each.session.id] = may, pause, each.held
                found.append((each, each.held // 2))
            again = may if again is None else min(again, may)
        return found, again
