"""The agent's identity: made on its host, checked when it comes back, born together with its ledger."""

from __future__ import annotations

import asyncio
import base64
import shutil
import stat
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.errors import InputError, NeedsRepair, NotAuthenticated, StorageError
from agent.instruction import encode_genesis
from agent.model.cluster import IdentityGrant, IdentityRequest
from agent.model.expulsion import Expulsion
from agent.model.identity import agent_id_of, server_name
from agent.raft import HardState, Persist
from agent.storage import identity
from agent.storage.birth import genesis_entry, open_ledger
from agent.storage.ledger import Ledger
from bootstrap.certificates import certificate_digest
from tests.storage.contract import write
from tests.support.trust import Trust, found, member_of, pem


def request_of(directory: Path) -> IdentityRequest:
    return identity.create(directory, "n1", "192.168.1.7")


def granted(directory: Path, trust: Trust) -> IdentityGrant:
    request = request_of(directory)
    certificate = trust.certify_request(request)
    return trust.grant(certificate, trust.genesis([(request, certificate)]))


def test_a_request_names_the_id_of_its_signing_key_and_proves_the_tls_key(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    csr = x509.load_pem_x509_csr(request.csr.encode())
    assert request.id == agent_id_of(bytes.fromhex(request.signing_key))
    assert csr.is_signature_valid
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == [server_name(request.id)]


def test_asking_again_gives_the_same_keys_with_what_changed_around_them(tmp_path: Path) -> None:
    first = request_of(tmp_path)
    again = identity.create(tmp_path, "n1", "192.168.1.8", peer_port=1234)
    assert (again.id, again.signing_key, again.sealing_key) == (first.id, first.signing_key, first.sealing_key)
    public_keys = [x509.load_pem_x509_csr(r.csr.encode()).public_key() for r in (first, again)]
    assert public_keys[0] == public_keys[1]
    assert (again.address, again.peer_port) == ("192.168.1.8", 1234)


def test_only_the_owner_can_read_the_keys(tmp_path: Path) -> None:
    request_of(tmp_path)
    home = tmp_path / "identity"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()} == {
        "tls.pem": 0o600,
        "signing.pem": 0o600,
        "sealing.pem": 0o600,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["identity"]


def test_keys_that_others_can_read_are_not_used(tmp_path: Path) -> None:
    request_of(tmp_path)
    (tmp_path / "identity" / "signing.pem").chmod(0o644)
    with pytest.raises(NeedsRepair, match="other users"):
        request_of(tmp_path)


def test_a_key_file_that_isnt_one_is_refused_without_its_contents(tmp_path: Path) -> None:
    request_of(tmp_path)
    (tmp_path / "identity" / "signing.pem").write_bytes(b"hunter2")
    with pytest.raises(NeedsRepair) as refusal:
        request_of(tmp_path)
    assert "hunter2" not in str(refusal.value)


def test_a_granted_identity_is_loaded_whole(tmp_path: Path) -> None:
    trust = Trust()
    grant = granted(tmp_path, trust)
    identity.accept(tmp_path, grant)
    loaded = identity.load(tmp_path)
    assert loaded.id == loaded.genesis.members[0].id
    assert certificate_digest(loaded.certificate) == loaded.genesis.members[0].certificate
    assert loaded.certificate_path.read_text() == grant.certificate
    assert loaded.ledger is None
    for secret in (loaded.signing_key.private_bytes_raw().hex(), "PRIVATE"):
        assert secret not in repr(loaded)


def test_a_host_that_joins_later_need_not_be_in_the_genesis(tmp_path: Path) -> None:
    trust = Trust()
    first = request_of(tmp_path / "first")
    genesis = trust.genesis([(first, trust.certify_request(first))])
    later = request_of(tmp_path / "later")
    identity.accept(tmp_path / "later", trust.grant(trust.certify_request(later), genesis))
    assert identity.load(tmp_path / "later").id not in {member.id for member in genesis.members}


def test_keys_without_a_certificate_are_no_identity(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no identity"):
        identity.load(tmp_path)
    request_of(tmp_path)
    with pytest.raises(StorageError, match="no certificate yet"):
        identity.load(tmp_path)


def doctored(text: str, old: bytes, new: bytes) -> str:
    """The PEM with other bytes in it."""
    head, *lines, foot = text.splitlines()
    data = base64.b64decode("".join(lines))
    assert old in data
    return "\n".join((head, base64.b64encode(data.replace(old, new)).decode(), foot, ""))


@pytest.mark.parametrize(
    ("name", "kind"), [("tls.pem", "2a8648ce3d0201"), ("signing.pem", "2b6570"), ("sealing.pem", "2b656e")]
)
def test_a_key_file_of_a_kind_that_nobody_knows_needs_repair(tmp_path: Path, name: str, kind: str) -> None:
    identity.accept(tmp_path, granted(tmp_path, Trust()))
    file = tmp_path / "identity" / name
    named = bytes.fromhex(kind)
    file.write_text(doctored(file.read_text(), named, b"\x29" + named[1:]))
    with pytest.raises(NeedsRepair, match="isn't a key"):
        identity.load(tmp_path)


def test_a_certificate_for_what_is_no_key_is_refused(tmp_path: Path) -> None:
    grant = granted(tmp_path, Trust())
    key = x509.load_pem_x509_certificate(grant.certificate.encode()).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    point = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    certificate = doctored(grant.certificate, point, point[:-1] + bytes([point[-1] ^ 1]))
    with pytest.raises(InputError, match="not a certificate of an agent"):
        identity.accept(tmp_path, msgspec.structs.replace(grant, certificate=certificate))


@pytest.mark.parametrize("name", ["tls.pem", "signing.pem", "sealing.pem"])
def test_a_key_that_is_gone_needs_repair(tmp_path: Path, name: str) -> None:
    identity.accept(tmp_path, granted(tmp_path, Trust()))
    (tmp_path / "identity" / name).unlink()
    with pytest.raises(NeedsRepair, match=f"{name} is missing") as refusal:
        identity.load(tmp_path)
    assert "comes back as a new member" in refusal.value.fix
    (tmp_path / "identity" / name).symlink_to(tmp_path / "not mounted yet" / name)
    with pytest.raises(StorageError) as later:
        identity.load(tmp_path)
    assert not isinstance(later.value, NeedsRepair)


def test_a_grant_that_cant_be_read_makes_way_for_another(tmp_path: Path) -> None:
    grant = granted(tmp_path, Trust())
    identity.accept(tmp_path, grant)
    before = identity.load(tmp_path).id
    file = tmp_path / "identity" / "grant.json"
    file.write_text(file.read_text()[:100])
    with pytest.raises(NeedsRepair) as refusal:
        identity.load(tmp_path)
    assert "Move `grant.json` out" in refusal.value.fix
    file.unlink()
    assert not identity.is_granted(tmp_path), "bootstrap brings one to such a host"
    identity.accept(tmp_path, grant)
    assert identity.load(tmp_path).id == before


def test_keys_that_the_certificate_isnt_for_are_no_identity_any_more(tmp_path: Path) -> None:
    trust = Trust()
    identity.accept(tmp_path / "n1", granted(tmp_path / "n1", trust))
    request_of(tmp_path / "n2")
    shutil.copy(tmp_path / "n2" / "identity" / "tls.pem", tmp_path / "n1" / "identity" / "tls.pem")
    with pytest.raises(NeedsRepair, match="another key") as refusal:
        identity.load(tmp_path / "n1")
    assert "comes back as a new member" in refusal.value.fix


def test_an_accept_that_was_cut_is_finished_by_the_next_load(tmp_path: Path) -> None:
    identity.accept(tmp_path, granted(tmp_path, Trust()))
    (tmp_path / "identity" / "certificate.pem").unlink()
    assert identity.load(tmp_path).certificate_path.exists()


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("key", "another key"),
        ("name", "doesn't name"),
        ("two names", "doesn't name"),
        ("no name", "not a certificate of an agent"),
        ("ca", "could sign others"),
        ("anchor", "didn't sign"),
        ("garbage", "not a certificate of an agent"),
    ],
)
def test_a_certificate_that_says_anything_else_is_refused(tmp_path: Path, case: str, why: str) -> None:
    trust = Trust()
    first = request_of(tmp_path / "first")
    request = request_of(tmp_path)
    own = x509.load_pem_x509_csr(request.csr.encode()).public_key()
    assert isinstance(own, ec.EllipticCurvePublicKey)
    name = server_name(request.id)
    other_name = server_name("b" * 26)
    certificate = {
        "key": pem(trust.certify(ec.generate_private_key(ec.SECP256R1()).public_key(), request.id)),
        "name": pem(trust.certify(own, request.id, names=[other_name])),
        "two names": pem(trust.certify(own, request.id, names=[name, other_name])),
        "no name": pem(trust.certify(own, request.id, names=[])),
        "ca": pem(trust.certify(own, request.id, ca=True)),
        "anchor": pem(Trust(trust.cluster).certify(own, request.id)),
        "garbage": "-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n",
    }[case]
    grant = trust.grant(certificate, trust.genesis([(first, trust.certify_request(first))]))
    with pytest.raises(InputError, match=why):
        identity.accept(tmp_path, grant)
    with pytest.raises(StorageError) as missing:
        identity.load(tmp_path)
    assert not isinstance(missing.value, NeedsRepair), "it may still be handed one"


