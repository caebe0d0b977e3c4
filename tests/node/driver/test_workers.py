"""Invitations at the agent that they are for: what it checks before it touches anything."""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.errors import Conflict, InputError, MusterError, NotAllowed, NotAuthenticated, NotFound
from agent.home import Home
from agent.instruction.sealing import seal, unseal
from agent.model.instruction import InstructionResult
from agent.model.ledger import GenesisEntry, encode_entry
from agent.model.workers import AddWorker, Invitation
from agent.node.driver.workers import WorkerService
from agent.state import ClusterState, genesis_state
from agent.storage.identity import Identity, accept, create, load
from bootstrap.genesis import grant, make_genesis
from bootstrap.home import create_home
from bootstrap.invite import Wish, invitation_for
from tests.support.waiting import wait_for


@dataclass
class Scene:
    """One member, n1, and a desk that invites."""

    home: Home
    identity: Identity
    state: ClusterState
    service: WorkerService

    async def invite(self, **changes: Any) -> AddWorker:
        worker = {"host": "n4.invalid", "via": self.identity.id, **changes.pop("worker", {})}
        fields: dict[str, Any] = {
            "home": str(self.home.path),
            "name": "n4",
            "address": "10.0.0.4",
            "worker": AddWorker(**worker),
            "sealing_key": self.sealing_key,
            "now_s": time.time(),
        }
        return await asyncio.to_thread(invitation_for, self.home, Wish(**(fields | changes)))

    @property
    def sealing_key(self) -> str:
        return self.identity.sealing_key.public_key().public_bytes_raw().hex()

    def opened(self, worker: AddWorker) -> Invitation:
        box = base64.urlsafe_b64decode((worker.sealed or "") + "==")
        return msgspec.json.decode(unseal(self.identity.sealing_key, box, worker.bound()), type=Invitation)

    def sealed(self, worker: AddWorker, invitation: Invitation) -> AddWorker:
        box = seal(self.sealing_key, msgspec.json.encode(invitation), worker.bound())
        return msgspec.structs.replace(worker, sealed=base64.urlsafe_b64encode(box).decode().rstrip("="))

    async def refused(self, worker: AddWorker) -> MusterError:
        with pytest.raises(MusterError) as raised:
            await self.service.add(worker, time.time())
        assert not self.service.operations
        return raised.value


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    home = create_home(tmp_path / "home", name="lab", operator="ann", recovery_file=tmp_path / "recovery.key")
    request = create(tmp_path / "n1", "n1", "10.0.0.1")
    genesis = make_genesis(home, [request], now_ms=int(time.time() * 1000))
    accept(tmp_path / "n1", grant(home, request))
    identity = load(tmp_path / "n1")
    state = genesis_state(encode_entry(GenesisEntry(at=genesis.created_at, genesis=genesis)))
    (tmp_path / "ssh").mkdir()

    async def submit(token: str, body: bytes) -> InstructionResult:
        raise AssertionError("nothing gets as far as that here")

    service = WorkerService(
        identity=identity, keys=tmp_path / "ssh", cache=tmp_path / "cache", submit=submit, state=lambda: state
    )
    return Scene(home, identity, state, service)


async def test_a_good_one_begins_and_a_host_that_is_not_there_ends_it_with_a_reason(scene: Scene) -> None:
    begun = await scene.service.add(await scene.invite(), time.time())
    assert (begun.state, begun.name) == ("running", "n4")
    await wait_for(lambda: scene.service.operations[begun.id].state != "running", 30.0)
    ended = scene.service.operation(begun.id)
    assert ended is not None
    assert (ended.state, ended.lines[0]) == ("failed", "connecting")
    assert ended.what
    await scene.service.close()


async def test_stopping_the_agent_ends_what_is_under_way(scene: Scene) -> None:
    begun = await scene.service.add(await scene.invite(), time.time())
    await scene.service.close()
    assert scene.service.operations[begun.id].state == "failed"


async def test_it_is_for_the_agent_it_names_alone(scene: Scene) -> None:
    error = await scene.refused(await scene.invite(worker={"via": "a" * 26}))
    assert (type(error), error.where) == (Conflict, "$.via")


