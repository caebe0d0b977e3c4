"""The table of peer links: one per peer, dialled and accepted, kept alive, cut when the ledger says so.

    table = LinkTable(me, server_context, client_context, handlers, rng=random.Random(), policy=policy)
    await table.start("0.0.0.0", 9998)
    table.want(member_ids)                       # whom to dial; others may dial us
    table.hint(agent_id, "192.168.1.7", 9998)    # from the ledger, seeds, beacons, mDNS
    table.send(agent_id, frame)                  # False: no link, or its queue is full; Raft and SWIM repeat
    table.review()                               # after the ledger's members changed

Everything happens on the event loop's thread; handlers are called from it and must not block.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from agent.errors import InputError
from agent.model.addresses import is_ip
from agent.model.types import AgentId, Digest
from agent.net import handshake
from agent.net.acceptor import listen
from agent.net.addresses import Address, AddressPolicy
from agent.net.dialler import Dialler
from agent.net.frames import Refused, decode_frame, encode_frame
from agent.net.handshake import Certified, HandshakeFailed, LocalAgent, Standing
from agent.net.link import DownReason, Link, PeerInfo
from agent.net.listener import Listener
from agent.net.pulse import ALIVE_CONTENT, LinkTiming, Pulse
from agent.net.second import Verdict, judge_second
from agent.node.messages import Alive, Frame, RaftFrame
from agent.raft.messages import InstallSnapshot

# Linked at a time: every member of the largest cluster (agent.model.cluster), and the unknown ones below.
MAX_LINKS: Final = 1024

# Peers with a good certificate that our ledger doesn't name: hosts enrolled while we were away, and nobody else.
MAX_UNKNOWN_LINKS: Final = 64

# The losing one of two links is read on for this long: what was sent on it before both sides knew must arrive.
DRAIN_S: Final = 1.0

# A link that we dialled and want no more is closed after this long: what was asked on it may still be answered, and it
# may be wanted again soon.
LINGER_S: Final = 5.0

# Addresses that a name may stand for; each is tried.
MAX_RESOLVED_ADDRESSES: Final = 4

_HEARD: Final = Alive()


class LinkHandlers(Protocol):
    """What the table reports to its owner. Nothing here may raise, except for broken local invariants."""

    def authority(self, peer: AgentId, certificate: Digest) -> Standing:
        """What our ledger says of this certificate's holder. A known id with another certificate is `expelled`."""
        ...

    def link_up(self, peer: PeerInfo) -> None:
        """A link is up; the first with that peer, or the first after `link_down`."""
        ...

    def expulsion(self, peer: AgentId) -> Refused:
        """What to tell a peer whose standing is `expelled`."""
        ...

    def refused(self, peer: AgentId, refused: Refused) -> None:
        """`peer`, which we dialled, says that it takes no link with us. It comes again with each try."""
        ...

    def link_down(self, peer: AgentId, reason: DownReason) -> None:
        """The link is gone; comes exactly once after a `link_up` of that peer."""
        ...

    def frame(self, peer: AgentId, frame: Frame) -> None:
        """A frame from a linked peer, `Alive` included."""
        ...

    def frames_over(self) -> None:
        """All frames that came together on one link were passed on."""
        ...


class _Up(Struct):
    """`unwanted_since`: since when it is for us to close it; None while it isn't."""

    link: Link
    info: PeerInfo
    since: float
    unwanted_since: float | None = None


