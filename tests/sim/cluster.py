"""Who plays in a world: members with keys of their own, operators, the genesis; all drawn from the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.instruction import public_hex
from agent.model.cluster import Genesis, Member, Operator
from agent.model.identity import agent_id_of
from agent.model.types import AgentId

OPERATOR = "ops"


@dataclass(frozen=True, slots=True)
class Cast:
    """`operator_key` signs every instruction of the world."""

    genesis: Genesis
    operator_key: Ed25519PrivateKey
    names: dict[AgentId, str]

    @classmethod
    def draw(cls, rng: random.Random, size: int, created_at: int) -> Cast:
        """`size` members, the first 1, 3 or 5 of them voters."""
        members = tuple(draw_member(rng, f"n{number}") for number in range(1, size + 1))
        operator, recovery = _key(rng), _key(rng)
        admins = (
            Operator(name=OPERATOR, key=public_hex(operator), scope="admin"),
            Operator(name="recovery", key=public_hex(recovery), scope="admin"),
        )
        voters = 1 if size < 3 else 3 if size < 5 else 5
        genesis = Genesis(
            cluster="simulatedcluster",
            name="sim",
            created_at=created_at,
            trust_anchor="-----BEGIN CERTIFICATE-----\nnone\n",
            admins=admins,
            members=members,
            voters=tuple(sorted(member.id for member in members[:voters])),
        )
        return cls(genesis, operator, {member.id: member.name for member in members})

    def name(self, agent: AgentId) -> str:
        """The host's name."""
        return self.names[agent]


def _key(rng: random.Random) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(rng.randbytes(32))


def draw_member(rng: random.Random, name: str) -> Member:
    """A host with fresh keys."""
    key = public_hex(_key(rng))
    return Member(
        id=agent_id_of(bytes.fromhex(key)),
        name=name,
        address=name,
        certificate=rng.randbytes(32).hex(),
        signing_key=key,
        sealing_key=rng.randbytes(32).hex(),
    )
