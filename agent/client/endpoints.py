"""Where a cluster's members may answer, and in which order to ask them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import Struct

from agent.errors import InputError
from agent.home import ClusterFile
from agent.model.decode import convert
from agent.model.explain import shown
from agent.model.types import AgentId, HostAddress

DEFAULT_API_PORT = 9999
MAX_PORT = 65_535

_ADDRESS = re.compile(
    r"(?:\[([0-9A-Fa-f:.%]+)\]|([^:\s/]+)|([0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*))(?::(\d{1,5}))?"
)


class Endpoint(Struct, frozen=True, kw_only=True):
    """One member's API. `id` is None where only an address was given. `label` is how messages call it."""

    address: str
    port: int = DEFAULT_API_PORT
    id: AgentId | None = None
    label: str = ""

    def __str__(self) -> str:
        place = self.authority
        return f"{self.label} ({place})" if self.label and self.label != self.address else place

    @property
    def authority(self) -> str:
        """Address and port as URLs have them (RFC 3986 §3.2)."""
        return f"{f'[{self.address}]' if ':' in self.address else self.address}:{self.port}"


def parse_address(text: str, *, where: str = "--via") -> tuple[HostAddress, int | None]:
    """ "host", "host:port", "[v6]:port" or a bare IPv6 address. Raises InputError."""
    match = _ADDRESS.fullmatch(text) if len(text) <= 300 else None
    port = int(match[4]) if match is not None and match[4] is not None else None
    if match is None or (port is not None and not 1 <= port <= MAX_PORT):
        raise InputError(f"expected a host name or address, with :port if need be, got {shown(text)}", where=where)
    address: HostAddress = convert(match[1] or match[2] or match[3], HostAddress, where)
    return address, port


def candidates(
    cluster: ClusterFile | None, *, via: str | None = None, last: str = "", others: bool = False
) -> tuple[Endpoint, ...]:
    """Whom to ask, in order: the last one that answered, all others; or only `via` (a member's name or any address).

    With `others` all others behind `via`, for what every member is asked. Raises InputError for a `via` that is no
    address.
    """
    known = [
        Endpoint(address=member.address, port=member.api_port, id=member.id, label=member.name)
        for member in (cluster.members if cluster is not None else ())
    ]
    known.sort(key=lambda endpoint: endpoint.label != last)
    if via is None:
        return tuple(known)
    address, port = parse_address(via)
    named = [endpoint for endpoint in known if address in (endpoint.label, endpoint.address)]
    if port is not None:
        named = [endpoint for endpoint in named if endpoint.port == port]
    first = named or [Endpoint(address=address, port=port or DEFAULT_API_PORT)]
    return _unique([*first, *(known if others else ())])


def _unique(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    found: dict[tuple[str, int], Endpoint] = {}
    for endpoint in endpoints:
        found.setdefault((endpoint.address, endpoint.port), endpoint)
    return tuple(found.values())
