"""Effects and their records in the user's own database, in one commit."""

from zmqkit.inbox.claiming import Claimed, claim
from zmqkit.inbox.connections import Connection, Source, check_source
from zmqkit.inbox.inbox import Inbox, Record, Transaction
from zmqkit.inbox.jobs import JobRecord, JobRecords, Known, record_of
from zmqkit.inbox.positions import Position, Positions

__all__ = [
    "Claimed",
    "Connection",
    "Inbox",
    "JobRecord",
    "JobRecords",
    "Known",
    "Position",
    "Positions",
    "Record",
    "Source",
    "Transaction",
    "check_source",
    "claim",
    "record_of",
]
