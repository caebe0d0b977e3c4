from __future__ import annotations

import aiohttp

from tests.support.fake_node import RunningNode


async def test_health_is_open_to_everybody(anonymous: aiohttp.ClientSession) -> None:
    async with anonymous.get("/health") as response:
        assert response.status == 200
        assert (await response.json())["ok"] is True


async def test_status(client: aiohttp.ClientSession) -> None:
    async with client.get("/api/v1/deployment/status") as response:
        assert response.status == 200, await response.text()
        print(await response.json(), response.headers)
