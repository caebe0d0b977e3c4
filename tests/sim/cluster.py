"""Who plays in a world: members with keys of their own, operators, the genesis; all drawn from the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.signing import SigningKey

from agent.instruction import public_hex
from agent.model.cluster import Genesis, Member, Operator
from agent.model.identity import agent_id_of
from agent.model.types import AgentId

OPERATOR = "ops"


@dataclass(frozen=True, slots=True)
class Cast:
    """`operator_key` signs every instruction of the world; `keys` are the members', who sign ten times as often.

    Theirs are libsodium's, which makes the same signatures as OpenSSL in two thirds of its time.
    """

    genesis: Genesis
    operator_key: Ed25519PrivateKey
    names: dict[AgentId, str] = field(default_factory=dict)
    keys: dict[AgentId, SigningKey] = field(default_factory=dict)

    @classmethod
    def draw(cls, rng: random.Random, size: int, created_at: int) -> Cast:
        """`size` members, the first 1, 3 or 5 of them voters."""
        drawn = [_draw(rng, f"n{number}") for number in range(1, size + 1)]
        members = tuple(member for member, _ in drawn)
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
        cast = cls(genesis, operator)
        for member, key in drawn:
            cast._take_in(member, key)
        return cast

    def draw_member(self, rng: random.Random, name: str) -> Member:
        """One more host, with fresh keys."""
        member, key = _draw(rng, name)
        self._take_in(member, key)
        return member

    def _take_in(self, member: Member, key: Ed25519PrivateKey) -> None:
        self.names[member.id], self.keys[member.id] = member.name, SigningKey(key.private_bytes_raw())

    def name(self, agent: AgentId) -> str:
        """The host's name."""
        return self.names[agent]

    def sign(self, agent: AgentId, signed: bytes) -> bytes:
        """By its own key."""
        return self.keys[agent].sign(signed).signature


def _key(rng: random.Random) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(rng.randbytes(32))


def _draw(rng: random.Random, name: str) -> tuple[Member, Ed25519PrivateKey]:
    key = _key(rng)
    public = public_hex(key)
    member = Member(
        id=agent_id_of(bytes.fromhex(public)),
        name=name,
        address=name,
        certificate=rng.randbytes(32).hex(),
        signing_key=public,
        sealing_key=rng.randbytes(32).hex(),
    )
    return member, key
