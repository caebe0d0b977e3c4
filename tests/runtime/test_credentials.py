"""Registries' credentials are read as `docker login` left them, by helpers too; what can't be read isn't shown."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent import procfs
from agent.runtime.credentials import NoCredentials, registry_auth
from tests.support.waiting import wait_for

Configure = Callable[..., str]
HELPED = {"credHelpers": {"example.com": "odd"}}
WEB = "example.com/web"
PATIENCE_S = 5.0


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Writes Docker's own configuration, with a credential helper called `odd`, and gives its path; a text as it is."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def write(content: object, script: str = "") -> str:
        helper = tmp_path / "docker-credential-odd"
        helper.write_text(f"#!/bin/sh\n{script}\n")
        helper.chmod(0o755)
        (tmp_path / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return str(tmp_path / "config.json")

    return write


def login(user: str, password: str) -> dict[str, str]:
    """As `docker login` writes it."""
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


async def fields(repository: str = WEB) -> Any:
    """What the engine gets to read."""
    return json.loads(base64.urlsafe_b64decode(await registry_auth(repository)))


async def test_what_docker_login_wrote_goes_with_a_pull(configure: Configure) -> None:
    configure({"auths": {"example.com": login("ann", "secret")}})
    sent = await fields()
    assert (sent["username"], sent["password"], sent["serveraddress"]) == ("ann", "secret", "example.com")


async def test_a_helper_is_asked_for_the_registry_and_goes_before_the_file(configure: Configure) -> None:
    said = """read registry; test "$1 $registry" = "get example.com" && echo '{"Username": "bob", "Secret": "s"}'"""
    configure({**HELPED, "auths": {"example.com": login("ann", "secret")}}, said)
    assert await fields() == {"ServerAddress": "example.com", "Username": "bob", "Password": "s"}


async def test_docker_hub_goes_by_the_name_that_helpers_know_it_by(configure: Configure) -> None:
    configure({"credsStore": "odd"}, """printf '{"Username": "<token>", "Secret": "%s"}' "$(cat)\"""")
    hub = "https://index.docker.io/v1/"
    assert await fields("library/web") == {"ServerAddress": hub, "IdentityToken": hub}


@pytest.mark.parametrize(
    "script", ["echo 'credentials not found in native keychain'; exit 1", """echo '{"Username": "", "Secret": ""}'"""]
)
async def test_the_file_counts_where_the_helper_has_nothing(configure: Configure, script: str) -> None:
    configure({**HELPED, "auths": {"example.com": login("ann", "secret")}}, script)
    assert (await fields())["username"] == "ann"
    configure(HELPED, script)
    assert await registry_auth(WEB) == ""


async def test_a_helper_that_hangs_is_ended_with_all_that_it_started(configure: Configure, tmp_path: Path) -> None:
    configure(HELPED, f"sleep 1000 & echo $! > {tmp_path}/child; wait")
    begun = time.monotonic()
    with pytest.raises(NoCredentials, match=r"from docker-credential-odd for example\.com \(no ans") as caught:
        await registry_auth(WEB, timeout_s=0.5)
    assert time.monotonic() - begun < PATIENCE_S
    assert "echo example.com | docker-credential-odd get" in caught.value.fix
    child = int((tmp_path / "child").read_text())

    async def ended() -> bool:
        seen = await asyncio.to_thread(procfs.stat, child)
        return seen is None or seen.ended

    await wait_for(ended, what="its child's end")


async def test_what_a_helper_leaves_running_does_not_hold_up_its_answer(configure: Configure) -> None:
    configure(HELPED, """sleep 10 & echo '{"Username": "bob", "Secret": "s"}'""")
    begun = time.monotonic()
    assert (await fields())["Username"] == "bob"
    assert time.monotonic() - begun < PATIENCE_S


async def test_a_helper_that_is_missing_is_named(configure: Configure) -> None:
    configure({"credsStore": "lost"})
    with pytest.raises(NoCredentials, match=r"docker-credential-lost for example\.com \(No such file"):
        await registry_auth(WEB)


@pytest.mark.parametrize(
    "content",
    [
        {"auths": {"example.com": {"auth": base64.b64encode(b"tokenonly").decode()}}},
        {"auths": {"example.com": {"auth": "!!!"}}},
        {"auths": {"example.com": {"auth": 7}}},
        {"auths": {"example.com": "secret"}},
        {"auths": [1]},
        {"credHelpers": "secret"},
        {"credsStore": ["secret"]},
        [1],
        '{"auths": ' + "[" * 10_000,
    ],
)
async def test_a_configuration_that_is_malformed_is_named(configure: Configure, content: object) -> None:
    file = configure(content)
    with pytest.raises(NoCredentials, match=f"^credentials can't be read from {re.escape(file)} ") as caught:
        await registry_auth(WEB)
    assert not re.search("secret|tokenonly", str(caught.value))


@pytest.mark.parametrize(
    "script",
    [
        *(f"echo '{said}'" for said in ("secret", "", "[]", "7", "{}", '{"Username": "secret"}', '{"Secret": 1}')),
        f'echo \'{{"Username": "secret", "Secret": "secret", "x": {"[" * 10_000}\'',
        "echo secret; exit 1",
        'head -c 70000 /dev/zero | tr \'\\0\' \' \'; echo \'{"Username": "secret", "Secret": "secret"}\'',
    ],
)
async def test_odd_output_of_a_helper_is_not_an_answer_and_is_not_told(configure: Configure, script: str) -> None:
    configure(HELPED, script)
    with pytest.raises(NoCredentials, match=r"from docker-credential-odd for example\.com ") as caught:
        await registry_auth(WEB)
    assert "secret" not in str(caught.value)


async def test_another_registrys_credentials_are_none_of_a_pulls(configure: Configure) -> None:
    configure({"credHelpers": {"example.org": "odd"}, "auths": {"example.net": {}}}, "sleep 1000")
    assert await registry_auth(WEB) == ""


async def test_without_a_configuration_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert await registry_auth(WEB) == ""
