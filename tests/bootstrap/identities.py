"""Hosts that ask for an identity, as `agent.storage.identity` does on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from agent.instruction import new_key, public_hex
from agent.model.cluster import IdentityRequest
from agent.model.identity import agent_id_of, server_name


@dataclass(frozen=True)
class Host:
    name: str
    tls: ec.EllipticCurvePrivateKey
    signing: ed25519.Ed25519PrivateKey

    @property
    def id(self) -> str:
        return agent_id_of(bytes.fromhex(public_hex(self.signing)))

    def request(self, **changes: Any) -> IdentityRequest:
        fields: dict[str, Any] = {
            "id": self.id,
            "name": self.name,
            "address": "10.0.0.1",
            "csr": csr(self.tls, server_name(self.id)),
            "signing_key": public_hex(self.signing),
            "sealing_key": "5e" * 32,
        }
        return IdentityRequest(**(fields | changes))


def host(name: str) -> Host:
    return Host(name, ec.generate_private_key(ec.SECP256R1()), new_key())


def csr(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, *names: str) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
