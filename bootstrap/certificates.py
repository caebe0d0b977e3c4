"""X.509 for agents: the cluster's anchor, and the identities it signs (docs/security.md "Identity is not authority").

A certificate says only "this key is agent X of cluster Y". Authority is the ledger's.
"""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.errors import Conflict, InputError
from agent.home import ANCHOR_KEY_FILE, ISSUED_DIRECTORY, Home, read_file, read_private_key, write_file
from agent.model.cluster import IdentityRequest
from agent.model.identity import agent_id_of, server_name
from agent.model.types import AgentId, CertificatePem, ClusterId, Digest, Label

NOT_BEFORE = datetime(2000, 1, 1, tzinfo=UTC)
NOT_AFTER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""Clocks of hosts without an RTC must not lock them out; RFC 5280 §4.1.2.5 has this value for "no end"."""


def make_anchor(key: ec.EllipticCurvePrivateKey, cluster: ClusterId, name: Label) -> CertificatePem:
    """The self-signed certificate that every member of the cluster trusts to say who is who."""
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, cluster), x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)]
    )
    builder = (
        _certificate(subject, subject, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _pem(builder.sign(key, hashes.SHA256()))


def certify(home: Home, request: IdentityRequest) -> CertificatePem:
    """The identity certificate for a request; for the same key always the same certificate.

    Raises InputError for an unsound request (see `check_request`), Conflict when that agent has a certificate for
    another key, and as `read_private_key` for the cluster's key.
    """
    public_key = check_request(request)
    kept = home.path / ISSUED_DIRECTORY / f"{request.id}.crt"
    if kept.exists():
        pem = read_file(kept).decode("ascii", "replace")
        if x509.load_pem_x509_certificate(pem.encode()).public_key() != public_key:
            fix = "Let the host make fresh keys: `bootstrap uninstall` it, then install it again."
            raise Conflict("this agent has a certificate for another TLS key", where=request.name, fix=fix)
        return pem
    pem = _issue(home, request.id, public_key)
    write_file(kept, pem.encode(), mode=0o644)
    return pem


def check_request(request: IdentityRequest) -> ec.EllipticCurvePublicKey:
    """The TLS key of a sound request: the id is that of the signing key, the CSR is signed by its own P-256 key.

    Of the CSR's content only that key counts; but a CSR that names another agent was mixed up. Raises InputError.
    """
    where = f"the request of {request.name}"
    if agent_id_of(bytes.fromhex(request.signing_key)) != request.id:
        raise InputError("the id isn't that of the signing key", where=where)
    try:
        csr = x509.load_pem_x509_csr(request.csr.encode())
        key = csr.public_key()
        sound = csr.is_signature_valid
        names = _names(csr)
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.DuplicateExtension):
        raise InputError("the CSR can't be read", where=where) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InputError("the CSR's key isn't on P-256", where=where)
    if not sound:
        raise InputError("the CSR isn't signed by its own key", where=where)
    if any(name != server_name(request.id) for name in names):
        raise InputError(f"the CSR is for {', '.join(map(str, names))}", where=where)
    return key


def certificate_digest(pem: CertificatePem) -> Digest:
    """The sha256 of the certificate's DER, as `Member.certificate` has it."""
    return x509.load_pem_x509_certificate(pem.encode()).fingerprint(hashes.SHA256()).hex()


def _names(csr: x509.CertificateSigningRequest) -> list[object]:
    try:
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [name.value for name in names]


def _issue(home: Home, agent: AgentId, public_key: ec.EllipticCurvePublicKey) -> CertificatePem:
    key = read_private_key(home.path / ANCHOR_KEY_FILE)
    anchor = x509.load_pem_x509_certificate(home.trust_anchor.encode())
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != anchor.public_key():
        raise InputError("not the key of the cluster's anchor", where=str(home.path / ANCHOR_KEY_FILE))
    name = server_name(agent)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = (
        _certificate(subject, anchor.subject, public_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(usage, critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    return _pem(builder.sign(key, hashes.SHA256()))


def _certificate(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> CertificatePem:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
