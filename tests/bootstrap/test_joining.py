"""The helper's side of joining: a real agent waits, systemd is played."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.cli.joining import SOCKET, wait_for_identity
from agent.config import Config
from agent.model.cluster import IdentityRequest
from bootstrap.remote import install, joining, layout, system, tree
from bootstrap.remote.joining import Joining
from bootstrap.remote.wire import Failure
from tests.support.trust import Trust

TIMEOUT_S = 30.0
ASK = {"name": "n1", "address": "192.0.2.7"}


class Systemd:
    """It starts the agent of this directory; `said` are the commands it got. `fails`: how often it ends at once; if it
    `gives_up`, it doesn't try again.

    `slow`: the agent comes up when somebody asks how its unit is.
    """

    def __init__(self, directory: Path) -> None:
        self.said: list[str] = []
        self.state: dict[str, Any] = {"active": "inactive", "enabled": "", "stale": False, "restarts": 0}
        self.starts, self.fails, self.gives_up, self.slow = True, 0, False, False
        config = Config(data_dir=str(directory / "data"), run_dir=str(directory / "run"))
        self._agent = threading.Thread(target=wait_for_identity, args=(config, lambda: None), daemon=True)

    def run(self, argv: Sequence[str], *_: object, **_named: object) -> system.Output:
        self.said.append(" ".join(argv))
        if "start" in argv and not self.slow:
            self._up()
        if "start" in argv:
            self.state["restarts"] += self.fails
            self.state["active"] = "failed" if self.gives_up else "active"
        if "reset-failed" in argv:
            self.state["restarts"] = 0
        return system.Output(0, '{"id": "by command"}', "")

    def asked(self) -> dict[str, Any]:
        if self.slow and self.said:
            self._up()
        return self.state

    def _up(self) -> None:
        if self.starts and self._agent.ident is None:
            self._agent.start()

    def must(self, argv: Sequence[str]) -> str:
        return self.run(argv).out

    def ended(self) -> bool:
        self._agent.join(TIMEOUT_S)
        return not self._agent.is_alive()


@pytest.fixture
def systemd(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    directory = tmp_path_factory.mktemp("j")  # short: a socket's path has 108 bytes at most
    monkeypatch.setattr(layout, "ROOT", str(directory))
    monkeypatch.setattr(layout, "GRANT", str(directory / "data/identity/grant.json"))
    monkeypatch.setattr(layout, "JOINING", str(directory / "run" / SOCKET))
    played = Systemd(directory)
    for module in (install, joining):
        monkeypatch.setattr(module, "run", played.run)
        monkeypatch.setattr(module, "must", played.must)
    monkeypatch.setattr(joining, "load_unit", lambda _state: None)
    monkeypatch.setattr(joining, "unit_state", played.asked)
    monkeypatch.setattr(joining, "last_words", lambda: "no module named agent")
    return played


def grant_for(answer: dict[str, Any]) -> dict[str, str]:
    request, trust = msgspec.convert(answer, IdentityRequest), Trust()
    certificate = trust.certify_request(request)
    grant = trust.grant(certificate, trust.genesis([(request, certificate)]))
    return {"grant": msgspec.json.encode(grant).decode()}


def test_the_agent_that_waits_makes_the_keys_takes_the_grant_and_stays(systemd: Systemd) -> None:
    newcomer = Joining()
    request = newcomer.request(ASK)
    assert (request["name"], request["address"]) == ("n1", "192.0.2.7")
    assert systemd.said == ["systemctl start --no-block muster-agent.service"], "nothing is enabled before the grant"
    newcomer.accept(grant_for(request))
    newcomer.end()
    assert newcomer.granted
    assert systemd.ended()
    assert "systemctl stop muster-agent.service" not in systemd.said


@pytest.mark.parametrize(("slow", "options"), [(False, ["--no-reload"]), (True, [])])
def test_it_is_enabled_once_it_runs_and_systemd_reads_its_units_anew_only_if_it_was_asked_meanwhile(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch, slow: bool, options: list[str]
) -> None:
    monkeypatch.setattr(joining, "LOOK_S", 0.0 if slow else TIMEOUT_S)
    systemd.slow = slow
    newcomer = Joining()
    newcomer.accept(grant_for(newcomer.request(ASK)))
    del systemd.said[:]
    assert newcomer.start(tree.Staging()) == {"did": True}
    enabling = " ".join(["systemctl", "enable", "--quiet", *options, "muster-agent.service"])
    assert systemd.said == ["systemctl start muster-agent.service", enabling]
    newcomer.end()
    assert systemd.said[-1] == enabling


def test_an_agent_that_does_not_run_after_all_is_not_enabled(systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    newcomer = Joining()
    newcomer.accept(grant_for(newcomer.request(ASK)))
    monkeypatch.setattr(install, "run", lambda *_, **_named: system.Output(1, "", ""))
    monkeypatch.setattr(install, "last_words", lambda: "the port is taken")
    del systemd.said[:]
    with pytest.raises(Failure, match="the agent doesn't start: the port is taken"):
        newcomer.start(tree.Staging())
    newcomer.end()
    assert systemd.said == []


def test_an_agent_that_gets_no_grant_is_stopped(systemd: Systemd) -> None:
    newcomer = Joining()
    request = newcomer.request(ASK)
    with pytest.raises(Failure):
        newcomer.accept({"grant": "{}"})
    newcomer.end()
    assert systemd.said[-1] == "systemctl stop muster-agent.service"
    again = Joining()
    systemd.starts = False  # it waits, as nothing really stopped it
    assert again.request(ASK)["signing_key"] == request["signing_key"]
    again.accept(grant_for(request))
    assert systemd.ended()


def test_one_that_another_helper_left_waiting_is_started_anew(systemd: Systemd) -> None:
    systemd.state["active"] = "activating"
    newcomer = Joining()
    request = newcomer.request(ASK)
    assert [said.split()[1] for said in systemd.said] == ["stop", "start"]
    newcomer.accept(grant_for(request))


def test_a_second_line_that_leads_to_the_host_asks_by_command_and_disturbs_nobody(systemd: Systemd) -> None:
    first, second = Joining(), Joining()
    request = first.request(ASK)
    assert second.request(ASK) == {"id": "by command"}
    second.end()
    assert not any("stop" in said for said in systemd.said)
    first.accept(grant_for(request))
    assert systemd.ended()


def test_a_host_that_has_its_grant_is_asked_by_command(systemd: Systemd) -> None:
    Path(layout.GRANT).parent.mkdir(parents=True)
    Path(layout.GRANT).write_text("{}")
    assert Joining().request(ASK) == {"id": "by command"}
    assert systemd.said == [f"{layout.CURRENT}/bin/agent identity request --name n1 --address 192.0.2.7 --json"]


def test_an_agent_that_can_not_start_is_told_with_its_last_words(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "LOOK_S", 0.01)
    systemd.starts, systemd.fails = False, 1
    newcomer = Joining()
    with pytest.raises(Failure, match="the agent doesn't start: no module named agent"):
        newcomer.request(ASK)
    newcomer.end()
    assert systemd.said[-1] == "systemctl stop muster-agent.service"


def test_one_that_systemd_does_not_start_again_is_told_at_once(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a configuration that somebody has to correct: it is never restarted."""
    monkeypatch.setattr(joining, "LOOK_S", 0.01)
    monkeypatch.setattr(joining, "IDENTITY_TIMEOUT_S", 1e6)
    systemd.starts, systemd.gives_up = False, True
    newcomer = Joining()
    with pytest.raises(Failure, match="the agent doesn't start: no module named agent"):
        newcomer.request(ASK)


def test_restarts_of_an_earlier_try_are_not_taken_for_its_own(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "LOOK_S", 0.0)
    systemd.state["restarts"] = 3
    newcomer = Joining()
    newcomer.accept(grant_for(newcomer.request(ASK)))
    assert systemd.ended()


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ('{"detail": "no space", "where": "/var", "fix": "df"}', "no space"),
        ("Traceback\nImportError: cffi", "`agent identity` failed: Traceback\nImportError: cffi"),
        ("[1]", "`agent identity` failed: [1]"),
        ("", "`agent identity` failed: "),
    ],
)
def test_what_an_agent_complains_of_is_told(said: str, what: str) -> None:
    with pytest.raises(Failure) as failed:
        joining._understood(said)
    assert str(failed.value) == what
