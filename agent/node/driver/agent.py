"""A whole agent except its API: identity, ledger, core, network, discovery and hosting, started in order."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from msgspec import Struct

from agent import __version__, raft
from agent.config import Config
from agent.errors import InputError, NeedsRepair
from agent.host import HostContext, HostObservation, HostPolicy
from agent.model.decode import convert, parse_toml, text_of
from agent.model.expulsion import Expulsion
from agent.net.addresses import all_addresses, usable_addresses
from agent.net.handshake import LocalAgent
from agent.node.core import NodeCore, NodeSettings
from agent.node.driver.announcing import Announcing
from agent.node.driver.auditing import AuditedLedger
from agent.node.driver.backup import BackupService
from agent.node.driver.blobs import BlobService
from agent.node.driver.checkup import Checkup
from agent.node.driver.doctor import DoctorService
from agent.node.driver.hosting import Hosting
from agent.node.driver.images import ImageService
from agent.node.driver.logs import LogService
from agent.node.driver.loop import Driver, now
from agent.node.driver.network import Network
from agent.node.driver.service import AgentService, Contents
from agent.node.driver.serving import Serving
from agent.node.driver.supplies import Supplies
from agent.node.driver.usage import UsageService
from agent.node.driver.workers import KEYS_DIRECTORY, WorkerService
from agent.node.messages import Examine, FetchBlob, FollowLogs, GetUsage, LoadImage
from agent.raft import Boot
from agent.runtime.protocol import Runtime
from agent.state import STATE_LEVEL
from agent.storage.audit import AuditLog
from agent.storage.birth import genesis_entry, open_ledger
from agent.storage.blobs import BlobStore
from agent.storage.files import refused
from agent.storage.identity import Identity, keep_expelled, load
from agent.storage.stack_files import StackFiles
from agent.swim import SwimConfig
from agent.tasks import must_not_fail
from agent.telemetry.api_log import ApiStats
from agent.telemetry.metrics import Metrics
from agent.telemetry.recent import RecentLog

logger = logging.getLogger(__name__)

STOP_GRACE_S = 2.0  # for handing the coordination over; an election timeout and some


class Agent(Struct):
    """The running parts. `service` is what the API serves."""

    config: Config
    identity: Identity
    ledger: AuditedLedger
    driver: Driver
    network: Network
    announcing: Announcing
    hosting: Hosting
    blobs: BlobService
    serving: Serving
    checkup: Checkup
    service: AgentService
    stats: ApiStats
    metrics: Metrics

    @classmethod
    async def start(cls, config: Config, log: RecentLog | None = None) -> Agent:
        """Everything up, in order; what was started is stopped again when a later part fails. `log`: this agent's own.

        Raises StorageError (NeedsRepair where no further start helps), InputError or PortTaken, each saying what to do.
        """
        data_dir = Path(config.data_dir)
        identity, policy = await asyncio.gather(
            asyncio.to_thread(load, data_dir), asyncio.to_thread(read_policy, Path(config.policy_file))
        )
        ledger, boot = await open_ledger(data_dir, identity)
        try:
            past = await asyncio.to_thread(AuditLog.open, data_dir, identity.genesis.cluster)
            audited = AuditedLedger(ledger, past, genesis_entry(identity).data)
            agent = cls._assemble(config, identity, audited, boot, policy, log or RecentLog())
        except BaseException:
            await ledger.close()
            raise
        try:
            await agent._open()
        except BaseException:
            await agent.stop(0.0)
            raise
        return agent

    @classmethod
    def _assemble(
        cls, config: Config, identity: Identity, ledger: AuditedLedger, boot: Boot, policy: HostPolicy, log: RecentLog
    ) -> Agent:
        rng = random.Random()  # noqa: S311 spreads timers, guards nothing
        me = _introduction(config, identity, boot)
        host = _host_context(config, policy)
        core = NodeCore(_settings(config, identity, boot, host), boot, rng, now())
        network = Network(config, identity, me, rng)
        parts: list[Announcing] = []

        def observed(observation: HostObservation) -> None:
            driver.observed(observation)
            for announcing in parts:
                announcing.changed()

        stats, metrics = ApiStats(), Metrics()
        blobs = BlobService(BlobStore(Path(config.data_dir) / "blobs"))
        hosting = Hosting(
            make_runtimes(config, identity),
            publish_address=config.publish_address,
            data_dir=Path(config.data_dir),
            on_observed=observed,
            supplies=Supplies(blobs, StackFiles(Path(config.data_dir), blobs.store)),
        )
        driver = Driver(core, disk=ledger, wire=network, hands=hosting)
        network.inputs = blobs.driver = ledger.driver = driver
        driver.on_audit, driver.on_expelled = ledger.keep, partial(_keep_expelled, Path(config.data_dir))
        announcing = Announcing(config, identity, me.name, host.address, driver, network, rng)
        parts.append(announcing)
        logs, images = LogService(driver, hosting), ImageService(blobs, hosting)
        checkup = Checkup(config, driver, network, announcing, hosting, log)
        doctor, usage = DoctorService(driver, checkup), UsageService(driver, hosting)
        backup = BackupService(blobs, hosting, config.api_log_path)
        workers = make_workers(config, identity, driver)
        counts = _Counts(announcing, stats)
        service = AgentService(
            driver, logs, usage, doctor, ledger, Contents(blobs, images), backup, workers, counts, metrics.scrape
        )
        serving = Serving(driver)
        serving.handle(FollowLogs, logs.answer)
        serving.handle(FetchBlob, blobs.answer)
        serving.handle(LoadImage, images.answer)
        serving.handle(Examine, doctor.answer)
        serving.handle(GetUsage, usage.answer)
        _show_metrics(metrics, driver, network)
        return cls(
            config=config,
            identity=identity,
            ledger=ledger,
            driver=driver,
            network=network,
            announcing=announcing,
            hosting=hosting,
            blobs=blobs,
            serving=serving,
            checkup=checkup,
            service=service,
            stats=stats,
            metrics=metrics,
        )

    async def _open(self) -> None:
        await self.network.start()
        self.driver.start()
        await self.blobs.open()
        await asyncio.gather(self.hosting.open(), self.announcing.start())
        name = self.config.name or self.service.me.name  # which the ledger tells, once it is here
        logger.info("agent %s (%s) of cluster %s", name, self.identity.id, self.identity.genesis.name)

    async def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """A clean end: the coordination is handed over first; workloads keep running."""
        await self.service.workers.close()
        await self.driver.stop(grace_s)
        await self.announcing.stop()
        await self.serving.close()
        await self.checkup.close()
        await self.hosting.close()
        await self.blobs.close()
        await self.network.stop()
        await self.ledger.close()


class _Counts:
    def __init__(self, announcing: Announcing, stats: ApiStats) -> None:
        self._announcing, self._stats = announcing, stats

    def network_services(self) -> int:
        return self._announcing.network_services()

    def api_requests_total(self) -> int:
        return self._stats.total_requests


def _introduction(config: Config, identity: Identity, boot: Boot) -> LocalAgent:
    return LocalAgent(
        id=identity.id,
        name=config.name or own_name(identity),
        cluster=identity.genesis.cluster,
        epoch=identity.genesis.epoch,
        boot=boot.starts,
        agent_version=__version__,
        level=STATE_LEVEL,
        api_port=config.api_port,
        peer_port=config.peer_port,
        signing_key=identity.signing_key,
    )


def _host_context(config: Config, policy: HostPolicy) -> HostContext:
    endpoints = str(Path(config.data_dir) / "endpoints")
    return HostContext(address=own_address(config), policy=policy, labels=config.labels, endpoints=endpoints)


def _settings(config: Config, identity: Identity, boot: Boot, host: HostContext) -> NodeSettings:
    return NodeSettings(
        id=identity.id,
        name=config.name or own_name(identity),
        boot=boot.starts,
        genesis=genesis_entry(identity).data,
        host=host,
        agent_version=__version__,
        timing=getattr(raft.RaftTiming, config.timing)(),
        swim=getattr(SwimConfig, config.timing)(),
        sign=identity.signing_key.sign,
        expelled=identity.expelled,
    )


def _keep_expelled(data_dir: Path, expelled: Expulsion) -> None:
    """An error ends the agent; the next start is told again."""
    keeping = asyncio.create_task(
        asyncio.to_thread(keep_expelled, data_dir, expelled), name="keeping that it was expelled"
    )
    keeping.add_done_callback(must_not_fail)


def _show_metrics(metrics: Metrics, driver: Driver, network: Network) -> None:
    """Registers every part's own counters, which are read when somebody asks."""
    driver.on_written = partial(metrics.ledger_write_seconds.observe, "")
    context = driver.core.context
    metrics.gauge("raft_term", "The current term", lambda: context.raft.term)
    metrics.gauge("raft_commit_index", "The newest committed entry", lambda: context.raft.commit)
    metrics.gauge("raft_is_coordinator", "Whether this agent coordinates", lambda: int(context.raft.is_leader))
    metrics.gauge("ledger_applied_index", "The newest applied entry", lambda: context.state.index)
    metrics.gauge("peer_links", "Links with peers that are up", lambda: len(context.peers))
    metrics.gauge("swim_health_score", "Local health (Lifeguard), 0 is well", lambda: context.swim.health_score)
    metrics.counter("node_drops", "Frames that peers weren't allowed, by reason", lambda: driver.core.drops)
    metrics.counter("raft_drops", "Consensus messages dropped, by reason", lambda: context.raft.dropped)
    metrics.counter("link_drops", "Links and frames refused or dropped, by reason", lambda: network.links.counts)
    metrics.counter("datagram_drops", "Datagrams dropped, by reason", lambda: network.drops)
    metrics.counter(
        "swim_drops", "SWIM messages ignored, by reason", lambda: {k.value: n for k, n in context.swim.drops.items()}
    )


