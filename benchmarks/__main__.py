"""``python -m benchmarks``: the claims about speed, one after the other. ``make bench`` runs this."""

from __future__ import annotations

import pathlib
import subprocess
import sys

SCRIPTS = ("pipeline.py", "backlog.py", "journal.py", "driver.py")


def main() -> None:
    folder = pathlib.Path(__file__).parent
    for script in SCRIPTS:
        print(f"\n==== benchmarks/{script}", flush=True)
        subprocess.run([sys.executable, str(folder / script), *sys.argv[1:]], check=True)


if __name__ == "__main__":
    main()
