"""Reliable request-reply: calls between peers, with outcomes that a caller can trust.

The promise: a call is executed at most once per request id and server epoch (or per server journal), and ends in time
with a result or an exception that says whether it was executed. ``wire.py`` and ``calls.py`` are what cores and faces
share; ``client.py``, ``server.py`` and what they import the pure cores; ``calling.py`` and ``hosting.py`` what both
faces share; ``sync.py``, ``aio.py`` and ``serving*.py`` the faces, which wait.
"""

from __future__ import annotations

from zmqkit.patterns.reqrep.methods import method
from zmqkit.patterns.reqrep.reply import Reply
from zmqkit.patterns.reqrep.request import Request
from zmqkit.patterns.reqrep.serving import Server
from zmqkit.patterns.reqrep.stream import Stream
from zmqkit.patterns.reqrep.sync import Client

__all__ = ["Client", "Reply", "Request", "Server", "Stream", "method"]
