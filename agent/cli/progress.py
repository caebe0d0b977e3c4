"""Watches a change until it is done: looks at the newest status whenever something happens."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, aclosing, nullcontext, suppress
from typing import TYPE_CHECKING

from msgspec import Struct, field

from agent.cli.options import Options
from agent.cli.output import console, say, table
from agent.cli.session import notice
from agent.client import Client
from agent.errors import DeploymentFailed, MusterError, NoMajority, TimedOut, Unreachable
from agent.model.instruction import InstructionResult
from agent.model.ledger import Phase
from agent.model.reason import split_reason
from agent.model.status import HostCheck, HostState, ReplicaStatus, ServiceStatus, StackStatus, Status
from agent.tasks import cancel_and_wait

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

LOOK_EVERY_S = 1.0  # when no event comes
LOOK_AGAIN_S = 0.2  # when many come: nobody reads faster, and the hosts have better to do just then than to answer
LISTENS_WITHIN_S = 0.5  # a connection; events that came before it are heard of no more
EVENTS_WITHIN_S = 1.0  # after a status that says it is over; a stream that is being made anew isn't waited for longer
MAX_REPLICAS_NAMED = 4  # of a service, one by one; the fifth makes the line longer than a terminal
MAX_CHECK_LINES = 20  # hosts told one by one; of more only how many are done
SILENCE_S = 15.0  # of a removal: then it is told what to do; what ends as it should takes up to its grace, mostly 10 s
REMOVAL_PATIENCE_S = 90.0  # while nothing goes; a host whose agent was stopped counts as lost after 60
PATIENCE_S = 60.0  # without a member that answers; a coordinator's death takes seconds

_PHASES: tuple[Phase, ...] = ("preparing", "services", "main", "workers", "validating")
_LOST: tuple[HostState, ...] = ("dead", "left")
_ENDS: tuple[Phase, ...] = ("healthy", "stopped", "failed")


class Watch(Struct):
    """One stack on its way to `revision`. `removing`: done when the hosts say that it is gone; `newest`: what it was.

    With `volumes`, which are removed too, it is done when only hosts that are lost have something left.
    """

    client: Client
    options: Options
    stack: str
    revision: int
    removing: bool = False
    volumes: bool = False
    newest: StackStatus | None = None
    _seen: bool = False
    _watched: bool = False
    _began: float = field(default_factory=time.monotonic)
    _left: int = 0
    _left_since: float = field(default_factory=time.monotonic)
    _had: frozenset[str] = frozenset()
    _owing: frozenset[str] = frozenset()
    _lost: frozenset[str] = frozenset()
    _told: dict[str, str] = {}
    _phase: int = -1
    _happened: asyncio.Event = field(default_factory=asyncio.Event)
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    _listens: asyncio.Event = field(default_factory=asyncio.Event)
    _all_heard: asyncio.Event = field(default_factory=asyncio.Event)

    async def until_done(self) -> StackStatus | None:
        """The stack as it is at the end. Raises DeploymentFailed with the last reason."""
        if not self.removing:
            self._say_phase(_PHASES[0])  # every change begins there, and is mostly further before anybody looks
        listening = asyncio.create_task(self._listen())
        try:
            return await self._look()
        except asyncio.CancelledError:
            what = f"the removal of {self.stack}" if self.removing else self.stack
            notice(f"{what} goes on without this command; `agent status` shows how far it is")
            raise
        finally:
            await cancel_and_wait(listening)

    async def _look(self) -> StackStatus | None:
        """The newest status. The first one is asked for once events are followed, so that none after it is missed."""
        await _wait(self._listens, LISTENS_WITHIN_S)
        with self._screen() as screen:
            heard = time.monotonic()
            while True:
                try:
                    status = await self.client.status()
                except (Unreachable, NoMajority, TimedOut) as error:
                    if time.monotonic() - heard >= PATIENCE_S:
                        raise
                    self._once("", error.what)
                else:
                    heard = time.monotonic()
                    if self._judge(status):
                        await self._say_outcome()
                        return self.newest
                    self._watched = True
                    if screen is not None:
                        screen.update(self._picture())
                await _wait(self._ended, LOOK_AGAIN_S)
                await _wait(self._happened, LOOK_EVERY_S)
                self._happened.clear()
                self._ended.clear()

    def _judge(self, status: Status) -> bool:
        """Whether it is over. Raises DeploymentFailed."""
        found = next((stack for stack in status.stacks if stack.name == self.stack), None)
        self._had |= _hosts_of(self.newest)
        if found is None:
            # A member that answers for itself may be behind, so a stack that wasn't seen yet is waited for.
            if not self.removing and (self._seen or time.monotonic() - self._began >= PATIENCE_S):
                raise DeploymentFailed("was removed meanwhile", where=self.stack)
            self._lost = _in_state(status, _LOST)
            return self.removing
        self._seen = True
        if found.revision < self.revision:
            return False
        self.newest = found
        if found.revision > self.revision:
            what = f"{found.changed_by} changed it meanwhile: it is at revision {found.revision}"
            raise DeploymentFailed(what, where=self.stack, fix="`agent status` shows where it stands.")
        self._tell(found)
        if self.removing and self._is_over(found, status):
            return True
        if found.phase == "failed":
            self._say_phase("failed")
            sentence, output = split_reason(found.reason or "without a reason")
            self._last_words(output)
            fix = f"`agent logs {self.stack}` may say more; what ran before runs again where there was anything."
            if sentence.startswith("preparation: "):
                fix = "Mend that, then give the command again."
            raise DeploymentFailed(f"failed: {sentence}", where=self.stack, fix=fix)
        return not self.removing and found.phase in ("healthy", "stopped")

    def _is_over(self, stack: StackStatus, status: Status) -> bool:
        """Whether only lost hosts have something left; these continue by themselves once they are back.

        Raises DeploymentFailed when others haven't confirmed for long that another replica is gone.
        """
        left = sum(len(service.replicas) for service in stack.services)
        if left != self._left:
            self._left, self._left_since = left, time.monotonic()
        silence_s = time.monotonic() - self._left_since
        late, owing = silence_s >= REMOVAL_PATIENCE_S, _hosts_of(stack)
        # One whose agent was stopped may be back soon, so it is waited for like those that are there.
        if self.volumes and owing and owing <= _in_state(status, _LOST if late else ("dead",)):
            self._owing, self._lost = owing, _in_state(status, _LOST)
            return True
        if not self.options.json and silence_s >= SILENCE_S:
            self._advise(owing)
        if late:
            left_of = [f"{service.name}: {_going(service)}" for service in stack.services if service.replicas]
            what = "; ".join(left_of) or stack.reason
            fix = (
                "It continues by itself; `agent status` lists the stack until all hosts have said that theirs are gone."
            )
            raise DeploymentFailed(f"not all of it is gone yet: {what}", where=self.stack, fix=fix)
        return False

    def _advise(self, owing: frozenset[str]) -> None:
        """What to do about hosts that report nothing more; once for each."""
        text = f"{_names(owing)} told nothing new for {SILENCE_S:.0f} s" if owing else "nobody told anything new"
        if self._told.get("advice") != text:
            self._told["advice"] = text
            look = " ".join(("agent doctor", *sorted(owing)))
            notice(f"{text}; `{look}` looks for what is wrong there. Ctrl-C ends this command, and not the removal.")

    async def _say_outcome(self) -> None:
        """The last line. It comes after the events, even if the status was sooner than they were."""
        if self.newest is not None and not self.removing:
            if self._watched:
                await _wait(self._all_heard, EVENTS_WITHIN_S)
            self._say_phase(self.newest.phase)
            return
        if not self.options.json:
            say(f"{self.stack}: removed" + (f", but for what {_names(self._owing)} has of it" if self._owing else ""))
        for text in self._what_stays():
            notice(text)

    def _what_stays(self) -> Iterator[str]:
        """What hosts that couldn't be asked still have of a removed stack, and what becomes of it."""
        if self._owing:
            yield (
                f"{_names(self._owing)} couldn't delete its volumes: that is done once it is back, and until then "
                f"`agent status` lists {self.stack}. If it never comes back, `agent expel` it: a deploy "
                "before that keeps those volumes, and waits for them."
            )
        if silent := (self._lost & self._had) - self._owing:
            yield f"{_names(silent)} couldn't confirm it: what runs there of {self.stack} goes once it is back"
        if self.volumes and (others := self._lost - self._had):
            yield (
                f"{_names(others)} couldn't be asked: volumes that {self.stack} has there from before stay. "
                f"`docker volume ls --filter label=muster.stack={self.stack}` lists them there once it is back."
            )

    async def _listen(self) -> None:
        """Follows events: they make us look sooner than the clock does, and say things that no status keeps."""
        try:
            await self._hear()
        finally:
            self._listens.set()
            self._all_heard.set()

    async def _hear(self) -> None:
        with suppress(MusterError):
            async with aclosing(self.client.events(follow=True, opened=self._listens.set)) as events:
                async for event in events:
                    if event.stack in ("", self.stack):
                        self._happened.set()
                    if (event.stack, event.revision) != (self.stack, self.revision):
                        continue
                    if event.kind == "phase" and event.state in _ENDS:
                        self._ended.set()
                        self._all_heard.set()
                    elif event.kind == "phase":
                        self._say_phase(event.state)
                    elif event.state == "registered":
                        self._once(f"registered {event.service}", f"  {event.what.partition('/')[2]}")

    # What a person sees

    def _screen(self) -> AbstractContextManager[Live | None]:
        if not self.options.live:
            return nullcontext()
        from rich.live import Live

        return Live(console=console(self.options), transient=True, auto_refresh=False, get_renderable=self._picture)

    def _picture(self) -> RenderableType:
        stack = self.newest
        if stack is not None and stack.checks:
            return table(("host", "state", "does"), _check_rows(stack.checks))
        if stack is not None and self.removing:
            if stack.reason:
                return table(("waiting",), [(stack.reason,)])
            going = [(service.name, str(len(service.replicas)), _going(service)) for service in stack.services]
            return table(("service", "left", "where"), going)
        rows = (
            []
            if stack is None
            else [
                (service.name, f"{service.healthy}/{service.wanted}", _hosts(service), _waiting(service))
                for service in stack.services
            ]
        )
        return table(("service", "healthy", "hosts", "waiting for"), rows)

    def _tell(self, stack: StackStatus) -> None:
        """Plain lines for what changed since the last look; on a screen only the phases, above the table.

        How it ended comes last of all, so not here.
        """
        if self.options.json:
            return
        if stack.phase not in _ENDS:
            self._say_phase(stack.phase)
        if not self.options.live:
            for about, text in _check_lines(stack.checks):
                self._once(about, text)
            if self.removing and stack.reason:
                self._once("reason", f"  {stack.reason}")
            for service in stack.services:
                if self.removing:
                    self._once(service.name, f"  {service.name}: {_going(service) or 'gone'}")
                    continue
                waiting = _waiting(service)
                text = f"  {service.name} {service.healthy}/{service.wanted}"
                self._once(service.name, f"{text}: {waiting}" if waiting else text)

    def _say_phase(self, phase: str) -> None:
        """Each phase once, in order: events report those that are over before anybody looks."""
        place = _PHASES.index(phase) if phase in _PHASES else len(_PHASES)
        if place > self._phase and not self.options.json:
            self._phase = place
            say(f"{self.stack}: {phase}")

    def _last_words(self, output: tuple[str, ...]) -> None:
        if output and not self.options.json:
            say("its last output:")
            for line in output:
                say(f"  | {line}")

    def _once(self, about: str, text: str) -> None:
        if self._told.get(about) != text and not self.options.json:
            self._told[about] = text
            say(text)


