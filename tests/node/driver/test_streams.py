"""Many streams as one: order, bounds, errors, and nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from agent.node.driver.streams import together
from tests.support.waiting import wait_for


class Source:
    """Gives `count` items; then it ends, fails or waits."""

    def __init__(self, name: str, count: int, *, end: Exception | str = "end") -> None:
        self.name, self.count, self.end = name, count, end
        self.given = 0
        self.closed = False

    async def items(self) -> AsyncGenerator[str]:
        try:
            for number in range(self.count):
                self.given += 1
                yield f"{self.name}{number}"
            if isinstance(self.end, Exception):
                raise self.end
            if self.end == "wait":
                await asyncio.Event().wait()
        finally:
            self.closed = True


async def everything(*sources: Source, ahead: int = 10) -> list[str]:
    async with aclosing(together([source.items() for source in sources], ahead)) as batches:
        return [item async for batch in batches for item in batch]


async def test_each_source_keeps_its_order_and_all_of_it_comes() -> None:
    got = await everything(Source("a", 25), Source("b", 3), Source("c", 0))
    assert [item for item in got if item[0] == "a"] == [f"a{number}" for number in range(25)]
    assert [item for item in got if item[0] == "b"] == ["b0", "b1", "b2"]
    assert len(got) == 28


async def test_no_source_is_no_stream() -> None:
    assert await everything() == []


async def test_a_slow_reader_holds_the_sources_back() -> None:
    source = Source("a", 1000)
    async with aclosing(together([source.items()], 5)) as batches:
        await anext(batches)
        for _ in range(20):
            await asyncio.sleep(0)
        assert source.given <= 12
    assert source.closed


async def test_what_came_before_an_error_is_read_before_it_is_raised() -> None:
    other = Source("b", 1, end="wait")
    got: list[str] = []

    async def read() -> None:
        async with aclosing(together([Source("a", 3, end=ValueError("broken")).items(), other.items()], 10)) as batches:
            async for batch in batches:
                got.extend(batch)

    with pytest.raises(ValueError, match="broken"):
        await read()
    assert {"a0", "a1", "a2"} <= set(got)
    assert other.closed


async def test_a_reader_that_leaves_closes_every_source() -> None:
    sources = [Source("a", 1, end="wait"), Source("b", 0, end="wait")]
    async with aclosing(together([source.items() for source in sources], 10)) as batches:
        assert await anext(batches) == ["a0"]
        await wait_for(lambda: not any(source.closed for source in sources))
    assert all(source.closed for source in sources if source.given)
