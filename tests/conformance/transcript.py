"""Plays a recorded conversation against the session layer: what each side says, byte for byte, and when.

`record` writes one down. It is used once, by hand, when the protocol gets a new version; the tests only `replay`.
"""

from __future__ import annotations

import random
from typing import Any

from zmqkit.options import Heartbeat
from zmqkit.protocol.core import Outputs
from zmqkit.protocol.local import Local, Opened
from zmqkit.protocol.sessions import Sessions

LINK = ("c", "x")

SCRIPT: list[tuple[str, list[Any]]] = [
    ("link up", ["c"]),
    ("say", ["c", 1, b"question", b"and more"]),
    ("say", ["b", 1, b"answer"]),
    ("wait", [0.05]),
    ("grant", ["c", 20, 2000]),
    ("lose next", ["c"]),
    ("say", ["c", 1, b"lost"]),
    ("say", ["c", 0, b"control"]),
    ("wait", [1.2]),
    ("link down", []),
    ("say", ["c", 2, b"while away"]),
    ("say", ["b", 1, b"also away"]),
    ("wait", [0.5]),
    ("link up", ["c"]),
    ("wait", [1.0]),
    ("goodbye", ["b", "enough"]),
]
"""(what happens, its arguments): the whole of sections 3 to 6 once."""


class FixedIds(random.Random):
    """Session ids that anybody can write down; pauses without jitter."""

    def randbytes(self, n: int) -> bytes:
        return bytes(range(1, n + 1))

    def random(self) -> float:
        return 1.0


class Player:
    """One side."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.out = Outputs()
        said = Local(
            role="echo",
            accepts=frozenset({"echo"}),
            instance=name.encode() * 16,
            heartbeat=Heartbeat(1.0, 3),
            credit_messages=10,
            credit_bytes=1000,
            name=name,
            about={"side": name},
        )
        self.sessions = Sessions(said, self.out, {}, FixedIds())
        self.session: Any = None

    def take(self) -> list[list[bytes]]:
        """What it says now."""
        self.sessions.end_turn(0.0)
        for up in self.sessions.ups:
            if isinstance(up, Opened):
                self.session = up.session
        self.sessions.ups.clear()
        sends, self.out.sends = self.out.sends, []
        return [list(frames) for _, frames in sends]


def play() -> list[dict[str, Any]]:
    """The script, with all that both sides say."""
    sides = {"c": Player("c"), "b": Player("b")}
    links: dict[str, Any] = {"c": LINK, "b": ("b", "x", 0)}
    now = 0.0
    losing: set[str] = set()
    steps: list[dict[str, Any]] = []

    def flow() -> None:
        moved = True
        while moved:
            moved = False
            for name, to in (("c", "b"), ("b", "c")):
                for frames in sides[name].take():
                    moved = True
                    lost = name in losing
                    losing.discard(name)
                    steps.append({"at": round(now, 6), "from": name, "lost": lost, "frames": frames})
                    if not lost:
                        sides[to].sessions.receive_message(links[to], frames, now)

    for what, args in SCRIPT:
        steps.append({"at": round(now, 6), "do": what, "with": args})
        if what == "link up":
            links["b"] = ("b", "x", links["b"][2] + 1)
            sides["c"].sessions.link_up(LINK, now)
        elif what == "link down":
            sides["c"].sessions.link_down(LINK, now)
            sides["b"].sessions.link_down(links["b"], now)
        elif what == "say":
            name, messages, *frames = args
            sides[name].sessions.send(sides[name].session, frames, messages, now)
        elif what == "grant":
            name, messages, size_bytes = args
            sides[name].sessions.grant(sides[name].session, messages, size_bytes)
        elif what == "lose next":
            losing.add(args[0])
        elif what == "goodbye":
            sides[args[0]].sessions.goodbye(sides[args[0]].session, args[1], now)
        else:
            flow()
            end = now + args[0]
            while True:
                dues = [due for side in sides.values() if (due := side.sessions.next_deadline()) is not None]
                if not dues or min(dues) > end:
                    break
                now = min(dues)
                for side in sides.values():
                    due = side.sessions.next_deadline()
                    if due is not None and due <= now:
                        side.sessions.handle_timer(now)
                flow()
            now = end
        flow()
    return steps