def test_a_genesis_that_nobody_signed_is_refused(tmp_path: Path) -> None:
    trust = Trust()
    grant = granted(tmp_path, trust)
    changed = grant.genesis.replace('"name":"test"', '"name":"best"')
    assert changed != grant.genesis
    with pytest.raises(NotAuthenticated):
        identity.accept(tmp_path, msgspec.structs.replace(grant, genesis=changed))


def test_a_genesis_that_names_another_certificate_for_this_host_is_refused(tmp_path: Path) -> None:
    trust = Trust()
    request = request_of(tmp_path)
    named, shown = trust.certify_request(request), trust.certify_request(request)
    with pytest.raises(InputError, match="another certificate"):
        identity.accept(tmp_path, trust.grant(shown, trust.genesis([(request, named)])))


@pytest.fixture
def me(tmp_path: Path) -> identity.Identity:
    """A host's identity in `tmp_path/n1`."""
    return found(tmp_path, 1)[0]


async def test_identity_and_ledger_are_born_together(tmp_path: Path, me: identity.Identity) -> None:
    home = tmp_path / "n1"
    ledger, boot = await open_ledger(home, me)
    assert boot.entries == (genesis_entry(me),)
    await write(ledger, Persist(hard_state=HardState(term=1)))
    await ledger.close()
    again = await asyncio.to_thread(identity.load, home)
    assert again.ledger == ledger.ledger_id
    ledger, boot = await open_ledger(home, again)
    await ledger.close()
    assert boot.hard_state.term == 1


