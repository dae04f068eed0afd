"""Effects and their records in the user's own database, in one commit."""

from zmqkit.inbox.connections import Connection, Source, check_source
from zmqkit.inbox.inbox import Inbox, Record, Transaction
from zmqkit.inbox.positions import Position, Positions

__all__ = ["Connection", "Inbox", "Position", "Positions", "Record", "Source", "Transaction", "check_source"]
