"""What installing tells and does when hosts answer as they are made to here: their helpers are played."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.errors import MusterError
from agent.home import Home, open_home, remember
from agent.model.api import TargetView
from bootstrap.bundle import Bundle, Target
from bootstrap.certificates import certify
from bootstrap.connection import Connection
from bootstrap.genesis import make_genesis, remember_members
from bootstrap.home import create_home
from bootstrap.install import HostResult, Installation
from bootstrap.inventory import InventoryHost, parse_inventory
from bootstrap.plan import Options
from bootstrap.progress import Lines
from bootstrap.ssh import SshSettings
from tests.bootstrap.facts import facts
from tests.bootstrap.identities import Host, host

PATIENCE_S = 10.0  # for what takes milliseconds
CHANGING = {"apply", "request", "accept", "start"}
"""What came by `unpack` lies beside its place until `apply`, and goes with the connection."""
BUNDLE = Bundle(version="1", path=Path("bundle"), size=1, sha256="0" * 64, manifest="0" * 64)


class Helper:
    """One host's side of a connection: it remembers what it was asked. It answers once `after` was asked to `until`.

    `once`: what changes there when it is asked that for the first time.
    """

    def __init__(
        self,
        found: dict[str, Any],
        labels: dict[str, str] | None = None,
        address: str | None = None,
        *,
        after: Helper | None = None,
        until: str = "apply",
    ) -> None:
        self.asked: list[str] = []
        self.written: dict[str, str] = {}
        self.reached: dict[str, asyncio.Event] = {do: asyncio.Event() for do in ("unpack", "apply")}
        self.once: dict[str, Callable[[], object]] = {}
        self.after = after.reached[until] if after is not None else None
        self._answers: dict[str, Any] = {
            "probe": msgspec.to_builtins(facts(clock_ms=time.time_ns() // 1_000_000, **found)),
            "look": {"present": True, "damaged": ()},
            "apply": {"changed": (), "notes": ()},
            "start": {"did": False},
            "wait": {"answers": True, "coordinator": "n1", "unseen": (), "reason": ""}
            | {"labels": labels, "address": address},
        }

    def answers(self, do: str, answer: object) -> None:
        """Otherwise than one that is well."""
        self._answers[do] = answer

    async def ask(self, do: str, **said: Any) -> Any:
        self.asked.append(do if not said.get("dry") else f"{do} dry")
        self.written |= {file["path"]: file["text"] for file in said.get("files", ())}
        if do in self.reached:
            self.reached[do].set()
        if do not in self._answers:
            raise MusterError(f"{do} goes wrong")
        answer = self._answers[do]
        self.once.pop(do, lambda: None)()
        return answer

    async def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return create_home(tmp_path / "prod", name="prod", operator="alice", recovery_file=tmp_path / "recovery.key")


def install(
    monkeypatch: pytest.MonkeyPatch, home: Home, hosts: str, helpers: dict[str, Helper], *, dry: bool = False
) -> tuple[dict[str, HostResult], list[str]]:
    """Its results by alias, and the lines that it told."""

    async def opened(host: InventoryHost, _settings: SshSettings, _password: str | None = None) -> Helper:
        helper = helpers[host.alias]
        if helper.after is not None:
            await asyncio.wait_for(helper.after.wait(), PATIENCE_S)
        return helper

    def built(_target: Target, _cache: Path) -> Bundle:
        return BUNDLE

    monkeypatch.setattr(Connection, "open", opened)
    monkeypatch.setattr("bootstrap.install.build", built)
    told: list[str] = []
    installation = Installation(
        home,
        parse_inventory(hosts),
        settings=SshSettings(),
        options=Options(),
        display=Lines(told.append),
        cache=home.path,
        dry=dry,
    )
    return {result.host: result for result in asyncio.run(installation.run())}, told


def test_nothing_is_changed_on_a_host_that_two_lines_lead_to(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    helpers = {"n1": Helper({}), "twin": Helper({"hostname": "twin"})}
    results, told = install(monkeypatch, home, "n1\ntwin\n", helpers)
    for helper in helpers.values():
        assert CHANGING.isdisjoint(helper.asked)
    assert results["n1"].what == "twin has its address too, 10.0.0.7"
    assert results["twin"].what == "n1 has its address too, 10.0.0.7"
    assert [line.partition(": failed: ")[2] for line in told if ": failed: " in line] == [
        "twin has its address too, 10.0.0.7",
        "n1 has its address too, 10.0.0.7",
    ]


def test_a_host_that_is_slow_to_answer_holds_up_nobody(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    monkeypatch.setattr("bootstrap.install.SLOW_LOOK_S", 0.01)
    quick = Helper({})
    elsewhere = {"hostname": "slow", "addresses": [], "ssh_address": "10.0.0.8"}
    helpers = {"quick": quick, "slow": Helper(elsewhere, after=quick)}
    install(monkeypatch, home, "quick\nslow\n", helpers)
    for helper in helpers.values():
        assert helper.asked == ["probe", "look", "apply", "request"]


def test_files_are_sent_to_a_host_while_others_are_looked_at_and_change_nothing_there_yet(
    monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    first = Helper({})
    first.answers("look", {"present": False, "damaged": ()})
    first.answers("unpack", None)
    twin = Helper({"hostname": "twin"}, after=first, until="unpack")
    results, _ = install(monkeypatch, home, "first\ntwin\n", {"first": first, "twin": twin})
    assert first.asked == ["probe", "look", "unpack"]
    assert CHANGING.isdisjoint(twin.asked)
    assert (results["first"].state, results["twin"].state) == ("failed", "failed")


def test_a_late_line_that_leads_to_a_host_of_another_is_refused_before_it_changes_anything(
    monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    monkeypatch.setattr("bootstrap.install.SLOW_LOOK_S", 0.01)
    quick = Helper({})
    helpers = {"quick": quick, "twin": Helper({"hostname": "twin"}, after=quick)}
    results, _ = install(monkeypatch, home, "quick\ntwin\n", helpers, dry=True)
    assert results["twin"].what == "quick has its address too, 10.0.0.7"
    assert CHANGING.isdisjoint(helpers["twin"].asked)
    assert results["quick"].state == "planned"


@pytest.mark.parametrize("dry", [True, False])
def test_a_full_disk_is_in_the_way_only_of_what_has_to_be_sent(
    monkeypatch: pytest.MonkeyPatch, home: Home, dry: bool
) -> None:
    full = {"disks": {"/opt": {"free_bytes": 2**20, "read_only": False}}}
    elsewhere = {"hostname": "n2", "addresses": [], "ssh_address": "10.0.0.8"}
    helpers = {"n1": Helper(full), "n2": Helper(full | elsewhere)}
    helpers["n1"].answers("look", {"present": False, "damaged": ()})
    results, _ = install(monkeypatch, home, "n1\nn2\n", helpers, dry=dry)
    assert helpers["n1"].asked == ["probe", "look"]
    assert results["n1"].what == "1 MiB free, 300 MiB are needed"
    assert ("apply dry" if dry else "apply") in helpers["n2"].asked


def member(
    home: Home, one: Host, labels: dict[str, str], address: str = "10.0.0.7", **unit: str
) -> tuple[Home, Helper]:
    """A cluster of that host, enrolled with these; `unit`: as systemd has it, where it isn't well."""
    request = one.request(address=address)
    genesis = make_genesis(home, [request], now_ms=1_700_000_000_000, labels={request.id: labels})
    there = {"certificate": certify(home, request), "granted": True, "active": "active"}
    installed = {"config": None, "enabled": "enabled", "ended": ""} | there | unit
    return remember_members(home, genesis.members), Helper({"installed": installed}, labels, address)


