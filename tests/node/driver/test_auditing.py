"""Reading the ledger's past beside everything else that an agent does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.errors import MusterError
from agent.node.auditing import audit_of
from agent.node.driver.auditing import AuditedLedger
from agent.raft import Configuration, Persist, Snapshot
from agent.storage.audit import AuditLog
from tests.node.cluster import Cluster
from tests.support.ledger import CLUSTER
from tests.support.waiting import wait_for


class Listed(AuditLog):
    """Somebody does something just when the segments are listed."""

    listed: Callable[[list[Path]], None]

    def paths(self) -> list[Path]:
        found = super().paths()
        self.listed(found)
        return found


def past(directory: Path) -> tuple[AuditedLedger, Listed]:
    """Of one agent, in segments of an entry each."""
    cluster = Cluster(1)
    node = cluster.elect()
    log = Listed(directory, CLUSTER, segment_bytes=1)
    log.listed = lambda paths: None
    chain = "0" * 64
    for index in range(2, 6):
        log.append(audit_of(index, b"x", chain, 1, None))
    ledger = AuditedLedger(None, log, b"genesis")  # type: ignore[arg-type]  # the ledger itself isn't asked here
    ledger.driver = SimpleNamespace(core=node.up)  # type: ignore[assignment]  # all of it that is looked at
    return ledger, log


async def test_a_segment_that_goes_while_it_is_to_be_read_is_no_defect(tmp_path: Path) -> None:
    ledger, log = past(tmp_path)
    await log.flush()

    def prune(paths: list[Path]) -> None:
        log.listed = lambda paths: None
        paths[0].unlink()

    log.listed = prune
    assert (await ledger.prove(None)).segments == 3
    log.listed = prune
    assert (await ledger.page(None, None, after=0, limit=10)).lines == ()


async def test_a_disk_that_cannot_read_it_is_told_as_that(tmp_path: Path) -> None:
    ledger, log = past(tmp_path)
    await log.flush()

    def fail(paths: list[Path]) -> None:
        raise OSError(5, "Input/output error")

    log.listed = fail
    with pytest.raises(MusterError, match="can't be read"):
        await ledger.prove(None)


async def test_however_many_ask_it_is_read_for_one_at_a_time(tmp_path: Path) -> None:
    ledger, log = past(tmp_path)
    await log.flush()
    reading, most, go = 0, 0, threading.Event()

    def wait(paths: list[Path]) -> None:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        go.wait()
        reading -= 1

    log.listed = wait
    asking = [asyncio.create_task(ledger.prove(None)) for _ in range(4)]
    await wait_for(lambda: reading > 0)
    for _ in range(100):
        await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*asking)
    assert most == 1


class Forgetting:
    """A ledger that says how much of the past wasn't on the disk when a write came to it."""

    def __init__(self, log: AuditLog) -> None:
        self.log = log
        self.unkept: list[int] = []

    def put(self, _persist: Persist, told: Callable[[Exception | None], None]) -> None:
        self.unkept.append(self.log.waits)
        told(None)


SNAPSHOT = Snapshot(index=5, term=1, configuration=Configuration(voters=("n1",)), data=b"")


async def test_the_past_is_on_the_disk_before_the_ledger_may_forget_it(tmp_path: Path) -> None:
    audited, log = past(tmp_path)
    audited._ledger = forgetting = Forgetting(log)  # type: ignore[assignment]  # all of it that is used
    told: list[Exception | None] = []
    audited.put(Persist(commit=5), told.append)
    assert (forgetting.unkept, told) == ([4], [None])
    audited.put(Persist(snapshot=SNAPSHOT), told.append)
    await wait_for(lambda: len(told) == 2)
    assert (forgetting.unkept, told[1]) == ([4, 0], None)


async def test_a_past_that_cannot_be_kept_keeps_the_snapshot_from_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audited, log = past(tmp_path)
    audited._ledger = forgetting = Forgetting(log)  # type: ignore[assignment]  # as above

    async def fail() -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(log, "flush", fail)
    told: list[Exception | None] = []
    audited.put(Persist(snapshot=SNAPSHOT), told.append)
    await wait_for(lambda: bool(told))
    assert isinstance(told[0], OSError)
    assert forgetting.unkept == []