def make_runtimes(config: Config, identity: Identity) -> Sequence[Runtime]:
    """The runtimes that the configuration names; none makes a witness. Their modules are imported only then."""
    runtimes: list[Runtime] = []
    cluster, data_dir = identity.genesis.cluster, Path(config.data_dir)
    publish = config.publish_address
    if "docker" in config.runtimes:
        from agent.runtime.docker import DockerRuntime

        runtimes.append(DockerRuntime(cluster=cluster, agent=identity.id, data_dir=data_dir, publish_address=publish))
    if "process" in config.runtimes:
        from agent.runtime.process import ProcessRuntime

        runtimes.append(ProcessRuntime(cluster=cluster, agent=identity.id, data_dir=data_dir, publish_address=publish))
    return runtimes


def make_workers(config: Config, identity: Identity, driver: Driver) -> WorkerService:
    """Adds hosts, with the keys that are beside the policy."""
    return WorkerService(
        identity=identity,
        keys=Path(config.policy_file).parent / KEYS_DIRECTORY,
        cache=Path(config.data_dir) / "cache",
        submit=driver.requests.submit,
        state=lambda: driver.core.context.state,
    )


def own_address(config: Config) -> str:
    """The address to tell others: `advertise`, else the one that we listen on, else the first that others can reach.

    Raises InputError when there is none.
    """
    if config.advertise is not None:
        return config.advertise
    if config.listen not in ("0.0.0.0", "::"):  # noqa: S104 compared, not bound
        return config.listen
    usable = usable_addresses(all_addresses())
    if not usable:
        raise InputError(
            "this host has no address that others could reach", where="advertise", fix="Set it in the configuration."
        )
    return usable[0].ip


def own_name(identity: Identity) -> str:
    """The name that this host was enrolled with, if genesis has it; else its id, until the ledger says."""
    for member in identity.genesis.members:
        if member.id == identity.id:
            return member.name
    return identity.id


def read_policy(path: Path) -> HostPolicy:
    """This host's own policy; none is the default one. Raises NeedsRepair naming file and key, or StorageError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return HostPolicy()
    except OSError as error:
        raise refused("can't be read", error, path) from error
    try:
        return convert(parse_toml(text_of(data, str(path)), str(path)), HostPolicy, f"{path}: $")
    except InputError as error:
        raise NeedsRepair.of(error) from None
