"""Every route as its table says: what it answers, whom, and what it refuses."""

from __future__ import annotations

import asyncio
import io
import json
import re
import threading
import time
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace
from yarl import URL

from agent.api import app
from agent.api.app import build_app
from agent.api.openapi import document
from agent.api.routes import JSON, ROUTES, Route
from agent.errors import NoMajority
from agent.instruction import kid_of, new_key, public_hex, sign_access
from agent.model.api import PROBLEM_MEDIA_TYPE, REDACTED
from agent.model.cluster import Operator
from agent.model.instruction import Remove, Scale
from agent.model.ledger import AssignedPort
from agent.model.usage import ReplicaUsage, Usage
from agent.model.workers import AddWorker
from agent.telemetry.api_log import ApiStats
from tests.support.fake_node import NOTHING, FakeCluster, RunningNode, event, line
from tests.support.schemas import violations
from tests.support.shop import SECRET, instruct, open_shop, seen, shop, signed
from tests.support.waiting import wait_for

PATIENCE_S = 5.0  # for what takes milliseconds, on a busy machine
EXAMPLES = {
    "{volume}": "data",
    "{stack}": "shop",
    "{target}": "stack:shop",
    "{jti}": "0" * 32,
    "{operation}": "f" * 32,
    "{digest}": NOTHING,
}
DESCRIBED = document(ROUTES)
COMPONENTS = DESCRIBED["components"]["schemas"]
READS = [route for route in ROUTES if route.access == "read" and route.method == "GET"]


def example(route: Route) -> str:
    return re.sub(r"\{\w+\}", lambda match: EXAMPLES[match[0]], route.path)


def path_of(route: Route) -> str:
    return f"{route.method} {route.path}"


async def problem(response: aiohttp.ClientResponse, status: int) -> dict[str, Any]:
    """The problem that a response must be, checked against its schema."""
    text = await response.text()
    assert response.status == status, text
    assert response.content_type == PROBLEM_MEDIA_TYPE
    found: dict[str, Any] = json.loads(text)
    assert violations(found, COMPONENTS["ProblemDetails"], COMPONENTS) == []
    assert found["status"] == status
    assert found["type"].startswith("urn:muster:problem:")
    return found


async def test_health_is_open_to_everybody(anonymous: aiohttp.ClientSession, running: RunningNode) -> None:
    async with anonymous.get("/health") as response:
        assert response.status == 200
        assert await response.json() == {
            "ok": True,
            "name": "n1",
            "coordinator": "n1",
            "applied": 1,
            "agent_version": "0.1.0",
            "epoch": 1,
            "expelled": False,
        }
    running.node.leader = None
    async with anonymous.get("/health") as response:
        assert response.status == 503
        assert (await response.json())["ok"] is False


@pytest.mark.parametrize("route", READS, ids=path_of)
async def test_a_read_without_a_valid_token_is_refused_with_the_fix(
    route: Route, anonymous: aiohttp.ClientSession, cluster: FakeCluster
) -> None:
    stranger = sign_access(new_key(), operator_name="ann", cluster=cluster.home.cluster.id, epoch=1, now_s=time.time())
    instruction, _ = signed(cluster, "remove", "stack:shop", Remove(), rev=1)
    bad = {
        "none": {},
        "empty": {"Authorization": ""},
        "basic": {"Authorization": "Basic YTpi"},
        "no token": {"Authorization": "Bearer "},
        "junk": {"Authorization": "Bearer junk"},
        "long": {"Authorization": "Bearer " + "a" * 5000},
        "another key": {"Authorization": f"Bearer {stranger}"},
        "another kind": {"Authorization": f"Bearer {instruction}"},
        "expired": {"Authorization": f"Bearer {cluster.access_token(now_s=time.time() - 4000)}"},
        "future": {"Authorization": f"Bearer {cluster.access_token(now_s=time.time() + 4000)}"},
        "another epoch": {"Authorization": f"Bearer {cluster.access_token(epoch=2)}"},
        "another cluster": {"Authorization": f"Bearer {cluster.access_token(cluster='a' * 16)}"},
        "unknown": {"Authorization": f"Bearer {cluster.access_token(operator_name='mallory')}"},
    }
    for headers in bad.values():
        async with anonymous.get(example(route), headers=headers) as response:
            found = await problem(response, 401)
            assert "agent token" in found["fix"]
            assert "WWW-Authenticate" in response.headers


