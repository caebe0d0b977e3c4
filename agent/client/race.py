"""Finding a member that answers: one after another, without waiting long for any (after RFC 8305, Happy Eyeballs)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

from agent.client.endpoints import Endpoint
from agent.client.http import TransportError
from agent.errors import MusterError, Unreachable
from agent.tasks import cancel_and_wait

T = TypeVar("T")

NEXT_AFTER_S = 0.25  # RFC 8305 §5
BETTER_WITHIN_S = 1.0  # how long an answer that is only second best waits for a good one
MAX_TOLD = 10  # addresses that the error lists


class Race(Generic[T]):
    """`probe` asks one endpoint; `good` says whether its answer is what we want, or only better than none."""

    def __init__(
        self, probe: Callable[[Endpoint], Awaitable[T]], good: Callable[[T], bool], *, only: str | None = None
    ) -> None:
        self._probe = probe
        self._good = good
        self._only = only
        self._running: dict[asyncio.Task[T], Endpoint] = {}
        self._second: tuple[Endpoint, T] | None = None
        self.failures: dict[Endpoint, str] = {}

    async def run(self, endpoints: Sequence[Endpoint], failed: Mapping[Endpoint, str]) -> tuple[Endpoint, T]:
        """The first good answer, else the first one. `failed` were tried by the caller. Raises Unreachable."""
        self.failures.update(failed)
        waiting = [endpoint for endpoint in endpoints if endpoint not in failed]
        try:
            while waiting or self._running:
                if waiting:
                    endpoint = waiting.pop(0)
                    self._running[asyncio.ensure_future(self._probe(endpoint))] = endpoint
                timeout = NEXT_AFTER_S if waiting else (BETTER_WITHIN_S if self._second is not None else None)
                done, _ = await asyncio.wait(self._running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    winner = self._judge(task)
                    if winner is not None:
                        return winner
                if not done and not waiting and self._second is not None:
                    break
        finally:
            await cancel_and_wait(*self._running)
        if self._second is not None:
            return self._second
        raise unreachable(self.failures, only=self._only)

    def _judge(self, task: asyncio.Task[T]) -> tuple[Endpoint, T] | None:
        endpoint = self._running.pop(task)
        error = task.exception()
        if error is not None:
            if not isinstance(error, TransportError | MusterError):
                raise error
            self.failures[endpoint] = str(error)
            return None
        answer = task.result()
        if self._good(answer):
            return endpoint, answer
        self._second = self._second or (endpoint, answer)
        return None


def unreachable(failures: Mapping[Endpoint, str], *, only: str | None = None) -> Unreachable:
    """Names each address and why. `only`: the one host that was to be asked."""
    if not failures:
        fix = "Name one with --via HOST, or run `bootstrap install`, which notes the members' addresses."
        return Unreachable("no member's address is known", fix=fix)
    told = [f"{endpoint}: {reason}" for endpoint, reason in list(failures.items())[:MAX_TOLD]]
    if len(failures) > MAX_TOLD:
        told.append(f"and {len(failures) - MAX_TOLD} more")
    foreign = all("certificate" in reason or "home doesn't know" in reason for reason in failures.values())
    look = "(`systemctl status muster-agent`) and 9999/tcp is open"
    fix = f"Check whether the agents run {look}; --via HOST asks only that one."
    if only is not None and all(endpoint.id is None for endpoint in failures):
        fix = f"This home knows no member {only}, so it was asked as an address; `agent members` lists them."
    elif only is not None:
        fix = f"Only {only} was asked, as --via says. Look whether its agent runs {look}; without --via any is asked."
    if foreign:
        fix = "These are other clusters' hosts: check --home and the addresses."
    return Unreachable("no agent answered: " + "; ".join(told), fix=fix)
