"""Pipelines: pushers hand out messages, pullers take and settle them, workers do both.

The promise: a message that `Pusher.send` confirmed is waiting, leased or settled (acked, dead, expired), exactly one
of them, through crashes of either side. ``pusher.py`` and ``puller.py``, with what they are made of
(docs/architecture.md, "The pipeline"), are the pure cores; ``sending.py``, ``bulk.py``, ``taking.py``, ``jobs.py`` and
``custody.py`` what both faces share: each decision is there, once; ``effects.py`` and ``outbox.py`` what is done in the
user's own database; ``pushing*.py``, ``pulling*.py`` and ``worker*.py`` the faces, which wait.

This file only says where each name lives; a name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zmqkit import lazily

if TYPE_CHECKING:
    from zmqkit.patterns.pipeline.dead import DeadLetter
    from zmqkit.patterns.pipeline.outbox import Outbox
    from zmqkit.patterns.pipeline.outgoing import Outgoing
    from zmqkit.patterns.pipeline.pulling import Batch, Job, Puller
    from zmqkit.patterns.pipeline.pushing import DeadLetters, Pusher, Receipt
    from zmqkit.patterns.pipeline.sending import Settled
    from zmqkit.patterns.pipeline.worker import Worker

_HOMES = {
    "Batch": "zmqkit.patterns.pipeline.pulling",
    "DeadLetter": "zmqkit.patterns.pipeline.dead",
    "DeadLetters": "zmqkit.patterns.pipeline.pushing",
    "Job": "zmqkit.patterns.pipeline.pulling",
    "Outbox": "zmqkit.patterns.pipeline.outbox",
    "Outgoing": "zmqkit.patterns.pipeline.outgoing",
    "Puller": "zmqkit.patterns.pipeline.pulling",
    "Pusher": "zmqkit.patterns.pipeline.pushing",
    "Receipt": "zmqkit.patterns.pipeline.pushing",
    "Settled": "zmqkit.patterns.pipeline.sending",
    "Worker": "zmqkit.patterns.pipeline.worker",
}
"""Where each public name is defined."""

__all__ = [
    "Batch",
    "DeadLetter",
    "DeadLetters",
    "Job",
    "Outbox",
    "Outgoing",
    "Puller",
    "Pusher",
    "Receipt",
    "Settled",
    "Worker",
]

__getattr__, __dir__ = lazily.attach(__name__, _HOMES)
