"""An audit log that misses nothing: a journal at the publisher, and a reader with a durable cursor.

The publisher keeps every entry in a file, and how far each reader came. A reader is killed in the middle, entries are
published while there is none, and the publisher itself is started anew; the next reader goes on where the first one
was. Prints how far each came. What a reader wrote last before it died may be there twice, under the same id;
nothing is missing.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import zmqkit

ENTRIES, DIES_AT = 300, 99


def read(address: str, log: Path, until: int, *, dies: bool) -> None:
    """A reader's life: write down each entry, up to the one with this number."""
    with zmqkit.Subscriber(address, topics="audit.#", cursor="archive") as sub, log.open("a") as file:
        for message in sub:  # asking for the next one says that this one is dealt with; the publisher hears of it soon
            n = message.body["n"]
            print(message.id, message.topic, n, file=file, flush=True)
            if n == until and dies:
                os.kill(os.getpid(), signal.SIGKILL)  # no goodbye
            if n % 20 == 0 or n == until:
                message.commit()  # returns once it is stored there: what is before this will not come again
            if n == until:
                return


def reader(address: str, log: Path, until: int, how: str) -> int:
    """The same in a process of its own. Returns how it ended."""
    return subprocess.run([sys.executable, __file__, address, str(log), str(until), how], timeout=40).returncode


def publish(audit: zmqkit.Publisher, first: int, end: int) -> None:
    """Entries are stored in groups; `publish` alone returns when its one message is stored."""
    count = audit.publish_many((f"audit.user{n % 7}", {"n": n, "who": f"user{n % 7}"}) for n in range(first, end))
    print("published", count, "entries, all of them on the disk")


def main(folder: Path) -> None:
    log = folder / "audit.log"
    with zmqkit.Publisher("tcp://127.0.0.1:*", journal=folder / "audit.db") as audit:
        publish(audit, 0, 200)
        died = reader(audit.addresses[0], log, DIES_AT, "dies")
        assert died == -signal.SIGKILL, died
        print("the first reader was killed after", len(log.read_text().splitlines()), "entries")

    with zmqkit.Publisher("tcp://127.0.0.1:*", journal=folder / "audit.db") as audit:  # the next life
        publish(audit, 200, ENTRIES)
        assert reader(audit.addresses[0], log, ENTRIES - 1, "lives") == 0

    entries = dict(
        line.split(maxsplit=1) for line in log.read_text().splitlines()
    )  # by id: what came twice is once here
    twice = len(log.read_text().splitlines()) - len(entries)
    print(f"the second reader went on: {len(entries)} entries in all, {twice} of them written twice")
    assert [int(entry.split()[1]) for entry in entries.values()] == list(range(ENTRIES))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        read(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), dies=sys.argv[4] == "dies")
    else:
        with tempfile.TemporaryDirectory() as name:
            main(Path(name))
