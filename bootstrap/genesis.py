"""The birth of a cluster on the operator's machine: who the first members and voters are, and what each host gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from agent.errors import Conflict, InputError, NotFound
from agent.home import (
    GENESIS_FILE,
    GENESIS_TOKEN_FILE,
    Home,
    KnownMember,
    open_home,
    read_file,
    read_recovery,
    remember,
    write_file,
)
from agent.instruction import encode_body, encode_genesis, read_genesis, sign_genesis, sign_instruction
from agent.instruction.genesis import check_genesis
from agent.model.cluster import Genesis, IdentityGrant, IdentityRequest, Member, Operator
from agent.model.decode import convert
from agent.model.instruction import Enrol
from agent.model.types import AgentId, Labels
from bootstrap.certificates import certificate_digest, certify
from bootstrap.home import locked


def make_genesis(
    home: Home,
    requests: Iterable[IdentityRequest],
    *,
    now_ms: int,
    labels: Mapping[AgentId, Labels] | None = None,
) -> Genesis:
    """The genesis with these hosts as members, signed, and stored in the home before anyone gets to see it.

    `now_ms` is since the epoch. The order of the requests doesn't matter. Raises Conflict when the home has a genesis
    already (there is never a second one), InputError for unsound requests.
    """
    with locked(home):
        if (home.path / GENESIS_FILE).exists():
            fix = "`bootstrap install` enrols hosts that aren't in it."
            raise Conflict("this cluster has its genesis already", where=str(home.path / GENESIS_FILE), fix=fix)
        members = sorted((_member(home, request, labels) for request in requests), key=lambda m: (m.name, m.id))
        recovery = read_recovery(home)
        fields = {
            "cluster": home.cluster.id,
            "name": home.cluster.name,
            "created_at": now_ms,
            "trust_anchor": home.trust_anchor,
            "admins": (
                Operator(name=home.operator.name, key=home.operator.key, scope="admin"),
                Operator(name=recovery.name, key=recovery.key, scope="admin"),
            ),
            "members": tuple(members),
            "voters": first_voters(members),
        }
        genesis = convert(fields, Genesis, "genesis")
        check_genesis(genesis)
        data = encode_genesis(genesis)
        token = sign_genesis(
            home.operator_key(),
            operator_name=home.operator.name,
            genesis=genesis,
            genesis_bytes=data,
            now_s=now_ms / 1000,
        )
        # The token first: a genesis file says that both are there.
        write_file(home.path / GENESIS_TOKEN_FILE, token.encode(), mode=0o600, replace=True)
        write_file(home.path / GENESIS_FILE, data, mode=0o600)
    return genesis


def load_genesis(home: Home) -> tuple[bytes, str]:
    """The genesis's exact bytes and its token.

    Raises NotFound before `make_genesis`, InputError or NotAuthenticated when the files aren't sound.
    """
    path = home.path / GENESIS_FILE
    if not path.exists():
        raise NotFound("this cluster has no genesis yet", where=str(path))
    data, token = read_file(path), read_file(home.path / GENESIS_TOKEN_FILE).decode("ascii", "replace")
    if read_genesis(token, data).cluster != home.cluster.id:
        raise InputError("the genesis is of another cluster", where=str(path))
    return data, token


def grant(home: Home, request: IdentityRequest) -> IdentityGrant:
    """What the host gets in return: its certificate, and the genesis. Always the same for the same request."""
    data, token = load_genesis(home)
    with locked(home):
        certificate = certify(home, request)
    return IdentityGrant(certificate=certificate, genesis=data.decode(), genesis_token=token)


def enrol_body(home: Home, request: IdentityRequest, labels: Labels | None = None) -> Enrol:
    """The body of the instruction that enters the host as a member. Raises InputError for an unsound request."""
    with locked(home):
        return Enrol(member=_member(home, request, {request.id: labels or {}}))


def enrol_instruction(
    home: Home, request: IdentityRequest, *, now_s: float, labels: Labels | None = None
) -> tuple[str, bytes]:
    """Token and body that enter the host as a member; `now_s` is seconds since the epoch by the cluster's clock.

    An id is used once, so its first revision is 1. Raises InputError for an unsound request.
    """
    body = encode_body(enrol_body(home, request, labels))
    token = sign_instruction(
        home.operator_key(),
        operator_name=home.operator.name,
        cluster=home.cluster.id,
        epoch=home.cluster.epoch,
        act="enrol",
        target=f"member:{request.id}",
        revision=1,
        body_bytes=body,
        now_s=now_s,
    )
    return token, body


def first_voters(members: Sequence[Member]) -> tuple[AgentId, ...]:
    """1 of up to 2, 3 of 3 or 4, 5 of 5 or more: an odd number, as two voters tolerate no more than one does.

    The first in the order given, which `make_genesis` makes the order of names.
    """
    count = 1 if len(members) < 3 else 3 if len(members) < 5 else 5
    return tuple(member.id for member in members[:count])


def remember_members(home: Home, members: Iterable[Member]) -> Home:
    """Adds the members to the addresses that the CLI tries; those of the same id or name are replaced."""
    added = {member.id: _known(member) for member in members}
    names = {member.name for member in added.values()}
    with locked(home):
        home = open_home(home.path)
        kept = {old.id: old for old in home.cluster.members if old.name not in names}
        return remember(home, members=(kept | added).values())


def _known(member: Member) -> KnownMember:
    fields = {name: getattr(member, name) for name in KnownMember.__struct_fields__}
    return convert(msgspec.to_builtins(fields), KnownMember)


def _member(home: Home, request: IdentityRequest, labels: Mapping[AgentId, Labels] | None) -> Member:
    fields = {
        "id": request.id,
        "name": request.name,
        "address": request.address,
        "api_port": request.api_port,
        "peer_port": request.peer_port,
        "labels": (labels or {}).get(request.id, {}),
        "certificate": certificate_digest(certify(home, request)),
        "signing_key": request.signing_key,
        "sealing_key": request.sealing_key,
    }
    return convert(fields, Member, f"the request of {request.name}")
