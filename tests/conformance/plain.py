"""Values of the wire as JSON.

Bytes are {"hex": "..."}, a run of one byte {"hex": "..", "times": count}, maps whose keys are not text
{"map": [[key, value], ...]}.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "vectors"


def load(name: str) -> dict[str, Any]:
    """One file of vectors, with bytes and maps put back."""
    loaded: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(), object_hook=_back)
    return loaded


def _back(found: dict[str, Any]) -> Any:
    if found.keys() == {"hex"}:
        return bytes.fromhex(found["hex"])
    if found.keys() == {"hex", "times"}:
        return bytes.fromhex(found["hex"]) * found["times"]
    if found.keys() == {"map"}:
        return dict(found["map"])
    return found


def plain(value: Any) -> Any:
    """The reverse: a value that JSON takes."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: plain(each) for key, each in value.items()}
        return {"map": [[key, plain(each)] for key, each in value.items()]}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value
