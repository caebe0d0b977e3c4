"""`python -m tests.soak.writers HOME OUT --for S`: operators who sign one instruction after another, at the desk.

Two share a target, so that they race for its revisions. Each instruction goes to any host; what isn't answered is sent
again, to another, a few times, and stays open then. OUT gets one line for each, when it is over.
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from agent.client import Client, home_client
from agent.client.endpoints import Endpoint
from agent.client.http import Request, TransportError
from agent.client.instructions import Submission
from agent.errors import Conflict, MusterError
from agent.home import open_home
from agent.model.instruction import Cancel, InstructionResult
from tests.sim.linear import Answered
from tests.soak.history import Written

ANSWER_S = 4.0  # then it goes to somebody else
TRIES = 8
REST_S = 0.05  # between an answer and the next instruction, at most
RETRY_S = 0.3


class Writer:
    """One operator at work on one target."""

    def __init__(self, client: Client, hosts: list[str], target: str, out: BinaryIO) -> None:
        self._client = client
        self._hosts = hosts
        self._target = target
        self._out = out
        self._revision = 0

    async def work(self, until: float) -> None:
        """One after the other until that moment of the monotonic clock."""
        while time.monotonic() < until:
            await self._write()
            await asyncio.sleep(random.random() * REST_S)

    async def _write(self) -> None:
        submission = Submission.sign(self._client, "cancel", self._target, self._revision + 1, Cancel())
        through: list[str] = []
        invoked, returned, outcome = time.monotonic(), None, None
        for _ in range(TRIES):
            through.append(random.choice(self._hosts))
            outcome = await self._send(submission, through[-1])
            if outcome is not None:
                returned = time.monotonic()
                break
            await asyncio.sleep(random.random() * RETRY_S)
        if outcome == "applied":
            self._revision = max(self._revision, submission.revision)
        else:
            await self._look()
        written = Written(
            target=self._target,
            revision=submission.revision,
            jti=submission.jti,
            invoked=invoked,
            returned=returned,
            outcome=outcome,
            through=tuple(through),
        )
        self._out.write(msgspec.json.encode(written) + b"\n")
        self._out.flush()

    async def _send(self, submission: Submission, host: str) -> Answered | None:
        """None: not answered, or by a fault, after which it may still happen."""
        request = Request(
            method="POST",
            path="/api/v1/instructions",
            headers={"Authorization": f"Bearer {submission.token}", "Content-Type": "application/json"},
            body=submission.body,
            timeout_s=ANSWER_S,
        )
        try:
            async with asyncio.timeout(ANSWER_S):
                result = await self._client.call(self._endpoint(host), request, InstructionResult)
        except Conflict:
            return "conflict"
        except (MusterError, TransportError, TimeoutError):
            return None
        assert result.outcome == "applied", result
        return "applied"

    async def _look(self) -> None:
        """Somebody else was faster, or nobody answered: what does a host know?"""
        try:
            async with asyncio.timeout(ANSWER_S):
                self._revision = max(self._revision, (await self._client.target(self._target)).revision)
        except (MusterError, TransportError, TimeoutError):
            return

    def _endpoint(self, host: str) -> Endpoint:
        endpoint = self._client.endpoint_of(host)
        assert endpoint is not None, f"the home knows {host}"
        return endpoint


async def _all(home: Path, out: BinaryIO, seconds: float, operators: int) -> None:
    async with home_client(open_home(home)) as client:
        members = await client.members()  # tells the cluster's time, too, which tokens go by
        hosts = [member.name for member in members.members]
        until = time.monotonic() + seconds
        writers = [Writer(client, hosts, f"stack:soak{number // 2}", out) for number in range(operators)]
        await asyncio.gather(*(writer.work(until) for writer in writers))


@click.command()
@click.argument("home", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--for", "seconds", type=float, required=True)
@click.option("--operators", default=4, show_default=True)
def main(home: Path, out: Path, seconds: float, operators: int) -> None:
    """Write until the time is over."""
    with out.open("wb") as file:
        asyncio.run(_all(home, file, seconds, operators))


if __name__ == "__main__":
    main()
