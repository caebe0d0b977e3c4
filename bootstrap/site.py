"""One host while it is installed: its connection, its answers, and the outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from agent.errors import Conflict, InputError, MusterError
from agent.model.cluster import IdentityRequest
from agent.model.decode import convert
from agent.model.identity import AGENT_ID_LENGTH, SAN_SUFFIX
from agent.model.types import AgentId, ClusterId, Label, Labels
from bootstrap.bundle import Bundle
from bootstrap.connection import Connection
from bootstrap.inventory import InventoryHost
from bootstrap.plan import HostPlan
from bootstrap.probe import OPEN, PORTS, Facts

QUICK_TIMEOUT_S: Final = 60.0  # what looks and writes some files, on a host that is busy
UNPACK_TIMEOUT_S: Final = 600.0  # 17 MB over a slow line
APPLY_TIMEOUT_S: Final = 2000.0  # Docker's packages, twice as long as the host's own limit
START_TIMEOUT_S: Final = 120.0  # the host's own limit is below it

UNIT_FILE: Final = "/etc/systemd/system/muster-agent.service"
CONFIG_FILE: Final = "/etc/muster/agent.toml"


class Applied(Struct, frozen=True, kw_only=True):
    """The answer to `apply`."""

    changed: tuple[str, ...]
    notes: tuple[str, ...]


class Looked(Struct, frozen=True, kw_only=True):
    """The answer to `look`: whether that version is there, and files that aren't as they came."""

    present: bool
    damaged: tuple[str, ...]


class Started(Struct, frozen=True, kw_only=True):
    """The answer to `start`: whether that did anything."""

    did: bool


class Seen(Struct, frozen=True, kw_only=True):
    """The answer to `wait`. `labels` and `address` are the host's own by its ledger; None when the ledger lacks it.

    `expelled`: its agent knows or hears that it was.
    """

    answers: bool
    coordinator: str | None
    unseen: tuple[str, ...]
    reason: str
    labels: Labels | None = None
    address: str | None = None
    expelled: bool = False


class Removed(Struct, frozen=True, kw_only=True):
    """The answer to `remove`, for people."""

    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


