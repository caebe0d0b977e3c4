"""`agent status` and `agent members`."""

from __future__ import annotations

import click

from agent.cli.options import Options, current_options, global_options
from agent.cli.output import console, print_json, print_table, say, table
from agent.cli.session import with_client
from agent.client import Client
from agent.errors import EXIT_DEGRADED, EXIT_OK
from agent.model.api import Members
from agent.model.status import HostStatus, Status


@click.command()
@global_options
def status() -> int:
    """Show the whole cluster: hosts, stacks, problems. Exits 3 when there is an error among the problems."""
    options = current_options()

    async def use(client: Client) -> Status:
        return await client.status()

    found = with_client(options, use)
    if options.json:
        print_json(found)
    else:
        _show(options, found)
    return EXIT_DEGRADED if is_degraded(found) else EXIT_OK


@click.command()
@global_options
def members() -> None:
    """List the hosts, as the member that answers sees them."""
    options = current_options()

    async def use(client: Client) -> Members:
        return await client.members()

    found = with_client(options, use)
    if options.json:
        print_json(found)
        return
    rows = [
        (
            member.name,
            f"{member.address}:{member.api_port}",
            member.role,
            member.state,
            "yes" if member.linked else "no" if member.name != found.answered_by else "itself",
            member.agent_version,
            member.id,
        )
        for member in found.members
    ]
    print_table(options, ("name", "address", "role", "state", "linked", "version", "id"), rows)


def is_degraded(found: Status) -> bool:
    """Whether somebody should look: an error among the problems, or nobody coordinates."""
    return found.coordinator is None or any(problem.severity == "error" for problem in found.problems)


def _show(options: Options, found: Status) -> None:
    coordinator = found.coordinator.name if found.coordinator is not None else "nobody"
    quorum = found.quorum
    say(
        f"cluster {found.cluster.name}: {coordinator} coordinates; {quorum.reachable} of {quorum.voters} voters "
        f"reachable, {quorum.tolerates} more may be lost"
    )
    if found.stale:
        say(f"stale: {found.answered_by.name} answers for itself, without the coordinator")
    screen = console(options)
    screen.print()
    hosts = [(host.name, host.address, host.role, host.state, _fitness(host)) for host in found.hosts]
    screen.print(table(("host", "address", "role", "state", "fit"), hosts))
    services = [
        (
            stack.name,
            str(stack.revision),
            stack.phase,
            service.name,
            f"{service.healthy}/{service.wanted}" + (f" ({service.unknown} unknown)" if service.unknown else ""),
            ", ".join(sorted({replica.host for replica in service.replicas})),
        )
        for stack in found.stacks
        for service in stack.services
    ]
    screen.print()
    if services:
        columns = ("stack", "revision", "phase", "service", "healthy", "hosts")
        screen.print(table(columns, services, states="phase"))
    else:
        say("no stacks: `agent deploy PLAN` brings one in")
    screen.print()
    say(_health(found))
    for problem in found.problems:
        say(f"{problem.severity}: {problem.where}: {problem.what}")
        say(f"  {problem.fix}")


def _health(found: Status) -> str:
    """Replicas of which nothing is known are said to be unknown, and aren't counted."""
    services = [service for stack in found.stacks for service in stack.services]
    wanted, unknown = sum(service.wanted for service in services), sum(service.unknown for service in services)
    if not unknown:
        return f"health {found.health_score:g} %"
    if unknown == wanted:
        return "health unknown"
    return f"health {found.health_score:g} % of what is known; {unknown} of {wanted} replicas are unknown"


def _fitness(host: HostStatus) -> str:
    """In short; an engine's own message is among the problems."""
    return "yes" if host.fit else "; ".join(reason.partition(":")[0] for reason in host.reasons) or "no"
