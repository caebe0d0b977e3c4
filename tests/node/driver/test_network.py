"""Who our ledger says a certificate's holder is (docs/security.md "Identity is not authority": authority is the ledger
alone)."""

from __future__ import annotations

import random
import ssl
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from agent.config import Config
from agent.errors import TooLarge
from agent.model.instruction import MAX_TOKEN_BYTES
from agent.model.ledger import GenesisEntry, encode_entry
from agent.net.frames import MAX_HELLO_FRAME_BYTES, MAX_REFUSAL_BODY_BYTES, Refused, decode_opening, encode_frame
from agent.net.link import PeerInfo
from agent.node.context import Peer
from agent.node.driver import network as network_module
from agent.node.driver.network import Network
from agent.node.messages import Alive
from agent.state import ClusterState, Evidence, genesis_state
from agent.storage.identity import Identity
from tests.support.trust import found, introduction


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> list[Identity]:
    return found(tmp_path_factory.mktemp("hosts"), 3)


@pytest.fixture(autouse=True)
def _no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here opens a socket, so certificates and interfaces aren't read."""
    for name in ("peer_server_context", "peer_client_context"):
        monkeypatch.setattr(network_module, name, lambda *_: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    monkeypatch.setattr(network_module, "all_addresses", list)


class Inputs(SimpleNamespace):
    """What the network brings in, noted."""

    def __init__(self, state: ClusterState) -> None:
        super().__init__(state=state, seen=[])

    def link_up(self, peer: Peer) -> None:
        self.seen.append(peer)

    def link_down(self, peer: str, reason: str) -> None:
        self.seen.append((peer, reason))

    def expelled(self, by: str, token: str, body: bytes) -> None:
        self.seen.append((by, token, body))


def network(identities: list[Identity]) -> tuple[Network, ClusterState]:
    """n1's, not listening. Called inside a loop."""
    identity = identities[0]
    genesis = identity.genesis
    made = Network(Config(listen="127.0.0.1"), identity, introduction(identity), random.Random(1))
    state = genesis_state(encode_entry(GenesisEntry(at=genesis.created_at, genesis=genesis)))
    made.inputs = Inputs(state)
    return made, state


async def test_a_member_with_its_own_certificate_is_one(identities: list[Identity]) -> None:
    net, state = network(identities)
    member = state.members[identities[1].id]
    assert net.authority(member.id, member.certificate) == "member"


async def test_a_members_id_under_another_certificate_is_refused(identities: list[Identity]) -> None:
    net, state = network(identities)
    other = state.members[identities[2].id]
    assert net.authority(identities[1].id, other.certificate) == "expelled"


async def test_whoever_the_ledger_doesnt_name_is_unknown(identities: list[Identity]) -> None:
    net, _ = network(identities)
    assert net.authority("z" * 26, "0" * 64) == "unknown"


async def test_the_expelled_stay_it_whatever_they_show(identities: list[Identity]) -> None:
    net, state = network(identities)
    gone = state.members[identities[1].id]
    members = {agent: member for agent, member in state.members.items() if agent != gone.id}
    net.inputs = Inputs(replace(state, members=members, expelled=frozenset({gone.id})))
    assert net.authority(gone.id, gone.certificate) == "expelled"
    net.inputs = Inputs(replace(state, expelled=frozenset({gone.id})))
    assert net.authority(gone.id, gone.certificate) == "expelled"


async def test_a_new_epoch_reaches_everything_that_proves_who_we_are(identities: list[Identity]) -> None:
    net, state = network(identities)
    net.inputs = Inputs(replace(state, epoch=2))
    net.want([])
    assert net._me.epoch == net._envelope.epoch == 2
    await net.stop()


async def test_a_link_is_told_with_what_our_ledger_knows(identities: list[Identity]) -> None:
    net, state = network(identities)
    member = state.members[identities[1].id]
    info = PeerInfo(
        id=member.id,
        name="n2",
        epoch=1,
        boot=4,
        agent_version="0.2.0",
        frames=1,
        datagram_key=b"",
        host="127.0.0.2",
        peer_port=9998,
        certificate=member.certificate,
        known=False,
        dialled=True,
    )
    net.link_up(info)
    net.link_down(member.id, "lost")
    assert isinstance(net.inputs, Inputs)
    assert net.inputs.seen == [
        Peer(id=member.id, known=False, agent_version="0.2.0", boot=4, frames=1),
        (member.id, "lost"),
    ]


async def test_of_refusals_only_an_expulsion_is_told(identities: list[Identity]) -> None:
    net, _ = network(identities)
    net.refused(identities[1].id, Refused(reason="busy"))
    net.refused(identities[2].id, Refused(reason="expelled", token="t", body=b"{}"))
    assert isinstance(net.inputs, Inputs)
    assert net.inputs.seen == [(identities[2].id, "t", b"{}")]


@pytest.mark.parametrize(
    ("body", "told"), [(b'{"reason":"x"}', True), (b" " * (MAX_REFUSAL_BODY_BYTES + 1), False), (None, False)]
)
async def test_who_was_expelled_is_told_by_which_instruction_unless_that_is_too_long(
    identities: list[Identity], body: bytes | None, told: bool
) -> None:
    net, state = network(identities)
    target = f"member:{identities[1].id}"
    kept = Evidence(act="expel", target=target, revision=1, token="x" * MAX_TOKEN_BYTES, body=body or b"")
    net.inputs = Inputs(replace(state, evidence={f"{target}/1": kept} if body is not None else {}))
    refused = net.expulsion(identities[1].id)
    assert refused == Refused(reason="expelled", token=kept.token if told else "", body=kept.body if told else b"")
    assert len(encode_frame(refused)) <= MAX_HELLO_FRAME_BYTES
    assert decode_opening(encode_frame(refused)[5:]) == refused


async def test_a_frame_that_no_peer_takes_is_dropped_and_counted(
    identities: list[Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer can make an answer that large, a status of its own long words for one; that must not end this agent."""
    net, _ = network(identities)

    def send(*_: object, **__: object) -> bool:
        raise TooLarge("a frame of 9 MiB")

    monkeypatch.setattr(net.links, "send", send)
    assert not net.send(identities[1].id, Alive())
    assert net.links.counts["send-too-large"] == 1
