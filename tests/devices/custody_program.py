"""A streamer with a journal in a process of its own: ``python -m tests.devices.custody_program FOLDER``.

Says once, as JSON, that it is open; then answers each line with its statistics, until there is no more.
"""

from __future__ import annotations

import json
import os
import sys

from zmqkit.devices.custody import CustodyEngine
from zmqkit.devices.sides import Side
from zmqkit.options import Heartbeat

HEARTBEAT = Heartbeat(interval=0.1)


def engine_in(folder: str, **more: object) -> CustodyEngine:
    """The engine with its journal and its four sides in one folder."""
    sides = {
        name: Side(bind=f"ipc://{folder}/{name}") for name in ("frontend", "backend", "plain_frontend", "plain_backend")
    }
    return CustodyEngine(**{  # type: ignore[arg-type]
        "name": "device", "journal": f"{folder}/device.db", "heartbeat": HEARTBEAT, **sides, **more,
    })  # fmt: skip


def main(folder: str) -> None:
    engine = engine_in(folder)
    engine.open()
    print(json.dumps(os.getpid()), flush=True)
    for _ in sys.stdin:
        print(json.dumps(engine.stats()), flush=True)
    engine.close(1.0)


if __name__ == "__main__":
    main(sys.argv[1])
