"""Hosts that are well, and what they see; tests break one thing of them."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from agent.model.doctor import (
    DiskUse,
    DockerUse,
    Enrolled,
    Examination,
    Finding,
    HostAnswer,
    LedgerSight,
    PeerSight,
    PortUse,
    Unit,
)

CONFIG: dict[str, Any] = {
    "api_port": 9999,
    "peer_port": 9998,
    "discovery_port": 9999,
    "runtimes": ["docker", "process"],
    "discovery_beacon": True,
    "discovery_mdns": True,
    "seeds": [],
    "data_dir": "/var/lib/muster",
}


def address(name: str) -> str:
    return f"10.0.0.{name.removeprefix('n')}"


def id_of(name: str) -> str:
    """As agents' ids look: 26 of a-z2-7."""
    tens, ones = divmod(int(name.removeprefix("n")), 26)
    return "a" * 24 + chr(ord("a") + tens) + chr(ord("a") + ones)


def sight(name: str, **changes: Any) -> PeerSight:
    fields: dict[str, Any] = {
        "id": id_of(name),
        "name": name,
        "address": address(name),
        "peer_port": 9998,
        "connects": "yes",
        "linked": True,
        "heard_udp": True,
        "heard_beacon": True,
        "heard_mdns": True,
        "same_network": True,
    }
    return PeerSight(**(fields | changes))


def well(name: str, *others: str, **changes: Any) -> Examination:
    """A host with nothing wrong that reaches all the others."""
    fields: dict[str, Any] = {
        "id": id_of(name),
        "name": name,
        "agent_version": "0.1.0",
        "uptime_s": 3600.0,
        "config": CONFIG,
        "enrolled": Enrolled(address=address(name), api_port=9999, peer_port=9998),
        "addresses": (address(name), "127.0.0.1"),
        "ports": tuple(PortUse(port=p, protocol="tcp", held_by="agent") for p in (9999, 9998)),
        "disks": (DiskUse(path="/var/lib/muster", size_mib=50_000, free_mib=20_000, inodes=1000, inodes_free=900),),
        "syncs_ms": (0.4, 0.5, 80.0),
        "memory_mib": 8000,
        "memory_free_mib": 4000,
        "docker": DockerUse(answers=True, version="24.0.7", driver="overlay2", root="/var/lib/docker"),
        "units": (Unit(name="muster-agent", active="active", enabled="enabled", result="success"),),
        "peers": tuple(sight(other) for other in others if other != name),
        "ledger": LedgerSight(term=3, commit=100, applied=100, coordinator=id_of("n1")),
    }
    return Examination(**(fields | changes))


def answers(*exams: Examination, **offsets: int) -> list[HostAnswer]:
    """As the asked agent hands them on; `n2=5000`: its clock is so many ms ahead."""
    return [
        HostAnswer(id=exam.id, host=exam.name, examination=exam, offset_ms=offsets.get(exam.name, 0)) for exam in exams
    ]


def cluster(*names: str) -> dict[str, Examination]:
    """All of them well."""
    return {name: well(name, *names) for name in names}


def sees(exams: dict[str, Examination], source: str, target: str, **changes: Any) -> None:
    """What `source` sees of `target` changes."""
    exam = exams[source]
    exams[source] = replace(
        exam, peers=tuple(replace(peer, **changes) if peer.name == target else peer for peer in exam.peers)
    )


def of(findings: tuple[Finding, ...] | list[Finding], check: str) -> list[Finding]:
    return [finding for finding in findings if finding.check == check]
