"""What discovery found, as far as it may be connected to. Knows addresses and discovery."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from zmqkit import discovery
from zmqkit.address import parse, require_secure
from zmqkit.errors import UsageError

log = logging.getLogger("zmqkit")


def reachable(found: Iterable[discovery.Found], *, own: str, insecure: bool, who: str, name: object) -> frozenset[str]:
    """The addresses behind a name, but our own, and but those beyond this host where these are not allowed.

    Args:
        own: our instance; who announces and looks for the same name finds himself.
        insecure: addresses beyond this host are allowed.
        who: looks for it; for the log.
        name: that was looked up; for the log.
    """
    there = set()
    for each in found:
        if each.instance == own:
            continue
        try:
            require_secure(parse(each.address), insecure, "connect")
        except UsageError as error:
            log.warning("%s: found by %s, but not connected: %s", who, name, error)
            continue
        there.add(each.address)
    return frozenset(there)