def test_a_line_without_labels_leaves_a_host_those_that_it_has(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    home, helper = member(home, host("n1"), {"zone": "b"})
    results, _ = install(monkeypatch, home, "n1\n", {"n1": helper}, dry=True)
    assert results["n1"].changed == ()
    assert results["n1"].notes == ("it keeps its labels (zone=b), as hosts.txt:1 has none",)


@pytest.mark.parametrize(("hosts", "listed"), [("n1 zone=a\n", "zone=a"), ("[west]\nn1\n", "west=true")])
def test_a_line_with_labels_or_a_group_gives_a_host_all_of_them(
    monkeypatch: pytest.MonkeyPatch, home: Home, hosts: str, listed: str
) -> None:
    home, helper = member(home, host("n1"), {"zone": "b"})
    results, _ = install(monkeypatch, home, hosts, {"n1": helper}, dry=True)
    assert results["n1"].changed == (f"labels ({listed}; were zone=b)",)
    assert results["n1"].notes == ()


@pytest.mark.parametrize(
    ("unit", "change"),
    [({"active": "inactive"}, "started"), ({"active": "failed"}, "started"), ({"enabled": "disabled"}, "enabled")],
)
@pytest.mark.parametrize("dry", [True, False])
def test_an_agent_that_does_not_run_is_started_and_one_that_would_not_after_a_boot_enabled(
    monkeypatch: pytest.MonkeyPatch, home: Home, unit: dict[str, str], change: str, dry: bool
) -> None:
    home, helper = member(home, host("n1"), {}, **unit)
    helper.answers("start", {"did": True})
    results, _ = install(monkeypatch, home, "n1\n", {"n1": helper}, dry=dry)
    assert results["n1"].changed == (change,)


def test_what_would_change_is_told_once(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    home, helper = member(home, host("n1"), {})
    helper.answers("apply", {"changed": ("group muster",), "notes": ()})
    results, _ = install(monkeypatch, home, "n1\n", {"n1": helper}, dry=True)
    assert results["n1"].changed == ("group muster",)


def test_a_dry_run_tells_of_an_agent_that_it_would_restart(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    home, helper = member(home, host("n1"), {})
    helper.answers("look", {"present": True, "damaged": ["lib/agent/errors.py"]})
    results, _ = install(monkeypatch, home, "n1\n", {"n1": helper}, dry=True)
    assert results["n1"].changed == ("damaged files", "restarted")


@pytest.mark.parametrize("dry", [True, False])
def test_a_host_whose_address_changed_is_told_of_with_both_ways_on(
    monkeypatch: pytest.MonkeyPatch, home: Home, dry: bool
) -> None:
    home, helper = member(home, host("n1"), {}, address="10.0.0.9")
    results, _ = install(monkeypatch, home, "n1\n", {"n1": helper}, dry=dry)
    (note,) = results["n1"].notes
    assert note.startswith("its address here is 10.0.0.7, and 10.0.0.9 in the cluster: ")
    assert "--limit n1 enrol it anew, advertise=10.0.0.9 in hosts.txt:1 keeps it" in note


def test_a_host_that_the_list_calls_otherwise_keeps_its_name_in_the_cluster(
    monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    home, helper = member(home, host("n1"), {})
    results, _ = install(monkeypatch, home, "n1 name=web1\n", {"n1": helper})
    assert results["n1"].name == "n1"
    (note,) = results["n1"].notes
    assert note.startswith("it is called web1 now, and stays n1 in the cluster: ")
    assert 'name = "n1"' in helper.written["/etc/muster/agent.toml"]


@pytest.mark.parametrize("dry", [True, False])
def test_an_agent_that_had_ended_is_told_of_with_how(monkeypatch: pytest.MonkeyPatch, home: Home, dry: bool) -> None:
    home, helper = member(home, host("n1"), {}, active="activating", ended="activating (watchdog): it says nothing")
    helper.answers("start", {"did": True})
    results, _ = install(monkeypatch, home, "n1\n", {"n1": helper}, dry=dry)
    assert results["n1"].changed == ("started",)
    assert results["n1"].notes == ("its agent didn't run, activating (watchdog): it says nothing",)


def test_what_is_wrong_with_the_installing_itself_ends_it_before_a_host_is_changed(
    monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("bootstrap.install.member_of", broken)
    home, helper = member(home, host("n1"), {})
    with pytest.raises(ZeroDivisionError):
        install(monkeypatch, home, "n1\n", {"n1": helper})
    assert CHANGING.isdisjoint(helper.asked)


# A host whose agent was expelled


class Members:
    """What the cluster's members answer: `expelled` ids are known to all of them."""

    def __init__(self, *expelled: str) -> None:
        self.expelled = frozenset(f"member:{each}" for each in expelled)
        self.signed: list[tuple[str, str]] = []

    async def __aenter__(self) -> Members:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is held."""

    async def health(self) -> None:
        """One of them lives."""

    async def target(self, target: str) -> TargetView:
        return TargetView(target=target, revision=2, act="expel" if target in self.expelled else "enrol")

    async def submit(self, act: str, target: str, _body: object) -> None:
        self.signed.append((act, target))


def expelled_host(home: Home, *, knows: bool) -> tuple[Home, Helper, Host, Host]:
    """A cluster's host, who it was and who it is next. `knows`: whether its home knows of the expulsion."""
    before, after = host("n1"), host("n1")
    home, helper = member(home, before, {})
    if knows:
        home = remember(home, members=[])
    told = {"answers": True, "coordinator": None, "unseen": (), "reason": "no coordinator", "expelled": True}
    helper.answers("wait", told)
    helper.answers("request", msgspec.to_builtins(before.request(address="10.0.0.7")))
    helper.answers("accept", None)
    helper.answers("retire", True)

    def retired() -> None:
        helper.answers("request", msgspec.to_builtins(after.request(address="10.0.0.7")))
        helper.answers("wait", {"answers": True, "coordinator": "n2", "unseen": (), "reason": ""})

    helper.once["retire"] = retired
    return home, helper, before, after


@pytest.mark.parametrize("knows", [True, False])
def test_a_host_that_was_expelled_becomes_a_new_member_under_its_name(
    monkeypatch: pytest.MonkeyPatch, home: Home, knows: bool
) -> None:
    home, helper, before, after = expelled_host(home, knows=knows)
    members = Members(before.id)
    monkeypatch.setattr("agent.client.home_client", lambda _home: members)
    results, _ = install(monkeypatch, home, "n1\n", {"n1": helper})
    assert (results["n1"].state, results["n1"].what) == ("installed", "")
    assert "it had been expelled" in results["n1"].notes[0]
    assert members.signed == [("enrol", f"member:{after.id}")]
    assert helper.asked.count("retire") == 1
    assert [(known.id, known.name) for known in open_home(home.path).cluster.members] == [(after.id, "n1")]


def test_a_host_that_only_says_that_it_was_expelled_stays_who_it_is(
    monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    home, helper, _, _ = expelled_host(home, knows=False)
    monkeypatch.setattr("agent.client.home_client", lambda _home: Members())
    results, _ = install(monkeypatch, home, "n1\n", {"n1": helper})
    assert results["n1"].state == "failed"
    assert "retire" not in helper.asked


@pytest.mark.parametrize("knows", [True, False])
def test_a_dry_run_tells_that_a_host_was_expelled(monkeypatch: pytest.MonkeyPatch, home: Home, knows: bool) -> None:
    home, helper, before, _ = expelled_host(home, knows=knows)
    monkeypatch.setattr("agent.client.home_client", lambda _home: Members(before.id))
    results, _ = install(monkeypatch, home, "n1\n", {"n1": helper}, dry=True)
    assert results["n1"].changed == ("identity (it was expelled)",)
