"""`agent backup`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from agent import __version__
from agent.cli.options import Options, current_options, global_options
from agent.cli.output import bytes_teller, print_json, say
from agent.cli.session import notice, open_client, with_client
from agent.client import Client
from agent.client.backup import fetch
from agent.client.backup_file import BackupWriter, whole
from agent.errors import EXIT_DEGRADED, EXIT_OK, MusterError, NotFound
from agent.formats.backup import Manifest, Part, PartKind, encode_manifest
from agent.formats.plan_of import plan_of
from agent.home import Home, as_json, read_file
from agent.host.policy import volume_kind
from agent.instruction import sign_backup
from agent.model.types import Label
from agent.state import ClusterState, SnapshotRefused, decode_snapshot, deployed_stack, wanted_replicas


@click.command()
@click.argument("file")
@click.option("--volumes", is_flag=True, help="The named volumes of all stacks too, as they are at this moment.")
@click.option("--api-logs", is_flag=True, help="The API logs of all hosts too.")
@click.option("--with-home", is_flag=True, help="The cluster home too, private keys included.")
@global_options
def backup(file: str, volumes: bool, api_logs: bool, with_home: bool) -> int:
    """Write the cluster's state, its plans and their files into FILE, signed and verified.

    FILE contains every environment value, and with --with-home the private keys. Only its owner can read it (0600), but
    it isn't encrypted, so store it as carefully as a key. A volume that is in use is copied as a power cut would leave
    it; run `agent stop STACK` first for a clean copy. Exits 3 when a host's part is missing.
    """
    options = current_options()

    async def refresh(client: Client) -> None:
        client.signer()
        await client.members()

    with_client(options, refresh)  # the home knows all members' addresses then
    making = _Making(open_client(options, others=True), options, Path(file))
    return asyncio.run(making.run(volumes=volumes, api_logs=api_logs, with_home=with_home))


class _Making:
    def __init__(self, client: Client, options: Options, path: Path) -> None:
        self._client, self._options, self._path = client, options, path
        self._missing: list[str] = []

    async def run(self, *, volumes: bool, api_logs: bool, with_home: bool) -> int:
        async with self._client:
            home, key = self._client.signer()
            async with BackupWriter(self._path) as writer:
                state = await self._state(writer, home)
                for stack in sorted(state.stacks):
                    await self._add(writer, _part(f"plans/{stack}.json", "plan", stack=stack), _plan_text(state, stack))
                for digest in sorted(_files(state)):
                    await self._file(writer, state, digest)
                if volumes:
                    await self._volumes(writer, state)
                if api_logs:
                    for host in _hosts(state):
                        part = _part(f"api-logs/{host}.log", "api-log", host=host)
                        await self._fetch(writer, part, host, "/api/v1/backup/api-log")
                if with_home:
                    for number, (name, data) in enumerate(await asyncio.to_thread(_home_files, home)):
                        await self._add(writer, _part(f"home/{number:04}", "home", path=name), data)
                manifest = encode_manifest(_manifest(home, state, writer.parts))
                token = sign_backup(
                    key,
                    operator_name=home.operator.name,
                    cluster=state.cluster,
                    epoch=state.epoch,
                    manifest=manifest,
                    now_s=self._client.now(),
                )
                size = await writer.finish(manifest, token)
        return self._tell(state, writer.parts, size)

    async def _state(self, writer: BackupWriter, home: Home) -> ClusterState:
        """The coordinator's state. Checks every signature in it, and that it is of this cluster."""
        status = await self._client.status()
        if status.stale:
            notice(f"nobody coordinates; the state is the one that {status.answered_by.name} has")
        source = status.answered_by if status.stale or status.coordinator is None else status.coordinator
        data = b"".join([part async for part in fetch(self._client, source.name, "/api/v1/backup/state")])
        try:
            state = await asyncio.to_thread(decode_snapshot, data, verify=True)
        except SnapshotRefused as error:
            raise MusterError(f"its state can't be vouched for: {error}", where=source.name) from None
        if (state.cluster, state.trust_anchor) != (home.cluster.id, home.trust_anchor):
            raise MusterError("its state is another cluster's", where=source.name)
        await self._add(writer, _part("state", "state", host=source.name), data)
        return state

    async def _file(self, writer: BackupWriter, state: ClusterState, digest: str) -> None:
        """A plan's file, from whichever host has it."""
        reason = "no member has it"
        for host in _hosts(state):
            try:
                part = _part(f"files/{digest}", "file")
                part = await self._copy(writer, part, host, f"/api/v1/backup/{part.name}")
            except MusterError as error:
                reason = error.what
                continue
            if part.sha256 != digest:
                raise MusterError("it sent another content than the one that was asked for", where=host)
            return
        raise MusterError(f"a plan's file can't be had: {reason}", where=digest, fix="`agent status` may say why.")

    async def _volumes(self, writer: BackupWriter, state: ClusterState) -> None:
        for number, (host, stack, volume) in enumerate(named_volumes(state)):
            part = _part(f"volumes/{number:04}.tar", "volume", host=host, stack=stack, volume=volume)
            await self._fetch(writer, part, host, f"/api/v1/backup/volumes/{stack}/{volume}")

    async def _fetch(self, writer: BackupWriter, part: Part, host: Label, path: str) -> None:
        """A part that only one host has; without it the backup is made all the same."""
        try:
            await self._copy(writer, part, host, path)
        except NotFound:
            return  # never made there
        except MusterError as error:
            self._missing.append(f"{_called(part)}: {error.what}")

    async def _copy(self, writer: BackupWriter, part: Part, host: Label, path: str) -> Part:
        told = bytes_teller(self._options, _called(part), from_start=True)
        content = fetch(self._client, host, path)
        return await writer.add(part, content, told if part.kind == "volume" else lambda _: None)

    async def _add(self, writer: BackupWriter, part: Part, data: bytes) -> None:
        await writer.add(part, whole(data))

    def _tell(self, state: ClusterState, parts: list[Part], size: int) -> int:
        code = EXIT_DEGRADED if self._missing else EXIT_OK
        if self._options.json:
            document = {"file": str(self._path), "bytes": size, "index": state.index, "missing": self._missing}
            print_json({**document, "parts": parts})
            return code
        count = {kind: sum(part.kind == kind for part in parts) for kind in ("plan", "file", "volume", "api-log")}
        held = ", ".join(f"{number} {kind}{'s' if number != 1 else ''}" for kind, number in count.items() if number)
        say(f"{self._path}: {size} bytes, state at entry {state.index}" + (f", {held}" if held else ""))
        keys = " and the home's private keys" if any(part.kind == "home" for part in parts) else ""
        notice(f"it holds environment values{keys}, unencrypted; only its owner may read it (0600)")
        for missing in self._missing:
            notice(f"NOT in it: {missing}")
        return code