async def test_tokens_of_earlier_epochs_read_what_began_the_present_one_and_nothing_else(
    anonymous: aiohttp.ClientSession, cluster: FakeCluster, running: RunningNode
) -> None:
    cluster.ledger.state = replace(cluster.ledger.state, epoch=3)
    for epoch, reads in ((1, 200), (2, 200), (3, 200), (4, 401)):
        headers = {"Authorization": f"Bearer {cluster.access_token(epoch=epoch)}"}
        async with anonymous.get("/api/v1/epochs", headers=headers) as response:
            assert response.status == reads
        async with anonymous.get("/api/v1/members", headers=headers) as response:
            assert response.status == (200 if epoch == 3 else 401)
    async with anonymous.get("/api/v1/epochs") as response:
        assert response.status == 401


async def test_two_tokens_are_none(anonymous: aiohttp.ClientSession, cluster: FakeCluster) -> None:
    token = f"Bearer {cluster.access_token()}"
    headers = [("Authorization", token), ("Authorization", token)]
    async with anonymous.get("/api/v1/members", headers=headers) as response:
        await problem(response, 401)


async def test_a_revoked_operators_token_ends_at_once(client: aiohttp.ClientSession, cluster: FakeCluster) -> None:
    async with client.get("/api/v1/members") as response:
        assert response.status == 200
    operators = {name: each for name, each in cluster.ledger.state.operators.items() if name != "ann"}
    cluster.ledger.state = replace(cluster.ledger.state, operators=operators)
    async with client.get("/api/v1/members") as response:
        await problem(response, 401)


async def test_an_operator_of_some_stacks_sees_no_others_plan_or_logs(
    anonymous: aiohttp.ClientSession, cluster: FakeCluster
) -> None:
    open_shop(cluster)
    key = new_key()
    cluster.add_operator(Operator(name="bob", key=public_hex(key), scope="deploy", stacks=("blog-*",)))
    token = sign_access(key, operator_name="bob", cluster=cluster.home.cluster.id, epoch=1, now_s=time.time())
    headers = {"Authorization": f"Bearer {token}"}
    for path in ("/api/v1/stacks/shop", "/api/v1/stacks/shop/logs", "/api/v1/usage?stack=shop"):
        async with anonymous.get(path, headers=headers) as response:
            assert "agent operator grant" in (await problem(response, 403))["fix"]
    async with anonymous.get("/api/v1/stacks/blog-1", headers=headers) as response:
        await problem(response, 404)


async def test_a_readers_usage_is_that_of_its_own_stacks(
    anonymous: aiohttp.ClientSession, cluster: FakeCluster, running: RunningNode
) -> None:
    open_shop(cluster)
    key = new_key()
    cluster.add_operator(Operator(name="bob", key=public_hex(key), scope="read", stacks=("blog-*",)))
    token = sign_access(key, operator_name="bob", cluster=cluster.home.cluster.id, epoch=1, now_s=time.time())
    running.node.used = Usage(
        replicas=tuple(
            ReplicaUsage(
                stack=stack, service="web", slot=1, host="n1", cpu_percent=1, memory_bytes=1, memory_limit_bytes=2
            )
            for stack in ("blog-1", "shop")
        )
    )
    async with anonymous.get("/api/v1/usage", headers={"Authorization": f"Bearer {token}"}) as response:
        assert [each["stack"] for each in (await response.json())["replicas"]] == ["blog-1"]


async def test_the_local_socket_reads_without_a_token_and_instructions_still_need_theirs(
    cluster: FakeCluster, running: RunningNode, tmp_path: Any
) -> None:
    open_shop(cluster)
    async with aiohttp.ClientSession(
        "http://localhost", connector=aiohttp.UnixConnector(str(tmp_path / "agent.sock"))
    ) as session:
        for route in READS:
            if route.path not in ("/api/v1/events", "/api/v1/instructions/{jti}", "/api/v1/operations/{operation}"):
                async with session.get(example(route)) as response:
                    assert response.status == 200, path_of(route)
        async with session.post("/api/v1/instructions", data=b"{}") as response:
            await problem(response, 401)
    assert (tmp_path / "agent.sock").stat().st_mode & 0o777 == 0o660


