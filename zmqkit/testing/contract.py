"""What every core owes its driver, as checks that can be made from outside (zmqkit/protocol/core.py).

Knows nothing of worlds or networks: usable on any core between two inputs.
"""

from __future__ import annotations

import random
import types
from collections import deque
from collections.abc import Hashable
from typing import Any

from zmqkit.events import Event
from zmqkit.protocol.core import Core, Probe, Read, Write

MAX_ROUNDS = 1000
"""More drains than this in one turn are a core that spins."""

PURITY_EVERY = 1000
"""`check_purity` is slow: it is made every so many turns, the first time after 20, 40, ... 100..."""

PURITY_OF = 9
"""...in one of so many incarnations."""

REPEAT_EVERY = 8
"""`check_deadline` asks twice; it is made every so many turns, and the deadline itself is judged in each."""


class ContractBroken(AssertionError):
    """A core did what `zmqkit.protocol.core` forbids. The message says what."""


def check_deadline(core: Core, now: float, *said: float | None) -> float | None:
    """To be called when a core is drained: `next_deadline` is None or later than now, and repeats itself.

    Args:
        core: which.
        now: the time of its turn.
        said: what it said just before, if it was asked already.

    Returns:
        What it says.
    """
    first = said[0] if said else core.next_deadline()
    second = core.next_deadline()
    if first != second:
        raise ContractBroken(f"next_deadline() said {first!r} and then {second!r}: asking must change nothing")
    if first is not None and not first > now:
        raise ContractBroken(f"drained at {now!r}, but next_deadline() is still {first!r}: it would spin")
    out = core.out
    if out.sends or out.writes or out.reads or out.probes or out.replies or out.items or out.events:
        raise ContractBroken(f"drained, yet next_deadline() put out {', '.join(pending(core))}")
    if out.disconnects or out.dials or out.pushes or out.pulls:
        raise ContractBroken(f"drained, yet next_deadline() put out {', '.join(pending(core))}")
    return first


def check_purity(core: Core) -> None:
    """`next_deadline` and `finished` change nothing that is reachable from the core. Slow: for samples."""
    before = fingerprint(core)
    core.next_deadline()
    _ = core.finished
    if fingerprint(core) != before:
        raise ContractBroken("next_deadline(), or finished, changed the core's state")


def pending(core: Core) -> list[str]:
    """The names of the output lists that are not empty."""
    out = core.out
    names = (
        "sends", "pushes", "pulls", "writes", "reads", "probes", "replies", "items", "events", "disconnects", "dials",
    )  # fmt: skip
    return [name for name in names if getattr(out, name)]


def check_send(link: Hashable, frames: object) -> None:
    """One entry of ``out.sends``: a sequence of at least one frame, each of bytes."""
    if not frames or not isinstance(frames, (list, tuple)):
        raise ContractBroken(f"a message to {link!r} must be a list of frames and have at least one, got {frames!r}")
    for frame in frames:
        if frame.__class__ is not bytes and not isinstance(frame, bytes):
            raise ContractBroken(f"a frame to {link!r} must be bytes, got {type(frame).__name__}")


def check_rest(core: Core) -> None:
    """All that is waiting in the outputs but the sends has the right type."""
    out = core.out
    kinds: tuple[tuple[str, list[Any], type], ...] = (
        ("writes", out.writes, Write),
        ("reads", out.reads, Read),
        ("probes", out.probes, Probe),
        ("events", out.events, Event),
    )
    for name, entries, kind in kinds:
        for entry in entries:
            if not isinstance(entry, kind):
                raise ContractBroken(f"out.{name} holds {entry!r}, not a {kind.__name__}")
    for write in out.writes:
        if write.key < 0 or write.weight < 0 or not isinstance(write.value, bytes | None):
            raise ContractBroken(f"a write that no journal can store: {write!r}")


_ATOMS = (int, float, str, bytes, bool, type(None), type, types.FunctionType, types.BuiltinFunctionType)
_PLAIN = frozenset(_ATOMS)


def fingerprint(root: object) -> int:
    """A number that differs when anything reachable from `root` differs, within one process.

    Containers are walked in their order (sets without), objects by ``__dict__`` and ``__slots__``.
    """
    parts: list[object] = []
    seen: dict[int, int] = {}
    todo: list[object] = [root]
    while todo:
        item = todo.pop()
        if type(item) in _PLAIN or isinstance(item, _ATOMS):
            parts.append(item)
            continue
        known = seen.get(id(item))
        if known is not None:
            parts.append(known)
            continue
        seen[id(item)] = len(seen)
        parts.append(type(item))
        if isinstance(item, dict):
            parts.append(len(item))
            todo.extend(item.values())
            todo.extend(item.keys())
        elif isinstance(item, (list, tuple, deque)):
            parts.append(len(item))
            todo.extend(item)
        elif isinstance(item, (set, frozenset)):
            parts.append(len(item))
            parts.append(hash(frozenset(id(each) if not isinstance(each, _ATOMS) else each for each in item)))
        elif isinstance(item, random.Random):
            parts.append(item.getstate())
        elif isinstance(item, types.MethodType) or type(item).__module__.startswith("zmqkit.testing."):
            parts.append(id(item))  # a way out of the core, into the simulation
        elif isinstance(item, bytearray | memoryview):
            parts.append(bytes(item))
        else:
            attributes = getattr(item, "__dict__", None)
            if attributes:
                parts.extend(attributes)
                todo.extend(attributes.values())
            for kind in type(item).__mro__:
                slots = kind.__dict__.get("__slots__", ())
                todo += [getattr(item, slot, None) for slot in ((slots,) if isinstance(slots, str) else slots)]
    return hash(tuple(parts))