def named_volumes(state: ClusterState) -> list[tuple[Label, Label, str]]:
    """(host's name, stack, volume) of each named volume that replicas have, in order."""
    found: set[tuple[Label, Label, str]] = set()
    for key, assignment in state.assignments.items():
        stack = state.signed[assignment.instruction.digest].stack
        service = stack.services.get(key.service)
        for volume in service.volumes if service is not None and service.runtime == "docker" else ():
            if volume_kind(volume) == "named":
                found.add((state.members[assignment.host].name, key.stack, volume.source))
    return sorted(found)


def _part(name: str, kind: PartKind, **about: str) -> Part:
    return Part(name=name, kind=kind, size=0, sha256="0" * 64, **about)


def _plan_text(state: ClusterState, name: Label) -> bytes:
    """A plan that `agent deploy` takes, with environment values and the scale that was set since."""
    stack = state.stacks[name]
    signed = deployed_stack(state, stack)
    services = {
        each: msgspec.structs.replace(service, replicas=wanted_replicas(stack, each, service))
        for each, service in signed.services.items()
    }
    return as_json(plan_of(msgspec.structs.replace(signed, services=services)))


def _files(state: ClusterState) -> set[str]:
    return {file.digest for signed in state.signed.values() for file in signed.stack.files.values()}


def _hosts(state: ClusterState) -> list[Label]:
    return sorted(member.name for member in state.members.values())


def _home_files(home: Home) -> list[tuple[str, bytes]]:
    return [
        (path.relative_to(home.path).as_posix(), read_file(path))
        for path in sorted(home.path.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    ]


def _manifest(home: Home, state: ClusterState, parts: list[Part]) -> Manifest:
    return Manifest(
        made_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        made_by=home.operator.name,
        agent_version=__version__,
        cluster=state.cluster,
        cluster_name=state.name,
        epoch=state.epoch,
        index=state.index,
        hosts=tuple(_hosts(state)),
        parts=tuple(parts),
    )


def _called(part: Part) -> str:
    """A part's name for people."""
    if part.kind == "volume":
        return f"volume {part.stack}/{part.volume} of {part.host}"
    return f"API log of {part.host}" if part.kind == "api-log" else part.name