@pytest.mark.parametrize(
    "change",
    [{"host": "evil.example.com"}, {"user": "root"}, {"port": 2222}, {"ssh_key_path": "k"}, {"accept_new": True}],
)
async def test_where_it_leads_cannot_be_changed_on_the_way(change: dict[str, Any], scene: Scene) -> None:
    error = await scene.refused(msgspec.structs.replace(await scene.invite(), **change))
    assert type(error) is NotAuthenticated


async def test_one_that_is_sealed_for_another_key_is_refused(scene: Scene) -> None:
    other = X25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    assert type(await scene.refused(await scene.invite(sealing_key=other))) is NotAuthenticated


async def test_an_old_one_is_refused(scene: Scene) -> None:
    error = await scene.refused(await scene.invite(now_s=time.time() - 400))
    assert "expired" in error.what


async def test_nobody_can_send_another_hosts_enrolment_with_keys_of_their_own(scene: Scene) -> None:
    """The ledger shows every member the signed enrolment; only who made the identity has its keys."""
    theirs, own = scene.opened(await scene.invite()), scene.opened(await scene.invite())
    forged = msgspec.structs.replace(own, token=theirs.token, body=theirs.body)
    error = await scene.refused(scene.sealed(await scene.invite(), forged))
    assert (type(error), "aren't those of the member" in error.what) == (NotAllowed, True)


async def test_a_key_of_a_kind_that_nobody_knows_is_refused(scene: Scene) -> None:
    """Anybody can seal, and put into it an enrolment that was signed just now for another host."""
    invitation = scene.opened(await scene.invite())
    named, unknown = bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030102")  # P-256; prime192v2
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    text = base64.encodebytes(key.replace(named, unknown)).decode()
    strange = f"-----BEGIN PRIVATE KEY-----\n{text}-----END PRIVATE KEY-----\n"
    forged = msgspec.structs.replace(invitation, keys=msgspec.structs.replace(invitation.keys, tls=strange))
    error = await scene.refused(scene.sealed(await scene.invite(), forged))
    assert "can't be read" in error.what


async def test_who_is_no_admin_enrols_nobody(scene: Scene, tmp_path: Path) -> None:
    def made() -> Home:
        stranger = create_home(tmp_path / "other", name="lab", operator="ann", recovery_file=tmp_path / "other.key")
        make_genesis(stranger, [create(tmp_path / "n7", "n7", "10.0.0.7")], now_ms=1)
        return stranger

    scene.home = await asyncio.to_thread(made)
    assert type(await scene.refused(await scene.invite())) is NotAuthenticated


async def test_a_name_that_is_taken_is_refused_before_anything_happens(scene: Scene) -> None:
    error = await scene.refused(await scene.invite(name="n1"))
    assert (type(error), error.where) == (Conflict, "$.host")


@pytest.mark.parametrize("path", ["../../root/.ssh/id_ed25519", "/etc/shadow", "a/b", ".hidden/../x", "..", "-i"])
async def test_a_key_is_a_files_name_in_our_own_directory(path: str, scene: Scene) -> None:
    error = await scene.refused(await scene.invite(worker={"ssh_key_path": path}))
    assert (type(error), error.where) == (InputError, "$.ssh_key_path")


async def test_a_key_that_is_not_there_is_named_with_its_place(scene: Scene) -> None:
    error = await scene.refused(await scene.invite(worker={"ssh_key_path": "worker-key"}))
    assert (type(error), error.where) == (NotFound, str(scene.service.keys / "worker-key"))


async def test_a_link_out_of_the_directory_is_no_key(scene: Scene, tmp_path: Path) -> None:
    await asyncio.to_thread((tmp_path / "secret").write_text, "x")
    await asyncio.to_thread((scene.service.keys / "worker-key").symlink_to, tmp_path / "secret")
    assert type(await scene.refused(await scene.invite(worker={"ssh_key_path": "worker-key"}))) is NotFound


async def test_what_is_printed_of_an_invitation_holds_no_key(scene: Scene) -> None:
    assert "PRIVATE" not in repr(scene.opened(await scene.invite()))
