"""The command `zmqkit`: one module a command group, on typer and rich, which come with the extra ``zmqkit[cli]``.

This file is importable without them, and says what to install where they are missing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

HINT = 'zmqkit: the command line needs typer and rich: pip install "zmqkit[cli]"'


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (docs/cli.md says what each means).

    Args:
        arguments: what follows the program's name; default: what this process was started with.
    """
    try:
        import rich  # noqa: F401 - only whether it is there
        import typer  # noqa: F401
    except ImportError as error:
        if os.environ.get("ZMQKIT_DEBUG") == "1":
            raise
        # What they need themselves may be missing just as well; the same command puts it right.
        missing = "" if error.name in ("typer", "rich") else f" ({error})"
        print(f"{HINT}{missing}", file=sys.stderr)
        return 2
    from zmqkit.cli.app import run

    return run(arguments)
