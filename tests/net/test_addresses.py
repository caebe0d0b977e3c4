"""Addresses: what is worth dialling, what is advertised, and a book that floods can't spoil."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.net.addresses import (
    MAX_ADDRESSES_PER_PEER,
    MAX_PEERS,
    Address,
    AddressBook,
    AddressPolicy,
    LocalAddress,
    all_addresses,
    is_loopback,
    usable_addresses,
)
from agent.net.dialler import BackOff

HOST = (
    LocalAddress("lo", "127.0.0.1", "127.0.0.0/8", "127.255.255.255"),
    LocalAddress("eth0", "192.168.1.7", "192.168.1.0/24", "192.168.1.255"),
    LocalAddress("eth0", "fe80::1", "fe80::/64", ""),
    LocalAddress("eth1", "10.0.0.7", "10.0.0.0/8", "10.255.255.255"),
    LocalAddress("docker0", "172.17.0.1", "172.17.0.0/16", "172.17.255.255"),
    LocalAddress("br-0123", "172.18.0.1", "172.18.0.0/16", "172.18.255.255"),
    LocalAddress("veth77", "169.254.3.4", "169.254.0.0/16", "169.254.255.255"),
)


def test_only_addresses_that_others_can_reach_are_advertised() -> None:
    assert [a.ip for a in usable_addresses(HOST)] == ["192.168.1.7", "10.0.0.7"]


@pytest.mark.parametrize(
    ("ip", "port", "dialable"),
    [
        ("192.168.1.8", 9998, True),
        ("203.0.113.5", 9998, True),
        ("2001:db8::5", 9998, True),
        ("127.0.0.1", 9998, False),
        ("::1", 9998, False),
        ("172.17.0.5", 9998, False),  # a container of this host, whoever it is elsewhere
        ("172.18.0.1", 9998, False),
        ("192.168.1.7", 9998, False),  # ourselves
        ("192.168.1.7", 9997, True),
        ("0.0.0.0", 9998, False),
        ("224.0.0.251", 9998, False),
        ("255.255.255.255", 9998, False),
        ("169.254.1.1", 9998, False),
        ("192.168.1.8", 0, False),
        ("192.168.1.8", 65536, False),
        ("n2.example.com", 9998, False),  # names are resolved before
        ("192.168.1.8; rm", 9998, False),
    ],
)
def test_what_may_be_dialled_from_a_host(ip: str, port: int, dialable: bool) -> None:
    assert AddressPolicy.of_host("0.0.0.0", 9998, HOST).dialable(ip, port) is dialable


def test_an_agent_on_loopback_dials_loopback_but_not_itself() -> None:
    policy = AddressPolicy.of_host("127.0.0.2", 9998, HOST)
    assert policy.dialable("127.0.0.3", 9998)
    assert not policy.dialable("127.0.0.2", 9998)
    assert not policy.dialable("172.17.0.1", 9998)


def test_this_machines_own_addresses_can_be_listed() -> None:
    found = all_addresses()
    assert any(is_loopback(a.ip) for a in found)
    assert all(not is_loopback(a.ip) for a in usable_addresses(found))


@given(
    st.lists(
        st.tuples(st.sampled_from(["p", "q"]), st.integers(1, 30), st.booleans()),
        max_size=60,
    )
)
def test_the_book_is_bounded_newest_first_and_keeps_the_newest_firm_address(
    hints: list[tuple[str, int, bool]],
) -> None:
    book = AddressBook()
    newest_firm: dict[str, Address] = {}
    for peer, port, firm in hints:
        address = Address("192.168.1.8", port)
        book.add(peer, address, firm=firm)
        if firm:
            newest_firm[peer] = address
        assert book.addresses(peer)[0] == address
        assert len(book.addresses(peer)) <= MAX_ADDRESSES_PER_PEER
    for peer, address in newest_firm.items():
        assert address in book.addresses(peer)


def test_a_flood_of_hints_pushes_no_firm_address_out() -> None:
    book = AddressBook()
    enrolled = Address("192.168.1.8", 9998)
    book.add("p", enrolled, firm=True)
    for port in range(1, 100):
        book.add("p", Address("192.168.1.66", port), firm=False)
    assert enrolled in book.addresses("p")


def test_peers_that_nobody_knows_dont_fill_the_book() -> None:
    book = AddressBook()
    for number in range(MAX_PEERS + 10):
        book.add(str(number), Address("192.168.1.8", 9998), firm=False)
    assert book.addresses("0") == ()
    assert book.addresses(str(MAX_PEERS))


@given(st.integers(0, 1000), st.integers())
def test_the_back_off_grows_to_its_bound_and_never_beyond(attempt: int, seed: int) -> None:
    back_off = BackOff()
    wait_s = back_off.wait_s(attempt, random.Random(seed))
    ceiling = min(back_off.max_s, back_off.first_s * 2.0 ** min(attempt, 20))
    assert ceiling / 2 <= wait_s <= ceiling


def test_an_address_belongs_to_who_was_there_last_as_far_as_it_is_firm() -> None:
    book = AddressBook()
    address = Address("192.168.1.8", 9998)
    book.add("p", address, firm=False)
    assert book.owner(address) is None
    book.add("p", address, firm=True)
    book.add("q", address, firm=False)
    assert book.owner(address) == "p"
    book.add("q", address, firm=True)
    assert book.owner(address) == "q"
    for port in range(1, 2 * MAX_ADDRESSES_PER_PEER):
        book.add("q", Address("192.168.1.9", port), firm=True)
    assert book.owner(address) is None, "what is forgotten is nobody's"
