"""What this agent announces to the network, and what it hears there: beacons and mDNS."""

from __future__ import annotations

import asyncio
import random

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent import __version__
from agent.config import Config
from agent.formats.beacon import Beacon, ServiceType, verify_beacon
from agent.formats.beacon_table import BeaconTable
from agent.model.ledger import Assignment
from agent.model.report import ObservedReplica
from agent.model.spec import ReplicaKey
from agent.model.stack import Role, Service
from agent.model.types import AgentId
from agent.net.beacons import MAX_BEACONS_PER_ROUND, agent_beacon
from agent.net.discovery import Discovery, DiscoverySettings
from agent.node.driver.loop import Driver
from agent.node.driver.network import Network
from agent.state import service_of
from agent.storage.identity import Identity

_TYPES: dict[Role, ServiceType] = {"main": "coordinator", "worker": "worker", "service": "unknown"}
"""docs/seed.md "Service types": a beacon's coordinator is the plan's main, not the Raft leader."""


class Announcing:
    """Passes hints to the network; counts live beacons for the status."""

    def __init__(
        self,
        config: Config,
        identity: Identity,
        name: str,
        address: str,
        driver: Driver,
        network: Network,
        rng: random.Random,
    ) -> None:
        self._config, self._name, self._address = config, name, address
        self._driver = driver
        self._cluster = identity.genesis.cluster
        self._loop = asyncio.get_running_loop()
        self.table = BeaconTable()
        self._announced: list[Beacon] = []
        settings = DiscoverySettings(
            id=identity.id,
            cluster=identity.genesis.cluster,
            name=name,
            listen=config.listen,
            api_port=config.api_port,
            peer_port=config.peer_port,
            discovery_port=config.discovery_port,
            broadcast_address=config.broadcast_address,
            beacons=config.discovery_beacon,
            mdns=config.discovery_mdns,
        )
        self._discovery = Discovery(settings, identity.signing_key, self._compose, network.hint, self._heard, rng=rng)

    async def start(self) -> None:
        """Announce at once. Raises InputError when the beacons' port can't be had."""
        await self._discovery.start()

    async def stop(self) -> None:
        """Announce nothing more."""
        await self._discovery.stop()

    def changed(self) -> None:
        """What runs here changed; another round is sent only if a beacon did."""
        if self._beacons() != self._announced:
            self._discovery.announce()

    def network_services(self) -> int:
        """Services whose beacons are live, including this agent's; one that moved to another host counts once."""
        live = {(beacon.cluster, beacon.service_id) for beacon in self.table.live(self._loop.time())}
        own = {(self._cluster, beacon.service_id) for beacon in self._announced[:MAX_BEACONS_PER_ROUND]}
        return len(live | own)

    def heard_beacons(self) -> frozenset[AgentId]:
        """Members whose signed beacons are live."""
        live = self.table.live(self._loop.time())
        return frozenset(beacon.agent_id for beacon in live if beacon.signed and beacon.agent_id is not None)

    def heard_mdns(self) -> frozenset[AgentId]:
        """Members that mDNS names."""
        return self._discovery.heard_mdns

    def _compose(self) -> list[Beacon]:
        self._announced = self._beacons()
        return self._announced

    def _beacons(self) -> list[Beacon]:
        context = self._driver.core.context
        own = agent_beacon(
            name=self._name,
            host=self._address,
            api_port=self._config.api_port,
            peer_port=self._config.peer_port,
            version=__version__,
            status="healthy" if context.leader is not None else "starting",
        )
        return [
            own,
            *(beacon for replica in self._driver.core.observation.replicas if (beacon := self._instance(replica))),
        ]

    def _instance(self, replica: ObservedReplica) -> Beacon | None:
        state = self._driver.core.context.state
        key = ReplicaKey(stack=replica.stack, service=replica.service, slot=replica.slot)
        assignment: Assignment | None = state.assignments.get(key)
        service: Service | None = service_of(state, assignment) if assignment is not None else None
        if service is None or not replica.ports or replica.state not in ("healthy", "starting", "unhealthy"):
            return None
        return Beacon(
            service_id=replica.container_name or str(key),
            type=_TYPES[service.role],
            host=self._address,
            port=replica.ports[0].host_port,
            protocol=service.health.scheme if service.health is not None else replica.ports[0].protocol,
            capabilities={
                "container_id": replica.container_id,
                "status": replica.state,
                "version": replica.image_ref.rpartition(":")[2] or "unknown",
            },
            timestamp="",
        )

    def _heard(self, beacon: Beacon, source: str) -> None:
        """In our own cluster only beacons signed by their agent count; others announce somebody else's services."""
        if beacon.signed and not self._verified(beacon.agent_id, beacon):
            return
        self.table.observe(beacon, self._loop.time(), source=source)

    def _verified(self, sender: AgentId | None, beacon: Beacon) -> bool:
        member = self._driver.state.members.get(sender or "")
        if member is None:
            return False
        return verify_beacon(beacon, Ed25519PublicKey.from_public_bytes(bytes.fromhex(member.signing_key)))
