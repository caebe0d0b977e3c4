"""An agent's id is derived from its signing key, so an id can't be claimed without the key."""

from __future__ import annotations

import base64
import hashlib

from agent.model.types import AgentId

AGENT_ID_LENGTH = 26  # 130 bits of base32: out of reach of anyone who grinds keys for another's id
SAN_SUFFIX = ".agent.muster"


def agent_id_of(signing_key: bytes) -> AgentId:
    """The agent id of a raw 32-byte Ed25519 public key: lower-case base32 of its sha256, cut to 26 characters."""
    digest = hashlib.sha256(b"muster agent id\x00" + signing_key).digest()
    return base64.b32encode(digest).decode().lower()[:AGENT_ID_LENGTH]


def server_name(agent: AgentId) -> str:
    """The DNS name in the agent's certificate, e.g. for TLS server_hostname."""
    return agent + SAN_SUFFIX
