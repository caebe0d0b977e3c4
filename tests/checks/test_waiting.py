from __future__ import annotations

import asyncio

import pytest

from tests.support.waiting import wait_for, wait_for_sync


def answers(*values: object) -> list[object]:
    """Return the values last first, to be popped."""
    return list(reversed(values))


async def test_it_returns_the_first_true_answer() -> None:
    left = answers(0, "", None, "ready", "later")
    assert await wait_for(left.pop) == "ready"
    left = answers(0, 7)
    assert wait_for_sync(left.pop) == 7


async def test_a_coroutine_function_is_awaited_each_time() -> None:
    left = answers(False, False, "ready")

    async def ask() -> object:
        await asyncio.sleep(0)
        return left.pop()

    assert await wait_for(ask) == "ready"


async def test_a_condition_is_asked_at_least_once_even_without_time() -> None:
    assert await wait_for(lambda: True, 0)
    assert wait_for_sync(lambda: True, 0)


async def test_the_failure_names_the_condition_and_its_last_value() -> None:
    def the_cluster_has_a_coordinator() -> list[str]:
        return []

    with pytest.raises(AssertionError, match=r"0\.02 s .*the_cluster_has_a_coordinator .*test_waiting\.py:\d+.* \[\]"):
        await wait_for(the_cluster_has_a_coordinator, 0.02)
    with pytest.raises(AssertionError, match=r"for: three voters; it was last 0"):
        wait_for_sync(lambda: 0, 0.02, what="three voters")


async def test_a_condition_that_hangs_is_cut_off() -> None:
    async def hang() -> bool:
        await asyncio.Event().wait()
        return True

    with pytest.raises(AssertionError, match="hang"):
        await wait_for(hang, 0.05)


async def test_an_error_of_the_condition_is_the_callers() -> None:
    async def refuse() -> bool:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await wait_for(refuse)
