"""What is wrong on one host: each rule at its edge, and that every finding says what to do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.doctor import host
from agent.doctor.host import host_findings
from agent.model.doctor import DiskUse, DockerUse, Enrolled, Finding, Firewall, PortUse, Unit, WantedPort
from agent.model.expulsion import Expulsion
from agent.model.report import RuntimeInfo
from tests.doctor.hosts import CONFIG, sight, well


def found(**changes: Any) -> list[Finding]:
    return list(host_findings(well("n1", "n2", **changes)))


def disk(**changes: Any) -> DiskUse:
    fields: dict[str, Any] = {
        "path": "/var/lib/muster",
        "size_mib": 50_000,
        "free_mib": 20_000,
        "inodes": 1000,
        "inodes_free": 900,
    }
    return DiskUse(**(fields | changes))


def unit(**changes: Any) -> Unit:
    fields = {"name": "muster-agent", "active": "active", "enabled": "enabled", "result": "success"}
    return Unit(**(fields | changes))


def test_a_host_that_is_well_has_no_findings() -> None:
    assert found() == []


def test_who_was_expelled_is_told_by_whom_and_how_it_comes_back() -> None:
    told = Expulsion(by="ann", at="2026-01-01T00:00:00Z", reason="stolen")
    (finding,) = found(expelled=told, ledger=None, peers=())
    assert (finding.severity, finding.check, finding.where) == ("error", "ledger", "n1")
    assert finding.what == "this host was expelled from the cluster, by ann at 2026-01-01T00:00:00Z: stolen"
    assert "`bootstrap install hosts.txt --limit n1`" in finding.fix


CASES: list[tuple[dict[str, Any], str, str, str]] = [
    (
        {"ports": (PortUse(port=9999, protocol="tcp", held_by="other", holder="pid 7 (python3, squatter.service)"),)},
        "error",
        "ports",
        "9999/tcp is held by pid 7 (python3, squatter.service)",
    ),
    (
        {"ports": (PortUse(port=9998, protocol="udp", held_by="nobody"),)},
        "error",
        "ports",
        "doesn't listen on 9998/udp",
    ),
    (
        {"wanted_ports": (WantedPort(replica="web/web.1", port=8080, given=8081, holder="pid 9 (nginx)"),)},
        "warning",
        "ports",
        "web/web.1 can't have port 8080, which is held by pid 9 (nginx): it has 8081 instead",
    ),
    ({"docker": DockerUse(answers=False, reason="no answer within 2 s")}, "error", "docker", "no answer within 2 s"),
    (
        {
            "docker": DockerUse(answers=False, reason="nobody listens on its socket"),
            "units": (unit(), Unit(name="docker", active="inactive")),
        },
        "error",
        "docker",
        "its unit is inactive",
    ),
    ({"docker": DockerUse(answers=True, driver="vfs")}, "warning", "docker", "vfs"),
    (
        {"unchecked": {"configuration": "/etc/muster/agent.toml: peer_port: expected 1..65535"}},
        "error",
        "config",
        "no agent starts with this configuration: /etc/muster/agent.toml: peer_port: expected 1..65535",
    ),
    ({"disks": (disk(read_only=True),)}, "error", "disk", "read-only"),
    ({"disks": (disk(free_mib=host.DISK_ERROR_MIB - 1),)}, "error", "disk", "255 MiB left"),
    ({"disks": (disk(free_mib=2047),)}, "warning", "disk", "2047 MiB left, 4 %"),
    ({"disks": (disk(inodes_free=9),)}, "error", "disk", "0.9 % of its inodes"),
    ({"disks": (disk(inodes_free=49),)}, "warning", "disk", "4.9 % of its inodes"),
    ({"syncs_ms": (900.0, 100.0, 10.0)}, "warning", "disk", "takes 100 ms"),
    ({"syncs_ms": (500.0,)}, "error", "disk", "takes 500 ms"),
    ({"memory_free_mib": 399}, "warning", "memory", "399 of 8000 MiB"),
    (
        {"firewalls": (Firewall(name="ufw", commands=("ufw allow 9998/tcp",), lasting=True),)},
        "warning",
        "firewall",
        "ufw doesn't let through",
    ),
    ({"units": (unit(enabled="disabled"),)}, "warning", "agent", "won't start at boot"),
    ({"units": (unit(restarts=3),)}, "warning", "agent", "3 times"),
    ({"peers": (sight("n2", heard_beacon=False),)}, "warning", "discovery", "no beacons of n2"),
    ({"peers": (sight("n2", heard_mdns=False),)}, "note", "discovery", "nothing by mDNS of n2"),
    ({"policy_mode": 0o664}, "error", "config", "mode 0664"),
    ({"config": CONFIG | {"peer_port": 9000}}, "error", "config", "peer_port is 9000, but the ledger tells"),
    (
        {"config": CONFIG | {"discovery_beacon": False, "discovery_mdns": False}},
        "warning",
        "config",
        "beacons, mDNS and seeds are all off",
    ),
    (
        {"enrolled": Enrolled(address="192.0.2.9", api_port=9999, peer_port=9998)},
        "warning",
        "config",
        "192.0.2.9, which isn't an address of this host",
    ),
    ({"config": CONFIG | {"labels": {"zone": "b"}}}, "note", "config", "labels differ"),
    ({"unchecked": {"firewalls": "no answer within 3 s"}}, "note", "agent", "firewalls couldn't be looked at"),
    (
        {"runtimes": (RuntimeInfo(name="process", available=False, reason="no session"),)},
        "error",
        "agent",
        "runtime process doesn't work",
    ),
]


@pytest.mark.parametrize(("changes", "severity", "check", "what"), CASES)
def test_each_rule_names_what_it_found(changes: dict[str, Any], severity: str, check: str, what: str) -> None:
    (finding,) = found(**changes)
    assert (finding.severity, finding.check, finding.where) == (severity, check, "n1")
    assert what in finding.what
    assert finding.fix


@pytest.mark.parametrize(
    "changes",
    [
        {"disks": (disk(free_mib=2048, size_mib=100_000),)},
        {"disks": (disk(free_mib=2000, size_mib=10_000),)},
        {"disks": (disk(inodes=0, inodes_free=0),)},
        {"syncs_ms": (99.9,)},
        {"memory_free_mib": 400},
        {"policy_mode": 0o644},
        {"docker": None},
        {"docker": DockerUse(answers=False), "config": CONFIG | {"runtimes": ["process"]}},
        {"uptime_s": 44.0, "peers": (sight("n2", heard_beacon=False, heard_mdns=False),)},
        {"peers": (sight("n2", heard_beacon=False, heard_mdns=False, same_network=False),)},
        {"peers": (sight("n2", heard_beacon=False, heard_mdns=False, linked=False, connects="silent"),)},
        {"enrolled": Enrolled(address="n1.example.com", api_port=9999, peer_port=9998)},
        {"enrolled": Enrolled(address="1234", api_port=9999, peer_port=9998)},  # a name, too
        {"units": ()},
        {"units": (unit(restarts=2),)},
        {"config": CONFIG | {"discovery_beacon": False, "discovery_mdns": False, "seeds": ["n2:9998"]}},
    ],
)
def test_what_is_still_well_is_not_told(changes: dict[str, Any]) -> None:
    assert found(**changes) == []


def test_without_an_agent_its_unit_and_last_words_are_told() -> None:
    exam = replace(
        well("n1"),
        running=False,
        peers=(),
        ledger=None,
        ports=(PortUse(port=9998, protocol="tcp", held_by="nobody"),),
        units=(unit(active="failed", result="exit-code"),),
        log=("INFO starting", "error: the ledger is damaged"),
        missing=("/var/lib/muster/identity/grant.json",),
    )
    missing, stopped = host_findings(exam)
    assert "grant.json isn't there" in missing.what
    assert "the unit is failed (exit-code); its last words: error: the ledger is damaged" in stopped.what
    assert stopped.fix.startswith("Do what its last words say; then `sudo systemctl start muster-agent`")
    (killed,) = host_findings(replace(exam, missing=(), units=(unit(active="activating"),)))
    assert killed.fix.startswith("`sudo systemctl start muster-agent`"), "systemd tries again"


def test_an_agent_that_somebody_stopped_did_not_end_by_what_its_journal_has_of_earlier() -> None:
    exam = replace(well("n1"), running=False, log=("error: the ledger is damaged",))
    (stopped,) = host_findings(replace(exam, units=(unit(active="inactive", result="success"),)))
    assert stopped.what == "the agent isn't running: the unit is inactive"


def test_an_agent_that_waits_for_room_on_the_disk_is_not_called_stopped() -> None:
    full = "ERROR /var/lib/muster: no space left on device. Make room there. It then goes on by itself."
    waiting = unit(said="Waiting for room on the disk")
    (told,) = host_findings(replace(well("n1"), running=False, units=(waiting,), log=("INFO starting", full)))
    assert told.what == f"the agent doesn't serve now: Waiting for room on the disk; its last words: {full}"
    assert told.fix == ("Do what its last words say (`journalctl -u muster-agent -n 5`); then it goes on by itself.")


def test_an_agent_that_runs_and_was_not_heard_is_not_called_stopped() -> None:
    (told,) = host_findings(replace(well("n1"), running=False, units=(unit(),)))
    assert told.what == "the agent runs (its unit is active), but wasn't heard"
    assert told.fix.startswith("`sudo agent doctor` asks it")


@pytest.mark.parametrize("active", ["inactive", "failed", "activating"])
def test_of_an_agent_that_ends_by_its_configuration_only_that_is_told(active: str) -> None:
    units, unchecked = (unit(active=active, result="exit-code"),), {"configuration": "agent.toml:1: not TOML"}
    (told,) = host_findings(replace(well("n1"), running=False, units=units, unchecked=unchecked))
    assert told.what == "no agent starts with this configuration: agent.toml:1: not TOML"
    assert "sudo systemctl restart muster-agent" in told.fix


@given(
    st.builds(
        DiskUse,
        path=st.just("/x"),
        size_mib=st.integers(0, 10**7),
        free_mib=st.integers(0, 10**7),
        inodes=st.integers(0, 10**9),
        inodes_free=st.integers(0, 10**9),
        read_only=st.booleans(),
    ),
    st.lists(st.floats(0, 10_000), max_size=5),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
)
def test_whatever_is_measured_every_finding_has_a_fix_that_begins_a_sentence(
    disk_use: DiskUse, syncs: list[float], memory: int, free: int
) -> None:
    for finding in found(disks=(disk_use,), syncs_ms=tuple(syncs), memory_mib=memory, memory_free_mib=free):
        assert finding.what
        assert not finding.fix[:1].islower()
