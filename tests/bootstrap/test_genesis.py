"""The cluster's birth: certificates, first members and voters, what each host gets (docs/security.md "Identity is not
authority")."""

from __future__ import annotations

import random
import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent.errors import Conflict, InputError, MusterError, NotFound
from agent.home import ANCHOR_KEY_FILE, GENESIS_FILE, GENESIS_TOKEN_FILE, Home, open_home, read_recovery, write_file
from agent.instruction import audience_of, encode_genesis, read_genesis, read_instruction
from agent.model.identity import server_name
from agent.model.instruction import Enrol
from agent.storage import identity
from bootstrap.certificates import certificate_digest, certify
from bootstrap.genesis import enrol_instruction, grant, load_genesis, make_genesis, remember_members
from bootstrap.home import create_home
from tests.bootstrap.identities import Host, csr, host

NOW_MS = 1_700_000_000_000
HOSTS = [host(f"n{number}") for number in range(7)]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return create_home(tmp_path / "prod", name="prod", operator="alice", recovery_file=tmp_path / "recovery.key")


def requests(count: int) -> list[Any]:
    return [one.request() for one in HOSTS[:count]]


def test_a_certificate_says_only_who_and_for_ever(home: Home) -> None:
    certificate = x509.load_pem_x509_certificate(certify(home, HOSTS[0].request()).encode())
    extensions = certificate.extensions
    assert extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName) == [
        f"{HOSTS[0].id}.agent.muster"
    ]
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca
    assert set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert certificate.not_valid_before_utc == datetime(2000, 1, 1, tzinfo=UTC)
    assert certificate.not_valid_after_utc == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert certificate.public_key() == HOSTS[0].tls.public_key()
    assert certificate.serial_number.bit_length() > 64


def test_openssl_believes_it_of_this_cluster_only(home: Home, tmp_path: Path) -> None:
    """A handshake in memory, TLS 1.3, both sides verified, as the peer link does it."""
    other = create_home(tmp_path / "other", name="other", operator="alice", recovery_file=tmp_path / "o.key")
    handshake(tmp_path, home, home, HOSTS[0], HOSTS[1])
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, other, home, HOSTS[0], HOSTS[1])


def context(tmp_path: Path, side: int, home: Home, issued_by: Home, one: Host) -> ssl.SSLContext:
    made = ssl.SSLContext(side)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(cadata=home.trust_anchor)
    chain = tmp_path / f"{one.name}.pem"
    key = one.tls.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain.write_bytes(key + certify(issued_by, one.request()).encode())
    made.load_cert_chain(chain)
    return made


