"""`bootstrap invite`: the body that adds a host through the API, made on the operator's machine for `agent invite`.

The host's keys exist only in memory here, sealed in the body, and then on the host.
"""

import base64
import hashlib
import sys
from pathlib import Path
from typing import Annotated, Final

import click
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec import Meta, Struct

from agent.home import Home, open_home
from agent.instruction import new_key, private_pem, public_hex
from agent.instruction.sealing import seal
from agent.model.cluster import IdentityRequest
from agent.model.decode import convert, decode_json
from agent.model.identity import agent_id_of, server_name
from agent.model.types import HostAddress, Label, Labels, PublicKey
from agent.model.workers import AddWorker, HostKeys, Invitation
from bootstrap.certificates import certify
from bootstrap.genesis import enrol_instruction, load_genesis
from bootstrap.home import locked

MAX_WISH_BYTES: Final = 65_536  # labels are most of it


class Wish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `agent invite` sends on standard input. `now_s`: seconds since the epoch by the cluster's clock.

    `worker` lacks the sealed part; `sealing_key` is that of the agent `worker.via`.
    """

    home: str
    name: Label
    address: HostAddress
    labels: Labels = {}
    worker: AddWorker
    sealing_key: PublicKey
    now_s: Annotated[float, Meta(ge=0)]


@click.command()
def invite() -> None:
    """Make the body that adds a host through the API: `agent invite` runs this, and says what on standard input."""
    wish = decode_json(sys.stdin.buffer.read(MAX_WISH_BYTES + 1), Wish, max_bytes=MAX_WISH_BYTES)
    sys.stdout.write(msgspec.json.encode(invitation_for(open_home(Path(wish.home)), wish)).decode() + "\n")


def invitation_for(home: Home, wish: Wish) -> AddWorker:
    """The body. Raises as `enrol_instruction`, and NotFound without a genesis or the cluster's key."""
    genesis, _ = load_genesis(home)
    request, keys = _identity(wish)
    with locked(home):
        certificate = certify(home, request)
    token, body = enrol_instruction(home, request, now_s=wish.now_s, labels=wish.labels)
    made = Invitation(
        keys=keys,
        certificate=certificate,
        genesis=hashlib.sha256(genesis).hexdigest(),
        token=token,
        body=body.decode(),
    )
    box = seal(wish.sealing_key, msgspec.json.encode(made), wish.worker.bound())
    sealed = base64.urlsafe_b64encode(box).decode().rstrip("=")
    return msgspec.structs.replace(wish.worker, sealed=sealed)


def _identity(wish: Wish) -> tuple[IdentityRequest, HostKeys]:
    """Three fresh keys, and the request that a host with them would make."""
    tls, signing, sealing = ec.generate_private_key(ec.SECP256R1()), new_key(), X25519PrivateKey.generate()
    id_ = agent_id_of(bytes.fromhex(public_hex(signing)))
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(server_name(id_))]), critical=False)
        .sign(tls, hashes.SHA256())
    )
    fields = {
        "id": id_,
        "name": wish.name,
        "address": wish.address,
        "csr": csr.public_bytes(serialization.Encoding.PEM).decode(),
        "signing_key": public_hex(signing),
        "sealing_key": sealing.public_key().public_bytes_raw().hex(),
    }
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    keys = HostKeys(
        tls=tls.private_bytes(*pem).decode(),
        signing=private_pem(signing).decode(),
        sealing=sealing.private_bytes(*pem).decode(),
    )
    request: IdentityRequest = convert(fields, IdentityRequest, "invitation")
    return request, keys
