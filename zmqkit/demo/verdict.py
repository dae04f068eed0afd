"""What a run of the demo amounts to: is the pipeline's count the plain one, and did what should happen happen.

This module knows neither processes nor messages; it compares.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from zmqkit.demo.counting import Plain
from zmqkit.demo.mining import VICTIMS, Mined


class Row(NamedTuple):
    """One figure on both sides."""

    what: str
    pipeline: int
    plain: int
    equal: bool
    """Where a figure sums up many, such as the occurrences of each name, all of those are equal too."""


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """A run, held against the plain count.

    Attributes:
        total: how many files there were.
        kill: a process of each role was to be killed.
        mined: what the pipeline says.
        plain: what the plain count says.
    """

    total: int
    kill: bool
    mined: Mined
    plain: Plain

    def rows(self) -> list[Row]:
        """Every figure that must be equal."""
        ours, theirs = self.mined.totals, self.plain.totals
        rejected = self.mined.rejected, self.plain.rejected
        return [
            Row("files counted", ours.files, theirs.files, ours.files == theirs.files),
            Row("files rejected", len(rejected[0]), len(rejected[1]), rejected[0] == rejected[1]),
            Row("bytes", ours.bytes, theirs.bytes, ours.bytes == theirs.bytes),
            Row("lines", ours.lines, theirs.lines, ours.lines == theirs.lines),
            Row("tokens, kind by kind", ours.tokens, theirs.tokens, ours.kinds == theirs.kinds),
            Row("names, each with its number", len(ours.names), len(theirs.names), ours.names == theirs.names),
        ]

    def problems(self) -> list[str]:
        """Why the run failed, in words; empty when all is as it should be."""
        mined = self.mined
        found = [
            f"{row.what}: {row.pipeline:,} through the pipeline, {row.plain:,} counted plainly"
            + (", and not the same ones" if row.pipeline == row.plain else "")
            for row in self.rows()
            if not row.equal
        ]
        if mined.records != mined.totals.files:
            found.append(f"{mined.totals.files:,} counts are in the sink's file, but {mined.records:,} records of them")
        if mined.totals.files + mined.dead != self.total:
            found.append(f"{self.total:,} files were sent, but {mined.totals.files:,} counted and {mined.dead:,} dead")
        if mined.dead != len(mined.rejected):
            found.append(f"{mined.dead:,} dead letters, but {len(mined.rejected):,} were told of")
        if self.kill:
            # The sink is killed with half of the files in hand. Where most of them are rejected it never has so many.
            wanted = VICTIMS if 2 * mined.totals.files >= self.total else VICTIMS[:2]
            found += [f"a {role} was to be killed, and none was" for role in wanted if not mined.killed(role)]
        if self.kill and not mined.redelivered:
            found.append("a worker was to be killed with jobs in hand, but none was delivered again")
        if mined.redelivered and not mined.killed("worker"):
            found.append(f"no worker was killed, but {mined.redelivered:,} jobs were delivered again")
        return found

    def as_json(self) -> dict[str, Any]:
        """The whole run as one object for scripts."""
        mined, plain, problems = self.mined, self.plain, self.problems()
        return {
            "ok": not problems,
            "problems": problems,
            "equal": all(row.equal for row in self.rows()),
            "files": self.total,
            "counted": mined.totals.files,
            "rejected": mined.rejected,
            "inbox_records": mined.records,
            "dead_letters": mined.dead,
            "kill": self.kill,
            "redelivered": mined.redelivered,
            "duplicates_dropped": mined.duplicates,
            "workers": [dataclasses.asdict(share) for share in mined.shares if share.role == "worker"],
            "killed": [share.name for share in mined.shares if share.state == "killed"],
            "bytes": mined.totals.bytes,
            "lines": mined.totals.lines,
            "tokens": dict(mined.totals.kinds.most_common()),
            "distinct_names": len(mined.totals.names),
            "top_names": dict(mined.totals.names.most_common(20)),
            "joined_seconds": round(mined.joined_seconds, 3),
            "seconds": round(mined.seconds, 3),
            "files_per_second": round(self.total / mined.seconds, 1),
            "plain_seconds": round(plain.seconds, 3),
        }
