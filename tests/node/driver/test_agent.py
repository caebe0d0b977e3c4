"""How the agent's parts are put together."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent.errors import StorageError
from agent.model.expulsion import Expulsion
from agent.node.driver.agent import _keep_expelled
from agent.storage.identity import DIRECTORY, EXPELLED
from tests.support.waiting import wait_for

KNOWN = Expulsion(by="ann", at="2026-01-01T00:00:00Z", epoch=1)


async def test_that_it_was_expelled_gets_to_the_disk(tmp_path: Path) -> None:
    (tmp_path / DIRECTORY).mkdir()
    _keep_expelled(tmp_path, KNOWN)
    await wait_for(lambda: (tmp_path / DIRECTORY / EXPELLED).exists())


async def test_where_that_fails_it_is_for_the_loops_handler_which_ends_the_agent(tmp_path: Path) -> None:
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    _keep_expelled(tmp_path, KNOWN)
    await wait_for(lambda: told)
    assert told[0]["message"] == "keeping that it was expelled failed"
    assert isinstance(told[0]["exception"], StorageError)
