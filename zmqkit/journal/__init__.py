"""The durable store behind one small interface: `Journal`, in a file (`SqliteJournal`) or in memory."""

from zmqkit.journal.lock import Holder
from zmqkit.journal.memory import MemoryJournal
from zmqkit.journal.sqlite import SqliteJournal
from zmqkit.journal.store import Journal, Totals
from zmqkit.journal.tail import Watermark

__all__ = ["Holder", "Journal", "MemoryJournal", "SqliteJournal", "Totals", "Watermark"]
