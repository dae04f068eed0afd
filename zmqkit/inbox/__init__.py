"""Effects and their records in the user's own database, in one commit."""

from zmqkit.inbox.inbox import Inbox, Record, Transaction

__all__ = ["Inbox", "Record", "Transaction"]
