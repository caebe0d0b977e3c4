"""`bootstrap invited`: an agent's subprocess that makes one host a member, for an operator's invitation.

Reads an Order as one line of JSON; writes one JSON object per line: `{"step": …}`, `{"enrol": true}` (answered by a
line `{"ok", "what", "fix"}`), at the end `{"ended": true, "what", "where", "fix"}`. Enrolment comes after everything
that can fail before it: a host that fails earlier is no member.
"""

import asyncio
import sys
import time
from pathlib import Path
from typing import Final

import click
import msgspec
from msgspec import Struct

from agent.errors import Conflict, DeploymentFailed, MusterError, NotAllowed
from agent.model.cluster import IdentityGrant, Member
from agent.model.decode import decode_json
from agent.model.types import AgentId, ClusterId, HostAddress, Port
from agent.model.workers import HostKeys
from bootstrap.bundle import Target, build, resource
from bootstrap.connection import Connection
from bootstrap.inventory import InventoryHost
from bootstrap.plan import HostPlan, Options, check_room, config_text, is_ours, make_plan, seeds_of
from bootstrap.site import CONFIG_FILE, UNIT_FILE, Site, member_of
from bootstrap.ssh import SshSettings

READY_TIMEOUT_S: Final = 30.0  # agents that reach each other are ready within two
MAX_ORDER_BYTES: Final = 16_777_216  # a genesis and the entries of 1000 members


class Order(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do. `members` are those of the ledger, `via` the agent that asks; `key` a private key's file."""

    host: HostAddress
    user: str | None
    port: Port | None
    key: str | None
    accept_new: bool
    cluster: ClusterId
    member: Member
    members: tuple[Member, ...]
    via: AgentId
    keys: HostKeys
    grant: IdentityGrant
    cache: str


class Answer(Struct, frozen=True, kw_only=True):
    """To `enrol`."""

    ok: bool
    what: str = ""
    fix: str = ""


@click.command()
def invited() -> None:
    """Make one host a member for an invitation: an agent runs this, and tells it everything on standard input."""
    order = decode_json(sys.stdin.buffer.readline(MAX_ORDER_BYTES + 1), Order, max_bytes=MAX_ORDER_BYTES)
    ended = {"what": "", "where": "", "fix": ""}
    try:
        asyncio.run(_join(order))
    except MusterError as error:
        ended = {"what": error.what, "where": error.where or order.host, "fix": error.fix}
    _say({"ended": True, **ended})


async def _join(order: Order) -> None:
    host = InventoryHost(
        alias=order.host,
        where="the invitation",
        host=order.host,
        user=order.user,
        port=order.port,
        key=order.key,
        name=order.member.name,
        advertise=order.member.address,
        labels=order.member.labels,
    )
    site = Site(host=host, tell=lambda text: _say({"step": text}))
    try:
        site.tell("connecting")
        site.connection = await Connection.open(host, SshSettings(accept_new=order.accept_new))
        plan = await _prepare(site, order)
        await site.take(msgspec.json.encode({"keys": order.keys, "grant": order.grant}))
        site.tell("enrolling")
        await asyncio.to_thread(_enrol)
        await site.start(restart=False)
        if plan.docker:  # after the rest: it may take longer than the operator's signature counts
            await site.apply(docker=True, dry=False)
        seen = await site.wait([order.via, order.member.id], READY_TIMEOUT_S)
        if seen.unseen or seen.reason:
            fix = "Let 9998/tcp, 9998/udp and 9999/tcp through; `journalctl -u muster-agent` there says more."
            raise DeploymentFailed(f"it is a member, and doesn't see the others yet: {seen.reason}", fix=fix)
        for note in site.notes:
            site.tell(f"note: {note}")
    finally:
        await site.close()


async def _prepare(site: Site, order: Order) -> HostPlan:
    """Everything that doesn't need the enrolment."""
    facts = await site.probe(None)
    site.plan = plan = make_plan(site.host, facts, Options(), Target.own(), time.time())
    site.notes += plan.notes
    if facts.installed.certificate is not None:
        found = member_of(facts.installed.certificate, order.cluster)
        if found != order.member.id and any(found == member.id for member in order.members):
            raise Conflict(f"it is the member {found} already", fix="`agent members` shows it.")
    bundle = await asyncio.to_thread(build, plan.target, Path(order.cache))
    looked = await site.look(bundle)
    if not looked.present or looked.damaged:
        check_room(facts)
        await site.unpack(bundle)
    addresses = {member.name: (member.address, member.peer_port) for member in order.members}
    files: list[dict[str, object]] = [
        {"path": UNIT_FILE, "text": resource("systemd/muster-agent.service").read_text("utf-8"), "mode": 0o644}
    ]
    if is_ours(facts.installed.config):
        text = config_text(plan, seeds_of(addresses, plan.name), site.host.labels)
        files.append({"path": CONFIG_FILE, "text": text, "mode": 0o644})
    await site.apply(
        version=bundle.version, launcher=plan.launcher, firewall=plan.firewall, files=tuple(files), dry=False
    )
    return plan


def _enrol() -> None:
    """Ask the agent whose process this is. Raises NotAllowed."""
    _say({"enrol": True})
    answer = msgspec.json.decode(sys.stdin.buffer.readline(65_536) or b'{"ok":false}', type=Answer)
    if not answer.ok:
        raise NotAllowed(f"it couldn't be enrolled: {answer.what or 'no answer'}", fix=answer.fix)


def _say(message: dict[str, object]) -> None:
    sys.stdout.write(msgspec.json.encode(message).decode() + "\n")
    sys.stdout.flush()
