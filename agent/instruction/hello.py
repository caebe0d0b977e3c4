"""The hello that opens a peer link: who I am, on which TLS session, to whom (ARCHITECTURE.md "Membership and
links")."""

import hmac
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Meta, Struct

from agent.errors import NotAuthenticated
from agent.instruction.keys import public_hex, public_key_of
from agent.instruction.operator import new_jti
from agent.instruction.tokens import read_token, write_token
from agent.model.decode import convert
from agent.model.identity import agent_id_of
from agent.model.types import AgentId, Digest, Jti, PublicKey

HELLO_TTL_S = 30  # a TLS handshake and one frame, on the slowest link that would still hold a quorum


class HelloClaims(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`iss` and `aud` are agent ids; `tls` is the sha256 of the session's binding, `key` the sender's signing key."""

    iss: AgentId
    aud: AgentId
    iat: Annotated[int, Meta(ge=0, le=2**40)]
    exp: Annotated[int, Meta(ge=0, le=2**40)]
    jti: Jti
    tls: Digest
    key: PublicKey


def sign_hello(key: Ed25519PrivateKey, *, audience: AgentId, tls: Digest, now_s: float, jti: Jti | None = None) -> str:
    """A `peer+jwt` of the agent whose signing key this is, to the agent `audience`."""
    public = public_hex(key)
    claims = {
        "iss": agent_id_of(bytes.fromhex(public)),
        "aud": audience,
        "iat": int(now_s),
        "exp": int(now_s) + HELLO_TTL_S,
        "jti": jti if jti is not None else new_jti(),
        "tls": tls,
        "key": public,
    }
    return write_token(key, "peer+jwt", convert(claims, HelloClaims, "claims"))


def read_hello(token: str, *, audience: AgentId, tls: Digest) -> HelloClaims:
    """The claims of a hello to `audience` on the TLS session `tls`, signed by the key that its agent id is derived
    from.

    The local clock isn't consulted: the token can't outlive its TLS session, and hosts without an RTC must be able to
    link before they know the time. The caller checks whether the agent is a member, and whether the TLS certificate is
    the same agent's. Raises NotAuthenticated.
    """

    def key_for(claims: HelloClaims) -> Ed25519PublicKey | None:
        named = agent_id_of(bytes.fromhex(claims.key)) == claims.iss
        return public_key_of(claims.key) if named else None

    claims = read_token(token, typ="peer+jwt", claims_type=HelloClaims, audience=audience, key_for=key_for)
    if not 0 < claims.exp - claims.iat <= HELLO_TTL_S:
        raise NotAuthenticated(f"a hello is valid for at most {HELLO_TTL_S} s", where="exp")
    if not hmac.compare_digest(claims.tls, tls):
        raise NotAuthenticated("the hello is of another TLS session", where="tls")
    return claims