def handshake(tmp_path: Path, trusting: Home, issued_by: Home, client: Host, server: Host) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = context(tmp_path, ssl.PROTOCOL_TLS_CLIENT, trusting, issued_by, client).wrap_bio(
        to_client, to_server, server_hostname=server_name(server.id)
    )
    answering = context(tmp_path, ssl.PROTOCOL_TLS_SERVER, trusting, issued_by, server).wrap_bio(
        to_server, to_client, server_side=True
    )
    waiting = {asking, answering}
    for _ in range(6):
        for side in list(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.discard(side)
    assert not waiting
    assert answering.getpeercert() is not None


def test_asked_again_the_same_certificate(home: Home) -> None:
    assert certify(home, HOSTS[0].request()) == certify(home, HOSTS[0].request())


def test_another_tls_key_for_one_agent_is_a_conflict(home: Home) -> None:
    certify(home, HOSTS[0].request())
    with pytest.raises(Conflict, match="another TLS key"):
        certify(home, HOSTS[0].request(csr=csr(HOSTS[1].tls)))


def test_of_a_csr_only_the_key_counts(home: Home) -> None:
    certificate = x509.load_pem_x509_certificate(certify(home, HOSTS[0].request(csr=csr(HOSTS[0].tls))).encode())
    assert len(certificate.extensions) == 6


def broken(text: str) -> str:
    """The same CSR with a changed signature."""
    lines = text.splitlines()
    lines[-2] = ("B" if lines[-2][0] == "A" else "A") + lines[-2][1:]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"id": HOSTS[1].id}, "isn't that of the signing key"),
        ({"signing_key": "00" * 32}, "isn't that of the signing key"),
        ({"csr": "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"}, "can't be read"),
        ({"csr": "-----BEGIN CERTIFICATE REQUEST-----\n"}, "can't be read"),
        ({"csr": broken(csr(HOSTS[0].tls))}, "isn't signed by its own key"),
        ({"csr": csr(HOSTS[0].tls, server_name(HOSTS[1].id))}, "the CSR is for"),
        ({"csr": csr(HOSTS[0].tls, server_name(HOSTS[0].id), "example.com")}, "the CSR is for"),
        ({"csr": csr(ec.generate_private_key(ec.SECP384R1()))}, "isn't on P-256"),
        ({"csr": csr(rsa.generate_private_key(65537, 2048))}, "isn't on P-256"),
    ],
)
def test_an_unsound_request_gets_nothing(home: Home, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        certify(home, HOSTS[0].request(**changes))
    assert list((home.path / "issued").iterdir()) == []


def test_another_cluster_s_key_signs_nothing(home: Home, tmp_path: Path) -> None:
    other = create_home(tmp_path / "other", name="other", operator="alice", recovery_file=tmp_path / "o.key")
    key = (other.path / ANCHOR_KEY_FILE).read_bytes()
    write_file(home.path / ANCHOR_KEY_FILE, key, mode=0o600, replace=True)
    with pytest.raises(InputError, match="not the key of the cluster's anchor"):
        certify(home, HOSTS[0].request())


@pytest.mark.parametrize(("hosts", "voters"), [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (7, 5)])
def test_first_voters(home: Home, hosts: int, voters: int) -> None:
    """1 of ≤ 2, 3 of 3–4, 5 of ≥ 5."""
    genesis = make_genesis(home, requests(hosts), now_ms=NOW_MS)
    assert [m.name for m in genesis.members] == [f"n{n}" for n in range(hosts)]
    assert genesis.voters == tuple(m.id for m in genesis.members[:voters])


def test_the_genesis_is_that_of_the_home(home: Home) -> None:
    labels = {HOSTS[0].id: {"zone": "a"}}
    genesis = make_genesis(home, requests(3), now_ms=NOW_MS, labels=labels)
    assert (genesis.cluster, genesis.name, genesis.epoch) == (home.cluster.id, "prod", 1)
    assert genesis.created_at == NOW_MS
    assert [(a.name, a.key, a.scope) for a in genesis.admins] == [
        ("alice", home.operator.key, "admin"),
        ("recovery", read_recovery(home).key, "admin"),
    ]
    first = genesis.members[0]
    assert (first.id, first.labels, first.signing_key) == (HOSTS[0].id, {"zone": "a"}, HOSTS[0].request().signing_key)
    assert first.certificate == certificate_digest(certify(home, HOSTS[0].request()))


def test_the_order_of_the_requests_does_not_matter(home: Home) -> None:
    shuffled = requests(7)
    random.Random(7).shuffle(shuffled)
    assert [m.name for m in make_genesis(home, shuffled, now_ms=NOW_MS).members] == [f"n{n}" for n in range(7)]


def test_there_is_never_a_second_genesis(home: Home) -> None:
    first = make_genesis(home, requests(3), now_ms=NOW_MS)
    with pytest.raises(Conflict, match="has its genesis already"):
        make_genesis(home, requests(5), now_ms=NOW_MS + 1)
    data, token = load_genesis(open_home(home.path))
    assert read_genesis(token, data) == first
    assert data == encode_genesis(first)


def test_of_many_who_try_at_once_one_makes_it(home: Home) -> None:
    def attempt(count: int) -> bool:
        try:
            make_genesis(home, requests(count), now_ms=NOW_MS)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(attempt, [1, 2, 3, 4])) == 1
    data, signature = load_genesis(home)
    read_genesis(signature, data)


def test_a_genesis_cut_between_its_files_can_be_made_again(home: Home) -> None:
    make_genesis(home, requests(3), now_ms=NOW_MS)
    (home.path / GENESIS_FILE).unlink()
    again = make_genesis(home, requests(5), now_ms=NOW_MS + 1)
    data, token = load_genesis(home)
    assert read_genesis(token, data) == again