async def test_status_is_seeds_and_ours(client: aiohttp.ClientSession, cluster: FakeCluster) -> None:
    open_shop(cluster, "unhealthy", "exit code 3")
    async with client.get("/api/v1/deployment/status") as response:
        status = await response.json()
    assert status["instances"]["shop-web-1"] == {
        "host": "127.0.0.1",
        "port": 8443,
        "status": "healthy",
        "container_id": "c0ffee" * 10 + "beef",
        "last_seen": status["as_of"],
    }
    assert status["network_services"] == 2
    assert status["api_requests_total"] == 7
    assert status["health_score"] == 50.0
    assert SECRET not in json.dumps(status)
    assert status["problems"][0]["where"] == "shop/job.1"
    assert "exit code 3" in status["problems"][0]["what"]


async def test_operators_are_told_with_the_public_halves_of_their_keys(
    client: aiohttp.ClientSession, cluster: FakeCluster
) -> None:
    key = public_hex(new_key())
    cluster.add_operator(Operator(name="bob", key=key, scope="deploy", stacks=("blog-*",)))
    async with client.get("/api/v1/operators") as response:
        found = (await response.json())["operators"]
    assert [each["name"] for each in found] == ["ann", "bob", "recovery"]
    assert found[1] == {
        "name": "bob",
        "scope": "deploy",
        "stacks": ["blog-*"],
        "key": key,
        "key_id": kid_of(bytes.fromhex(key)),
    }


async def test_services_say_where_replicas_are_reached(client: aiohttp.ClientSession, cluster: FakeCluster) -> None:
    open_shop(cluster)
    async with client.get("/api/v1/services") as response:
        services = (await response.json())["services"]
    web_service = next(each for each in services if each["name"] == "web")
    assert (web_service["wanted"], web_service["healthy"]) == (1, 1)
    endpoint = web_service["endpoints"][0]
    assert (endpoint["host"], endpoint["address"], endpoint["ports"][0]["host_port"]) == ("n1", "127.0.0.1", 8443)


async def test_a_replica_that_moves_is_reached_in_both_places(
    client: aiohttp.ClientSession, cluster: FakeCluster
) -> None:
    open_shop(cluster)
    ports = (AssignedPort(container_port=8443, host_port=8444),)
    cluster.ledger.report("n2", replace(seen(cluster, "web", "healthy"), ports=ports))
    async with client.get("/api/v1/services") as response:
        services = (await response.json())["services"]
    web_service = next(each for each in services if each["name"] == "web")
    there = [(each["slot"], each["host"], each["ports"][0]["host_port"]) for each in web_service["endpoints"]]
    assert there == [(1, "n1", 8443), (1, "n2", 8444)]


async def test_api_stats_are_seeds_fields_by_route_template(client: aiohttp.ClientSession) -> None:
    for path in ("/health", "/health", "/api/v1/targets/stack:a", "/api/v1/targets/stack:b", "/made/up"):
        async with client.get(path) as response:
            await response.read()
    async with client.get("/api/v1/deployment/api-stats") as response:
        stats = await response.json()
    assert list(stats) == ["total_requests", "total_responses", "error_count", "avg_duration", "requests_by_endpoint"]
    assert stats["total_requests"] == stats["total_responses"] == 5
    assert stats["error_count"] == 0
    assert stats["avg_duration"].endswith("ms")
    assert stats["requests_by_endpoint"] == {"/health": 2, "/api/v1/targets/{target}": 2, "unmatched": 1}


async def test_each_request_is_one_record_of_the_api_log(
    client: aiohttp.ClientSession, running: RunningNode, cluster: FakeCluster
) -> None:
    token, body = signed(cluster, "deploy", "stack:shop", shop(), rev=1)
    headers = {"Authorization": f"Bearer {token}", "User-Agent": "curl/8"}
    async with client.post("/api/v1/instructions?x=1", data=body, headers=headers) as response:
        assert response.status == 400
    async with client.post("/api/v1/instructions", data=body, headers=headers) as response:
        answer = await response.read()
    record = running.records[-1]
    assert (record.method, record.url, record.status_code) == ("POST", "/api/v1/instructions", 200)
    assert (record.source_host, record.target_port) == ("127.0.0.1", running.server.port)
    assert (record.request_size, record.response_size) == (len(body), len(answer))
    assert (record.user_agent, record.error) == ("curl/8", None)
    assert running.records[-2].url == "/api/v1/instructions?x=1"
    assert not any(token in str(each) for each in running.records)


