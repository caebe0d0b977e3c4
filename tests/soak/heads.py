"""`python -m tests.soak.heads HOME`: the head of every member's ledger, as [name, index, chain], at the desk."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from agent.client import home_client
from agent.home import open_home


async def heads(home: Path) -> list[tuple[str, int, str]]:
    """Of those that answer."""
    async with home_client(open_home(home)) as client:
        return [(found.survivor.name, found.index, found.chain) for found in await client.recoveries()]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(heads(Path(sys.argv[1])))))
