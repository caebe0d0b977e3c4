"""Writes the ledger and its past together: the past is on disk before the ledger forgets it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import msgspec

from agent.errors import MusterError, TooMany
from agent.instruction import covers_stack
from agent.model.audit import AuditPage, AuditProof
from agent.model.cluster import Operator
from agent.node.driver.loop import Driver
from agent.node.effects import Audit
from agent.raft import Persist, Snapshot
from agent.state import chain_of_genesis
from agent.storage.audit import AuditLog
from agent.storage.audit_reading import page, prove
from agent.storage.ledger import Ledger, Told

FLUSH_EVERY_S = 1.0  # a crash costs nothing but applying again
FLUSH_ENTRIES = 1_000  # then at once: bounds the memory
READ_TRIES = 3  # a segment goes about as often as one is filled, so that once is rare

_T = TypeVar("_T")


class AuditedLedger:
    """The driver's disk (`agent.node.driver.loop.Disk`). `driver` is set once there is one; it takes the failures.

    `genesis` is the ledger's entry 1.
    """

    def __init__(self, ledger: Ledger, log: AuditLog, genesis: bytes) -> None:
        self.driver: Driver | None = None
        self._ledger, self._log, self._genesis = ledger, log, genesis
        self._timer: asyncio.TimerHandle | None = None
        self._flushes: set[asyncio.Task[None]] = set()
        self._puts: set[asyncio.Task[None]] = set()
        self._reading = asyncio.Lock()

    def keep(self, entry: Audit) -> None:
        """An entry was applied."""
        self._log.append(entry)
        if self._log.waits >= FLUSH_ENTRIES:
            self._flush_soon()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_EVERY_S, self._flush_soon)

    def _flush_soon(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._flushes:
            task = asyncio.create_task(self._flush(), name="audit")
            self._flushes.add(task)
            task.add_done_callback(self._flushes.discard)

    async def _flush(self) -> None:
        try:
            await self._log.flush()
        except Exception as error:  # noqa: BLE001 handed to the driver, which ends the process with it
            assert self.driver is not None
            self.driver.fail(error)

    def set_verified_through(self, index: int) -> None:
        """See Ledger."""
        self._ledger.set_verified_through(index)

    def put(self, persist: Persist, told: Told) -> None:
        """See Ledger. With a snapshot the log may be compacted: its entries are added to the past first."""
        if persist.snapshot is None:
            self._ledger.put(persist, told)
        else:
            task = asyncio.create_task(self._put_behind_past(persist, told), name="ledger")
            self._puts.add(task)
            task.add_done_callback(self._puts.discard)

    async def _put_behind_past(self, persist: Persist, told: Told) -> None:
        try:
            await self._log.flush()
            self._ledger.put(persist, told)
        except Exception as error:  # noqa: BLE001 handed to whoever waits, who ends the process with it
            told(error)

    async def begin_epoch(self, snapshot: Snapshot) -> None:
        """See Ledger."""
        await self._log.flush()
        await self._ledger.begin_epoch(snapshot)

    async def close(self) -> None:
        """Everything is on disk, and both are closed."""
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.gather(*self._flushes)
        await self._flush()
        await self._ledger.close()

    # Reading

    async def page(self, reader: Operator | None, target: str | None, *, after: int, limit: int) -> AuditPage:
        """Instructions after the index `after`, on `target` if one is named, as far as `reader` may see them."""
        assert self.driver is not None
        state = self.driver.core.context.state
        born, now = chain_of_genesis(self._genesis), (state.index, state.chain)
        await self._log.flush()

        def shows(found: str) -> bool:
            kind, _, name = found.partition(":")
            return target in (None, found) and (reader is None or kind != "stack" or covers_stack(reader, name))

        return await self._read(
            lambda: page(self._log, self._name, after=after, limit=limit, shows=shows, born=born, now=now)
        )

    async def prove(self, at: int | None) -> AuditProof:
        """Reads everything, computes its chain again, and compares it with this agent's own ledger."""
        assert self.driver is not None
        context = self.driver.core.context
        state = context.state
        await self._log.flush()
        voter = context.id in context.raft.configuration.voters
        whole = await self._read(lambda: prove(self._log, self._name, voter=voter, at=state.index))
        if voter and whole.chain and whole.chain != state.chain:
            whole = msgspec.structs.replace(whole, broken=whole.broken or "its end isn't what the ledger here says")
        if at is None or whole.broken:
            return whole
        return await self._read(lambda: prove(self._log, self._name, voter=voter, at=at))

    async def _read(self, read: Callable[[], _T]) -> _T:
        """One at a time: each may read all that is kept, and the ledger's own writes need the threads too.

        Raises MusterError when the disk fails.
        """
        async with self._reading:
            for _ in range(READ_TRIES):
                try:
                    return await asyncio.to_thread(read)
                except FileNotFoundError:
                    continue  # the oldest segment went meanwhile
                except OSError as error:
                    raise MusterError(f"the ledger's past can't be read: {error.strerror}", where=self._name) from error
        raise TooMany("segments of the ledger's past go faster than they are read", fix="Try again in a second.")

    @property
    def _name(self) -> str:
        assert self.driver is not None
        return self.driver.core.context.own_name
