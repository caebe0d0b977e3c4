"""Names of members become addresses beside the event loop, and never hold a datagram up."""

from __future__ import annotations

import asyncio
import socket

import pytest

from agent.net import names
from agent.net.names import Names
from tests.support.waiting import wait_for


class Resolver:
    """Answers when it is let."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, str] = {}
        self.may_answer = asyncio.Event()

    async def getaddrinfo(self, host: str, port: int, **_: object) -> list[object]:
        self.asked.append(host)
        await self.may_answer.wait()
        if host not in self.answers:
            raise socket.gaierror("unknown")
        return [(0, 0, 0, "", (self.answers[host], port))]


@pytest.fixture
async def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    made = Resolver()
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", made.getaddrinfo)
    return made


def anywhere(_ip: str, _port: int) -> bool:
    return True


async def test_an_address_is_itself(resolver: Resolver) -> None:
    assert Names(anywhere).ip_of("10.0.0.7", 9998) == "10.0.0.7"
    assert not resolver.asked


async def test_a_name_is_unknown_until_the_resolver_has_answered(resolver: Resolver) -> None:
    found = Names(anywhere)
    resolver.answers["n1"] = "10.0.0.1"
    assert found.ip_of("n1", 9998) is None
    assert found.ip_of("n1", 9998) is None
    resolver.may_answer.set()
    await wait_for(lambda: found.ip_of("n1", 9998) == "10.0.0.1")
    assert resolver.asked == ["n1"]


async def test_an_address_that_grew_old_is_used_until_there_is_another(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "FRESH_S", 0.0)
    found = Names(anywhere)
    resolver.may_answer.set()
    resolver.answers["n1"] = "10.0.0.1"
    await wait_for(lambda: found.ip_of("n1", 9998) == "10.0.0.1")
    resolver.answers.clear()
    asked = len(resolver.asked)
    await wait_for(lambda: found.ip_of("n1", 9998) == "10.0.0.1" and len(resolver.asked) > asked)
    resolver.answers["n1"] = "10.0.0.2"
    await wait_for(lambda: found.ip_of("n1", 9998) == "10.0.0.2")


async def test_answers_that_lead_nowhere_are_left_out(resolver: Resolver) -> None:
    found = Names(lambda ip, _: ip != "127.0.0.1")
    resolver.may_answer.set()
    resolver.answers["n1"] = "127.0.0.1"
    assert found.ip_of("n1", 9998) is None
    await wait_for(lambda: not found._lookups)
    assert found.ip_of("n1", 9998) is None


async def test_a_silent_resolver_holds_few_threads(resolver: Resolver) -> None:
    found = Names(anywhere)
    for number in range(20):
        found.ip_of(f"n{number}", 9998)
    await asyncio.sleep(0)
    assert len(resolver.asked) == names.MAX_LOOKUPS
    await found.close()