async def test_an_instruction_is_applied_and_the_same_again_gets_the_first_answer(
    anonymous: aiohttp.ClientSession, cluster: FakeCluster, running: RunningNode
) -> None:
    token, body = signed(cluster, "deploy", "stack:shop", shop(), rev=1)
    headers = {"Authorization": f"Bearer {token}"}
    async with anonymous.post("/api/v1/instructions", data=body, headers=headers) as response:
        first = await response.json()
    assert (first["outcome"], first["revision"], first["by"]) == ("applied", 1, "ann")
    assert running.node.submitted == [(token, body)]
    async with anonymous.post("/api/v1/instructions", data=body, headers=headers) as response:
        assert response.status == 200
        again = await response.json()
    assert again.pop("repeated") is True
    assert again == first


async def test_an_instruction_without_a_signed_token_is_told_how_they_come(
    anonymous: aiohttp.ClientSession, cluster: FakeCluster, running: RunningNode
) -> None:
    """Not to make an access token, which only reads."""
    for headers in ({}, {"Authorization": "Bearer junk"}, {"Authorization": f"Bearer {cluster.access_token()}"}):
        async with anonymous.post("/api/v1/instructions", data=b"{}", headers=headers) as response:
            found = await problem(response, 401)
        assert "`agent deploy`" in found["fix"]
        assert "only reads" in found["fix"]
    assert running.node.submitted == []


async def test_a_conflict_names_who_was_first_and_when(anonymous: aiohttp.ClientSession, cluster: FakeCluster) -> None:
    instruct(cluster, "deploy", "stack:shop", shop())
    token, body = signed(cluster, "deploy", "stack:shop", shop(replicas=2), rev=1)
    headers = {"Authorization": f"Bearer {token}"}
    async with anonymous.post("/api/v1/instructions", data=body, headers=headers) as response:
        found = await problem(response, 409)
    assert found["type"] == "urn:muster:problem:conflict"
    assert "ann" in found["detail"]
    assert re.search(r"at \d{4}-\d\d-\d\dT", found["detail"])
    assert found["result"]["outcome"] == "conflict"
    assert found["where"] == "stack:shop"


async def test_what_the_ledger_refuses_is_a_problem_with_its_answer_inside(
    anonymous: aiohttp.ClientSession, cluster: FakeCluster
) -> None:
    token, body = signed(cluster, "scale", "stack:shop", Scale(services={"web": 2}), rev=1)
    headers = {"Authorization": f"Bearer {token}"}
    async with anonymous.post("/api/v1/instructions", data=body, headers=headers) as response:
        assert 400 <= response.status < 500
        found = await problem(response, response.status)
    assert found["result"]["outcome"] == "refused"
    assert found["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 401), (b"{}", 401), (b"\xff", 401), (b"x" * 1_048_577, 413)],
    ids=["empty", "other", "not UTF-8", "too large"],
)
async def test_a_body_that_the_token_does_not_bind_is_refused(
    body: bytes, status: int, anonymous: aiohttp.ClientSession, cluster: FakeCluster, running: RunningNode
) -> None:
    token, _ = signed(cluster, "deploy", "stack:shop", shop(), rev=1)
    headers = {"Authorization": f"Bearer {token}"}
    async with anonymous.post("/api/v1/instructions", data=io.BytesIO(body), headers=headers) as response:
        await problem(response, status)
    assert cluster.ledger.state.stacks == {}


async def test_a_chunked_body_over_the_bound_is_refused_too(
    anonymous: aiohttp.ClientSession, cluster: FakeCluster, running: RunningNode
) -> None:
    async def endless() -> Any:
        for _ in range(40):
            yield b"x" * 65_536

    headers = {"Authorization": f"Bearer {cluster.access_token()}"}
    async with anonymous.post("/api/v1/instructions", data=endless(), headers=headers) as response:
        await problem(response, 413)
    assert running.node.submitted == []


async def test_what_became_of_an_instruction_is_told_by_its_jti(
    client: aiohttp.ClientSession, cluster: FakeCluster
) -> None:
    result = instruct(cluster, "deploy", "stack:shop", shop())
    async with client.get(f"/api/v1/instructions/{result.jti}") as response:
        assert (await response.json())["revision"] == 1
    refused = instruct(cluster, "scale", "stack:blog", Scale(services={"web": 2}))
    async with client.get(f"/api/v1/instructions/{refused.jti}") as response:
        assert (await response.json())["outcome"] == "refused"
    async with client.get(f"/api/v1/instructions/{'0' * 32}") as response:
        assert "targets" in (await problem(response, 404))["fix"]


