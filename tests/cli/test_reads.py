"""Commands that look: what people see, what programs get, and the exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.cli import session
from agent.cli.options import Options
from agent.cli.output import say_from
from agent.errors import Conflict
from agent.instruction import audience_of, read_access
from agent.model.report import RuntimeInfo
from agent.model.usage import ReplicaUsage, SilentHost, Usage
from tests.cli.conftest import Agent
from tests.support.fake_node import FakeCluster, event, line
from tests.support.shop import SECRET, open_shop


async def test_status_shows_the_cluster(agent: Agent, running: FakeCluster) -> None:
    open_shop(running)
    said = await agent("status")
    assert said.code == 0, said
    assert said.out.startswith("cluster lab: n1 coordinates; 2 of 2 voters reachable")
    assert "shop" in said.out
    assert "1/1" in said.out
    assert "\x1b" not in said.out


async def test_a_degraded_cluster_exits_3_and_says_what_to_do(agent: Agent, running: FakeCluster) -> None:
    open_shop(running, "failed", "exit code 3")
    said = await agent("status")
    assert said.code == 3
    assert "error: shop/job.1: failed on n2: exit code 3" in said.out
    assert "`agent logs shop job`" in said.out
    as_json = await agent("status", "--json")
    assert as_json.code == 3
    assert as_json.json["problems"][0]["severity"] == "error"


async def test_what_nobody_knows_isnt_called_unhealthy(agent: Agent, running: FakeCluster) -> None:
    open_shop(running)
    del running.ledger.reports["n2"]
    said = await agent("status")
    assert "0/1 (1 unknown)" in said.out
    assert "health 100 % of what is known; 1 of 2 replicas are unknown" in said.out
    del running.ledger.reports["n1"]
    assert "health unknown" in (await agent("status")).out


async def test_a_host_whose_docker_is_down_isnt_fit(agent: Agent, running: FakeCluster) -> None:
    running.ledger.report("n1")
    running.ledger.report("n2")
    down = RuntimeInfo(name="docker", available=False, reason="Cannot connect to the Docker daemon")
    up = RuntimeInfo(name="process", available=True)
    running.ledger.reports["n2"] = replace(running.ledger.reports["n2"], runtimes=(down, up))
    said = await agent("status")
    assert said.code == 3
    rows = [text.split(maxsplit=4) for text in said.out.splitlines() if text.startswith("n")]
    assert [(row[0], row[4].rstrip()) for row in rows[:2]] == [("n1", "yes"), ("n2", "docker doesn't answer")]
    hosts = (await agent("status", "--json")).json["hosts"]
    assert [(host["fit"], host["reasons"]) for host in hosts] == [
        (True, []),
        (False, ["docker doesn't answer: Cannot connect to the Docker daemon"]),
    ]


async def test_no_stacks_is_no_problem(agent: Agent, running: FakeCluster) -> None:
    said = await agent("status")
    assert said.code == 0
    assert "no stacks" in said.out


@pytest.mark.parametrize(
    ("args", "key"),
    [(("status",), "health_score"), (("members",), "members"), (("ps",), "replicas"), (("token",), "token")],
)
async def test_json_is_one_document(args: tuple[str, ...], key: str, agent: Agent, running: FakeCluster) -> None:
    open_shop(running)
    for order in ((*args, "--json"), ("--json", *args)):
        said = await agent(*order)
        assert said.code == 0, said
        assert key in said.json
        assert said.err == ""


async def test_members_are_listed(agent: Agent, running: FakeCluster) -> None:
    said = await agent("members")
    assert said.code == 0
    assert [text.split()[0] for text in said.out.splitlines()] == ["name", "n1", "n2"]


async def test_ps_lists_replicas_of_one_stack_or_all(agent: Agent, running: FakeCluster) -> None:
    open_shop(running, "backoff", "exit code 1")
    said = await agent("ps", "shop")
    assert "shop/web.1" in said.out
    assert "8443→8443/tcp" in said.out
    assert "exit code 1" in said.out
    missing = await agent("ps", "blog")
    assert missing.code == 1
    assert missing.err == "error: blog: there is no such stack\n  Stacks: shop.\n"


async def test_top_shows_what_replicas_use_and_names_hosts_that_do_not_say(agent: Agent, running: FakeCluster) -> None:
    open_shop(running)
    web = ReplicaUsage(
        stack="shop",
        service="web",
        slot=1,
        host="n1",
        cpu_percent=12.34,
        memory_bytes=48 * 1024 * 1024,
        memory_limit_bytes=64 * 1024 * 1024,
    )
    for node in running.nodes.values():
        node.node.used = Usage(replicas=(web,), silent=(SilentHost(host="n2", reason="n1 has no link with n2"),))
    said = await agent("top", "shop")
    assert said.out.splitlines()[1].split() == ["shop/web.1", "n1", "12.3%", "48.0", "MiB", "/", "64.0", "MiB", "75.0%"]
    assert "n2 doesn't say what it runs: n1 has no link with n2" in said.out + said.err
    assert (await agent("top", "--json")).json["replicas"][0]["cpu_percent"] == 12.34
    missing = await agent("top", "blog")
    assert missing.code == 1
    assert "there is no such stack" in missing.err


async def test_no_environment_value_is_ever_shown(agent: Agent, running: FakeCluster, tmp_path: Path) -> None:
    open_shop(running)
    for args in (("status",), ("ps",), ("status", "--json"), ("ps", "--json")):
        assert SECRET not in (await agent(*args)).out


async def test_logs_are_one_line_each_with_their_replica(agent: Agent, running: FakeCluster) -> None:
    open_shop(running)
    for node in running.nodes.values():
        node.node.lines = [
            line("one"),
            line("\x1b[31mred\x1b[0m \x1b]0;title\x07\x08two"),
            line("three", service="job"),
        ]
    said = await agent("logs", "shop")
    assert said.out.splitlines() == [
        "web.1@n1 | one",
        "web.1@n1 | red \ufffd]0;title\ufffd\ufffdtwo",
        "job.1@n1 | three",
    ]
    assert (await agent("logs", "shop", "job")).out == "job.1@n1 | three\n"
    assert (await agent("logs", "shop", "--tail", "1")).out == "job.1@n1 | three\n"
    assert (await agent("logs", "shop", "--since", "10m")).out == ""
    assert len((await agent("logs", "shop", "--since", "2024-01-15T10:30:00Z")).out.splitlines()) == 3
    as_json = (await agent("logs", "shop", "--json")).out.splitlines()
    assert json.loads(as_json[0])["line"] == "one"


async def test_events_are_told_by_the_coordinator(agent: Agent, running: FakeCluster) -> None:
    running.nodes["n1"].node.kept = [event(1, "n1 coordinates (term 3)"), event(2, "shop is healthy")]
    said = await agent("events")
    assert said.out == "1970-01-01T00:00:01Z  n1 coordinates (term 3)\n1970-01-01T00:00:02Z  shop is healthy\n"
    as_json = await agent("events", "--json")
    assert [json.loads(text)["id"] for text in as_json.out.splitlines()] == [1, 2]


async def test_a_token_is_valid_where_it_is_shown(agent: Agent, running: FakeCluster) -> None:
    said = await agent("token", "--ttl", "10m")
    state = running.ledger.state
    claims = read_access(
        said.out.strip(), state.operators, audience_of(state.cluster, state.epoch), running.ledger.now_ms() / 1000
    )
    assert (claims.iss, claims.exp - claims.iat, claims.scope) == ("ann", 600, "read")


async def test_a_token_can_be_made_while_nobody_answers(agent: Agent, cluster: FakeCluster) -> None:
    said = await agent("token")
    assert said.code == 0
    assert said.out.count(".") == 2
    assert "this machine's clock" in said.err


async def test_nobody_answering_exits_4(agent: Agent, running: FakeCluster) -> None:
    await running.close()
    said = await agent("status")
    assert said.code == 4
    assert said.err.startswith("error: no agent answered: ")
    assert (await agent("status", "--json")).problem["type"] == "urn:muster:problem:unreachable"


async def test_not_being_allowed_exits_5(agent: Agent, running: FakeCluster) -> None:
    running.ledger.state = replace(running.ledger.state, operators={})
    said = await agent("status")
    assert said.code == 5
    assert "agent token" in said.err


async def test_the_local_socket_is_asked_where_there_is_no_home(
    agent: Agent, cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "agent.sock"
    monkeypatch.delenv("MUSTER_HOME")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nothing"))
    nowhere = await agent("status")
    assert nowhere.code == 1
    assert "sudo agent status" in nowhere.err
    await cluster.start("n1", socket=path)
    try:
        monkeypatch.setattr(session, "DEFAULT_SOCKET", str(path))
        assert (await agent("status")).out.startswith("cluster lab")
        assert (await agent("members", "--socket", str(path))).code == 0
        assert (await agent("status", "--via", "n1")).code == 1
        refused = await agent("stop", "shop", "--socket", str(path))
        assert refused.code == 2
        assert "nothing can be signed" in refused.err
    finally:
        await cluster.close()


async def test_on_a_host_whose_agent_was_stopped_it_says_that(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MUSTER_HOME")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nothing"))
    monkeypatch.setattr("agent.cli.host_look.last_status", lambda: ("inactive", ""))
    said = await agent("status")
    assert said.code == 1
    assert "the agent of this host doesn't run: its unit is inactive" in said.err
    assert "`sudo systemctl start muster-agent`" in said.err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "Usage: agent"),
        (("nonsense",), "No such command 'nonsense'"),
        (("status", "--nonsense"), "No such option"),
        (("status", "extra"), "unexpected extra argument"),
        (("status", "--via", "http://n1"), "--via"),
        (("status", "--via", "n1", "--socket", "/x"), "--socket"),
        (("status", "--home"), "requires an argument"),
        (("members", "--via", ""), "--via"),
        (("ps", "a", "b"), "unexpected extra argument"),
        (("logs",), "Missing argument 'STACK'"),
        (("logs", "shop", "--tail", "-1"), "--tail"),
        (("logs", "shop", "--tail", "x"), "--tail"),
        (("logs", "shop", "--tail", "10001"), "--tail"),
        (("logs", "shop", "--slot", "0"), "--slot"),
        (("logs", "shop", "--since", "yesterday"), "--since"),
        (("logs", "UPPER"), "/{stack}"),
        (("logs", "../etc"), ""),
        (("events", "--follow=1"), "does not take a value"),
        (("token", "--ttl", "2h"), "--ttl"),
        (("token", "--ttl", "0s"), "--ttl"),
        (("token", "--ttl", "soon"), "--ttl"),
        (("deploy",), "Missing argument 'PLAN'"),
        (("deploy", "/nonexistent/plan.json"), "there is no such file"),
        (("deploy", "/"), "can't be read"),
        (("scale", "shop"), "Missing argument"),
        (("scale", "shop", "web"), "expected SERVICE=N"),
        (("scale", "shop", "web=-1"), "expected SERVICE=N"),
        (("scale", "shop", "web=99999"), "0..10000"),
        (("scale", "shop", "web=1", "web=2"), "stands twice"),
        (("scale", "shop", "WEB=1"), "expected SERVICE=N"),
        (("scale", "Shop", "web=1"), "no stack name"),
        (("start",), "Missing argument 'STACK'"),
        (("stop", "a/b"), "no stack name"),
        (("restart", "shop", "WEB"), "services"),
        (("remove", "shop"), "--yes"),
        (("remove", "-x"), "No such option"),
        (("identity", "nonsense"), "No such command"),
    ],
)
async def test_bad_input_exits_2_and_is_named(
    args: tuple[str, ...], says: str, agent: Agent, running: FakeCluster
) -> None:
    said = await agent(*args)
    assert said.code in ((0, 2) if not args else (2,)), said
    assert says in said.err + said.out
    assert "Traceback" not in said.err
    if args:
        problem = (await agent(*args, "--json")).problem
        assert problem["type"].startswith("urn:muster:problem:")
        assert problem["detail"]


def test_each_replica_has_a_colour_of_its_own_where_colours_are_wanted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    for slot in (1, 2, 1):
        say_from(Options(), f"web.{slot}@n1", "\x1b[31mhello\x07")
    one, two, again = capsys.readouterr().out.splitlines()
    assert one == again != two.replace("web.2", "web.1")
    assert one.endswith("mweb.1@n1\x1b[0m | hello\ufffd")
    monkeypatch.setenv("NO_COLOR", "1")
    say_from(Options(), "web.1@n1", "hello")
    assert capsys.readouterr().out == "web.1@n1 | hello\n"


async def test_what_an_agent_answers_does_not_steer_the_terminal_in_errors_and_notes(
    agent: Agent, running: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    for node in running.nodes.values():
        node.node.fail = Conflict("a\x1b[2Jb", where="c\rd", fix="e\x9bf")
    said = await agent("status")
    assert said.err == "error: c\ufffdd: a\ufffd[2Jb\n  e\ufffdf\n"
    session.notice("a\x1b[2Jb")
    assert capsys.readouterr().err == "note: a\ufffd[2Jb\n"
