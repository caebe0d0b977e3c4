"""The ledger's async face: one writer thread, one transaction for all writes that wait (group commit).

    ledger, boot = await Ledger.open(path, agent_id=…, genesis_entry=…)
    ledger.put(ready.persist, told)       # `told` is called when it is on disk (fsync)

A failed write is fatal: what is on disk is unknown from then on (fsyncgate), so every later write raises as well; the
driver ends the process, and the next start reads what is really there.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from agent.errors import InvariantBroken
from agent.raft import Boot, Entry, Persist, Snapshot
from agent.storage.database import LedgerFile, NewEpoch

__all__ = ["MAX_GROUPED_WRITES", "Ledger", "Told"]

MAX_GROUPED_WRITES = 256  # one transaction's worth: bounds how long the first of them waits for the last

Told = Callable[[Exception | None], None]
"""Called on the event loop once a write is on the disk, or with what it failed with."""

_Job = tuple[Persist | NewEpoch, Told]


class Ledger:
    """An open ledger. All methods are the event loop's; the file is the writer thread's. Made by `open`."""

    def __init__(self, file: LedgerFile, jobs: queue.SimpleQueue[_Job | None], thread: threading.Thread) -> None:
        self._file = file
        self._jobs = jobs
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._failure: Exception | None = None
        self._verified_through = 0
        self._closed = False
        self.commits = 0

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        agent_id: str,
        genesis_entry: Entry,
        ledger_id: str | None = None,
        least_starts: int = 0,
    ) -> tuple[Ledger, Boot]:
        """Open the ledger at `path`, or make it with `genesis_entry` (index 1, term 0) as its first.

        `ledger_id` is what the identity names as its ledger: then none is made, and another one is refused, as is one
        that counts fewer than `least_starts`.
        Raises NeedsRepair when the file can't be vouched for, StorageError when it can't be opened now.
        """
        loop = asyncio.get_running_loop()
        jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        opened: asyncio.Future[LedgerFile] = loop.create_future()
        started: queue.SimpleQueue[Ledger] = queue.SimpleQueue()

        def run() -> None:
            try:
                file = LedgerFile(
                    path,
                    agent_id=agent_id,
                    genesis_entry=genesis_entry,
                    ledger_id=ledger_id,
                    least_starts=least_starts,
                )
            except BaseException as error:  # noqa: BLE001 handed to whoever awaits, who raises it
                _tell(loop, opened, error)
                return
            _tell(loop, opened, None, file)
            started.get()._run()

        thread = threading.Thread(target=run, name="ledger", daemon=True)
        thread.start()
        file = await asyncio.shield(opened)
        ledger = cls(file, jobs, thread)
        started.put(ledger)
        return ledger, file.boot

    @property
    def ledger_id(self) -> str:
        """The id that the identity has to name."""
        return self._file.ledger_id

    def put(self, persist: Persist, told: Told) -> None:
        """Put `persist` on disk, beginning now; writes that wait together share one transaction and one fsync.

        `told` gets StorageError when the disk fails, InvariantBroken when `persist` contradicts the log; both for ever,
        also raised here from then on: the process has to end. A future would tell it a turn of the loop later.
        """
        if persist.truncate_from is not None:
            self._verified_through = min(self._verified_through, max(persist.truncate_from - 1, 0))
        self._put(persist, told)

    async def begin_epoch(self, snapshot: Snapshot) -> None:
        """Begin again with a proven snapshot of a later epoch, instead of all that is here. Raises what `put` tells.

        The agent has to start anew from what is on the disk then.
        """
        self._verified_through = 0
        done: asyncio.Future[None] = self._loop.create_future()
        self._put(NewEpoch(snapshot=snapshot), partial(_settle, done))
        await done

    def _put(self, item: Persist | NewEpoch, told: Told) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise InvariantBroken("the ledger is closed")
        self._jobs.put((item, told))

    def set_verified_through(self, index: int) -> None:
        """Entries up to `index` had their signatures checked; goes to disk with the next write."""
        self._verified_through = max(self._verified_through, index)

    async def close(self) -> None:
        """Finish what is queued and close the file."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    # --- the writer thread ---

    def _run(self) -> None:
        last = False
        while not last:
            batch, last = self._next_batch()
            if batch:
                self._write_batch(batch)
        self._file.close()

    def _next_batch(self) -> tuple[list[_Job], bool]:
        """Wait for a write, and take all that came in the meantime. The second is true at the end."""
        batch: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            batch.append(job)
            if len(batch) >= MAX_GROUPED_WRITES:
                return batch, False
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _write_batch(self, batch: list[_Job]) -> None:
        if self._failure is None:
            try:
                self._file.commit([item for item, _ in batch], self._verified_through)
                self.commits += 1
            except Exception as error:  # noqa: BLE001 whoever waits raises it, and the process ends
                self._failure = error
        failure = self._failure
        _call(self._loop, lambda: _tell_all([told for _, told in batch], failure))
        if failure is None:
            self._give_back()

    def _give_back(self) -> None:
        """After whoever waits was told: it may take as long as many writes."""
        try:
            self._file.give_back()
        except Exception as error:  # noqa: BLE001 the next write raises it, and the process ends
            self._failure = error


def _tell_all(waiting: list[Told], failure: Exception | None) -> None:
    for told in waiting:
        told(failure)


def _settle(future: asyncio.Future[Any], failure: BaseException | None, value: object = None) -> None:
    if future.done():
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(value)


def _tell(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], failure: BaseException | None, value: object = None
) -> None:
    _call(loop, lambda: _settle(future, failure, value))


def _call(loop: asyncio.AbstractEventLoop, action: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(action)
    except RuntimeError:  # the loop is closed: nobody waits any more
        return