class LinkTable:
    """See the module's docstring. `counts` is for metrics: what was dropped or refused, by reason."""

    def __init__(
        self,
        me: LocalAgent,
        server_context: ssl.SSLContext,
        client_context: ssl.SSLContext,
        handlers: LinkHandlers,
        *,
        rng: random.Random,
        policy: AddressPolicy,
        timing: LinkTiming | None = None,
    ) -> None:
        self.me = me
        self.timing = timing or LinkTiming()
        self.policy = policy
        self.counts: Counter[str] = Counter()
        self._server_context = server_context
        self._client_context = client_context
        self._handlers = handlers
        self._loop = asyncio.get_running_loop()
        self._up: dict[AgentId, _Up] = {}
        self._all: set[Link] = set()
        self._held: list[Link] = []
        self._greeting: set[AgentId] = set()
        self._at: dict[Address, AgentId] = {}
        self._wanted: frozenset[AgentId] = frozenset()
        self._source: str | None = None
        self._listener: Listener | None = None
        self._dialler = Dialler(self._dial, self.linked, self._linked_at, rng, self.timing.back_off)
        self._pulse = Pulse(self.timing, lambda: (up.link for up in self._up.values()), self._look_over)

    # --- life ---

    async def start(self, host: str, port: int) -> int:
        """Listen, and begin to dial; gives the port in use. Raises PortTaken or InputError."""
        self._listener = Listener(
            listen(host, port),
            self._server_context,
            self._make_link,
            self._accepted,
            handshake_timeout_s=self.timing.handshake_timeout_s,
            drops=self.counts,
        )
        # On loopback each agent has an address of its own; dialling from it makes it recognisable, as on real hosts.
        self._source = host if self.policy.loopback else None
        self.me.peer_port = self._listener.port
        self._pulse.start()
        return self._listener.port

    async def stop(self) -> None:
        """Close everything; `link_down` comes for each link."""
        self._pulse.stop()
        if self._listener is not None:
            await self._listener.close()
        await self._dialler.stop()
        for peer in list(self._up):
            self._drop(peer, "stopping", at_once=False)
        for link in list(self._all):
            link.close("stopping")
        for _ in range(3):  # transports close over a few turns of the loop
            await asyncio.sleep(0)
        for link in list(self._all):
            link.abort("stopping")
        for _ in range(3):
            await asyncio.sleep(0)

    # --- what the owner asks ---

    def want(self, peers: Iterable[AgentId]) -> None:
        """Keep links with exactly these members; links that others opened stay, until they close them."""
        self._wanted = frozenset(peers) - {self.me.id}
        self._dialler.want(self._wanted)

    def hint(self, peer: AgentId | None, host: str, port: int, *, firm: bool = False) -> None:
        """An agent (`peer`, if known) may be at this IP address or name.

        `firm`: the ledger or the configuration says so; such addresses are never pushed out by mere hints.
        """
        address = Address(host, port)
        if peer == self.me.id or self._is_refused(address):
            self.counts["address-refused"] += 1
            return
        self._dialler.hint(peer, address, firm=firm)

    def send(self, peer: AgentId, frame: Frame, *, hold: bool = False) -> bool:
        """Queue a frame; it leaves in this turn of the loop, or by `flush` (`hold`).

        False: no link, or its queue is full (counted). Raises TooLarge for a frame that no peer would take.
        """
        up = self._up.get(peer)
        if up is None:
            self.counts["send-unlinked"] += 1
            return False
        part = isinstance(frame, RaftFrame) and isinstance(frame.message, InstallSnapshot)
        if not up.link.send(encode_frame(frame), hold=hold, part=part):
            self.counts["send-queue-full"] += 1
            return False
        if hold:
            self._held.append(up.link)
        return True

    def flush(self) -> None:
        """Hand what was held to the sockets now."""
        for link in self._held:
            link.flush()
        self._held.clear()

    def spoke(self, peer: AgentId) -> None:
        """`peer` hears from this agent by another way, so its link needn't send a sign of life now."""
        if (up := self._up.get(peer)) is not None:
            up.link.last_sent = self._loop.time()

    def heard(self, peer: AgentId) -> bool:
        """`peer` proved by another way that it lives; whether there is a link. Call `ride_along` once that was taken
        in.

        Bytes that nobody acknowledges still end the link.
        """
        if (up := self._up.get(peer)) is not None:
            up.link.last_received = self._loop.time()
        return up is not None

    def ride_along(self) -> None:
        """This agent is awake: let links that are nearly due send their sign of life now."""
        self._pulse.ride_along()

    def close(self, peer: AgentId) -> None:
        """Close the link with `peer`; it may come again."""
        self._drop(peer, "asked", at_once=False)

    def expel(self, peer: AgentId) -> None:
        """Cut the link with `peer` at once. `LinkHandlers.authority` has to refuse it from now on."""
        self._drop(peer, "expelled", at_once=True)

    def review(self) -> tuple[AgentId, ...]:
        """Ask the authority about every link again: cuts the expelled, gives the ids that have just become known."""
        known = []
        for peer, up in list(self._up.items()):
            standing = self._handlers.authority(peer, up.info.certificate)
            if standing == "expelled":
                self.expel(peer)
            elif (standing == "member") != up.info.known:
                up.info = msgspec.structs.replace(up.info, known=standing == "member")
                known += [peer] if up.info.known else []
        return tuple(known)

    def peers(self) -> Mapping[AgentId, PeerInfo]:
        """The linked peers."""
        return MappingProxyType({peer: up.info for peer, up in self._up.items()})

    def peer(self, peer: AgentId) -> PeerInfo | None:
        """What `peer` said of itself, while it is linked."""
        up = self._up.get(peer)
        return up.info if up is not None else None

    def linked(self, peer: AgentId) -> bool:
        """Whether a link with `peer` is up."""
        return peer in self._up

    # --- dialling ---

    def _make_link(self) -> Link:
        return Link(self._loop, self.timing.silence_timeout_s)

    def _linked_at(self, address: Address) -> bool:
        peer = self._at.get(address)
        return peer is not None and peer in self._up

    def _is_refused(self, address: Address) -> bool:
        """Names are judged when they are resolved."""
        return is_ip(address.host) and not self.policy.dialable(*address)

    async def _dial(self, address: Address, expected: AgentId | None) -> bool:
        for ip in await self._resolve(address):
            try:
                await self._dial_ip(Address(ip, address.port), address, expected)
            except HandshakeFailed as failure:
                self._count_failure(failure)
                if failure.reason == "self":
                    self._dialler.forget(address)
            except OSError:
                self.counts["dial-failed"] += 1
            if (peer := expected or self._at.get(address)) is not None and peer in self._up:
                return True
        return False

    async def _resolve(self, address: Address) -> list[str]:
        if is_ip(address.host):
            return [address.host] if self.policy.dialable(*address) else []
        try:
            async with asyncio.timeout(self.timing.connect_timeout_s):
                found = await self._loop.getaddrinfo(*address, type=1)
        except (OSError, UnicodeError):  # TimeoutError as well; UnicodeError: a label that IDNA can't encode
            self.counts["resolve-failed"] += 1
            return []
        ips = dict.fromkeys(str(entry[4][0]) for entry in found)
        return [ip for ip in ips if self.policy.dialable(ip, address.port)][:MAX_RESOLVED_ADDRESSES]

    async def _dial_ip(self, target: Address, asked: Address, expected: AgentId | None) -> None:
        source = (self._source, 0) if self._source else None
        async with asyncio.timeout(self.timing.connect_timeout_s + self.timing.handshake_timeout_s):
            _, link = await self._loop.create_connection(
                self._make_link,
                target.host,
                target.port,
                ssl=self._client_context,
                server_hostname="",  # none is sent: it would be in the clear, and cost a start 2 ms for IDNA
                ssl_handshake_timeout=self.timing.handshake_timeout_s,
                ssl_shutdown_timeout=DRAIN_S,
                local_addr=source,
            )
        self._all.add(link)
        try:
            peer = handshake.certified(link, self.me)
            if expected is not None and peer.id != expected:
                raise HandshakeFailed("identity", "another agent is at that address")
            if peer.id in self._up or peer.id in self._greeting:
                self._at[asked] = self._at[target] = peer.id
                raise HandshakeFailed("busy", "a link with that agent is there already")
            await self._greet(link, peer, asked)
        except BaseException:  # cancelled as well, when the peer is no longer wanted
            self._forget_link(link)
            raise

    async def _greet(self, link: Link, peer: Certified, asked: Address) -> None:
        self._greeting.add(peer.id)
        try:
            async with asyncio.timeout(self.timing.handshake_timeout_s):
                info = await handshake.greet_as_client(link, self.me, peer, self._handlers.authority)
        except HandshakeFailed as failure:
            if failure.told is not None:
                self._handlers.refused(peer.id, failure.told)
            raise
        finally:
            self._greeting.discard(peer.id)
        self._note(asked, peer.id)
        self._note(Address(info.host, info.peer_port), peer.id)
        self._take_up(link, info)

    def _note(self, address: Address, peer: AgentId) -> None:
        """That peer answered at this address."""
        if len(self._at) > 4 * MAX_LINKS:  # a few per peer; beyond, start to learn anew
            self._at.clear()
        self._at[address] = peer
        self._dialler.book.add(peer, address, firm=True)

    # --- accepting ---

    async def _accepted(self, link: Link) -> None:
        self._all.add(link)
        peer: Certified | None = None
        try:
            async with asyncio.timeout(self.timing.handshake_timeout_s):
                peer = handshake.certified(link, self.me)
                info = await handshake.greet_as_server(link, self.me, peer, self._handlers.authority)
            self._check_room(info)
        except HandshakeFailed as failure:
            self._count_failure(failure)
            if failure.told is None and failure.reason not in ("protocol", "identity"):
                refused = Refused(reason=failure.reason)
                if peer is not None and failure.reason == "expelled":
                    refused = self._handlers.expulsion(peer.id)
                handshake.refuse(link, refused)
                self._loop.call_later(DRAIN_S, self._forget_link, link)
            else:
                self._forget_link(link)
            return
        except OSError:
            self._forget_link(link)
            raise
        handshake.welcome(link, self.me, peer)
        address = Address(info.host, info.peer_port)
        if self.policy.dialable(*address):
            self._note(address, info.id)
        self._take_up(link, info)

    def _check_room(self, info: PeerInfo) -> None:
        unknown = sum(not up.info.known for up in self._up.values())
        if info.id in self._up:
            return
        if len(self._up) >= MAX_LINKS or (not info.known and unknown >= MAX_UNKNOWN_LINKS):
            raise HandshakeFailed("busy")

    def _count_failure(self, failure: HandshakeFailed) -> None:
        self.counts[("told-" if failure.told else "refused-") + failure.reason] += 1

    # --- up and down ---

    def _take_up(self, link: Link, info: PeerInfo) -> None:
        link.begin(
            lambda content: self._content(info.id, content),
            lambda reason: self._lost(link, info.id, reason),
            self._handlers.frames_over,
        )
        if link.closed:
            return
        old = self._up.get(info.id)
        verdict = self._judge(old, info) if old is not None else None
        if verdict == "keep":
            self._drain(link)
        elif old is not None and verdict == "switch":
            self._up[info.id] = _Up(link, info, old.since)
            self._drain(old.link)
        else:
            if verdict == "restarted" or verdict == "replaced":
                self._drop(info.id, verdict, at_once=True)
            self._up[info.id] = _Up(link, info, self._loop.time())
            self._handlers.link_up(info)
        link.read_on()

    def _judge(self, old: _Up, info: PeerInfo) -> Verdict:
        age_s = self._loop.time() - old.since
        verdict = judge_second(self.me.id, old.info, info, age_s, self.timing.handshake_timeout_s)
        self.counts[f"second-{verdict}"] += 1
        return verdict

    def _drain(self, link: Link) -> None:
        self._loop.call_later(DRAIN_S, link.close, "asked")

    def _content(self, peer: AgentId, content: bytes) -> None:
        up = self._up.get(peer)
        if up is None:
            return
        if content == ALIVE_CONTENT:
            self._pulse.answer(up.link)
            self._handlers.frame(peer, _HEARD)
        else:
            try:
                frame = decode_frame(content)
            except InputError:
                self.counts["bad-frame"] += 1
                return
            self._handlers.frame(peer, frame)
        self._pulse.ride_along()

    def _lost(self, link: Link, peer: AgentId, reason: DownReason) -> None:
        self._all.discard(link)
        up = self._up.get(peer)
        if up is not None and up.link is link:
            self._gone(peer, reason)

    def _drop(self, peer: AgentId, reason: DownReason, *, at_once: bool) -> None:
        up = self._up.get(peer)
        if up is None:
            return
        if at_once:
            up.link.abort(reason)
        else:
            up.link.close(reason)
        self._gone(peer, reason)

    def _gone(self, peer: AgentId, reason: DownReason) -> None:
        up = self._up.pop(peer)
        self.counts[f"down-{reason}"] += 1
        self._handlers.link_down(peer, reason)
        if reason not in ("restarted", "replaced", "stopping"):
            self._dialler.went_down(peer, self._loop.time() - up.since)

    def _forget_link(self, link: Link) -> None:
        self._all.discard(link)
        link.abort("asked")

    # --- keeping alive ---

    def _look_over(self, now: float, unread: bool) -> None:
        for peer, up in list(self._up.items()):
            if not unread and now - up.link.last_received >= self.timing.silence_timeout_s:
                self._drop(peer, "silent", at_once=True)
            elif self._is_over(peer, up, now):
                self.close(peer)

    def _is_over(self, peer: AgentId, up: _Up, now: float) -> bool:
        """The side that dialled closes; a link with an agent that our ledger doesn't name may lead to a later one, and
        stays.
        """
        if peer in self._wanted or not up.info.dialled or not up.info.known:
            up.unwanted_since = None
        elif up.unwanted_since is None:
            up.unwanted_since = now
        return up.unwanted_since is not None and now - up.unwanted_since >= LINGER_S