@pytest.mark.parametrize("name", [GENESIS_FILE, GENESIS_TOKEN_FILE])
def test_a_changed_genesis_is_not_delivered(home: Home, name: str) -> None:
    make_genesis(home, requests(3), now_ms=NOW_MS)
    path = home.path / name
    data = path.read_bytes()
    path.write_bytes(data[:-10] + bytes([data[-10] ^ 1]) + data[-9:])
    with pytest.raises(MusterError):
        grant(home, HOSTS[0].request())


def test_another_cluster_s_genesis_is_not_delivered(home: Home, tmp_path: Path) -> None:
    other = create_home(tmp_path / "other", name="other", operator="alice", recovery_file=tmp_path / "o.key")
    make_genesis(other, requests(1), now_ms=NOW_MS)
    for name in (GENESIS_FILE, GENESIS_TOKEN_FILE):
        write_file(home.path / name, (other.path / name).read_bytes(), mode=0o600)
    with pytest.raises(InputError, match="of another cluster"):
        load_genesis(home)


def test_two_hosts_of_one_name_make_no_genesis(home: Home) -> None:
    with pytest.raises(InputError, match="the name n0 stands twice"):
        make_genesis(home, [HOSTS[0].request(), HOSTS[1].request(name="n0")], now_ms=NOW_MS)
    assert not (home.path / GENESIS_FILE).exists()


def test_no_hosts_make_no_genesis(home: Home) -> None:
    with pytest.raises(InputError):
        make_genesis(home, [], now_ms=NOW_MS)


def test_before_the_genesis_nothing_is_granted(home: Home) -> None:
    with pytest.raises(NotFound):
        grant(home, HOSTS[0].request())


def test_the_host_takes_what_it_is_granted(home: Home, tmp_path: Path) -> None:
    """Both sides for real: the agent makes keys and a request, and checks what comes back."""
    first = identity.create(tmp_path / "n1", "n1", "10.0.0.1")
    late = identity.create(tmp_path / "n2", "n2", "10.0.0.2")
    genesis = make_genesis(home, [first], now_ms=NOW_MS)
    for name, request in (("n1", first), ("n2", late)):
        granted = grant(home, request)
        assert granted == grant(home, request)
        identity.accept(tmp_path / name, granted)
        assert identity.load(tmp_path / name).genesis == genesis


def test_a_host_is_enrolled_by_a_signed_instruction(home: Home) -> None:
    genesis = make_genesis(home, requests(1), now_ms=NOW_MS)
    token, body = enrol_instruction(home, HOSTS[5].request(), now_s=NOW_MS / 1000, labels={"zone": "b"})
    operators = {admin.name: admin for admin in genesis.admins}
    verified = read_instruction(token, body, operators, audience_of(home.cluster.id, 1))
    assert (verified.claims.act, verified.claims.target, verified.claims.rev) == ("enrol", f"member:{HOSTS[5].id}", 1)
    assert isinstance(verified.body, Enrol)
    assert verified.body.member.labels == {"zone": "b"}
    assert verified.body.member.certificate == certificate_digest(grant(home, HOSTS[5].request()).certificate)


def test_members_are_remembered_and_a_returning_host_replaces_itself(home: Home) -> None:
    genesis = make_genesis(home, requests(2), now_ms=NOW_MS)
    home = remember_members(home, genesis.members)
    assert [m.name for m in open_home(home.path).cluster.members] == ["n0", "n1"]
    fresh = host("n1")
    returned = enrol_instruction(home, fresh.request(address="10.0.0.9"), now_s=1.0)
    member = read_instruction(*returned, {a.name: a for a in genesis.admins}, audience_of(home.cluster.id, 1)).body
    assert isinstance(member, Enrol)
    home = remember_members(home, [member.member])
    assert [(m.name, m.id, m.address) for m in home.cluster.members] == [
        ("n0", HOSTS[0].id, "10.0.0.1"),
        ("n1", fresh.id, "10.0.0.9"),
    ]
