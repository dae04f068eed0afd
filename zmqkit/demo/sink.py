"""The process of the demo that keeps the totals: a puller whose inbox is an SQLite file.

Run as ``python -m zmqkit.demo.sink``. What it counted and the record that it did are one commit. Killed at any moment,
its successor goes on with the file: what was not committed comes again, what was is dropped when it comes again.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import zmqkit
from zmqkit.demo.counting import Count
from zmqkit.demo.leash import Leash

BATCH = 64
WAIT_S = 0.05
"""How many results are committed at a time, and how long one may wait for others."""


def make(path: Path) -> None:
    """Make the file. One row for each file that is counted; nothing but the inbox keeps one from being there twice."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("pragma journal_mode = wal")
        db.execute("create table counts (file text, worker text, count text)")
        db.commit()


def read(path: Path) -> Iterator[Count]:
    """All that was counted."""
    with closing(sqlite3.connect(path)) as db:
        for (count,) in db.execute("select count from counts"):
            yield json.loads(count)


def records(path: Path) -> int:
    """Of how many results the inbox says that they were counted."""
    with closing(sqlite3.connect(path)) as db:
        (found,) = db.execute("select count(*) from zmqkit_inbox_jobs").fetchone()
        return int(found)


def run(arguments: argparse.Namespace) -> None:
    """Count until the leash ends."""
    puller: zmqkit.Puller[dict[str, Any]] = zmqkit.Puller(
        bind=arguments.address or "tcp://127.0.0.1:*",
        inbox=arguments.totals,
        announce=arguments.announce,
        name=arguments.name,
    )
    with closing(sqlite3.connect(arguments.totals)) as db:
        counted = Counter(dict(db.execute("select worker, count(*) from counts group by worker").fetchall()))
    leash = Leash(puller.stop)

    def told() -> dict[str, Any]:
        stats = puller.stats()
        dropped = int(stats.get("duplicates_dropped", 0) + stats.get("duplicates_late", 0))
        return {"counted": dict(counted), "duplicates": dropped}

    with puller:
        leash.tell(open=puller.addresses[0])
        leash.follow()
        for batch in puller.batches(max=BATCH, wait=WAIT_S):
            with batch:
                before = counted.total()
                with batch.transaction() as db:
                    rows = [(body["file"], body["worker"], json.dumps(body["count"])) for body in batch.bodies]
                    db.executemany("insert into counts values (?, ?, ?)", rows)
                    if before < arguments.hold_at <= before + len(rows):
                        leash.hold()
                counted.update(body["worker"] for body in batch.bodies)
            leash.tell_now_and_then(told)
        leash.tell(**told())


def main() -> None:
    """Read the command line, and count."""
    parser = argparse.ArgumentParser(prog="python -m zmqkit.demo.sink", description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--totals", type=Path, required=True, help="the SQLite file, made by `make`")
    parser.add_argument("--announce", required=True, help="under which name workers find it")
    parser.add_argument("--address", default="", help="where the one before it was bound")
    parser.add_argument("--hold-at", type=int, default=0, help="hold in the transaction with the how-maniest result")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
