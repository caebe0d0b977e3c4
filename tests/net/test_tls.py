"""TLS contexts: 1.3 only, the cluster's certificate as the only anchor, no resumption, and what binds a session."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from agent.errors import InputError, NeedsRepair
from agent.net import tls
from agent.storage.identity import Identity
from bootstrap.certificates import certificate_digest
from tests.support.trust import found


@pytest.fixture
def two(tmp_path: Path) -> list[Identity]:
    return found(tmp_path, 2)


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends of a session in memory, after the handshake. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    s = server.wrap_bio(to_server, to_client, server_side=True)
    c = client.wrap_bio(to_client, to_server, server_hostname="x")
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for end in (c, s):
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                continue
        if len(done) == 2:
            return s, c
    raise AssertionError("no handshake in ten rounds")


def contexts(server: Identity, client: Identity) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    anchor = server.genesis.trust_anchor
    return (
        tls.peer_server_context(server.certificate_path, server.tls_key_path, anchor),
        tls.peer_client_context(client.certificate_path, client.tls_key_path, anchor),
    )


def test_each_end_learns_the_others_id_and_certificate(two: list[Identity]) -> None:
    server, client = two
    s, c = handshake(*contexts(server, client))
    assert tls.peer_identity(s) == (client.id, certificate_digest(client.certificate))
    assert tls.peer_identity(c) == (server.id, certificate_digest(server.certificate))
    assert s.version() == "TLSv1.3"


def test_both_ends_of_a_session_see_one_binding_and_no_other_session_has_it(two: list[Identity]) -> None:
    """RFC 5929 §3: tls-unique is the first Finished message, the client's."""
    made = contexts(*two)
    bindings = set()
    for _ in range(3):
        s, c = handshake(*made)
        assert tls.session_binding(s) == tls.session_binding(c)
        bindings.add(tls.session_binding(s))
    assert len(bindings) == 3


def test_a_session_isnt_resumed(two: list[Identity]) -> None:
    """A resumed session would be served after its trust was withdrawn."""
    server_context, client_context = contexts(*two)
    s, c = handshake(server_context, client_context)
    s.write(b"x")
    c.read(1)
    assert c.session is None or not c.session.has_ticket
    assert server_context.num_tickets == 0


def test_a_context_trusts_nobody_but_the_cluster(two: list[Identity]) -> None:
    for context in contexts(*two):
        assert len(context.get_ca_certs()) == 1
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.minimum_version == ssl.TLSVersion.TLSv1_3


def test_a_client_without_a_certificate_has_no_identity(two: list[Identity]) -> None:
    server_context, _ = contexts(*two)
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname = False
    bare.load_verify_locations(cadata=two[0].genesis.trust_anchor)
    with pytest.raises(ssl.SSLError):
        handshake(server_context, bare)


def test_the_api_asks_for_no_certificate_and_shows_the_agents(two: list[Identity]) -> None:
    me = two[0]
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname = False
    bare.load_verify_locations(cadata=me.genesis.trust_anchor)
    s, c = handshake(tls.api_server_context(me.certificate_path, me.tls_key_path), bare)
    assert tls.peer_identity(c)[0] == me.id
    with pytest.raises(InputError):
        tls.peer_identity(s)


def test_a_key_that_doesnt_fit_its_certificate_needs_repair(two: list[Identity]) -> None:
    with pytest.raises(NeedsRepair):
        tls.api_server_context(two[0].certificate_path, two[1].tls_key_path)


def test_an_anchor_that_isnt_a_certificate_needs_repair(two: list[Identity]) -> None:
    with pytest.raises(NeedsRepair):
        tls.peer_server_context(two[0].certificate_path, two[0].tls_key_path, "-----BEGIN CERTIFICATE-----\nx\n")
