"""`agent operator`: who may change what, from a fresh key to its end."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.cli import operators
from agent.errors import MusterError
from agent.home import ANCHOR_FILE, CLUSTER_FILE, Home, OperatorFile
from agent.instruction import grant_stack, kid_of, new_key, private_pem, public_hex
from agent.model.cluster import Operator
from tests.cli.conftest import Agent
from tests.support.fake_node import FakeCluster
from tests.support.shop import open_shop

BOB = public_hex(new_key())


def held(cluster: FakeCluster, name: str = "bob") -> Operator:
    return cluster.ledger.state.operators[name]


async def test_operators_are_listed_without_their_keys(agent: Agent, running: FakeCluster) -> None:
    running.add_operator(Operator(name="bob", key=BOB, scope="deploy", stacks=("blog-*", "shop")))
    said = await agent("operator", "list")
    assert [line.split()[:2] for line in said.out.splitlines()] == [
        ["name", "scope"],
        ["ann", "admin"],
        ["bob", "deploy"],
        ["recovery", "admin"],
    ]
    assert f"blog-*, shop  {kid_of(bytes.fromhex(BOB))}" in said.out
    found = (await agent("operator", "list", "--json")).json["operators"]
    assert found[1]["stacks"] == ["blog-*", "shop"]
    assert "PRIVATE" not in json.dumps(found)


async def test_who_is_granted_nothing_more_may_only_read(agent: Agent, running: FakeCluster) -> None:
    said = await agent("operator", "grant", "bob", "--key", BOB.upper())
    assert said.code == 0, said
    assert said.out == f"bob: read on all stacks, key {kid_of(bytes.fromhex(BOB))} (revision 1)\n"
    assert held(running) == Operator(name="bob", key=BOB, scope="read")


async def test_what_isnt_given_stays_as_it_is(agent: Agent, running: FakeCluster) -> None:
    await agent("operator", "grant", "bob", "--key", BOB, "--scope", "operate", "--stacks", "blog-*, shop")
    assert held(running).stacks == ("blog-*", "shop")
    assert (await agent("operator", "grant", "bob", "--scope", "deploy")).code == 0
    assert held(running) == Operator(name="bob", key=BOB, scope="deploy", stacks=("blog-*", "shop"))
    assert (await agent("operator", "grant", "bob", "--stacks", "a", "--stacks", "b")).code == 0
    assert held(running) == Operator(name="bob", key=BOB, scope="deploy", stacks=("a", "b"))
    other = public_hex(new_key())
    said = await agent("operator", "grant", "bob", "--key", other, "--json")
    assert held(running) == Operator(name="bob", key=other, scope="deploy", stacks=("a", "b"))
    assert (said.json["result"]["revision"], said.json["operator"]["key"]) == (4, other)


async def test_the_command_that_a_refusal_names_gives_that_stack_beside_the_others(
    agent: Agent, running: FakeCluster
) -> None:
    running.add_operator(Operator(name="bob", key=BOB, scope="deploy", stacks=("blog-*",)))
    command = grant_stack(held(running), "shop")
    assert command == "agent operator grant bob --stacks 'blog-*,shop'"
    assert (await agent("operator", "grant", "bob", "--stacks", "blog-*,shop")).code == 0
    assert held(running) == Operator(name="bob", key=BOB, scope="deploy", stacks=("blog-*", "shop"))


async def test_a_lie_about_who_is_there_gets_nothing_signed_into_force(
    agent: Agent, running: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that tells its own key as bob's: the ledger has another, and refuses."""
    running.add_operator(Operator(name="bob", key=BOB, scope="read"))
    lie = Operator(name="bob", key=public_hex(new_key()), scope="read")
    monkeypatch.setattr("agent.cli.operators._operator", lambda view: lie)
    said = await agent("operator", "grant", "bob", "--scope", "admin")
    assert said.code == 1
    assert "not what this grant would replace" in said.err
    assert held(running) == Operator(name="bob", key=BOB, scope="read")


async def test_revoking_ends_the_authority_but_not_that_of_the_last_admin(agent: Agent, running: FakeCluster) -> None:
    await agent("operator", "grant", "bob", "--key", BOB)
    assert (await agent("operator", "revoke", "bob")).out == "bob: revoked (revision 2)\n"
    assert "bob" not in running.ledger.state.operators
    again = await agent("operator", "revoke", "bob")
    assert again.code == 1
    assert "no operator is called bob" in again.err
    assert (await agent("operator", "revoke", "recovery")).code == 0
    last = await agent("operator", "revoke", "ann")
    assert last.code == 1
    assert "the last admin can't go" in last.err


async def test_keys_are_taken_from_files_of_either_half(agent: Agent, running: FakeCluster, tmp_path: Path) -> None:
    key = new_key()
    (tmp_path / "private.pem").write_bytes(private_pem(key))
    (tmp_path / "public.pem").write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    for name in ("private", "public"):
        said = await agent("operator", "grant", name, "--key-file", str(tmp_path / f"{name}.pem"))
        assert said.code == 0, said
        assert held(running, name).key == public_hex(key)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("grant", "bob"), 1, "needs a key"),
        (("grant", "Bob", "--key", BOB), 2, "NAME"),
        (("grant", "bob", "--key", "abc"), 2, "--key"),
        (("grant", "bob", "--key", BOB, "--key-file", "x"), 2, "--key-file"),
        (("grant", "bob", "--key-file", "/nonexistent"), 2, "no such file"),
        (("grant", "bob", "--key-file", "/dev/null"), 2, "not a key in PEM"),
        (("grant", "bob", "--key", BOB, "--scope", "root"), 2, "--scope"),
        (("grant", "bob", "--key", BOB, "--stacks", "Shop"), 2, "stacks"),
        (("grant", "bob", "--key", BOB, "--stacks", "a,,b"), 2, "stacks"),
        (("revoke",), 2, "NAME"),
        (("nonsense",), 2, "No such command"),
        (("key", "--name", "Bob"), 2, "--name"),
        (("key", "--output", "/nonexistent/key"), 1, "can't be written"),
    ],
)
async def test_bad_input_is_named_and_nothing_is_signed(
    args: tuple[str, ...], code: int, says: str, agent: Agent, running: FakeCluster
) -> None:
    said = await agent("operator", *args)
    assert said.code == code, said
    assert says in said.err
    assert all(node.node.submitted == [] for node in running.nodes.values())


