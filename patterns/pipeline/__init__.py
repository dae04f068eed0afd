"""Pipelines: pushers hand out messages, pullers take and settle them, workers do both.

The promise: a message that `Pusher.send` confirmed is waiting, leased or settled (acked, dead, expired), exactly one
of them, through crashes of either side. ``wire.py``, ``rows.py``, ``backlog.py``, ``leases.py``, ``pusher.py`` and
``puller.py`` are the pure cores; ``sending.py``, ``bulk.py``, ``taking.py``, ``jobs.py`` and ``custody.py`` what both
faces share: each decision is there, once; ``effects.py`` and ``outbox.py`` what is done in the user's own database;
``sync.py``, ``aio.py`` and ``worker*.py`` the faces, which wait.
"""

from __future__ import annotations

from zmqkit.patterns.pipeline.dead import DeadLetter
from zmqkit.patterns.pipeline.outbox import Outbox
from zmqkit.patterns.pipeline.outgoing import Outgoing
from zmqkit.patterns.pipeline.pulling import Batch, Job, Puller
from zmqkit.patterns.pipeline.pushing import DeadLetters, Pusher, Receipt
from zmqkit.patterns.pipeline.sending import Settled
from zmqkit.patterns.pipeline.worker import Worker

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
