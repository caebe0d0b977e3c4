"""A cluster as one object, whichever member answers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.client import blobs, streams
from agent.client.clock import ClusterClock
from agent.client.endpoints import Endpoint, candidates
from agent.client.epochs import admins_known, follow
from agent.client.http import Answer, Request, TransportError
from agent.client.instructions import Submission
from agent.client.race import Race, unreachable
from agent.client.ssh import SshFallback, read_destinations
from agent.client.transport import HttpsTransport, SocketTransport, Transport
from agent.errors import Conflict, InputError, MusterError, Unreachable
from agent.home import Home, KnownMember, read_file, remember, write_file
from agent.instruction import MAX_ACCESS_TTL_S, sign_access
from agent.model.api import (
    PROBLEM_MEDIA_TYPE,
    ApiKeys,
    Epochs,
    ImageProgress,
    Members,
    Operators,
    ProblemDetails,
    Recovery,
    StackView,
    TargetView,
)
from agent.model.audit import AuditPage, AuditProof
from agent.model.decode import convert
from agent.model.doctor import HostAnswer
from agent.model.events import Event, LogLine
from agent.model.fault import error_of
from agent.model.instruction import Act, Body, InstructionResult, Recover
from agent.model.status import Health, Status
from agent.model.types import Digest, Jti, Label, Target
from agent.model.usage import Usage

T = TypeVar("T")

PROBE_TIMEOUT_S = 6.0  # connection and one small answer
PROOF_TIMEOUT_S = 60.0  # a host reads and hashes up to 1 GiB
SILENT_S = 2.0  # without an answer by then a person wonders; ssh may take ten more
MAX_NAMED = 5  # members that are told of it
READ_TIMEOUT_S = 15.0  # a status waits for the coordinator
MAX_ANSWER_BYTES = 67_108_864  # the status of 10,000 replicas is some 6 MB
TOKEN_MARGIN_S = 60.0  # a token this close to its end is made anew
GOOD = (200, 202)
LAST_FILE = "last"  # in the home: the name of the member that answered last

Notice = Callable[[str], None]


class Client:
    """Use as an async context manager, in one event loop. Reads need a key (see `sign`) or the local socket.

    `notice` gets sentences for a person: a wrong clock, what an instruction waits for. `only` is the one host that
    `endpoints` were narrowed to, for the error when it doesn't answer.
    """

    def __init__(
        self,
        transport: Transport,
        endpoints: Sequence[Endpoint],
        *,
        home: Home | None = None,
        key: Ed25519PrivateKey | None = None,
        notice: Notice = lambda text: None,
        only: str | None = None,
    ) -> None:
        self.home = home
        self.notice = notice
        self.clock = ClusterClock()
        self._transport = transport
        self._endpoints = tuple(endpoints)
        self._key = key
        self._only = only
        self._current: Endpoint | None = None
        self._finding = asyncio.Lock()
        self._token: tuple[str, float] | None = None
        self._warned = False
        self._told_silence = False
        self._following = asyncio.Lock()
        self._unproven: MusterError | None = None

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.close()
        if self.home is not None and self._current is not None and self._current.id is not None:
            with contextlib.suppress(MusterError):  # a home that can't be written works all the same
                await asyncio.to_thread(
                    write_file, self.home.path / LAST_FILE, self._current.label.encode(), mode=0o600, replace=True
                )

    # Reads

    async def health(self) -> Health:
        """Of the member that answers."""
        return await self._somewhere(self._probe)

    async def status(self) -> Status:
        """The whole cluster."""
        return await self._read("/api/v1/deployment/status", Status)

    async def usage(self, stack: str | None = None) -> Usage:
        """What replicas use now, of one stack or all."""
        return await self._read("/api/v1/usage", Usage, {"stack": stack} if stack is not None else None)

    async def members(self) -> Members:
        """The members; their addresses are written into the home for next time."""
        members = await self._read("/api/v1/members", Members)
        if self.home is not None and members.members:
            known = [_known(member) for member in members.members]
            with contextlib.suppress(MusterError):
                self.home = await asyncio.to_thread(remember, self.home, members=known)
        return members

    async def operators(self) -> Operators:
        """Who may sign, as the ledger has them."""
        return await self._read("/api/v1/operators", Operators)

    async def api_keys(self) -> ApiKeys:
        """Which API keys may read."""
        return await self._read("/api/v1/keys", ApiKeys)

    async def stack(self, name: Label) -> StackView:
        """The deploy in force. Raises NotFound."""
        return await self._read(f"/api/v1/stacks/{quote(name, safe='')}", StackView)

    async def target(self, target: Target) -> TargetView:
        """Its revision: 0 when it was never changed."""
        return await self._read(f"/api/v1/targets/{quote(target, safe=':')}", TargetView)

    async def instruction(self, jti: Jti) -> InstructionResult:
        """What became of an instruction. Raises NotFound."""
        return await self._read(f"/api/v1/instructions/{quote(jti, safe='')}", InstructionResult)

    def events(
        self, *, follow: bool = True, recent: bool = False, opened: Callable[[], None] | None = None
    ) -> AsyncGenerator[Event, None]:
        """The cluster's events; continues with another member when one is lost. Raises Unreachable.

        `opened` is called each time when a member's stream has begun, even if nothing happens yet.
        """
        return streams.events(self, follow=follow, recent=recent, opened=opened)

    def logs(
        self,
        stack: Label,
        *,
        service: Label | None = None,
        slot: int | None = None,
        tail: int | None = None,
        since: str | None = None,
        follow: bool = False,
    ) -> AsyncGenerator[LogLine, None]:
        """Lines of the replicas, merged; continues with another member when one is lost. `since` is RFC 3339."""
        params = {"service": service, "slot": slot, "tail": tail, "since": since, "follow": "true" if follow else None}
        given = {name: str(value) for name, value in params.items() if value is not None}
        return streams.logs(self, f"/api/v1/stacks/{quote(stack, safe='')}/logs", given)

    async def audit(self, target: Target | None, after: int) -> AuditPage:
        """Instructions behind that index, oldest first, as the member that answers has kept them."""
        params = {"after": str(after)} | ({"target": target} if target is not None else {})
        return await self._read("/api/v1/audit", AuditPage, params)

    async def audit_proofs(self, at: int | None = None) -> list[AuditProof]:
        """What each member that answers finds when it reads all that it keeps; the chain up to entry `at`."""
        params = {"at": str(at)} if at is not None else {}
        return await self._everywhere("/api/v1/audit/proof", params, AuditProof, PROOF_TIMEOUT_S)

    def doctor(self, hosts: Sequence[Label] = (), *, log: bool = False) -> AsyncGenerator[HostAnswer, None]:
        """What these hosts, or all, say of themselves and each other, as they answer. Raises as a read."""
        return streams.doctor(self, hosts, log=log)

    # Changes

    async def recoveries(self) -> list[Recovery]:
        """What each member that answers would begin another epoch from; asks every one of them."""

        return await self._everywhere("/api/v1/recovery", {}, Recovery, PROBE_TIMEOUT_S)

    async def recover(self, revision: int, body: Recover) -> InstructionResult:
        """Signs the beginning of another epoch, submits it to the member that is asked, and remembers it in the home.

        Raises Conflict, NotAllowed and the like; TimedOut when the survivor doesn't answer: look at it again then.
        """
        result = await Submission.sign(self, "recover", "cluster", revision, body).bring_to("/api/v1/recovery")
        home, _ = self.signer()
        self.home, self._token = await asyncio.to_thread(remember, home, epoch=body.epoch), None
        return result

    async def submit(self, act: Act, target: Target, body: Body) -> InstructionResult:
        """Signs the change as the target's next revision, and submits it.

        Raises Conflict (who was first, and when), NotAllowed, Unprocessable, NoMajority, Unreachable, or TimedOut when
        its outcome isn't known.
        """
        before = await self.target(target)
        if before.ending_on and act in ("deploy", "place"):
            hosts, name = ", ".join(before.ending_on), target.partition(":")[2]
            self.notice(
                f"{name} is still being removed, and {hosts} may have volumes of it: this keeps them, and replicas "
                f"with one there wait for {hosts}. To be rid of them, remove {name} with --volumes again later."
            )
        return await Submission.sign(self, act, target, before.revision + 1, body).bring_in()

    async def send_files(self, files: Mapping[Digest, Path]) -> None:
        """Have one member store these contents, before the instruction that names them. Raises as `submit`."""
        await blobs.send_files(self, files)

    def load_image(
        self, archive: Path, digest: Digest, hosts: tuple[Label, ...], told: Callable[[int], None]
    ) -> AsyncGenerator[ImageProgress, None]:
        """Send an archive (`told` gets the bytes so far), and have `hosts`, or all, load it. Raises as `submit`."""
        return blobs.load_image(self, archive, digest, hosts, told)

    # For the other modules of this package

    def signer(self) -> tuple[Home, Ed25519PrivateKey]:
        """Raises InputError where there is no home: only operators sign."""
        if self.home is None or self._key is None:
            fix = "Run this on the operator's machine, or name the home with --home."
            raise InputError("there is no cluster home, so nothing can be signed", where="--home", fix=fix)
        return self.home, self._key

    def now(self) -> float:
        """Seconds since the epoch by the cluster's clock, once a member has answered."""
        return self.clock.now(time.time())

    def access_token(self, ttl_s: int = MAX_ACCESS_TTL_S) -> str:
        """An access token by the cluster's clock."""
        home, key = self.signer()
        return sign_access(
            key,
            operator_name=home.operator.name,
            cluster=home.cluster.id,
            epoch=home.cluster.epoch,
            now_s=self.now(),
            ttl_s=ttl_s,
        )

    def headers(self) -> dict[str, str]:
        """What a read carries."""
        if self._key is None:
            return {}
        if self._token is None or self.now() > self._token[1] - TOKEN_MARGIN_S:
            self._token = (self.access_token(), self.now() + MAX_ACCESS_TTL_S)
        return {"Authorization": f"Bearer {self._token[0]}"}

    async def connect(self, failed: Mapping[Endpoint, str] | None = None) -> Endpoint:
        """A member that answers, not one of `failed`.

        Raises Unreachable, naming each address and why; Conflict when a member is in an epoch that the home can't
        follow to.
        """
        failed = failed or {}
        async with self._finding:
            if self._current is not None and self._current not in failed:
                return self._current
            race = Race(self._probe, lambda health: health.ok, only=self._only)
            self._unproven = None
            telling = asyncio.get_running_loop().call_later(SILENT_S, self._tell_silence)
            try:
                self._current, _ = await race.run(self._endpoints, failed)
            except Unreachable:
                if self._unproven is not None:
                    raise self._unproven from None
                raise
            finally:
                telling.cancel()
            return self._current

    def _tell_silence(self) -> None:
        """Say it only once, since a command that follows something looks for a member again and again."""
        if not self._told_silence:
            self._told_silence = True
            names = [endpoint.label or str(endpoint) for endpoint in self._endpoints]
            more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
            self.notice(f"no answer yet; still trying {', '.join(names[:MAX_NAMED])}{more}")

    def prefer(self, name: Label) -> None:
        """Ask that member first from now on, e.g. the coordinator, which has the events."""
        self._endpoints = tuple(sorted(self._endpoints, key=lambda endpoint: endpoint.label != name))
        if self._current is not None and self._endpoints[0] != self._current:
            self._current = None

    def endpoint_of(self, name: Label) -> Endpoint | None:
        """That member's endpoint, if the home knows it."""
        return next((endpoint for endpoint in self._endpoints if endpoint.label == name), None)

    def lost(self, endpoint: Endpoint) -> None:
        """The member didn't answer: the next request looks for another."""
        if self._current == endpoint:
            self._current = None

    async def call(self, endpoint: Endpoint, request: Request, type_: type[T]) -> T:
        """One request to one member. Raises the problem it answers with, or what the transport raises."""
        async with self._transport.request(endpoint, request) as answer:
            return _decode(await self.body_of(endpoint, answer), type_, endpoint)

    def open(self, endpoint: Endpoint, request: Request) -> contextlib.AbstractAsyncContextManager[Answer]:
        """The same for a stream: the caller reads it."""
        return self._transport.request(endpoint, request)

    async def body_of(self, endpoint: Endpoint, answer: Answer) -> bytes:
        """The body of a good answer. Raises the problem in any other."""
        self._heard(endpoint, answer)
        if answer.status not in GOOD:
            await self.refuse(endpoint, answer)
        return await _bounded(answer)

    async def refuse(self, endpoint: Endpoint, answer: Answer) -> NoReturn:
        """Raises what the answer, which isn't a good one, says."""
        body = await _bounded(answer)
        if answer.content_type == PROBLEM_MEDIA_TYPE:
            raise error_of(_decode(body, ProblemDetails, endpoint).fault())
        raise MusterError(f"answered with status {answer.status}", where=str(endpoint))

    # Inside

    async def _everywhere(self, path: str, params: Mapping[str, str], type_: type[T], timeout_s: float) -> list[T]:
        """The answers of every member that answers."""

        async def ask(endpoint: Endpoint) -> T | None:
            request = Request(method="GET", path=path, params=params, headers=self.headers(), timeout_s=timeout_s)
            with contextlib.suppress(TransportError, MusterError):
                return await self.call(endpoint, request, type_)
            return None

        await self.connect()  # tells the cluster's time, which tokens go by
        answers = await asyncio.gather(*(ask(endpoint) for endpoint in self._endpoints))
        return [answer for answer in answers if answer is not None]

    async def _read(self, path: str, type_: type[T], params: Mapping[str, str] | None = None) -> T:
        async def read(endpoint: Endpoint) -> T:
            request = Request(
                method="GET", path=path, params=params or {}, headers=self.headers(), timeout_s=READ_TIMEOUT_S
            )
            return await self.call(endpoint, request, type_)

        return await self._somewhere(read)

    async def _somewhere(self, use: Callable[[Endpoint], Awaitable[T]]) -> T:
        """The answer of the first member that answers."""
        failed: dict[Endpoint, str] = {}
        while True:
            endpoint = await self.connect(failed)
            try:
                return await use(endpoint)
            except TransportError as error:
                failed[endpoint] = str(error)
                self.lost(endpoint)
                if len(failed) == len(self._endpoints):
                    raise unreachable(failed, only=self._only) from None

    async def _probe(self, endpoint: Endpoint) -> Health:
        request = Request(method="GET", path="/health", timeout_s=PROBE_TIMEOUT_S)
        async with self._transport.request(endpoint, request) as answer:
            self._heard(endpoint, answer)
            if answer.status not in (200, 503):
                await self.refuse(endpoint, answer)
            health = _decode(await _bounded(answer), Health, endpoint)
        if self.home is not None and health.epoch not in (0, self.home.cluster.epoch):
            await self._cross(endpoint, health.epoch)
        return health

    async def _cross(self, endpoint: Endpoint, epoch: int) -> None:
        """Move the home to the cluster's epoch, if a key that it knows signed it. Raises Conflict."""
        async with self._following:  # several are asked at once
            home, _ = self.signer()
            if epoch < home.cluster.epoch:
                what = f"it is still in epoch {epoch}, and this home in {home.cluster.epoch}"
                fix = f"If no agent is in the home's epoch, the home was misled: agent recover --follow {epoch}"
                self._unproven = self._unproven or Conflict(what, where=str(endpoint), fix=fix)
                raise Conflict(what)
            if epoch == home.cluster.epoch:
                return
            request = Request(method="GET", path="/api/v1/epochs", headers=self.headers(), timeout_s=PROBE_TIMEOUT_S)
            told = await self.call(endpoint, request, Epochs)
            try:
                proven = follow(home, told, await asyncio.to_thread(admins_known, home))
            except Conflict as error:
                self._unproven = Conflict(error.what, where=str(endpoint), fix=error.fix)
                raise
            cluster = msgspec.structs.replace(home.cluster, epoch=proven)
            self.home, self._token = msgspec.structs.replace(home, cluster=cluster), None
            with contextlib.suppress(MusterError):  # a home that can't be written works all the same
                self.home = await asyncio.to_thread(remember, home, epoch=proven)
            self.notice(f"the cluster is in epoch {proven} since its majority was lost; this home follows it there")

    def _heard(self, endpoint: Endpoint, answer: Answer) -> None:
        self.clock.heard(answer.header("Date"), time.time())
        if self.clock.wrong and not self._warned:
            self._warned = True
            ahead = self.clock.offset_s
            direction = "behind" if ahead > 0 else "ahead of"
            self.notice(
                f"this machine's clock is {abs(ahead):.0f} s {direction} {endpoint}'s; instructions go by the cluster's"
            )


