"""mDNS: the agent as a `_muster._tcp.local.` service, and the others of its cluster as hints.

Records are unauthenticated: a forged one changes a port, one with TTL 0 removes a service. So they are hints, and a
removal means nothing.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct
from zeroconf import Error as ZeroconfError
from zeroconf import IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from agent.model.types import AgentId, ClusterId, Label, Port
from agent.tasks import cancel_and_wait

SERVICE_TYPE: Final = "_muster._tcp.local."

# Questions under way: every host of a LAN at once would be more, but they are asked again by the next announcement.
MAX_LOOKUPS: Final = 32

# How long a record may take to come; mDNS answers within 120 ms, and 1 s after a lost packet.
LOOKUP_TIMEOUT_MS: Final = 1500

# A host has a few addresses; more in one record are somebody's flood.
MAX_ADDRESSES_PER_SERVICE: Final = 4


# Remembered as heard, for `agent doctor`: members of the largest cluster. Forged ones may take places; it is only told.
MAX_HEARD: Final = 1024


class ServiceText(Struct, frozen=True, kw_only=True):
    """The TXT record. Other keys are ignored."""

    cluster: ClusterId
    id: AgentId
    name: Label
    peer: Port
    api: Port


def read_text(properties: Mapping[bytes, bytes | None]) -> ServiceText | None:
    """The TXT record's content, or None when it isn't one of ours."""
    try:
        plain = {key.decode("ascii"): (value or b"").decode("ascii") for key, value in properties.items()}
        return msgspec.convert(plain, ServiceText, strict=False)
    except (msgspec.ValidationError, UnicodeDecodeError):
        return None


class Mdns:
    """One service registered, and a browser for the others. `counts`: `mdns-found`, `mdns-bad`, `mdns-error`.

    `heard`: the agents of our cluster whose service is announced now.
    """

    def __init__(self, text: ServiceText, on_hint: Callable[[AgentId, str, int], None], counts: Counter[str]) -> None:
        self._text = text
        self._on_hint = on_hint
        self._counts = counts
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.heard: set[AgentId] = set()

    async def start(self, addresses: Sequence[str]) -> None:
        """Announce and browse on the interfaces with these IPv4 addresses. Failures are counted: beacons suffice."""
        try:
            self._zeroconf = AsyncZeroconf(interfaces=list(addresses), ip_version=IPVersion.V4Only)
            self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, SERVICE_TYPE, handlers=[self._changed])
            # The name holds the agent's id, so nobody else has it: without probing it is heard a second earlier.
            await self._zeroconf.async_register_service(self._info(addresses), cooperating_responders=True)
        except (OSError, ZeroconfError):
            self._counts["mdns-error"] += 1
            await self.stop()

    async def stop(self) -> None:
        """Say goodbye and close."""
        await cancel_and_wait(*self._tasks)
        zeroconf, browser = self._zeroconf, self._browser
        self._zeroconf = self._browser = None
        if browser is not None:
            await browser.async_cancel()
        if zeroconf is not None:
            await zeroconf.async_close()

    def _info(self, addresses: Sequence[str]) -> AsyncServiceInfo:
        text = {name: str(value) for name, value in msgspec.structs.asdict(self._text).items()}
        return AsyncServiceInfo(
            SERVICE_TYPE,
            f"{self._text.id}.{SERVICE_TYPE}",
            port=self._text.api,
            properties=text,
            server=f"{self._text.id}.muster.local.",  # not the host's own name, which other responders answer for
            parsed_addresses=list(addresses),
        )

    def _changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Removed:
            self.heard.discard(name.partition(".")[0])
            return
        if name.startswith(f"{self._text.id}."):
            return
        if len(self._tasks) >= MAX_LOOKUPS:
            self._counts["mdns-busy"] += 1
            return
        task = asyncio.get_running_loop().create_task(self._look_up(zeroconf, service_type, name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_up(self, zeroconf: Zeroconf, service_type: str, name: str) -> None:
        try:
            info = AsyncServiceInfo(service_type, name)  # a forged record may name what is no service of this type
            if not await info.async_request(zeroconf, LOOKUP_TIMEOUT_MS):
                return
        except (OSError, ZeroconfError):
            self._counts["mdns-error"] += 1
            return
        text = read_text(info.properties)
        if text is None:
            self._counts["mdns-bad"] += 1
            return
        if text.cluster != self._text.cluster or text.id == self._text.id:
            return
        self._counts["mdns-found"] += 1
        if len(self.heard) < MAX_HEARD:
            self.heard.add(text.id)
        for address in info.parsed_addresses(IPVersion.V4Only)[:MAX_ADDRESSES_PER_SERVICE]:
            self._on_hint(text.id, address, text.peer)
