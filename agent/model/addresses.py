"""IP addresses as text."""

from __future__ import annotations

import ipaddress


def is_ip(host: str) -> bool:
    """Whether `host` is an IP address; else it is a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
