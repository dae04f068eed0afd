"""``python -m benchmarks``: the claims about speed, one after the other. ``make bench`` runs this."""

from __future__ import annotations

import pathlib
import subprocess
import sys

SCRIPTS = (
    "pipeline", "pipeline_features", "pipeline_stages", "reqrep", "pubsub", "devices", "backlog", "journal", "driver",
)  # fmt: skip


def main() -> None:
    root = pathlib.Path(__file__).parents[1]
    for script in SCRIPTS:
        print(f"\n==== benchmarks/{script}.py", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{script}", *sys.argv[1:]], check=True, cwd=root)


if __name__ == "__main__":
    main()
