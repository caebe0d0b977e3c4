"""The agent's own identity: three keys made on this host, the certificate and genesis that came back for them.

    request = create(data_dir, …)     # on the host; goes to the operator
    accept(data_dir, grant)           # what came back, checked
    identity = load(data_dir)         # at each start

`<data_dir>/identity` (0700) holds `tls.pem` (P-256), `signing.pem` (Ed25519), `sealing.pem` (X25519),
`certificate.pem`, `grant.json` and `ledger` (the id of the ledger that was born with it), each 0600, and
`expelled.json` once the agent has seen the proof that it was. The directory appears whole or not at all. Keys never
leave the host.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.x509.oid import NameOID
from msgspec import Struct

from agent.errors import Conflict, InputError, NeedsRepair, NotAuthenticated, StorageError
from agent.files import sync_directory
from agent.instruction import private_key_of, private_pem, public_hex, read_genesis
from agent.model.cluster import Genesis, IdentityGrant, IdentityRequest
from agent.model.decode import decode_json
from agent.model.expulsion import Expulsion
from agent.model.identity import agent_id_of, server_name
from agent.model.types import AgentId, HostAddress, Label
from agent.model.workers import HostKeys
from agent.storage.files import ANEW_FIX, make_directory, read_private, write_private

DIRECTORY: Final = "identity"

# A genesis of 1000 members (4 MiB), its token and a certificate, and JSON's escaping of them.
MAX_GRANT_BYTES: Final = 9 * 1024 * 1024
EXPELLED: Final = "expelled.json"
MAX_EXPELLED_BYTES: Final = 8 * 1024  # a reason of 512 characters, escaped
MAX_STARTS_DIGITS: Final = 18  # a start a second for longer than there are hosts

_KEY_FILES: Final = ("tls.pem", "signing.pem", "sealing.pem")
_REPAIR: Final = "Run `bootstrap install` for this host again; it repairs the identity."
_REGRANT: Final = (
    "Move `grant.json` out of this directory, then run `bootstrap install` for this host: it brings another one."
)
"""`bootstrap install` takes one that is there for sound."""


class Identity(Struct, frozen=True, kw_only=True):
    """Who this agent is. The paths are for `ssl`, which reads files only; `ledger` is None before the first start.

    `starts`: how many the ledger has counted at least. `expelled`: what it knows of its expulsion.
    `genesis_bytes` and `genesis_token` are what the operator signed.
    """

    id: AgentId
    certificate_path: Path
    tls_key_path: Path
    certificate: str
    genesis: Genesis
    genesis_bytes: bytes
    genesis_token: str
    ledger: str | None
    starts: int
    expelled: Expulsion | None = None
    signing_key: Ed25519PrivateKey
    sealing_key: X25519PrivateKey


class _Keys(Struct, frozen=True):
    tls: ec.EllipticCurvePrivateKey
    signing: Ed25519PrivateKey
    sealing: X25519PrivateKey

    @property
    def id(self) -> AgentId:
        return agent_id_of(bytes.fromhex(public_hex(self.signing)))


def create(
    data_dir: Path, name: Label, address: HostAddress, api_port: int = 9999, peer_port: int = 9998
) -> IdentityRequest:
    """Make this host's keys, unless it has some, and ask for an identity with them. The same keys each time.

    Raises StorageError when the directory can't be written, NeedsRepair when it holds what isn't an identity.
    """
    home = data_dir / DIRECTORY
    make_directory(data_dir)
    if not home.exists():
        _make_keys(data_dir, home)
    keys = _load_keys(home)
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, keys.id)]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(server_name(keys.id))]), critical=False)
        .sign(keys.tls, hashes.SHA256())
    )
    return IdentityRequest(
        id=keys.id,
        name=name,
        address=address,
        api_port=api_port,
        peer_port=peer_port,
        csr=csr.public_bytes(serialization.Encoding.PEM).decode(),
        signing_key=public_hex(keys.signing),
        sealing_key=keys.sealing.public_key().public_bytes_raw().hex(),
    )


def accept(data_dir: Path, grant: IdentityGrant) -> None:
    """Take what the operator sent for the request, after checking that it is for these keys and of one cluster.

    A host that isn't named in the genesis is enrolled later; one that is must be named with this very certificate.
    Taking another cluster's identity over one that has a ledger is refused. Raises InputError for a grant that doesn't
    fit, NotAuthenticated when the genesis isn't signed, StorageError for this host's own files.
    """
    home = data_dir / DIRECTORY
    keys = _load_keys(home)
    genesis = read_genesis(grant.genesis_token, grant.genesis.encode())
    certificate = _check_certificate(grant.certificate, keys, genesis)
    for member in genesis.members:
        if member.id != keys.id:
            continue
        if member.certificate != certificate.fingerprint(hashes.SHA256()).hex():
            raise InputError("the genesis names another certificate for this agent", where="$.certificate", fix=_REPAIR)
        if member.sealing_key != keys.sealing.public_key().public_bytes_raw().hex():
            raise InputError("the genesis names another sealing key for this agent", where="$.genesis", fix=_REPAIR)
    if (home / "ledger").exists() and (home / "grant.json").exists():
        held = _read_grant(home)
        if held.genesis != grant.genesis:
            raise InputError("this host belongs to another cluster already", where=str(home), fix=ANEW_FIX)
    write_private(home / "certificate.pem", grant.certificate.encode())
    write_private(home / "grant.json", msgspec.json.encode(grant))  # last: with it the identity is whole


def take(data_dir: Path, keys: HostKeys, grant: IdentityGrant) -> None:
    """Become who an invitation says: keys and grant made on the operator's machine.

    An identity that never had a ledger (an interrupted join) is replaced. Raises Conflict when this host is another
    agent already; else as `accept`.
    """
    home = data_dir / DIRECTORY
    make_directory(data_dir)
    pems = {"tls.pem": keys.tls.encode(), "signing.pem": keys.signing.encode(), "sealing.pem": keys.sealing.encode()}
    if home.exists() and any(read_private(home / name) != pem for name, pem in pems.items()):
        if (home / "ledger").exists():
            raise Conflict("this host is an agent already, with other keys", where=str(home), fix=ANEW_FIX)
        shutil.rmtree(home)
    if not home.exists():
        _place(data_dir, home, pems)
    accept(data_dir, grant)


def is_granted(data_dir: Path) -> bool:
    """Whether this host has a complete identity."""
    return (data_dir / DIRECTORY / "grant.json").exists()


def load(data_dir: Path) -> Identity:
    """The identity of this host. Raises StorageError when it has none, NeedsRepair when it isn't sound."""
    home = data_dir / DIRECTORY
    granted = is_granted(data_dir)
    # What a link leads to may be on a disk that is mounted later.
    if granted and (gone := [name for name in _KEY_FILES if not os.path.lexists(home / name)]):
        raise NeedsRepair(f"{gone[0]} is missing", where=str(home), fix=ANEW_FIX)
    keys = _load_keys(home)
    if not granted:
        raise StorageError("this host has keys, but no certificate yet", where=str(home), fix=_REPAIR)
    grant = _read_grant(home)
    try:
        genesis = read_genesis(grant.genesis_token, grant.genesis.encode())
        _check_certificate(grant.certificate, keys, genesis)
    except (InputError, NotAuthenticated) as error:
        raise NeedsRepair(error.what, where=str(home), fix=ANEW_FIX) from error
    certificate_path = home / "certificate.pem"
    if not certificate_path.exists() or read_private(certificate_path) != grant.certificate.encode():
        write_private(certificate_path, grant.certificate.encode())  # accept was cut between its two files
    ledger = home / "ledger"
    return Identity(
        id=keys.id,
        certificate_path=certificate_path,
        tls_key_path=home / "tls.pem",
        certificate=grant.certificate,
        genesis=genesis,
        genesis_bytes=grant.genesis.encode(),
        genesis_token=grant.genesis_token,
        ledger=read_private(ledger).decode("ascii", "replace").strip() if ledger.exists() else None,
        starts=_read_starts(home),
        expelled=_read_expelled(home),
        signing_key=keys.signing,
        sealing_key=keys.sealing,
    )


