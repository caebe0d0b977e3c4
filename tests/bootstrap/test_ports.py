"""Ports: taken ones are noticed and their holder named, free ones are found."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from agent.errors import Conflict, MusterError
from bootstrap import ports
from bootstrap.ports import Protocol, Wanted

ADDRESS = "127.0.0.1"


@pytest.fixture(params=["tcp", "udp"])
def taken(request: pytest.FixtureRequest) -> Iterator[Wanted]:
    """A port that this process has."""
    protocol: Protocol = request.param
    with socket.socket(socket.AF_INET, ports.KINDS[protocol]) as held:
        held.bind((ADDRESS, 0))
        if protocol == "tcp":
            held.listen()
        yield Wanted(ADDRESS, held.getsockname()[1], protocol)


def test_a_taken_port_is_not_free(taken: Wanted) -> None:
    assert not ports.is_free(taken)
    assert ports.is_free(taken._replace(address="127.0.0.9")), "another address has ports of its own"


def test_whoever_has_the_port_is_named_with_what_to_do(taken: Wanted) -> None:
    with pytest.raises(Conflict) as raised:
        ports.require_free([taken], fix="Stop it.")
    assert f"pid {os.getpid()} (" in raised.value.what
    assert raised.value.where == str(taken)
    assert raised.value.fix == "Stop it."


def test_free_ports_pass() -> None:
    ports.require_free([Wanted(ADDRESS, ports.choose([ADDRESS]), "tcp")], fix="")


def test_a_chosen_port_is_free_on_every_address_and_for_both_protocols() -> None:
    addresses = ["127.0.0.1", "127.0.0.2"]
    port = ports.choose(addresses)
    for address in addresses:
        assert ports.is_free(Wanted(address, port, "tcp"))
        assert ports.is_free(Wanted(address, port, "udp"))


def test_a_port_given_as_taken_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "FIRST_PORT", 31_000)
    monkeypatch.setattr(ports, "LAST_PORT", 31_200)
    everything = range(31_000, 31_200)
    with pytest.raises(MusterError, match="none of 200 ports"):
        ports.choose([ADDRESS], taken=everything)


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(MusterError, match="can't be bound"):
        ports.is_free(Wanted("192.0.2.1", 9999, "tcp"))
