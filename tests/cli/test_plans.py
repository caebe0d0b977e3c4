"""`agent plan`, `generate-plan`, `rollback`, and SEED's environment variables: flag > environment > file > default."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from agent.formats.plan import decode_plan
from agent.model.api import REDACTED
from agent.model.instruction import Remove, Scale
from agent.state import deployed_stack
from tests.cli.conftest import Agent
from tests.support.fake_node import FakeCluster
from tests.support.shop import SECRET, instruct, open_shop, phase, place, seen, shop
from tests.support.waiting import wait_for


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DOCKER_REGISTRY", "DOCKER_IMAGE_TAG", "SSH_USER", "SSH_KEY_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.distributed.json"
    written = {
        "stack": "shop",
        "image": "old.io/web:1",
        "user": "filed",
        "hosts": ["n1", "n2"],
        "environment": {"JWT_SECRET": "x"},
    }
    path.write_text(json.dumps(written))
    return path


def images(cluster: FakeCluster) -> dict[str, str]:
    """What is deployed, by service."""
    state = cluster.ledger.state
    services = deployed_stack(state, state.stacks["shop"]).services
    return {name: service.image.ref for name, service in services.items() if service.image is not None}


async def generated(agent: Agent, *args: str) -> Any:
    said = await agent("generate-plan", *args)
    assert said.code == 0, said.err
    decode_plan(said.out.encode())
    return said.json


class TestPlan:
    async def test_it_is_what_is_deployed_with_the_assigned_hosts_and_ports(
        self, agent: Agent, running: FakeCluster
    ) -> None:
        open_shop(running)
        instruct(running, "scale", "stack:shop", Scale(services={"job": 3}))
        said = await agent("plan", "shop")
        plan = decode_plan(said.out.encode())
        assert plan.stack == "shop"
        assert plan.main is not None
        assert (plan.main.host, plan.main.ports[0].host_port) == ("n1", 8443)
        assert (plan.workers[0].host, plan.workers[0].replicas) == (None, 3)

    async def test_signed_shows_what_the_operator_wrote(self, agent: Agent, running: FakeCluster) -> None:
        open_shop(running)
        plan = decode_plan((await agent("plan", "shop", "--signed")).out.encode())
        assert plan.main is not None
        assert plan.main.host is None

    async def test_values_are_hidden_and_the_plan_isnt_deployed_without_them(
        self, agent: Agent, running: FakeCluster, tmp_path: Path
    ) -> None:
        open_shop(running)
        said = await agent("plan", "shop")
        assert SECRET not in said.out
        assert json.loads(said.out)["main"]["environment"] == {"JWT_SECRET": REDACTED}
        path = tmp_path / "again.json"
        await asyncio.to_thread(path.write_text, said.out)
        refused = await agent("deploy", str(path), "--detach")
        assert refused.code == 2
        assert f"{path}: $.main.environment.JWT_SECRET" in refused.err
        assert running.ledger.state.stacks["shop"].revision == 1

    async def test_a_stack_that_isnt_there_is_named(self, agent: Agent, running: FakeCluster) -> None:
        said = await agent("plan", "blog")
        assert (said.code, "there is no such stack" in said.err) == (1, True)


class TestGeneratePlan:
    async def test_of_a_configuration(self, agent: Agent, config: Path) -> None:
        made = await generated(agent, "--config", str(config))
        assert made["main"]["container_name"] == "shop-main"
        assert made["workers"][0]["ports"] == [{"host_port": 8444, "container_port": 8443}]

    async def test_of_the_clusters_own_hosts(self, agent: Agent, running: FakeCluster, tmp_path: Path) -> None:
        for name in ("n1", "n2"):
            running.ledger.report(name)
        path = tmp_path / "deployment-plan.json"
        said = await agent("generate-plan", "--stack", "shop", "--image", "web:1", "-o", str(path))
        assert said.code == 0, said.err
        assert (await asyncio.to_thread(path.stat)).st_mode & 0o777 == 0o600
        assert (await agent("deploy", str(path), "--detach")).code == 0
        services = running.ledger.state.signed[running.ledger.state.stacks["shop"].deployed.digest].stack.services
        assert {name: service.host for name, service in services.items()} == {"shop-main": "n1", "shop-worker-1": "n2"}

    @pytest.mark.parametrize("args", [("--image", "web:1"), ("--stack", "shop")])
    async def test_without_a_configuration_stack_and_image_are_needed(
        self, args: tuple[str, ...], agent: Agent, running: FakeCluster
    ) -> None:
        said = await agent("generate-plan", *args)
        assert (said.code, "is needed" in said.err) == (2, True)

    @pytest.mark.parametrize(
        ("flag", "variable", "of"),
        [
            ("--user", "SSH_USER", lambda made: made["main"].get("user")),
            ("--ssh-key-path", "SSH_KEY_PATH", lambda made: made["main"].get("ssh_key_path")),
            ("--tag", "DOCKER_IMAGE_TAG", lambda made: made["main"]["docker_image"].rpartition(":")[2]),
            ("--registry", "DOCKER_REGISTRY", lambda made: made["main"]["docker_image"].partition("/")[0]),
        ],
    )
    async def test_a_flag_goes_before_the_environment_and_that_before_the_file(
        self, flag: str, variable: str, of: Any, agent: Agent, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        filed = {"--user": "filed", "--ssh-key-path": None, "--tag": "1", "--registry": "old.io"}[flag]
        assert of(await generated(agent, "--config", str(config))) == filed
        monkeypatch.setenv(variable, "env.io")
        assert of(await generated(agent, "--config", str(config))) == "env.io"
        assert of(await generated(agent, "--config", str(config), flag, "flag.io")) == "flag.io"
        monkeypatch.setenv(variable, "")
        assert of(await generated(agent, "--config", str(config))) == filed


class TestImagesOfADeploy:
    @pytest.fixture
    def plan(self, tmp_path: Path) -> Path:
        path = tmp_path / "shop.json"
        written = {
            "services": {"db": {"docker_image": "postgres:15-alpine"}},
            "main": {"docker_image": "translator:latest", "container_name": "web"},
            "workers": [{"docker_image": {"ref": "job", "digest": "sha256:" + "a" * 64}, "container_name": "job"}],
        }
        path.write_text(json.dumps(written))
        return path

    async def test_the_environment_chooses_registry_and_tag_of_main_and_workers(
        self, agent: Agent, running: FakeCluster, plan: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DOCKER_REGISTRY", "your-registry.com")
        monkeypatch.setenv("DOCKER_IMAGE_TAG", "2.0")
        said = await agent("deploy", str(plan), "--detach")
        expected = {"db": "postgres:15-alpine", "web": "your-registry.com/translator:2.0", "job": "job"}
        assert images(running) == expected
        assert "translator:latest becomes your-registry.com/translator:2.0" in said.err

    async def test_flags_go_before_it(
        self, agent: Agent, running: FakeCluster, plan: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DOCKER_IMAGE_TAG", "2.0")
        await agent("deploy", str(plan), "--detach", "--tag", "3.0")
        assert images(running)["web"] == "translator:3.0"

    async def test_a_bad_one_is_named(
        self, agent: Agent, running: FakeCluster, plan: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DOCKER_REGISTRY", "https://r.io")
        said = await agent("deploy", str(plan))
        assert (said.code, "error: DOCKER_REGISTRY: " in said.err) == (2, True)


class TestRollback:
    def update(self, cluster: FakeCluster) -> None:
        """A second revision that is healthy."""
        open_shop(cluster)
        instruct(cluster, "deploy", "stack:shop", shop(command=("new",)))
        place(cluster, ("web", "n1"), ("job", "n2"))
        phase(cluster, "healthy")

    async def test_the_exact_body_before_is_deployed_again(self, agent: Agent, running: FakeCluster) -> None:
        self.update(running)
        first = running.ledger.state.stacks["shop"].previous
        assert first is not None
        said = await agent("rollback", "shop", "--detach")
        assert said.code == 0, said.err
        stack = running.ledger.state.stacks["shop"]
        assert (stack.revision, stack.deployed.digest) == (3, first.digest)
        assert deployed_stack(running.ledger.state, stack).services["web"].environment == {"JWT_SECRET": SECRET}
        assert '    command: ["new"] → []' in said.out.splitlines()
        assert SECRET not in said.out + said.err

    async def test_rolling_back_twice_goes_forward_again(self, agent: Agent, running: FakeCluster) -> None:
        self.update(running)
        newest = running.ledger.state.stacks["shop"].deployed.digest
        await agent("rollback", "shop", "--detach")
        place(running, ("web", "n1"), ("job", "n2"))
        phase(running, "healthy")
        assert (await agent("rollback", "shop", "--detach")).code == 0
        assert running.ledger.state.stacks["shop"].deployed.digest == newest

    async def test_a_dry_run_changes_nothing(self, agent: Agent, running: FakeCluster) -> None:
        self.update(running)
        assert (await agent("rollback", "shop", "--dry-run")).code == 0
        assert running.ledger.state.stacks["shop"].revision == 2

    async def test_a_first_deploy_has_nothing_to_go_back_to(self, agent: Agent, running: FakeCluster) -> None:
        open_shop(running)
        said = await agent("rollback", "shop")
        assert (said.code, "nothing was healthy before" in said.err) == (1, True)

    async def test_of_a_removed_stack_nothing_is_kept(self, agent: Agent, running: FakeCluster) -> None:
        self.update(running)
        instruct(running, "remove", "stack:shop", Remove())
        removing = await agent("rollback", "shop")
        assert (removing.code, "shop: it is being removed" in removing.err) == (1, True)
        assert running.ledger.state.stacks["shop"].removing, "a rollback doesn't end a removal"
        gone = await agent("rollback", "nosuch")
        assert (gone.code, "nosuch: there is no such stack" in gone.err, "agent restore" in gone.err) == (1, True, True)

    async def test_a_rollback_that_fails_exits_3_and_says_what_is_in_force(
        self, agent: Agent, running: FakeCluster
    ) -> None:
        self.update(running)
        newest = running.ledger.state.stacks["shop"].deployed
        call = asyncio.ensure_future(agent("rollback", "shop"))
        await wait_for(lambda: running.ledger.state.stacks["shop"].revision == 3 or call.done())
        phase(running, "failed", "preparation: web on n1: web:1 isn't here and can't be pulled; nothing was changed")
        said = await asyncio.wait_for(call, 20)
        assert (said.code, "web:1 isn't here" in said.err, "Mend that" in said.err) == (3, True, True), said
        assert running.ledger.state.stacks["shop"].deployed == newest
        again = await agent("rollback", "shop")
        assert (again.code, "already: revision 2" in again.err) == (1, True)

    async def test_a_failed_deploy_went_back_by_itself(self, agent: Agent, running: FakeCluster) -> None:
        open_shop(running)
        instruct(running, "deploy", "stack:shop", shop(command=("bad",)))
        phase(running, "failed", "web.1 on n1: ended with code 1")
        said = await agent("rollback", "shop")
        assert (said.code, "already: revision 1" in said.err) == (1, True)

    async def test_it_waits_until_what_was_before_is_healthy(self, agent: Agent, running: FakeCluster) -> None:
        self.update(running)
        call = asyncio.ensure_future(agent("rollback", "shop"))

        def rolled_out() -> None:
            place(running, ("web", "n1"), ("job", "n2"))
            running.ledger.report("n1", seen(running, "web"))
            running.ledger.report("n2", seen(running, "job"))
            phase(running, "healthy")

        await wait_for(lambda: running.ledger.state.stacks["shop"].revision == 3 or call.done())
        rolled_out()
        said = await asyncio.wait_for(call, 20)
        assert (said.code, "shop: healthy" in said.out) == (0, True), said
