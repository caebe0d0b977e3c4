"""Hosts that join a running cluster: over the API without SSH from the desk, and from within `agent deploy`.

The tests are one story and run in order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from tests.bootstrap.desk import Desk, desk_of
from tests.lab import Lab
from tests.support.waiting import wait_for_sync

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

KEYS = "/etc/muster/ssh"
SERVE = ["python3", "-m", "http.server", "8080"]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A cluster of n1 and n2; n3 trusts a key that lies on n1 alone, n4 the desk's."""
    if reason := Lab.unavailable():
        pytest.skip(reason)
    with (
        Lab.up(4, name=f"v{os.getpid()}") as lab,
        desk_of(lab, tmp_path_factory.mktemp("desk")) as made,
    ):
        made.write_hosts("root@n1", "root@n2")
        made.install()
        n1, n3 = lab.host("n1"), lab.host("n3")
        n1.run(["mkdir", "-m", "700", KEYS])
        n1.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{KEYS}/worker-key"])
        public = n1.run(["cat", f"{KEYS}/worker-key.pub"]).stdout
        n3.run(["sh", "-c", "cat > /root/.ssh/authorized_keys"], input=public)
        assert not made.run("ssh", "-o", "BatchMode=yes", "root@n3", "true", check=False).ok
        yield made


def address(desk: Desk, host: str) -> str:
    found: str = next(each["address"] for each in desk.status()["hosts"] if each["name"] == host)
    return found


def curl(desk: Desk, *arguments: str, body: str | None = None) -> dict[str, object]:
    """As docs/api.md has it, at n1."""
    members = json.loads(desk.run("agent", "members", "--json").stdout)["members"]
    agent = next(each["id"] for each in members if each["name"] == "n1")
    token = desk.run("agent", "token").stdout.strip()
    anchor = next((desk.lab.operator.home / ".config/muster").glob("*/cluster.crt"))
    argv = ["curl", "-sS", "--cacert", str(anchor), "--connect-to", f"::{address(desk, 'n1')}:9999"]
    argv += ["-H", f"Authorization: Bearer {token}", "-H", "Content-Type: application/json"]
    path, *rest = arguments
    said = desk.run(*argv, *rest, f"https://{agent}.agent.muster{path}", input=body)
    found: dict[str, object] = json.loads(said.stdout)
    return found


def test_a_host_joins_over_the_api_by_curl_from_a_desk_that_cannot_log_in_there(desk: Desk) -> None:
    invitation = desk.run("agent", "invite", "root@n3", "--via", "n1", "--ssh-key-path", "worker-key", "--accept-new")
    begun = curl(desk, "/api/v1/deployment/workers", "-d", "@-", body=invitation.stdout)
    assert begun.get("state") == "running", begun

    def ended() -> dict[str, object] | None:
        operation = curl(desk, f"/api/v1/operations/{begun['id']}")
        return operation if operation["state"] != "running" else None

    operation = wait_for_sync(ended, 120.0, what="the operation's end")
    assert operation is not None
    assert operation["state"] == "done", operation
    assert "enrolling" in str(operation["lines"])
    desk.run("agent", "members")
    desk.wait_all_alive(["n1", "n2", "n3"])


def test_an_invitation_counts_once(desk: Desk) -> None:
    sent = desk.run("agent", "invite", "root@n3", "--via", "n1", "--ssh-key-path", "worker-key", "--send", check=False)
    assert sent.returncode == 1
    assert "n3 is a member already" in sent.stderr


def test_the_plan_is_made_again_with_it_and_scaled(desk: Desk) -> None:
    plan = json.loads(desk.run("agent", "generate-plan", "--stack", "shop", "--image", "shop:1").stdout)
    assert [plan["main"]["host"], *(worker["host"] for worker in plan["workers"])] == ["n1", "n2", "n3"]
    web = {"runtime": "process", "command": SERVE, "ports": [{"host_port": 8080, "container_port": 8080}]}
    (desk.lab.operator.home / "web.json").write_text(json.dumps({"services": {"web": web}}))
    desk.run("agent", "deploy", "web.json")
    desk.run("agent", "scale", "web", "web=3")
    replicas = json.loads(desk.run("agent", "ps", "--json").stdout)
    assert "n3" in json.dumps(replicas)
    again = json.loads(desk.run("agent", "plan", "web", "--signed").stdout)
    assert "web" in again["services"]


def test_a_new_host_of_a_plan_is_told_of_and_not_touched_where_nobody_can_be_asked(desk: Desk) -> None:
    main = {"runtime": "process", "command": ["sleep", "1000"], "host": "n4", "user": "root"}
    (desk.lab.operator.home / "more.json").write_text(json.dumps({"main": main}))
    dry = desk.run("agent", "deploy", "more.json", "--dry-run")
    assert "+ host n4: would be made a member first (root@n4 name=n4)" in dry.stdout
    refused = desk.run("agent", "deploy", "more.json", check=False, input="")
    assert refused.returncode == 2
    assert "printf '%s\\n' 'root@n4 name=n4' | bootstrap install -" in refused.stderr
    assert not desk.lab.host("n4").run(["test", "-e", "/opt/muster"], check=False).ok


def test_new_hosts_of_a_plan_become_members_first(desk: Desk) -> None:
    said = desk.run("agent", "deploy", "more.json", "--yes")
    assert "n4: making keys" in said.stdout
    assert "more: healthy" in said.stdout
    desk.wait_all_alive(["n1", "n2", "n3", "n4"])


def test_a_new_host_that_fails_ends_it_before_anything_is_deployed(desk: Desk) -> None:
    main = {"runtime": "process", "command": ["sleep", "1000"], "host": "n9.invalid", "user": "root"}
    (desk.lab.operator.home / "none.json").write_text(json.dumps({"main": main}))
    failed = desk.run("agent", "deploy", "none.json", "--yes", check=False)
    assert failed.returncode == 3
    assert "there is no host n9.invalid" in failed.stderr
    assert "none" not in [stack["name"] for stack in desk.status()["stacks"]]
