"""`agent drain` and `agent undrain`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from agent.cli.hosts import find_host
from agent.cli.options import Options, current_options, global_options
from agent.cli.output import console, print_json, say, table
from agent.cli.session import notice, with_client
from agent.client import Client
from agent.client.draining import Left, Look, replicas_on, until_left
from agent.client.draining import drain as drain_all
from agent.errors import EXIT_DEGRADED, EXIT_OK
from agent.formats.durations import parse_duration_ms
from agent.model.instruction import InstructionResult, Undrain
from agent.model.status import HostStatus

if TYPE_CHECKING:
    from rich.live import Live

WAIT = "10m"  # a service whose replicas take a minute to get healthy may have ten of them there


@click.command()
@click.argument("hosts", nargs=-1, required=True, metavar="HOST...")
@click.option("--wait", default=WAIT, metavar="TIME", show_default=True, help="How long to watch, such as 90s or 10m.")
@click.option("--detach", is_flag=True, help="Return once the cluster has accepted it.")
@click.option("--dry-run", is_flag=True, help="Change nothing; say what would move, and how, and what would stay.")
@global_options
def drain(hosts: tuple[str, ...], wait: str, detach: bool, dry_run: bool) -> int:
    """Move replicas off each HOST, by name or id, and place nothing more there.

    The replicas of a service leave one at a time, while all its others are healthy. Each keeps running here until its
    successor is healthy on another host, unless it writes to a path of the host or its plan says otherwise. Replicas
    that are pinned, have a named volume, or fit nowhere else stay. The host stays a member and a voter. Exits 3 when
    something is left; the hosts are drained all the same, until `agent undrain`.
    """
    options = current_options()
    wait_s = parse_duration_ms(wait, where="--wait") / 1000

    async def use(client: Client) -> int:
        client.signer()
        status = await client.status()
        found = {host.id: host for host in (find_host(status, name) for name in hosts)}
        if dry_run:
            return _foretell(options, {host.name: replicas_on(status, host.id) for host in found.values()})
        results = await drain_all(client, found)
        screen = _Screen(options, list(found.values()))
        screen.accepted(results)
        look: Look | None = None
        if not detach:
            try:
                with screen:
                    look = await until_left(client, found, wait_s=wait_s, tell=screen.tell)
            except asyncio.CancelledError:
                notice("the drain goes on without this command; `agent status` shows how far it is")
                raise
        return screen.end(results, look)

    return with_client(options, use)


@click.command()
@click.argument("hosts", nargs=-1, required=True, metavar="HOST...")
@global_options
def undrain(hosts: tuple[str, ...]) -> None:
    """Let replicas be placed on each drained HOST, by name or id, again. What moved away stays where it is."""
    options = current_options()

    async def use(client: Client) -> list[tuple[str, InstructionResult]]:
        client.signer()
        status = await client.status()
        found = {host.id: host for host in (find_host(status, name) for name in hosts)}
        return [(host.name, await client.submit("undrain", f"host:{host.id}", Undrain())) for host in found.values()]

    results = with_client(options, use)
    if options.json:
        print_json({"hosts": [{"host": name, "result": result} for name, result in results]})
        return
    for name, result in results:
        say(f"{name}: may be used again (revision {result.revision} of host {name})")


@dataclass(slots=True)
class _Screen:
    """Shows a person, or a program, how the drain of `hosts` goes."""

    options: Options
    hosts: Sequence[HostStatus]
    _live: Live | None = None
    _told: dict[str, str] = field(default_factory=dict)

    def accepted(self, results: dict[str, InstructionResult]) -> None:
        for host in self.hosts:
            self._say(f"{host.name}: drained (revision {results[host.id].revision} of host {host.name})")

    def __enter__(self) -> None:
        if self.options.live:
            from rich.live import Live

            self._live = Live(console=console(self.options), transient=True, auto_refresh=False)
            self._live.start()

    def __exit__(self, *_exc: object) -> None:
        if self._live is not None:
            self._live.stop()

    def tell(self, look: Look) -> None:
        """A table that is redrawn on a terminal, else a line for each thing that wasn't said before."""
        if self._live is not None:
            rows = [(item.replica, item.host, _why(item)) for item in look.left]
            self._live.update(table(("replica", "host", ""), rows), refresh=True)
            return
        drained, spoken = {host.name for host in self.hosts}, set[str]()
        for item in look.left:
            text = f"  {item.replica} on {item.host}" + (f": {why}" if (why := _why(item)) else "")
            service = item.replica.rpartition(".")[0]
            waits = item.host in drained and not (item.stays or item.next)
            queues = service in spoken and item.replica in self._told and waits
            spoken.add(service)
            if self._told.get(item.replica) != text:
                self._told[item.replica] = text
                if not queues:  # of many that wait for each other, one speaks
                    self._say(text)
        for replica in self._told.keys() - {item.replica for item in look.left}:
            del self._told[replica]
            self._say(f"  {replica} has left")

    def end(self, results: dict[str, InstructionResult], look: Look | None) -> int:
        """The last words, and the exit code."""
        left = look.left if look is not None else ()
        if self.options.json:
            hosts = [
                {"host": host.name, "result": results[host.id], "left": [it for it in left if it.host == host.name]}
                for host in self.hosts
            ]
            print_json({"hosts": hosts, "over": look is not None and look.over, "left": left})
        elif look is not None:
            self._sum_up(look)
        return EXIT_DEGRADED if left else EXIT_OK

    def _sum_up(self, look: Look) -> None:
        names = {host.name for host in self.hosts}
        for host in self.hosts:
            staying = [item for item in look.left if item.host == host.name]
            self._say(f"{host.name}: {_count(len(staying))} left there" if staying else f"{host.name}: is empty")
            for item in staying:
                self._say(f"  {item.replica}: {_why(item) or 'on its way'}")
        for item in look.left:
            if item.host not in names:
                self._say(f"{item.replica}: left, and isn't healthy on {item.host} yet: {item.why}")
        if not look.over:
            notice("the drain goes on without this command; `agent status` shows how far it is")
        elif look.left:
            notice("nothing more is placed there; `agent undrain` ends that")

    def _say(self, text: str) -> None:
        if not self.options.json:
            say(text)


def _foretell(options: Options, found: Mapping[str, Sequence[Left]]) -> int:
    """What can be said before a drain; not whether a replica fits anywhere else."""
    if options.json:
        print_json({"hosts": [{"host": host, "would": there} for host, there in found.items()]})
    else:
        for host, there in found.items():
            say(f"{host}: {_count(len(there))} there" if there else f"{host}: is empty")
            for item in there:
                say(f"  {item.replica}: {_why(item) or 'starts elsewhere before it stops here'}")
    return EXIT_DEGRADED if any(item.stays for there in found.values() for item in there) else EXIT_OK


def _why(item: Left) -> str:
    if item.stays:
        return f"stays: {item.why}"
    if item.next:
        if item.alone:
            return f"stops, and starts on {item.next}: {item.alone}"
        healthy = item.why == "healthy"
        return f"is healthy on {item.next}, and stops here" if healthy else f"until it is healthy on {item.next}"
    alone = f"stops before it starts elsewhere: {item.alone}" if item.alone else ""
    return "; ".join(part for part in (item.why, alone) if part)


def _count(replicas: int) -> str:
    return f"{replicas} replica{'s' if replicas > 1 else ''}"