def bind_ledger(data_dir: Path, ledger_id: str, starts: int) -> None:
    """Name the ledger that was born with this identity; from now on no other one is taken, and none is made again.

    `starts` is what it counts now: one that counts less is an older copy.
    """
    home = data_dir / DIRECTORY
    if not (home / "ledger").exists():
        write_private(home / "ledger", ledger_id.encode())
    write_private(home / "starts", str(starts).encode())


def keep_expelled(data_dir: Path, expelled: Expulsion) -> None:
    """Note that this agent was expelled: its next start runs nothing, whomever it reaches. Raises StorageError."""
    write_private(data_dir / DIRECTORY / EXPELLED, msgspec.json.encode(expelled))


def _read_expelled(home: Path) -> Expulsion | None:
    path = home / EXPELLED
    try:
        return decode_json(read_private(path), Expulsion, max_bytes=MAX_EXPELLED_BYTES) if path.exists() else None
    except InputError as error:
        raise NeedsRepair(
            f"what is noted of an expulsion can't be read: {error.what}", where=str(path), fix=ANEW_FIX
        ) from error


def _read_starts(home: Path) -> int:
    """Before the first start there is no count, and none in an identity that never kept one."""
    if not (home / "starts").exists():
        return 0
    text = read_private(home / "starts").decode("ascii", "replace").strip()
    if not (text.isdecimal() and len(text) <= MAX_STARTS_DIGITS):
        raise NeedsRepair("the count of starts can't be read", where=str(home / "starts"), fix=ANEW_FIX)
    return int(text)


