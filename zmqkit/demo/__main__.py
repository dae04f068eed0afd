"""``python -m zmqkit.demo``: the demo without the command line's extra (with ``--json``; the display needs rich)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from zmqkit import demo


def main() -> int:
    """Read the command line, run the demo, return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m zmqkit.demo", description=demo.run.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--files", type=Path, metavar="DIR", help="count the .py files below DIR")
    parser.add_argument("--workers", type=int, default=demo.DEFAULT_WORKERS, metavar="N")
    parser.add_argument(
        "--kill", action=argparse.BooleanOptionalAction, default=True, help="kill one of each role midway"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    arguments = parser.parse_args()
    return demo.run(arguments.files, arguments.workers, arguments.kill, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
