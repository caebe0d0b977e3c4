"""Submits one signed instruction: resends the same token until it is answered or has expired, then asks by jti."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from msgspec import Struct

from agent.client.http import NotConnected, Request, TransportError
from agent.errors import Conflict, MusterError, NoMajority, NotFound, TimedOut, TooMany, Unreachable
from agent.home import remember_seen, seen_index
from agent.instruction import MAX_TTL_S, encode_body, new_jti, sign_instruction
from agent.model.instruction import Act, Body, InstructionResult
from agent.model.types import Digest, Jti, Target

if TYPE_CHECKING:
    from agent.client.client import Client

SUBMIT_TIMEOUT_S = 15.0  # an agent answers within 10
RETRY_S = 0.5  # between two tries
PATIENCE_S = 15.0  # for a coordinator, as long as it is certain that nothing was changed


class Submission(Struct, kw_only=True):
    """One instruction under way. `uncertain`: it was sent, and its outcome isn't known."""

    client: Client
    act: Act
    target: Target
    revision: int
    jti: Jti
    token: str
    body: bytes
    expires_s: float
    began_s: float
    uncertain: bool = False

    @classmethod
    def sign(cls, client: Client, act: Act, target: Target, revision: int, body: Body | Digest) -> Submission:
        """By the cluster's clock; a digest names a body that the cluster holds. Raises InputError without a home."""
        home, key = client.signer()
        digest = body if isinstance(body, str) else None
        data = b"" if isinstance(body, str) else encode_body(body)
        jti, now_s = new_jti(), client.now()
        token = sign_instruction(
            key,
            operator_name=home.operator.name,
            cluster=home.cluster.id,
            epoch=home.cluster.epoch,
            act=act,
            target=target,
            revision=revision,
            body_bytes=data,
            now_s=now_s,
            jti=jti,
            digest=digest,
        )
        return cls(
            client=client,
            act=act,
            target=target,
            revision=revision,
            jti=jti,
            token=token,
            body=data,
            expires_s=int(now_s) + MAX_TTL_S,
            began_s=now_s,
        )

    async def bring_in(self) -> InstructionResult:
        """The ledger's answer. Raises as `Client.submit`."""
        home, _ = self.client.signer()
        seen = await asyncio.to_thread(seen_index, home)
        try:
            result = await self._bring_in()
        except asyncio.CancelledError:  # by Ctrl-C
            if self.uncertain:
                self.client.notice(f"{self.act} {self.target} was sent, and may be taken all the same. {self._fix}")
            raise
        if result.repeated or result.outcome != "applied":
            return result
        if result.index <= seen:
            self.client.notice(
                f"the cluster went back: this change is entry {result.index} of its ledger, and entry {seen} was seen "
                "from here before. All its hosts were put back to an earlier state; what was changed since is gone: "
                "compare `agent status` with what should run"
            )
        with contextlib.suppress(MusterError):  # a home that can't be written works all the same
            await asyncio.to_thread(remember_seen, home, result.index)
        return result

    async def _bring_in(self) -> InstructionResult:
        while self.client.now() < self.expires_s:
            try:
                return await self._send()
            except (NoMajority, TimedOut, TooMany, Unreachable) as error:
                self.uncertain = self.uncertain or isinstance(error, TimedOut)
                if not self.uncertain and self.client.now() - self.began_s >= PATIENCE_S:
                    raise
                self.client.notice(f"{error.what}; trying again")
            except Conflict:
                if not self.uncertain:
                    raise
                return await self._ask()
            await asyncio.sleep(RETRY_S)
        return await self._ask()

    async def bring_to(self, path: str) -> InstructionResult:
        """The answer of the member that is asked, sent once: for an instruction that isn't for the whole ledger. Raises
        as `bring_in`.
        """
        return await self._send(path)

    async def _send(self, path: str = "/api/v1/instructions") -> InstructionResult:
        endpoint = await self.client.connect()
        request = Request(
            method="POST",
            path=path,
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
            body=self.body,
            timeout_s=SUBMIT_TIMEOUT_S,
        )
        try:
            return await self.client.call(endpoint, request, InstructionResult)
        except NoMajority:
            self.client.lost(endpoint)  # another one may be on the majority's side
            raise
        except NotConnected as error:
            self.client.lost(endpoint)
            raise Unreachable(f"{endpoint}: {error}") from None
        except TransportError as error:
            self.client.lost(endpoint)
            raise TimedOut(f"{endpoint}: {error}") from None
        except asyncio.CancelledError:
            self.uncertain = True
            raise

    @property
    def _fix(self) -> str:
        """The fix for a person who doesn't know its outcome."""
        return (
            f"Look at `agent status`: it was taken if its revision is {self.revision}. If it wasn't, "
            f"`agent cancel {self.target} --jti {self.jti}` sees that it never is; then give the command again."
        )

    async def _ask(self) -> InstructionResult:
        """Its outcome. Raises TimedOut when nobody knows."""
        try:
            result = await self.client.instruction(self.jti)
        except NotFound:
            raise TimedOut(
                f"{self.act} {self.target}: what became of it isn't known",
                where=f"jti {self.jti}",
                fix=self._fix,
            ) from None
        if result.outcome != "applied":
            raise MusterError(result.what or result.outcome, where=self.target, fix=result.fix)
        return result
