"""Pipelines: pushers hand out messages, pullers take and settle them, workers do both.

The promise: a message that `Pusher.send` confirmed is waiting, leased or settled (acked, dead, expired), exactly one
of them, through crashes of either side. ``wire.py``, ``rows.py``, ``backlog.py``, ``leases.py``, ``pusher.py`` and
``puller.py`` are the pure cores; ``faces.py`` what both faces share, ``sync.py`` and ``aio.py`` the faces.
"""

from __future__ import annotations

from zmqkit.patterns.pipeline.faces import Outgoing, Settled
from zmqkit.patterns.pipeline.sync import Batch, Job, Puller, Pusher, Receipt

__all__ = ["Batch", "Job", "Outgoing", "Puller", "Pusher", "Receipt", "Settled"]