async def _wait(event: asyncio.Event, at_most_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(at_most_s):
            await event.wait()


def _check_lines(checks: Sequence[HostCheck]) -> Iterator[tuple[str, str]]:
    """(what about, the line) for each host, or for all together when there are many."""
    if len(checks) <= MAX_CHECK_LINES:
        for check in checks:
            yield f"check {check.host} {check.service}", f"  {check.host}: {_does(check)}"
        return
    done = sum(check.state == "ready" for check in checks)
    yield "checks", f"  {done} of {len(checks)} checks by hosts are done"


def _check_rows(checks: Sequence[HostCheck]) -> list[tuple[str, str, str]]:
    """What isn't done yet comes first, as much as fits on a screen."""
    order = ("failed", "working", "ready")
    some = sorted(checks, key=lambda check: order.index(check.state))[:MAX_CHECK_LINES]
    return [(check.host, check.state, _does(check)) for check in some]


def _does(check: HostCheck) -> str:
    if check.kind == "prepare":
        what = {"working": "prepares", "ready": "is ready for", "failed": "can't run"}[check.state]
        text = f"{what} {check.service}"
    else:
        text = {"working": "asks the replicas' ports", "ready": "reaches all", "failed": "doesn't reach all"}[
            check.state
        ]
    return f"{text}: {check.detail}" if check.detail else text


def _hosts(service: ServiceStatus, *, removing: bool = False) -> str:
    """Where its replicas are; for one that was moving when it was removed, where it ran."""
    count = Counter((removing and replica.predecessor) or replica.host for replica in service.replicas)
    return ", ".join(f"{host} {number}" if number > 1 else host for host, number in sorted(count.items()))


def _going(service: ServiceStatus) -> str:
    """What is left of a service that is being removed."""
    text = f"{len(service.replicas)} left, on {_hosts(service, removing=True)}" if service.replicas else ""
    why = next((_why(replica) for replica in service.replicas if replica.reason), "")
    return text + why


def _in_state(status: Status, states: tuple[HostState, ...]) -> frozenset[str]:
    return frozenset(host.name for host in status.hosts if host.state in states)


def _names(hosts: frozenset[str]) -> str:
    return ", ".join(sorted(hosts))


def _hosts_of(stack: StackStatus | None) -> frozenset[str]:
    """Where any of it is, by its status."""
    replicas = [replica for service in (stack.services if stack else ()) for replica in service.replicas]
    return frozenset(host for replica in replicas for host in (replica.host, replica.predecessor) if host)


def _waiting(service: ServiceStatus) -> str:
    """The replicas that aren't there yet, and why; of many, how many are in each state, with one example."""
    waited = [replica for replica in service.replicas if replica.state != "healthy" and service.wanted]
    parts = [f"{replica.slot} on {replica.host} {replica.state}{_why(replica)}" for replica in waited]
    if len(waited) > MAX_REPLICAS_NAMED:
        by_state: dict[str, list[ReplicaStatus]] = {}
        for replica in waited:
            by_state.setdefault(replica.state, []).append(replica)
        parts = [
            f"{len(some)} {state}, such as {one.slot} on {one.host}{_why(one)}"
            for state, some in sorted(by_state.items())
            for one in [next((replica for replica in some if replica.reason), some[0])]
        ]
    return "; ".join([*parts, *([service.pending] if service.pending else [])])


def _why(replica: ReplicaStatus) -> str:
    return f" ({split_reason(replica.reason)[0]})" if replica.reason else ""


async def follow(
    client: Client,
    options: Options,
    result: InstructionResult,
    *,
    detach: bool,
    removing: bool = False,
    volumes: bool = False,
    before: StackStatus | None = None,
) -> StackStatus | None:
    """Print what was accepted, and watch it to its end unless `detach`.

    `before`: the stack that is removed, as it was; `volumes`: whether its volumes are removed too.
    """
    stack = result.target.partition(":")[2]
    if not options.json:
        say(f"{stack}: accepted as revision {result.revision}")
    if detach:
        return None
    watch = Watch(client, options, stack, result.revision, removing=removing, volumes=volumes, newest=before)
    return await watch.until_done()
