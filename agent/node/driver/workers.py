"""Adding a host for an operator's invitation (agent.api.port.WorkerPort): this agent does the SSH.

The invitation is opened and checked here; the installing is `bootstrap invited`, a process of its own that is told
everything on its standard input and asks back, on a line, for the enrolment at its place in the order. Operations live
in this agent's memory alone.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import logging
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec import Struct, field
from msgspec.structs import replace

from agent.beside import bootstrap_argv
from agent.errors import Conflict, InputError, MusterError, NotAllowed, NotFound, TooMany
from agent.formats.timestamps import rfc3339
from agent.instruction import check_times, new_jti, public_hex, read_instruction
from agent.instruction.sealing import unseal
from agent.model.cluster import Member
from agent.model.decode import decode_json
from agent.model.instruction import Enrol, InstructionResult
from agent.model.types import Jti, Label
from agent.model.workers import MAX_LINES, AddWorker, HostKeys, Invitation, Operation
from agent.state import ClusterState, audience_of
from agent.storage.identity import Identity
from agent.tasks import cancel_and_wait

logger = logging.getLogger(__name__)

MAX_RUNNING = 4  # each is an ssh and a Python process; a burst of invitations waits its turn at the operator's
MAX_OPERATIONS = 64  # remembered; the oldest that ended goes first
MAX_OPERATION_S = 1800.0  # Docker's packages over a slow line take most of it
MAX_INVITATION_BYTES = 65_536  # as the sealed text of the body allows
MAX_LINE_BYTES = 65_536  # of what the process tells
END_GRACE_S = 5.0

KEYS_DIRECTORY = "ssh"  # beside the policy: /etc/muster/ssh
_KEY_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_NEW_ONE = "Make another one: agent invite HOST."

Submit = Callable[[str, bytes], Awaitable[InstructionResult]]


class Told(Struct, frozen=True, kw_only=True):
    """A line of `bootstrap invited`: a step, or that the host is ready to be enrolled, or how it ended."""

    step: str = ""
    enrol: bool = False
    ended: bool = False
    what: str = ""
    where: str = ""
    fix: str = ""


_STOPPED = Told(ended=True, what="this agent was stopped", fix=_NEW_ONE)


class WorkerService(Struct):
    """`keys`: the directory of the private keys for `ssh_key_path`, `cache`: where bundles are kept."""

    identity: Identity
    keys: Path
    cache: Path
    submit: Submit
    state: Callable[[], ClusterState]
    operations: dict[Jti, Operation] = field(default_factory=dict)
    _tasks: dict[Jti, asyncio.Task[None]] = field(default_factory=dict)

    async def add(self, worker: AddWorker, now_s: float) -> Operation:
        """Begin. `now_s`: seconds since the epoch. Raises MusterErrors that say why it can't be."""
        invitation, member = self._open(worker, now_s)
        key = await asyncio.to_thread(self._key, worker.ssh_key_path)
        if len(self._tasks) >= MAX_RUNNING:
            raise TooMany(f"{MAX_RUNNING} hosts are being added by this agent", fix="Wait for one, or ask another.")
        operation = Operation(
            id=new_jti(),
            kind="add-worker",
            host=worker.host,
            name=member.name,
            state="running",
            began_at=rfc3339(int(now_s * 1000)),
        )
        self._keep(operation)
        task = asyncio.create_task(self._work(operation.id, worker, invitation, member, key), name="add-worker")
        self._tasks[operation.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(operation.id, None))
        return operation

    def operation(self, id_: Jti) -> Operation | None:
        """An operation that this agent still knows."""
        return self.operations.get(id_)

    async def close(self) -> None:
        """What is under way ends with this agent."""
        await cancel_and_wait(*self._tasks.values())
        for id_ in [each.id for each in self.operations.values() if each.state == "running"]:
            self._end(id_, _STOPPED)  # cancelled before it began

    # Checks

    def _open(self, worker: AddWorker, now_s: float) -> tuple[Invitation, Member]:
        """The sealed invitation, once it is checked that everything in it belongs together and an admin signed it."""
        if worker.via != self.identity.id:
            raise Conflict("this invitation is for another agent", where="$.via", fix=f"Send it to {worker.via}.")
        data = unseal(self.identity.sealing_key, _box(worker.sealed or ""), worker.bound())
        invitation = decode_json(data, Invitation, where="$.sealed", max_bytes=MAX_INVITATION_BYTES)
        state = self.state()
        body = invitation.body.encode()
        verified = read_instruction(invitation.token, body, state.operators, audience_of(state))
        if not isinstance(verified.body, Enrol):
            raise NotAllowed(f"it is signed for {verified.claims.act}, not for enrol", where="$.sealed")
        check_times(verified.claims, now_s)
        member = verified.body.member
        if hashlib.sha256(self.identity.genesis_bytes).hexdigest() != invitation.genesis:
            raise InputError("it is for a cluster of another genesis", where="$.sealed")
        _check_keys(invitation, member)
        known = {each.name: each.id for each in state.members.values()}
        if member.id in state.members or known.get(member.name, member.id) != member.id:
            fix = f"`agent members` shows it; `agent expel {member.name}` makes the name free."
            raise Conflict(f"{member.name} is a member already", where="$.host", fix=fix)
        return invitation, member

    def _key(self, path: str | None) -> str | None:
        """The private key's file; only the name of a file in our own directory counts."""
        if path is None:
            return None
        name = path.removeprefix(f"{self.keys}/")
        if _KEY_NAME.fullmatch(name) is None:
            what = f"only a file's name in {self.keys} can be named here"
            raise InputError(what, where="$.ssh_key_path", fix="Such as worker-key.")
        file = self.keys / name
        if not file.is_file() or file.is_symlink():
            fix = f"Put the private key there on {self.identity.id}'s host, mode 0600."
            raise NotFound("this agent has no such key", where=str(file), fix=fix)
        return str(file)

    # Work

    async def _work(self, id_: Jti, worker: AddWorker, invitation: Invitation, member: Member, key: str | None) -> None:
        order = {
            "host": worker.host,
            "user": worker.user,
            "port": worker.port,
            "key": key,
            "accept_new": worker.accept_new,
            "cluster": self.identity.genesis.cluster,
            "member": member,
            "members": [msgspec.to_builtins(each) for each in self.state().members.values()],
            "via": self.identity.id,
            "keys": invitation.keys,
            "grant": {
                "certificate": invitation.certificate,
                "genesis": self.identity.genesis_bytes.decode(),
                "genesis_token": self.identity.genesis_token,
            },
            "cache": str(self.cache),
        }
        logger.info("adding %s (%s) for an invitation", member.name, worker.host)
        ended = _STOPPED
        try:
            async with asyncio.timeout(MAX_OPERATION_S):
                ended = await self._run(id_, msgspec.json.encode(order), invitation)
        except TimeoutError:
            ended = Told(ended=True, what=f"it wasn't done within {MAX_OPERATION_S:.0f} s", fix=_NEW_ONE)
        except OSError as error:
            ended = Told(ended=True, what=f"the process can't be started: {error.strerror}")
        finally:
            self._end(id_, ended)

    async def _run(self, id_: Jti, order: bytes, invitation: Invitation) -> Told:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *bootstrap_argv("invited"),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            cwd="/",
            limit=MAX_LINE_BYTES,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        complaints = asyncio.create_task(process.stderr.read(MAX_LINE_BYTES), name="add-worker stderr")
        try:
            process.stdin.write(order + b"\n")
            async for line in process.stdout:
                told = msgspec.json.decode(line, type=Told)
                if told.ended:
                    return told
                if told.step:
                    self._tell(id_, told.step)
                if told.enrol:
                    answer = await self._enrol(invitation)
                    process.stdin.write(msgspec.json.encode(answer) + b"\n")
            said = (await complaints).decode("utf-8", "replace").strip().splitlines()
            return Told(ended=True, what=f"it ended without a word: {said[-1] if said else 'no output'}")
        except (ValueError, msgspec.MsgspecError, ConnectionError):
            return Told(ended=True, what="what the process told can't be read")
        finally:
            await cancel_and_wait(complaints)
            await _end_process(process)

    async def _enrol(self, invitation: Invitation) -> dict[str, Any]:
        try:
            result = await self.submit(invitation.token, invitation.body.encode())
        except MusterError as error:
            return {"ok": False, "what": error.what, "fix": error.fix or _NEW_ONE}
        return {"ok": result.outcome == "applied", "what": result.what, "fix": result.fix}

    # Books

    def _keep(self, operation: Operation) -> None:
        self.operations[operation.id] = operation
        ended = [each.id for each in self.operations.values() if each.state != "running"]
        for id_ in ended[: max(0, len(self.operations) - MAX_OPERATIONS)]:
            del self.operations[id_]

    def _tell(self, id_: Jti, line: str) -> None:
        before = self.operations[id_]
        if len(before.lines) < MAX_LINES:
            self.operations[id_] = replace(before, lines=(*before.lines, line[:1024]))

    def _end(self, id_: Jti, told: Told) -> None:
        self.operations[id_] = replace(
            self.operations[id_],
            state="failed" if told.what else "done",
            ended_at=rfc3339(time.time_ns() // 1_000_000),
            what=told.what,
            where=told.where,
            fix=told.fix,
        )
        name: Label = self.operations[id_].name
        logger.info("adding %s: %s", name, told.what or "done")


async def _end_process(process: asyncio.subprocess.Process) -> None:
    """Ends it with its whole session, including its ssh."""
    if process.stdin is not None:
        process.stdin.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(END_GRACE_S):
            await process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _box(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InputError("not base64url", where="$.sealed") from None


def _check_keys(invitation: Invitation, member: Member) -> None:
    """The keys must be the member's: so whoever made the box made the identity, and nobody can redirect another's."""
    try:
        tls, signing, sealing = _load(invitation.keys)
        certificate = x509.load_pem_x509_certificate(invitation.certificate.encode())
        certified = certificate.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InputError("a key or the certificate can't be read", where="$.sealed") from None
    same = (
        isinstance(signing, Ed25519PrivateKey)
        and isinstance(sealing, X25519PrivateKey)
        and public_hex(signing) == member.signing_key
        and sealing.public_key().public_bytes_raw().hex() == member.sealing_key
        and certificate.fingerprint(hashes.SHA256()).hex() == member.certificate
        and certified == tls.public_key()
    )
    if not same:
        raise NotAllowed("the keys in it aren't those of the member that was signed", where="$.sealed")


def _load(keys: HostKeys) -> tuple[Any, Any, Any]:
    tls, signing, sealing = (
        serialization.load_pem_private_key(pem.encode(), password=None)
        for pem in (keys.tls, keys.signing, keys.sealing)
    )
    return tls, signing, sealing
