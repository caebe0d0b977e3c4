"""Whom to dial, where and when: a back-off for each wanted peer, and for each address whose agent isn't known yet."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

from msgspec import Struct, field

from agent.net.addresses import MAX_ANONYMOUS_ADDRESSES, Address, AddressBook
from agent.tasks import cancel_and_wait

# Handshakes under way that we began: each costs both sides about 3 ms of processor.
MAX_DIALS: Final = 32

# A hint says "it is there now" and ends the wait; but hints are anybody's, so no more often than this.
HINT_INTERVAL_S: Final = 0.25

# An address from a beacon that answers to nobody is forgotten until it is heard again; seeds are kept for ever.
MAX_ANONYMOUS_ATTEMPTS: Final = 6


class BackOff(Struct, frozen=True, kw_only=True):
    """Waits of first_s, doubled up to max_s, each times 0.5 … 1 so that two peers don't stay in step.

    A link that was up for stable_s resets the back-off. A lower first_s forms clusters sooner; a higher max_s makes a
    returning host wait that much longer, unless its beacon is heard.
    """

    first_s: float = 0.050
    max_s: float = 5.0
    stable_s: float = 5.0

    def wait_s(self, attempt: int, rng: random.Random) -> float:
        """The wait after `attempt` failures (0, 1, …), seconds."""
        return min(self.max_s, self.first_s * 2.0 ** min(attempt, 32)) * (0.5 + rng.random() / 2)


class Dial(Protocol):
    """Tries one address; true when a link with that peer is up afterwards, however it came about."""

    def __call__(self, address: Address, expected: str | None) -> Awaitable[bool]: ...


class _Target(Struct):
    """Somebody to be dialled: `id` is None while only an address is known."""

    id: str | None
    address: Address | None
    firm: bool
    attempts: int = 0
    last_reset: float = float("-inf")
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Dialler:
    """Keeps trying until every wanted peer is linked. The table reports what is up and down."""

    def __init__(
        self,
        dial: Dial,
        is_linked: Callable[[str], bool],
        is_linked_at: Callable[[Address], bool],
        rng: random.Random,
        back_off: BackOff,
    ) -> None:
        self._dial = dial
        self._is_linked = is_linked
        self._is_linked_at = is_linked_at
        self._rng = rng
        self._back_off = back_off
        self._slots = asyncio.Semaphore(MAX_DIALS)
        self._under_way: dict[Address, asyncio.Future[None]] = {}
        self._wanted: dict[str, _Target] = {}
        self._anonymous: dict[Address, _Target] = {}
        self._stopped = False
        self.book = AddressBook()

    # --- what the table tells ---

    def want(self, ids: Iterable[str]) -> None:
        """Exactly these peers are wanted."""
        ids = set(ids)
        for gone in self._wanted.keys() - ids:
            self._cancel(self._wanted.pop(gone))
        for new in sorted(ids - self._wanted.keys()):
            self._wanted[new] = _Target(id=new, address=None, firm=True)
            self._pursue(self._wanted[new])
        self._wake_anonymous()

    def hint(self, peer: str | None, address: Address, *, firm: bool) -> None:
        """An agent may be at `address`; ends a wait, unless one just ended."""
        if peer is not None:
            new = self.book.add(peer, address, firm=firm)
            if (target := self._wanted.get(peer)) is not None:
                self._reset(target, force=new and firm)
            return
        target = self._anonymous.get(address)
        if target is None:
            if not self._make_room(firm=firm):
                return
            target = self._anonymous[address] = _Target(id=None, address=address, firm=firm)
        target.firm = target.firm or firm
        self._reset(target, force=False)
        self._pursue(target)

    def forget(self, address: Address) -> None:
        """There is nobody to link with, e.g. it is ourselves."""
        if (target := self._anonymous.pop(address, None)) is not None:
            self._cancel(target)

    def went_down(self, peer: str, was_up_s: float) -> None:
        """The link with `peer` is gone after that long: dial again."""
        if (target := self._wanted.get(peer)) is not None:
            if was_up_s >= self._back_off.stable_s:
                target.attempts = 0
            self._pursue(target)
        self._wake_anonymous()

    async def stop(self) -> None:
        """End all attempts."""
        self._stopped = True
        tasks = [t.task for t in (*self._wanted.values(), *self._anonymous.values()) if t.task is not None]
        await cancel_and_wait(*tasks)

    # --- the attempts ---

    def _pursue(self, target: _Target) -> None:
        if self._stopped or (target.task is not None and not target.task.done()):
            return
        run = self._pursue_peer(target) if target.id is not None else self._pursue_address(target)
        target.task = asyncio.get_running_loop().create_task(run, name=f"dial {target.id or target.address}")

    async def _pursue_peer(self, target: _Target) -> None:
        assert target.id is not None
        if target.attempts:  # it was linked for a moment only: somebody there doesn't want us
            await self._wait(target)
        while not self._is_linked(target.id):
            for address in self.book.addresses(target.id):
                await self._free(address)
                if self._is_linked(target.id) or await self._dial_one(address, target.id):
                    break
            if self._is_linked(target.id):
                target.attempts += 1  # counts until the link has proved stable
            else:
                await self._wait(target)

    async def _pursue_address(self, target: _Target) -> None:
        assert target.address is not None
        while target.firm or target.attempts < MAX_ANONYMOUS_ATTEMPTS:
            if self._is_linked_at(target.address) or not self._searching(target.address):
                if not target.firm:
                    break
                target.attempts = 0
                target.wake.clear()
                await target.wake.wait()  # `want` and `went_down` tell when it may be of use again
                continue
            await self._free(target.address)
            up = self._is_linked_at(target.address) or await self._dial_one(target.address, None)
            if not up:
                await self._wait(target)
            elif not target.firm:
                break
        if self._anonymous.get(target.address) is target:
            del self._anonymous[target.address]

    async def _free(self, address: Address) -> None:
        """Waits until nobody dials there: a seed mostly is a member's address too, and one handshake answers both."""
        while (under_way := self._under_way.get(address)) is not None:
            await asyncio.wait([under_way])

    async def _dial_one(self, address: Address, expected: str | None) -> bool:
        done = self._under_way[address] = asyncio.get_running_loop().create_future()
        try:
            async with self._slots:
                return await self._dial(address, expected)
        finally:
            del self._under_way[address]
            done.set_result(None)

    def _searching(self, address: Address) -> bool:
        """Whether one we want could be there, or nobody is known at all.

        Not where somebody else is known to be: all hosts are each other's seeds, and of a thousand that look for one
        each would be linked with all.
        """
        if not self._wanted:
            return True
        owner = self.book.owner(address)
        return (owner is None or owner in self._wanted) and not all(map(self._is_linked, self._wanted))

    async def _wait(self, target: _Target) -> None:
        wait_s = self._back_off.wait_s(target.attempts, self._rng)
        target.attempts += 1
        await self._sleep(target, wait_s)

    async def _sleep(self, target: _Target, wait_s: float) -> None:
        target.wake.clear()
        try:
            async with asyncio.timeout(wait_s):
                await target.wake.wait()
        except TimeoutError:
            return

    def _reset(self, target: _Target, *, force: bool) -> None:
        now = asyncio.get_running_loop().time()
        if force or now - target.last_reset >= HINT_INTERVAL_S:
            target.last_reset = now
            target.attempts = 0
            target.wake.set()

    def _wake_anonymous(self) -> None:
        for target in self._anonymous.values():
            target.wake.set()

    def _make_room(self, *, firm: bool) -> bool:
        if len(self._anonymous) < MAX_ANONYMOUS_ADDRESSES:
            return True
        loose = next((a for a, t in self._anonymous.items() if not t.firm), None)
        if loose is None or not firm:
            return False
        self.forget(loose)
        return True

    def _cancel(self, target: _Target) -> None:
        if target.task is not None:
            target.task.cancel()
