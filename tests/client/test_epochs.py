"""A cluster that went on in another epoch: homes follow what a key that they know signed, and nothing else."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.client import home_client
from agent.client.epochs import follow
from agent.errors import Conflict
from agent.home import OPERATOR_FILE, OPERATOR_KEY_FILE, Home, OperatorFile, as_json, open_home
from agent.instruction import encode_body, new_key, private_pem, public_hex, sign_instruction
from agent.model.api import EpochBeginning, Epochs
from agent.model.cluster import Operator
from agent.model.instruction import Recover
from agent.model.ledger import InstructionEntry
from agent.state import begin_epoch
from tests.support.fake_node import FakeCluster, FakeLedger

HANDED_OVER = ("cluster.json", "cluster.crt")
WITH_GENESIS = (*HANDED_OVER, "genesis.json", "genesis.jwt")


def recover(cluster: FakeCluster, *, by: str = "ann", key: Ed25519PrivateKey | None = None) -> None:
    """n1 goes on alone in the next epoch."""
    state, survivor = cluster.ledger.state, cluster.hosts["n1"].id
    body = encode_body(Recover(epoch=state.epoch + 1, survivor=survivor, index=state.index, chain=state.chain))
    token = sign_instruction(
        key or cluster.key,
        operator_name=by,
        cluster=state.cluster,
        epoch=state.epoch,
        act="recover",
        target="cluster",
        revision=state.epoch,
        body_bytes=body,
        now_s=time.time(),
    )
    entry = InstructionEntry(at=cluster.ledger.now_ms(), token=token, body=body, via=survivor)
    cluster.ledger.state, result = begin_epoch(state, entry)
    assert result.outcome == "applied"


def home_of_another(cluster: FakeCluster, name: str, files: tuple[str, ...]) -> Home:
    """The home of an operator that was granted, made as docs/security.md says."""
    path = cluster.directory / name
    path.mkdir(mode=0o700)
    key = new_key()
    (path / OPERATOR_KEY_FILE).write_bytes(private_pem(key))
    (path / OPERATOR_KEY_FILE).chmod(0o600)
    (path / OPERATOR_FILE).write_bytes(as_json(OperatorFile(name=name, key=public_hex(key))))
    for file in files:
        shutil.copy(cluster.home.path / file, path / file)
    cluster.add_operator(Operator(name=name, key=public_hex(key), scope="deploy"))
    return open_home(path)


async def asked(home: Home, notices: list[str] | None = None, via: str | None = None) -> int:
    """The epoch that a status tells that home's operator."""
    said = notices if notices is not None else []
    async with await asyncio.to_thread(home_client, home, via=via, notice=said.append) as client:
        return (await client.status()).cluster.epoch


async def test_a_home_follows_its_own_operators_and_its_genesiss_admins_signature(running: FakeCluster) -> None:
    homes = [running.home, await asyncio.to_thread(home_of_another, running, "ci", WITH_GENESIS)]
    recover(running)
    recover(running)
    for home in homes:
        notices: list[str] = []
        assert await asked(home, notices) == 3
        assert notices == ["the cluster is in epoch 3 since its majority was lost; this home follows it there"]
        kept = await asyncio.to_thread(open_home, home.path)
        assert kept.cluster.epoch == 3
        notices.clear()
        assert await asked(kept, notices) == 3
        assert notices == []


async def test_a_home_that_knows_no_admin_says_the_one_command_that_takes_it_there(running: FakeCluster) -> None:
    home = await asyncio.to_thread(home_of_another, running, "ci", HANDED_OVER)
    recover(running)
    with pytest.raises(Conflict, match="epoch 2 began, and ann signed that, whose key this home doesn't know") as error:
        await asked(home)
    assert error.value.fix == "Ask an admin. If it is right: agent recover --follow 2"
    assert (await asyncio.to_thread(open_home, home.path)).cluster.epoch == 1


async def test_a_name_that_a_taken_agent_made_up_is_shown_printable(cluster: FakeCluster) -> None:
    token = sign_instruction(
        new_key(),
        operator_name="a\x1b[2Jb",
        cluster=cluster.home.cluster.id,
        epoch=1,
        act="recover",
        target="cluster",
        revision=1,
        body_bytes=b"{}",
        now_s=time.time(),
    )
    told = Epochs(answered_by="n1", epoch=2, begun=(EpochBeginning(epoch=2, token=token, body="{}"),))
    with pytest.raises(Conflict, match=r'and "a\\x1b\[2Jb" signed that') as error:
        follow(cluster.home, told, {})
    assert error.value.what.isprintable()


async def test_what_somebody_else_signed_in_an_admins_name_leads_nowhere(running: FakeCluster) -> None:
    taken = new_key()
    operators = running.ledger.state.operators
    forged = {**operators, "ann": msgspec.structs.replace(operators["ann"], key=public_hex(taken))}
    running.ledger.state = msgspec.structs.replace(running.ledger.state, operators=forged)
    recover(running, key=taken)
    running.ledger.state = msgspec.structs.replace(running.ledger.state, operators=operators)
    with pytest.raises(Conflict, match="epoch 2 began"):
        await asked(running.home)
    assert (await asyncio.to_thread(open_home, running.home.path)).cluster.epoch == 1


async def test_one_agents_word_is_passed_over(running: FakeCluster) -> None:
    running.nodes["n1"].node.ledger = FakeLedger(msgspec.structs.replace(running.ledger.state, epoch=2))
    assert await asked(running.home) == 1
    with pytest.raises(Conflict, match="it says that epoch 2 began, and doesn't show who signed that"):
        await asked(running.home, via="n1")


async def test_an_agent_that_is_still_in_the_epoch_before_is_passed_over(running: FakeCluster) -> None:
    running.nodes["n1"].node.ledger = FakeLedger(running.ledger.state)
    recover(running)
    assert await asked(running.home, via="n2") == 2
    home = await asyncio.to_thread(open_home, running.home.path)
    assert await asked(home) == 2
    with pytest.raises(Conflict, match="it is still in epoch 1, and this home in 2") as error:
        await asked(home, via="n1")
    assert error.value.fix.endswith("agent recover --follow 1")


async def test_a_home_that_cannot_be_written_works_all_the_same(
    running: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    recover(running)
    original = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if target.name == "cluster.json":
            raise PermissionError(13, "Permission denied")
        return original(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    assert await asked(running.home) == 2
    assert (await asyncio.to_thread(open_home, running.home.path)).cluster.epoch == 1
