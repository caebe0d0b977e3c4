"""A cluster's trust for tests: the key that signs identities, two admins, and hosts with real identities."""

from __future__ import annotations

import base64
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.instruction import encode_genesis, new_key, public_hex, sign_genesis
from agent.model.cluster import Genesis, IdentityGrant, IdentityRequest, Member, Operator
from agent.model.identity import server_name
from agent.net.handshake import LocalAgent
from agent.storage import identity

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
NEVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def random_cluster_id() -> str:
    """16 random base32 characters."""
    return base64.b32encode(secrets.token_bytes(10)).decode().lower()


class Trust:
    """What bootstrap holds for one cluster."""

    def __init__(self, cluster: str | None = None) -> None:
        self.cluster = cluster or random_cluster_id()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.operator = new_key()
        self.recovery = new_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"muster {self.cluster}")])
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(LONG_AGO)
            .not_valid_after(NEVER)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.anchor = self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def certify(
        self, public_key: ec.EllipticCurvePublicKey, agent: str, *, names: list[str] | None = None, ca: bool = False
    ) -> x509.Certificate:
        """A certificate "this key is this agent"; `names` and `ca` for ones that no cluster should give."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, agent)])
        alternatives = [x509.DNSName(name) for name in (names if names is not None else [server_name(agent)])]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(LONG_AGO)
            .not_valid_after(NEVER)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def certify_request(self, request: IdentityRequest) -> str:
        """The certificate for a request, PEM."""
        public_key = x509.load_pem_x509_csr(request.csr.encode()).public_key()
        assert isinstance(public_key, ec.EllipticCurvePublicKey)
        return pem(self.certify(public_key, request.id))

    def genesis(self, certified: list[tuple[IdentityRequest, str]]) -> Genesis:
        """The genesis with these members, the first up to five as voters."""
        return Genesis(
            cluster=self.cluster,
            name="test",
            created_at=1_700_000_000_000,
            trust_anchor=self.anchor,
            admins=(
                Operator(name="alice", key=public_hex(self.operator), scope="admin"),
                Operator(name="recovery", key=public_hex(self.recovery), scope="admin"),
            ),
            members=tuple(member_of(request, certificate) for request, certificate in certified),
            voters=tuple(request.id for request, _ in certified[:5]),
        )

    def grant(self, certificate: str, genesis: Genesis) -> IdentityGrant:
        """What goes back to a host."""
        data = encode_genesis(genesis)
        token = sign_genesis(
            self.operator, operator_name="alice", genesis=genesis, genesis_bytes=data, now_s=time.time()
        )
        return IdentityGrant(certificate=certificate, genesis=data.decode(), genesis_token=token)


def pem(certificate: x509.Certificate) -> str:
    """The certificate as text."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def member_of(request: IdentityRequest, certificate: str) -> Member:
    """The ledger's record of a host with that request and certificate (PEM)."""
    fingerprint = x509.load_pem_x509_certificate(certificate.encode()).fingerprint(hashes.SHA256()).hex()
    return Member(
        id=request.id,
        name=request.name,
        address=request.address,
        api_port=request.api_port,
        peer_port=request.peer_port,
        certificate=fingerprint,
        signing_key=request.signing_key,
        sealing_key=request.sealing_key,
    )


def found(directory: Path, count: int, trust: Trust | None = None) -> list[identity.Identity]:
    """The identities of `count` hosts n1, n2, … of one cluster, each in `directory/<name>`."""
    trust = trust or Trust()
    names = [f"n{number}" for number in range(1, count + 1)]
    requests = [identity.create(directory / name, name, f"127.0.0.{n}") for n, name in enumerate(names, 1)]
    certified = [(request, trust.certify_request(request)) for request in requests]
    genesis = trust.genesis(certified)
    for request, certificate in certified:
        identity.accept(directory / request.name, trust.grant(certificate, genesis))
    return [identity.load(directory / name) for name in names]


def introduction(host: identity.Identity, *, epoch: int = 1, boot: int = 1, peer_port: int = 9998) -> LocalAgent:
    """What that host's agent says of itself when it links."""
    return LocalAgent(
        id=host.id,
        name="n",
        cluster=host.genesis.cluster,
        epoch=epoch,
        boot=boot,
        agent_version="1.2.3",
        level=1,
        api_port=9999,
        peer_port=peer_port,
        signing_key=host.signing_key,
    )