async def test_a_start_that_was_cut_before_the_identity_named_its_ledger_goes_on(
    tmp_path: Path, me: identity.Identity
) -> None:
    ledger, _ = await Ledger.open(tmp_path / "n1" / "ledger.db", agent_id=me.id, genesis_entry=genesis_entry(me))
    await ledger.close()
    ledger, _ = await open_ledger(tmp_path / "n1", me)
    await ledger.close()
    assert (await asyncio.to_thread(identity.load, tmp_path / "n1")).ledger == ledger.ledger_id


async def test_a_wiped_ledger_under_a_kept_identity_is_refused(tmp_path: Path, me: identity.Identity) -> None:
    home = tmp_path / "n1"
    ledger, _ = await open_ledger(home, me)
    await ledger.close()
    for file in home.glob("ledger.db*"):
        file.unlink()
    with pytest.raises(NeedsRepair, match="new member"):
        await open_ledger(home, await asyncio.to_thread(identity.load, home))


async def test_an_older_copy_of_the_ledger_is_refused_however_often_it_is_tried(
    tmp_path: Path, me: identity.Identity
) -> None:
    """It has forgotten what this agent voted since."""
    home, copies = tmp_path / "n1", tmp_path / "copies"
    copies.mkdir()
    for start in range(4):
        ledger, boot = await open_ledger(home, await asyncio.to_thread(identity.load, home))
        await ledger.close()
        assert boot.starts == start + 1
        if start == 1:
            shutil.copy2(home / "ledger.db", copies)
    shutil.copy2(copies / "ledger.db", home)
    for _ in range(4):
        with pytest.raises(NeedsRepair, match="older copy") as refused:
            await open_ledger(home, await asyncio.to_thread(identity.load, home))
        assert "new member" in refused.value.fix


async def test_a_start_that_was_cut_before_it_was_noted_is_no_older_copy(tmp_path: Path, me: identity.Identity) -> None:
    home = tmp_path / "n1"
    for _ in range(2):
        ledger, _ = await open_ledger(home, await asyncio.to_thread(identity.load, home))
        await ledger.close()
    await asyncio.to_thread(identity.bind_ledger, home, ledger.ledger_id, 1)
    ledger, boot = await open_ledger(home, await asyncio.to_thread(identity.load, home))
    await ledger.close()
    assert boot.starts == 3


async def test_a_kept_ledger_under_a_fresh_identity_is_refused(tmp_path: Path, me: identity.Identity) -> None:
    home = tmp_path / "n1"
    ledger, _ = await open_ledger(home, me)
    await ledger.close()
    shutil.rmtree(home / "identity")
    (fresh,) = await asyncio.to_thread(found, tmp_path, 1)
    with pytest.raises(NeedsRepair, match="belongs to agent"):
        await open_ledger(home, fresh)


def test_a_host_with_a_ledger_isnt_taken_into_another_cluster(tmp_path: Path) -> None:
    found(tmp_path, 1)
    identity.bind_ledger(tmp_path / "n1", "0" * 32, 1)
    with pytest.raises(InputError, match="another cluster"):
        identity.accept(tmp_path / "n1", granted(tmp_path / "n1", Trust()))


def test_the_members_record_is_the_certificates(tmp_path: Path) -> None:
    trust = Trust()
    request = request_of(tmp_path)
    certificate = trust.certify_request(request)
    digest = x509.load_pem_x509_certificate(certificate.encode()).fingerprint(hashes.SHA256()).hex()
    assert member_of(request, certificate).certificate == digest
    assert encode_genesis(trust.genesis([(request, certificate)]))


def test_what_it_knows_of_its_expulsion_is_there_at_the_next_start(tmp_path: Path) -> None:
    trust = Trust()
    identity.accept(tmp_path, granted(tmp_path, trust))
    assert identity.load(tmp_path).expelled is None
    known = Expulsion(by="ann", at="2026-01-01T00:00:00Z", reason="\u2603" * 512, epoch=1)
    identity.keep_expelled(tmp_path, known)
    assert identity.load(tmp_path).expelled == known
    (tmp_path / "identity" / identity.EXPELLED).write_bytes(b"{")
    with pytest.raises(NeedsRepair, match="expulsion can't be read"):
        identity.load(tmp_path)
