"""What is decided about a host from what it says: pure."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import parse_config
from agent.errors import MusterError
from bootstrap.bundle import Target
from bootstrap.inventory import InventoryHost, parse_inventory
from bootstrap.plan import (
    HostPlan,
    Options,
    check_room,
    choose_python,
    config_text,
    is_ours,
    make_plan,
    needs_restart,
    seeds_of,
)
from tests.bootstrap.facts import FREE_BYTES, NOW_S, facts, python

OWN = Target(python=(3, 11), machine="x86_64", libc="gnu")


def host(line: str = "n1") -> InventoryHost:
    return parse_inventory(line)[0]


def plan(line: str = "n1", options: Options | None = None, **changes: Any) -> HostPlan:
    return make_plan(host(line), facts(**changes), options or Options(), OWN, NOW_S)


def test_a_plain_host_needs_nothing_special() -> None:
    made = plan()
    assert (made.name, made.address, made.advertise) == ("n1", "10.0.0.7", False)
    assert (made.target, made.docker, made.firewall, made.notes) == (OWN, False, (), ())


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"system": "FreeBSD"}, "it runs FreeBSD"),
        ({"root": False}, "isn't root"),
        ({"systemd": False}, "doesn't run systemd"),
        ({"pythons": [python(3, 9, 2)]}, "its python3 is 3.9.2, 3.11 to 3.14 is needed"),
        ({"pythons": [python(3, 15)]}, "its python3 is 3.15.0"),
        ({"pythons": [python(3, 11, lacks=("ssl", "sqlite3"))]}, "lacks ssl, sqlite3"),
        ({"addresses": [], "ssh_address": ""}, "no address"),
        ({"addresses": [], "ssh_address": "127.0.0.1"}, "no address"),
        ({"taken": [{"port": 9999, "protocol": "tcp", "holder": "pid 7 (nginx)"}]}, "9999/tcp: pid 7 (nginx)"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(MusterError) as caught:
        plan(**changes)
    assert what in caught.value.what


@pytest.mark.parametrize("path", ["/opt", "/var/lib", "/etc"])
def test_a_read_only_disk_is_named(path: str) -> None:
    disks = {each: {"free_bytes": FREE_BYTES, "read_only": each == path} for each in ("/opt", "/var/lib", "/etc")}
    with pytest.raises(MusterError, match="read-only") as caught:
        plan(disks=disks)
    assert caught.value.where == path


@pytest.mark.parametrize("path", ["/opt", "/var/lib/muster"])
def test_a_disk_without_room_is_named_with_what_is_needed(path: str) -> None:
    disks = {each: {"free_bytes": 2**30, "read_only": False} for each in ("/opt", "/var/lib", "/etc")}
    disks[path] = {"free_bytes": 2**20, "read_only": False}
    with pytest.raises(MusterError, match="1 MiB free, 300 MiB are needed") as caught:
        check_room(facts(disks=disks))
    assert caught.value.where == path


def test_the_configuration_needs_no_room() -> None:
    disks = {"/opt": {"free_bytes": 2**30, "read_only": False}, "/etc": {"free_bytes": 2**20, "read_only": False}}
    check_room(facts(disks=disks))


def test_docker_needs_room_as_the_agent_does_which_may_be_there_already() -> None:
    full = {"/opt": {"free_bytes": 2**20, "read_only": False}}
    plan(disks=full)
    with pytest.raises(MusterError, match="300 MiB are needed"):
        plan(disks=full, docker={"present": False, "answers": False})


def test_this_machines_python_is_preferred_since_it_needs_no_download() -> None:
    both = facts(pythons=[python(3, 13), python(3, 11)])
    assert choose_python(both, OWN).version[:2] == (3, 11)
    assert choose_python(both, Target(python=(3, 11), machine="aarch64", libc="gnu")).version[:2] == (3, 13)


def test_an_old_python3_is_passed_over_for_one_beside_it() -> None:
    assert plan(pythons=[python(3, 10), python(3, 12)]).target.python == (3, 12)


@given(st.lists(st.tuples(st.integers(6, 16), st.booleans()), min_size=1, max_size=6))
def test_the_python_chosen_is_always_one_that_can_run_the_agent(found: list[tuple[int, bool]]) -> None:
    told = facts(pythons=[python(3, minor, lacks=() if whole else ("ssl",)) for minor, whole in found])
    fit = {minor for minor, whole in found if whole and 11 <= minor <= 14}
    try:
        chosen = choose_python(told, OWN)
    except MusterError:
        assert not fit
    else:
        assert chosen.version[1] in fit
        assert not chosen.lacks
        assert chosen.version[1] == 11 or 11 not in fit


@pytest.mark.parametrize(
    ("docker", "manager", "wanted", "installed", "note"),
    [
        (True, "apt", True, False, None),
        (False, "apt", True, True, None),
        (False, "apt", False, False, "no Docker"),
        (False, "", True, False, "no apt to install it with"),
    ],
)
def test_docker_is_installed_where_it_is_missing_and_can_be_had(
    docker: bool, manager: str, wanted: bool, installed: bool, note: str | None
) -> None:
    state = {"present": docker, "answers": docker}
    made = plan(options=Options(docker=wanted), docker=state, package_manager=manager)
    assert made.docker is installed
    assert len(made.notes) == (note is not None)
    assert all(note is not None and note in each for each in made.notes)


def test_a_firewall_is_named_with_its_rule_and_opened_only_when_told() -> None:
    rule = ["ufw", "allow", "9998/tcp"]
    firewalls = [{"name": "ufw", "commands": [rule], "lasting": True}]
    shut = plan(firewalls=firewalls)
    assert shut.firewall == ()
    assert "ufw allow 9998/tcp" in shut.notes[0]
    opened = plan(options=Options(open_firewall=True), firewalls=firewalls)
    assert opened.firewall == (tuple(rule),)
    assert opened.notes == ()


def test_rules_that_a_reboot_forgets_are_told() -> None:
    firewalls = [{"name": "nftables", "commands": [["nft", "insert"]], "lasting": False}]
    assert "forgets" in plan(options=Options(open_firewall=True), firewalls=firewalls).notes[0]


@pytest.mark.parametrize(("offset_s", "told"), [(0, False), (29, False), (-29, False), (31, True), (-31, True)])
def test_a_wrong_clock_is_told(offset_s: int, told: bool) -> None:
    notes = plan(clock_ms=int((NOW_S + offset_s) * 1000)).notes
    assert bool(notes) is told
    assert all(("ahead of" if offset_s > 0 else "behind") in note for note in notes)


@pytest.mark.parametrize(
    ("line", "changes", "address", "advertise"),
    [
        ("n1", {}, "10.0.0.7", False),
        ("n1 advertise=192.0.2.1", {}, "192.0.2.1", True),
        ("n1", {"ssh_address": "10.9.9.9"}, "10.9.9.9", True),
        ("n1", {"ssh_address": "::1"}, "10.0.0.7", False),
        ("localhost name=n1", {"ssh_address": ""}, "10.0.0.7", False),
    ],
)
def test_the_address_is_where_ssh_came_in_and_written_down_where_there_are_others(
    line: str, changes: dict[str, Any], address: str, advertise: bool
) -> None:
    made = plan(line, **changes)
    assert (made.address, made.advertise) == (address, advertise)


def test_a_host_without_a_name_in_the_list_has_its_own() -> None:
    assert plan("10.0.0.7", hostname="db").name == "db"
    with pytest.raises(MusterError, match="of no use"):
        plan("10.0.0.7", hostname="localhost")


@given(
    labels=st.dictionaries(
        st.from_regex(r"\A[a-z0-9A-Z](?:[a-z0-9A-Z._/-]{0,20}[a-z0-9A-Z])?\Z"),
        st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=30),
        max_size=4,
    )
)
def test_the_configuration_reads_back_as_what_was_meant(labels: dict[str, str]) -> None:
    text = config_text(plan("n1 advertise=2001:db8::1"), ["10.0.0.8:9998", "[2001:db8::2]:9998"], labels)
    config = parse_config(text)
    assert (config.name, config.advertise, config.labels) == ("n1", "2001:db8::1", labels)
    assert config.seeds == ("10.0.0.8:9998", "[2001:db8::2]:9998")
    assert is_ours(text)


def test_an_edited_configuration_is_not_ours() -> None:
    text = config_text(plan(), [], {})
    assert is_ours(None)
    assert is_ours(text)
    assert not is_ours(text + "# mine\n")
    assert not is_ours(text.replace("n1", "n2"))
    assert not is_ours('name = "n1"\n')


def test_only_what_a_running_agent_must_know_restarts_it() -> None:
    before = config_text(plan(), ["10.0.0.8:9998"], {})
    assert not needs_restart(None, before)
    assert not needs_restart(before, before)
    assert not needs_restart(before, config_text(plan(), ["10.0.0.8:9998", "10.0.0.9:9998"], {}))
    assert needs_restart(before, config_text(plan(), ["10.0.0.8:9998"], {"zone": "b"}))
    assert needs_restart(before, config_text(plan("x name=n2"), ["10.0.0.8:9998"], {}))


def test_seeds_are_the_others() -> None:
    members = {"a": ("10.0.0.1", 9998), "b": ("2001:db8::2", 9998), "c": ("c.lan", 7000)}
    assert seeds_of(members, "a") == ["[2001:db8::2]:9998", "c.lan:7000"]
    assert tomllib.loads(config_text(plan(), seeds_of(members, "z"), {}))["seeds"] == [
        "10.0.0.1:9998",
        "[2001:db8::2]:9998",
        "c.lan:7000",
    ]


def test_the_launcher_runs_isolated_with_the_chosen_python() -> None:
    assert plan(pythons=[python(3, 12)]).launcher.startswith("#!/usr/bin/python3.12 -IS\n")