def _make_keys(data_dir: Path, home: Path) -> None:
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pems = {
        "tls.pem": ec.generate_private_key(ec.SECP256R1()).private_bytes(*pem),
        "signing.pem": private_pem(Ed25519PrivateKey.generate()),
        "sealing.pem": X25519PrivateKey.generate().private_bytes(*pem),
    }
    _place(data_dir, home, pems)


def _place(data_dir: Path, home: Path, pems: dict[str, bytes]) -> None:
    """Write all keys beside the place, then move them there in one step."""
    beside = data_dir / f".{DIRECTORY}-{secrets.token_hex(8)}"
    make_directory(beside)
    try:
        for name, pem in pems.items():
            write_private(beside / name, pem)
        try:
            os.rename(beside, home)
        except OSError as error:
            if not home.exists():  # else somebody was first; theirs are the keys
                raise StorageError(f"the keys can't be kept: {error.strerror}", where=str(home)) from error
        sync_directory(data_dir)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _load_keys(home: Path) -> _Keys:
    if not home.is_dir():
        raise StorageError("this host has no identity", where=str(home), fix=_REPAIR)
    try:
        tls = serialization.load_pem_private_key(read_private(home / "tls.pem"), password=None)
        signing = private_key_of(read_private(home / "signing.pem"), where=str(home / "signing.pem"))
        sealing = serialization.load_pem_private_key(read_private(home / "sealing.pem"), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InputError) as error:  # whose words may quote the contents
        raise NeedsRepair("a key file isn't a key", where=str(home), fix=ANEW_FIX) from error
    if not isinstance(tls, ec.EllipticCurvePrivateKey) or not isinstance(sealing, X25519PrivateKey):
        raise NeedsRepair("a key file holds another kind of key", where=str(home), fix=ANEW_FIX)
    return _Keys(tls, signing, sealing)


def _read_grant(home: Path) -> IdentityGrant:
    try:
        return decode_json(read_private(home / "grant.json"), IdentityGrant, max_bytes=MAX_GRANT_BYTES)
    except InputError as error:
        what = f"the certificate and genesis can't be read: {error.what}"
        raise NeedsRepair(what, where=str(home), fix=_REGRANT) from error


def _check_certificate(pem: str, keys: _Keys, genesis: Genesis) -> x509.Certificate:
    """The certificate, if it says "this key is agent X of cluster Y" of our key and id, and nothing more."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        certified = certificate.public_key()
        anchor = x509.load_pem_x509_certificate(genesis.trust_anchor.encode())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, UnsupportedAlgorithm, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise InputError(f"not a certificate of an agent: {error}", where="$.certificate") from None
    if certified != keys.tls.public_key():
        raise InputError("the certificate is for another key than this host's", where="$.certificate", fix=_REPAIR)
    if [name.value for name in names] != [server_name(keys.id)]:
        raise InputError(f"the certificate doesn't name {keys.id} alone", where="$.certificate", fix=_REPAIR)
    if constraints.ca:
        raise InputError("the certificate could sign others", where="$.certificate")
    try:
        certificate.verify_directly_issued_by(anchor)
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        raise InputError("the cluster's key didn't sign this certificate", where="$.certificate", fix=_REPAIR) from None
    return certificate
