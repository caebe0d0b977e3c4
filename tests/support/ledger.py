"""A ledger in memory for tests of state and control: real keys, real signatures, time that the test moves."""

from __future__ import annotations

import functools
import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from agent.instruction import encode_body, public_hex, sign_instruction
from agent.model.cluster import Genesis, Member, Operator
from agent.model.identity import agent_id_of
from agent.model.instruction import Act, Body, Drain, InstructionResult, Relabel, Remove, Scale, Services, Undrain
from agent.model.ledger import (
    AssignEntry,
    Assignment,
    GenesisEntry,
    InstructionEntry,
    LedgerEntry,
    Phase,
    PhaseEntry,
    encode_entry,
)
from agent.model.stack import Image, Service, Stack
from agent.model.types import AgentId
from agent.state import Applied, ClusterState, apply, genesis_state

CLUSTER = "abcdefghijklmnop"
START_MS = 1_700_000_000_000
ANCHOR = "-----BEGIN CERTIFICATE-----\nnot read by the state\n-----END CERTIFICATE-----\n"


@functools.cache
def key_of_person(name: str) -> Ed25519PrivateKey:
    """The same key for the same name."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def key_of_host(name: str) -> Ed25519PrivateKey:
    """The signing key of that host."""
    return key_of_person("host " + name)


def operator(name: str, scope: str = "admin", **more: object) -> Operator:
    return Operator(name=name, key=public_hex(key_of_person(name)), scope=scope, **more)  # type: ignore[arg-type]  # tests name scopes as text


@functools.cache
def member(name: str, labels: tuple[tuple[str, str], ...] = ()) -> Member:
    key = public_hex(key_of_host(name))
    return Member(
        id=agent_id_of(bytes.fromhex(key)),
        name=name,
        address="192.0.2.1",
        labels=dict(labels),
        certificate=hashlib.sha256(name.encode()).hexdigest(),
        signing_key=key,
        sealing_key=key,
    )


def service(**fields: object) -> Service:
    return Service(**{"image": Image(ref="app:1"), **fields})  # type: ignore[arg-type]  # tests pass any field


def stack(name: str = "shop", /, **services: Service) -> Stack:
    return Stack(name=name, services=services or {"web": service()})


def genesis_entry(members: tuple[Member, ...], voters: int = 1) -> bytes:
    """Entry 1: the first `voters` of the members vote."""
    genesis = Genesis(
        cluster=CLUSTER,
        name="lab",
        created_at=START_MS,
        trust_anchor=ANCHOR,
        admins=(operator("ann"), operator("recovery")),
        members=members,
        voters=tuple(item.id for item in members[:voters]),
    )
    return encode_entry(GenesisEntry(at=START_MS, genesis=genesis))


def jti_of(text: str) -> str:
    """A token id that the test can name."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Ledger:
    """`state` after every entry so far; `entries` are their bytes; `now_ms` is the coordinator's clock."""

    def __init__(self, *names: str, members: tuple[Member, ...] = ()) -> None:
        first = genesis_entry(members or tuple(member(name) for name in names or ("n1", "n2", "n3")))
        self.entries: list[bytes] = [first]
        self.state: ClusterState = genesis_state(first)
        self.now_ms = START_MS
        self.last: Applied | None = None

    def id(self, name: str) -> AgentId:
        return next(item.id for item in self.state.members.values() if item.name == name)

    def add(self, data: bytes) -> Applied:
        self.entries.append(data)
        self.state, self.last = apply(self.state, self.state.index + 1, data)
        return self.last

    def propose(self, *entries: LedgerEntry) -> list[Applied]:
        return [self.add(encode_entry(entry)) for entry in entries]

    def signed(
        self, act: Act, target: str, body: Body, *, by: str = "ann", rev: int | None = None, jti: str | None = None
    ) -> InstructionEntry:
        record = self.state.targets.get(target)
        revision = rev if rev is not None else (record.revision if record else 0) + 1
        raw = encode_body(body)
        token = sign_instruction(
            key_of_person(by),
            operator_name=by,
            cluster=CLUSTER,
            epoch=self.state.epoch,
            act=act,
            target=target,
            revision=revision,
            body_bytes=raw,
            now_s=self.now_ms / 1000,
            jti=jti,
        )
        return InstructionEntry(at=self.now_ms, token=token, body=raw, via=next(iter(self.state.members)))

    def instruct(self, act: Act, target: str, body: Body, **how: object) -> InstructionResult:
        self.now_ms += 1000
        applied = self.add(encode_entry(self.signed(act, target, body, **how)))  # type: ignore[arg-type]  # `signed`'s
        assert applied.result is not None
        return applied.result

    def deploy(self, body: Stack, **how: object) -> InstructionResult:
        return self.instruct("deploy", f"stack:{body.name}", body, **how)

    def place(self, body: Stack, **how: object) -> InstructionResult:
        return self.instruct("place", f"stack:{body.name}", body, **how)

    def scale(self, name: str = "shop", **services: int) -> InstructionResult:
        return self.instruct("scale", f"stack:{name}", Scale(services=services))

    def restart(self, *services: str, name: str = "shop") -> InstructionResult:
        return self.instruct("restart", f"stack:{name}", Services(services=services))

    def stop(self, *services: str, name: str = "shop") -> InstructionResult:
        return self.instruct("stop", f"stack:{name}", Services(services=services))

    def start(self, *services: str, name: str = "shop") -> InstructionResult:
        return self.instruct("start", f"stack:{name}", Services(services=services))

    def remove(self, name: str = "shop", *, delete_volumes: bool = False) -> InstructionResult:
        return self.instruct("remove", f"stack:{name}", Remove(delete_volumes=delete_volumes))

    def drain(self, host: str) -> InstructionResult:
        return self.instruct("drain", f"host:{self.id(host)}", Drain())

    def undrain(self, host: str) -> InstructionResult:
        return self.instruct("undrain", f"host:{self.id(host)}", Undrain())

    def relabel(self, host: str, **labels: str) -> InstructionResult:
        return self.instruct("relabel", f"host:{self.id(host)}", Relabel(labels=labels))

    def phase(self, phase: Phase, *, name: str = "shop", reason: str = "", revision: int | None = None) -> Applied:
        at = revision if revision is not None else self.state.stacks[name].revision
        return self.propose(PhaseEntry(at=self.now_ms, stack=name, revision=at, phase=phase, reason=reason))[0]

    def assignment(self, host: str, service: str = "web", slot: int = 1, *, name: str = "shop") -> Assignment:
        held = self.state.stacks[name]
        return Assignment(
            stack=name,
            service=service,
            slot=slot,
            host=self.id(host),
            instruction=held.deployed,
            generation=held.generations.get(service, 0),
        )

    def assign(self, *assignments: Assignment, revision: int | None = None, **more: object) -> Applied:
        name = assignments[0].stack
        at = revision if revision is not None else self.state.stacks[name].revision
        entry = AssignEntry(at=self.now_ms, stack=name, revision=at, assign=assignments, **more)  # type: ignore[arg-type]  # `release`
        return self.propose(entry)[0]


def tampered(entry: InstructionEntry, body: Body) -> InstructionEntry:
    """The same token over another body."""
    return replace(entry, body=encode_body(body))
