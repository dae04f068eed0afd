"""What the faces of all patterns share: addresses, opening and closing, discovery, events, signals."""

from zmqkit.peer.base import Addresses, Common
from zmqkit.peer.hooks import on, stop_on_signals
from zmqkit.peer.sync import Peer

__all__ = ["Addresses", "Common", "Peer", "on", "stop_on_signals"]