async def test_a_target_that_was_never_changed_is_at_revision_0(
    client: aiohttp.ClientSession, cluster: FakeCluster
) -> None:
    async with client.get("/api/v1/targets/stack:shop") as response:
        assert (await response.json())["revision"] == 0
    instruct(cluster, "deploy", "stack:shop", shop())
    async with client.get("/api/v1/targets/stack:shop") as response:
        found = await response.json()
    assert (found["revision"], found["act"], found["by"]) == (1, "deploy", "ann")


async def test_a_stack_is_shown_without_environment_values(client: aiohttp.ClientSession, cluster: FakeCluster) -> None:
    open_shop(cluster)
    async with client.get("/api/v1/stacks/shop") as response:
        text = await response.text()
    assert SECRET not in text
    assert json.loads(text)["stack"]["services"]["web"]["environment"] == {"JWT_SECRET": REDACTED}
    async with client.get("/api/v1/stacks/none") as response:
        assert (await problem(response, 404))["fix"] == "Stacks here: shop."


async def test_metrics_are_prometheus_text(client: aiohttp.ClientSession) -> None:
    async with client.get("/metrics") as response:
        assert response.content_type == "text/plain"
        assert "muster_up 1.0" in await response.text()


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("/api/v1/deployment/status?x=1", "?x"),
        ("/health?debug=1", "?debug"),
        ("/api/v1/stacks/UPPER", "/{stack}"),
        ("/api/v1/stacks/a%2Fb", "/{stack}"),
        ("/api/v1/stacks/a%00", "/{stack}"),
        ("/api/v1/stacks/shop%0d%0aX:1", "/{stack}"),
        ("/api/v1/targets/nonsense", "/{target}"),
        ("/api/v1/targets/stack:..", "/{target}"),
        ("/api/v1/instructions/abc", "/{jti}"),
        ("/api/v1/stacks/shop/logs?tail=-1", "?tail"),
        ("/api/v1/stacks/shop/logs?tail=99999999999999999999999", "?tail"),
        ("/api/v1/stacks/shop/logs?tail=1&tail=2", "?tail"),
        ("/api/v1/stacks/shop/logs?slot=0", "?slot"),
        ("/api/v1/stacks/shop/logs?service=A", "?service"),
        ("/api/v1/stacks/shop/logs?since=yesterday", "?since"),
        ("/api/v1/stacks/shop/logs?since=2024-13-01T00:00:00Z", "?since"),
        ("/api/v1/stacks/shop/logs?follow=maybe", "?follow"),
        ("/api/v1/stacks/shop/logs?folow=true", "?folow"),
        ("/api/v1/events?follow=2", "?follow"),
        ("/api/v1/events?%0d%0a=1", "?"),
    ],
)
async def test_a_bad_parameter_is_named(
    path: str, where: str, client: aiohttp.ClientSession, cluster: FakeCluster, running: RunningNode
) -> None:
    open_shop(cluster)
    async with client.get(URL(f"https://127.0.0.1:{running.server.port}{path}", encoded=True)) as response:
        found = await problem(response, 400)
    assert found["where"].startswith(where), found
    assert not re.search(r"[\x00-\x1f]", found["detail"] + found["where"])


async def test_a_bad_last_event_id_is_named(client: aiohttp.ClientSession) -> None:
    async with client.get("/api/v1/events", headers={"Last-Event-ID": "x" * 100}) as response:
        assert (await problem(response, 400))["where"] == "Last-Event-ID"


@pytest.mark.parametrize("path", ["/", "/api", "/api/v2/x", "/health/", "/api/v1/instructions/a/b", "/%2e%2e/etc"])
async def test_an_unknown_route_is_a_problem(path: str, client: aiohttp.ClientSession) -> None:
    async with client.get(path) as response:
        assert "openapi.json" in (await problem(response, 404))["fix"]


@pytest.mark.parametrize("route", ROUTES, ids=path_of)
async def test_another_method_is_a_problem_that_names_the_right_one(
    route: Route, client: aiohttp.ClientSession
) -> None:
    async with client.delete(example(route)) as response:
        found = await problem(response, 405)
        assert route.method in found["fix"]
        assert route.method in response.headers["Allow"]