def home_client(
    home: Home,
    *,
    via: str | None = None,
    others: bool = False,
    key: Ed25519PrivateKey | None = None,
    notice: Notice = lambda text: None,
) -> Client:
    """A client of any member of the home's cluster; with `via` only of that one, or with `others` of that one first.

    `key` signs instead of the home's own, e.g. the recovery key. Reads files: call it outside the event loop. Raises as
    `Home.operator_key`.
    """
    last = ""
    with contextlib.suppress(MusterError):
        last = read_file(home.path / LAST_FILE).decode("utf-8", "replace")
    members = frozenset(member.id for member in home.cluster.members)
    transport: Transport = HttpsTransport(home.trust_anchor, members)
    if destinations := read_destinations(home):
        transport = SshFallback(transport, destinations, notice=notice)
    return Client(
        transport,
        candidates(home.cluster, via=via, last=last, others=others),
        home=home,
        key=key or home.operator_key(),
        notice=notice,
        only=None if others else via,
    )


def socket_client(path: Path, *, home: Home | None = None, notice: Notice = lambda text: None) -> Client:
    """The agent on this host; with a home also for changes. Reads files: call it outside the event loop."""
    endpoint = Endpoint(address=str(path), label=str(path))
    key = home.operator_key() if home is not None else None
    return Client(SocketTransport(path), [endpoint], home=home, key=key, notice=notice)


async def _bounded(answer: Answer) -> bytes:
    """Raises MusterError over MAX_ANSWER_BYTES."""
    parts: list[bytes] = []
    size = 0
    async for part in answer:
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise MusterError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


def _decode(body: bytes, type_: type[T], endpoint: Endpoint) -> T:
    """Decodes an answer of our own cluster by shape alone; a later version's further fields are ignored."""
    try:
        return msgspec.json.decode(body, type=type_)
    except msgspec.MsgspecError as error:
        fix = "Its version may not match this command's: compare `agent members` and `agent --version`."
        raise MusterError(f"its answer isn't understood: {error}", where=str(endpoint), fix=fix) from None


def _known(member: Any) -> KnownMember:
    fields = {name: getattr(member, name) for name in KnownMember.__struct_fields__}
    return convert(fields, KnownMember, "members")