async def test_a_key_is_its_owners_and_never_overwritten(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "bob.key"
    said = await agent("operator", "key", "--output", str(path))
    assert (said.code, len(said.out.strip())) == (0, 64)
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    again = await agent("operator", "key", "--output", str(path))
    assert again.code == 1
    assert "never overwritten" in again.err
    assert path.read_bytes() == before


async def test_from_a_key_to_a_change_of_its_owners_and_to_its_end(
    agent: Agent, running: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way that docs/security.md tells."""
    open_shop(running)
    home = tmp_path / "bobs"
    home.mkdir(mode=0o700)
    made = (await agent("operator", "key", "--name", "bob", "--output", str(home / "operator.key"), "--json")).json
    assert (await agent("operator", "grant", "bob", "--key", made["key"], "--scope", "operate")).code == 0
    for name in (CLUSTER_FILE, ANCHOR_FILE):
        shutil.copy(running.home.path / name, home)
    monkeypatch.setenv("MUSTER_HOME", str(home))
    assert (await agent("scale", "shop", "web=3", "--detach")).code == 0
    assert running.ledger.state.stacks["shop"].changed_by == "bob"
    refused = await agent("remove", "shop", "--yes", "--detach")
    assert refused.code == 5
    assert "agent operator grant bob --scope deploy" in refused.err
    monkeypatch.setenv("MUSTER_HOME", str(running.home.path))
    assert (await agent("operator", "revoke", "bob")).code == 0
    monkeypatch.setenv("MUSTER_HOME", str(home))
    assert (await agent("scale", "shop", "web=1", "--detach")).code == 5
    assert running.ledger.state.stacks["shop"].scale == {"web": 3}


async def keys_in(home: Path) -> dict[str, tuple[int, bytes]]:
    """The operator's key files: mode and content."""

    def look() -> dict[str, tuple[int, bytes]]:
        return {path.name: (path.stat().st_mode & 0o777, path.read_bytes()) for path in home.glob("operator.key*")}

    return await asyncio.to_thread(look)


async def test_who_has_lost_the_key_is_told_how_to_get_another(running: FakeCluster, agent: Agent) -> None:
    key = running.home.path / "operator.key"
    key.unlink()
    said = await agent("status")
    assert said.code == 1
    assert said.err.splitlines()[0] == f"error: {key}: the operator's key isn't there"
    assert "`agent operator replace --recovery-key FILE`" in said.err


async def test_the_recovery_key_puts_a_new_key_in_the_place_of_a_lost_one(running: FakeCluster, agent: Agent) -> None:
    home, recovery = running.home.path, str(running.directory / "recovery.key")
    _, before = (await keys_in(home))["operator.key"]
    await asyncio.to_thread((home / "operator.key").unlink)
    assert (await agent("operator", "list")).code != 0
    said = await agent("operator", "replace", "--recovery-key", recovery)
    assert said.code == 0, said.err
    found = (await agent("operator", "list", "--json")).json["operators"]
    assert {each["name"]: each["scope"] for each in found} == {"ann": "admin", "recovery": "admin"}
    after = await keys_in(home)
    assert after.keys() == {"operator.key"}
    assert after["operator.key"][0] == 0o600
    assert after["operator.key"][1] != before
    granted = await agent("operator", "grant", "bob", "--key", BOB)
    assert granted.code == 0, "the new key signs"


async def test_a_key_that_was_taken_signs_nothing_once_it_is_replaced(running: FakeCluster, agent: Agent) -> None:
    home, recovery = running.home.path, str(running.directory / "recovery.key")
    before = await keys_in(home)
    assert (await agent("operator", "replace", "--recovery-key", recovery)).code == 0
    assert (await keys_in(home))["operator.key.old"] == before["operator.key"]
    assert held(running, "ann").key != running.home.operator.key


async def test_a_replacement_that_was_cut_goes_on_with_the_same_key(
    running: FakeCluster, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, recovery = running.home.path, str(running.directory / "recovery.key")

    def cut(_home: Home, _made: OperatorFile) -> None:
        raise MusterError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(operators, "take_next_key", cut)
        assert (await agent("operator", "replace", "--recovery-key", recovery)).code == 1
    made = (await keys_in(home))["operator.key.next"]
    assert (await agent("operator", "replace", "--recovery-key", recovery)).code == 0
    assert (await keys_in(home))["operator.key"] == made
    assert (await agent("operator", "list")).code == 0


async def test_another_key_replaces_nothing(running: FakeCluster, agent: Agent) -> None:
    wrong = await agent("operator", "replace", "--recovery-key", str(running.home.path / "operator.key"))
    assert wrong.code == 2
    assert "recovery.json" in wrong.err
    assert (await agent("operator", "replace")).code == 2
    assert (await agent("operator", "replace", "--recovery-key", "/nonexistent")).code == 2
    assert (await keys_in(running.home.path)).keys() == {"operator.key"}
