"""Who can be reached where: `watch` an address, `announce` a name, `browse` what is announced.

Knows addresses and multicast DNS; knows no socket of ours and no pattern. See ``resolver.py`` for the interface,
``network.py`` for the multicast, ``records.py`` for what an announcement says, ``interfaces.py`` for where it goes.
"""

from __future__ import annotations

from zmqkit.discovery.records import Found, check_name
from zmqkit.discovery.resolver import Announcement, Watch, announce, browse, expand, wait_closed, watch

__all__ = ["Announcement", "Found", "Watch", "announce", "browse", "check_name", "expand", "wait_closed", "watch"]
