"""Hosts as they are named on the command line."""

from __future__ import annotations

from agent.errors import NotFound
from agent.model.status import HostStatus, Status


def find_host(status: Status, host: str) -> HostStatus:
    """The host of that name or id. Raises NotFound."""
    found = next((each for each in status.hosts if host in (each.name, each.id)), None)
    if found is None:
        known = ", ".join(each.name for each in status.hosts)
        raise NotFound("there is no such host", where=host, fix=f"Hosts: {known}.")
    return found