async def test_what_the_agent_itself_cannot_do_is_a_problem_of_its_kind(
    client: aiohttp.ClientSession, running: RunningNode
) -> None:
    running.node.fail = NoMajority("no majority: n2 unreachable", where="n1", fix="Start it.")
    async with client.get("/api/v1/deployment/status") as response:
        found = await problem(response, 503)
        assert response.headers["Retry-After"] == "1"
    assert (found["type"], found["where"], found["fix"]) == ("urn:muster:problem:no-majority", "n1", "Start it.")


async def test_a_defect_is_a_problem_without_details_and_the_next_request_works(
    client: aiohttp.ClientSession, running: RunningNode
) -> None:
    running.node.fail = ValueError(SECRET)
    async with client.get("/api/v1/deployment/status") as response:
        assert SECRET not in json.dumps(await problem(response, 500))
    running.node.fail = None
    async with client.get("/api/v1/deployment/status") as response:
        assert response.status == 200


async def test_the_document_holds_every_route_and_no_other(client: aiohttp.ClientSession, running: RunningNode) -> None:
    async with client.get("/api/v1/openapi.json") as response:
        described = await response.json()
    built = build_app(running.node, stats=ApiStats(), log=lambda record: None)
    served = {
        (each.method, each.resource.canonical)
        for each in built.router.routes()
        if each.resource is not None and each.method != "HEAD"
    }
    written = {(method.upper(), path) for path, item in described["paths"].items() for method in item}
    assert served == written
    assert described["openapi"] == "3.1.0"
    names = [operation["operationId"] for item in described["paths"].values() for operation in item.values()]
    assert len(names) == len(set(names))


async def test_others_are_answered_while_the_document_is_built_and_it_is_built_once(
    client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, go_on = [], threading.Event()

    def slow(routes: tuple[Route, ...]) -> dict[str, Any]:
        built.append(routes)
        assert go_on.wait(PATIENCE_S)
        return document(routes)

    async def described() -> Any:
        async with client.get("/api/v1/openapi.json") as response:
            assert response.status == 200
            return await response.json()

    monkeypatch.setattr(app, "document", slow)
    async with asyncio.TaskGroup() as tasks:
        both = [tasks.create_task(described()) for _ in range(2)]
        await wait_for(lambda: built)
        async with client.get("/health") as response:
            assert response.status == 200
        assert not any(task.done() for task in both)
        go_on.set()
    assert [task.result() for task in both] == [await described()] * 2
    assert len(built) == 1


def test_every_reference_of_the_document_leads_somewhere() -> None:
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(DESCRIBED)))
    assert references <= set(COMPONENTS)


@pytest.mark.parametrize("route", [each for each in ROUTES if each.media == JSON and each.method == "GET"], ids=path_of)
async def test_every_answer_is_as_the_document_says(
    route: Route, client: aiohttp.ClientSession, cluster: FakeCluster, running: RunningNode
) -> None:
    open_shop(cluster, "backoff", "exit code 1")
    result = instruct(cluster, "scale", "stack:shop", Scale(services={"web": 2}))
    operation = await running.node.workers.add(AddWorker(host="n9"), 0.0)
    path = example(route).replace("0" * 32, result.jti).replace("f" * 32, operation.id)
    async with client.get(path) as response:
        answer = await response.json()
        assert response.status == 200
    content = DESCRIBED["paths"][route.path]["get"]["responses"]["200"]["content"]
    schema = content[response.content_type]["schema"]
    assert violations(answer, schema, COMPONENTS) == []


async def test_streamed_items_are_as_the_document_says(
    client: aiohttp.ClientSession, cluster: FakeCluster, running: RunningNode
) -> None:
    open_shop(cluster)
    running.node.lines = [line("hello")]
    running.node.kept = [event(1)]
    async with client.get("/api/v1/stacks/shop/logs") as response:
        assert violations(json.loads(await response.text()), COMPONENTS["LogLine"], COMPONENTS) == []
    async with client.get("/api/v1/events?follow=false") as response:
        data = re.search(r"^data: (.*)$", await response.text(), re.MULTILINE)
    assert data is not None
    assert violations(json.loads(data[1]), COMPONENTS["Event"], COMPONENTS) == []