@dataclass(slots=True)
class Site:
    """`error` None: all went well so far. `changed` and `notes` are for people."""

    host: InventoryHost
    tell: Callable[[str], None]
    connection: Connection | None = None
    facts: Facts | None = None
    plan: HostPlan | None = None
    request: IdentityRequest | None = None
    id: AgentId | None = None
    fresh: bool = False
    changed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: MusterError | None = None

    @property
    def ok(self) -> bool:
        """Whether it takes part in the next round."""
        return self.error is None

    def keep_name(self, held: Label) -> None:
        """`held` is its name in the cluster, which a list doesn't change, since others and plans use it."""
        assert self.plan is not None
        if held != self.plan.name:
            again = f"`bootstrap uninstall` and `bootstrap install` with --limit {self.host.alias} enrol it anew"
            self.notes.append(f"it is called {self.plan.name} now, and stays {held} in the cluster: {again}")
            self.plan = replace(self.plan, name=held)

    async def probe(self, python: str | None) -> Facts:
        """What is there."""
        self.tell("looking")
        answer = await self._ask("probe", QUICK_TIMEOUT_S, ports=PORTS, open=OPEN, python=python)
        self.facts = convert(answer, Facts, f"{self.host.alias}: its facts")
        return self.facts

    async def look(self, bundle: Bundle) -> Looked:
        """Whether this version is there, and complete."""
        answer = await self._ask("look", QUICK_TIMEOUT_S, version=bundle.version, manifest=bundle.manifest)
        return convert(answer, Looked, "look")

    async def unpack(self, bundle: Bundle) -> None:
        """Send the tarball."""
        self.tell(f"sending the agent, {bundle.size // 1_000_000} MB")
        await self._ask("unpack", UNPACK_TIMEOUT_S, blob=bundle.path, version=bundle.version, sha256=bundle.sha256)

    async def apply(
        self,
        *,
        version: str | None = None,
        launcher: str = "",
        docker: bool = False,
        firewall: tuple[tuple[str, ...], ...] = (),
        files: tuple[dict[str, object], ...] = (),
        dry: bool,
    ) -> tuple[str, ...]:
        """Files, links, group, Docker; returns what changed."""
        answer = await self._ask(
            "apply",
            APPLY_TIMEOUT_S,
            version=version,
            launcher=launcher,
            docker=docker,
            firewall=firewall,
            files=files,
            dry=dry,
        )
        applied: Applied = convert(answer, Applied, "apply")
        self.changed += [each for each in applied.changed if each not in self.changed]
        self.notes += applied.notes
        return applied.changed

    async def ask_identity(self) -> IdentityRequest:
        """The host's request, with the keys that it has or makes now."""
        assert self.plan is not None
        self.tell("making keys")
        answer = await self._ask("request", QUICK_TIMEOUT_S, name=self.plan.name, address=self.plan.address)
        self.request = convert(answer, IdentityRequest, f"{self.host.alias}: its identity request")
        self.id = self.request.id
        return self.request

    async def accept(self, grant: bytes) -> None:
        """Hand over certificate and genesis."""
        self.tell("handing over its identity")
        await self._ask("accept", QUICK_TIMEOUT_S, grant=grant.decode())
        self.changed.append("identity")

    async def retire(self, cluster: ClusterId) -> None:
        """End the agent that it was, so that it makes keys of its own again."""
        await self._ask("retire", APPLY_TIMEOUT_S, cluster=cluster, dry=False)

    async def take(self, handed: bytes) -> None:
        """Hand over keys, certificate and genesis that were made elsewhere."""
        self.tell("handing over its identity")
        await self._ask("take", QUICK_TIMEOUT_S, handed=handed.decode())
        self.changed.append("identity")

    async def start(self, *, restart: bool) -> None:
        """Enable the unit and start it."""
        self.tell("starting")
        answer = await self._ask("start", START_TIMEOUT_S, restart=restart)
        started = convert(answer, Started, "start")
        if started.did:
            ran = self.facts is not None and self.facts.installed.active == "active"
            self.changed.append("restarted" if restart else "enabled" if ran else "started")

    async def wait(self, members: list[AgentId], timeout_s: float) -> Seen:
        """Wait until its agent sees these members."""
        self.tell("waiting for the others")
        answer = await self._ask("wait", timeout_s + QUICK_TIMEOUT_S, members=members, timeout_s=timeout_s)
        return convert(answer, Seen, "wait")

    async def reach(self, peers: list[tuple[str, str, int]]) -> list[str]:
        """The names of peers that it can't connect to."""
        answer = await self._ask("reach", QUICK_TIMEOUT_S, peers=peers)
        return [str(name) for name in answer]

    async def remove(self, *, cluster: ClusterId, delete_volumes: bool, dry: bool) -> Removed:
        """Remove everything."""
        answer = await self._ask("remove", APPLY_TIMEOUT_S, cluster=cluster, delete_volumes=delete_volumes, dry=dry)
        return convert(answer, Removed, "remove")

    async def close(self) -> None:
        """End the connection, if there is one."""
        if self.connection is not None:
            await self.connection.close()
            self.connection = None

    async def _ask(self, do: str, limit_s: float, blob: Path | None = None, **fields: object) -> Any:
        assert self.connection is not None
        return await self.connection.ask(do, step=self.tell, limit_s=limit_s, blob=blob, **fields)


def member_of(certificate: str, cluster: ClusterId) -> AgentId:
    """Which agent a host is by its certificate. Raises Conflict when it's of another cluster, InputError when it isn't
    one.
    """
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        parsed = x509.load_pem_x509_certificate(certificate.encode())
        issuer = parsed.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        name = str(next(iter(names)).value)
    except (ValueError, IndexError, StopIteration, x509.ExtensionNotFound, x509.DuplicateExtension):
        raise InputError(
            "its certificate can't be read", fix="`bootstrap uninstall` it, then install it again."
        ) from None
    issuer = issuer if isinstance(issuer, str) else issuer.decode("ascii", "replace")
    if issuer != cluster:
        fix = "Use that cluster's home (--home), or `bootstrap uninstall` the host first."
        raise Conflict(f"it belongs to another cluster, {issuer}", fix=fix)
    return name.removesuffix(SAN_SUFFIX)[:AGENT_ID_LENGTH]


def check_unique(sites: Sequence[Site]) -> None:
    """If two lines lead to one host, or two hosts have one name, the later is refused."""
    seen: dict[Any, Site] = {}
    for site in sites:
        if site.plan is None or not site.ok:
            continue
        for key in (("id", site.id), ("name", site.plan.name)):
            if key[1] is None:
                continue
            other = seen.setdefault(key, site)
            if other is not site:
                what = (
                    f"it is the same host as {other.host.alias}" if key[0] == "id" else f"{other.host.alias} is called"
                )
                what += "" if key[0] == "id" else f" {site.plan.name} too"
                site.error = InputError(
                    what, fix=f"See {site.host.where} and {other.host.where}; name=NAME renames one."
                )
