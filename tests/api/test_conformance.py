"""The API against its own OpenAPI document, by schemathesis: generated requests, good and bad, to every operation.

Whatever is sent, the status, the media type and the body are documented ones, errors are problems,
and nothing is a 500.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from agent.api.app import build_app
from agent.api.limits import RateLimit
from agent.api.openapi import document
from agent.api.routes import ROUTES
from agent.api.server import ApiServer
from agent.model.api import PROBLEM_MEDIA_TYPE
from agent.model.status import AgentRef
from agent.telemetry.api_log import ApiStats
from tests.doctor.hosts import answers, well
from tests.support.fake_node import FakeCluster, FakeNode, event, line
from tests.support.shop import open_shop

EXAMPLES = 8  # of each operation and mode: some 350 requests in all, well below 20 s
TIMEOUT_S = 10.0
CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)

SCHEMA = schemathesis.openapi.from_dict(json.loads(json.dumps(document(ROUTES))))


def operations() -> Iterator[Any]:
    """All of them: one that schemathesis can't read isn't left out."""
    for result in SCHEMA.get_all_operations():
        assert isinstance(result, Ok), result
        yield result.ok()


OPERATIONS = {operation.label: operation for operation in operations()}


class Served:
    """A fake agent's API on plain HTTP, in a loop and a thread of its own: schemathesis waits for its answers."""

    def __init__(self, cluster: FakeCluster) -> None:
        open_shop(cluster)
        self.token = cluster.access_token()
        self.node = FakeNode(AgentRef(id=cluster.hosts["n1"].id, name="n1"), cluster.ledger, "n1")
        self.node.kept = [event(1)]
        self.node.lines = [line("listening")]
        self.node.answers = answers(well("n1", "n2"))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="api")
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(TIMEOUT_S)
        self.url = f"http://127.0.0.1:{self._server.port}"

    async def _start(self) -> ApiServer:
        await asyncio.to_thread(int)  # the loop's worker lasts as long as the loop, not as the test that needs it first
        many = RateLimit(per_second=1e6, burst=1_000_000)
        app = build_app(self.node, stats=ApiStats(), log=lambda record: None, rate_limit=many)
        return await ApiServer.start(app, host="127.0.0.1", port=0, tls=None)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.close(), self._loop).result(TIMEOUT_S)
        asyncio.run_coroutine_threadsafe(self._loop.shutdown_default_executor(), self._loop).result(TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT_S)
        self._loop.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(FakeCluster(tmp_path_factory.mktemp("cluster"), "n1", "n2"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def session(served: Served) -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.headers["Authorization"] = f"Bearer {served.token}"
        made.headers["Connection"] = "close"  # nothing stays open from one test to the next
        yield made


def finite(case: Case[Any]) -> None:
    """Streams that would go on end after what is there; other values of `follow` stay as they were generated."""
    if case.operation.path in ("/api/v1/events", "/api/v1/stacks/{stack}/logs"):
        query: dict[str, Any] = case.query
        if query.get("follow", True) in (True, "true"):
            query["follow"] = "false"


def exercise(label: str, mode: GenerationMode, served: Served, session: requests.Session) -> set[int]:
    """The statuses that were met."""
    met: set[int] = set()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,  # a failure is the same one for everybody; other cases come with other versions of the API
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=OPERATIONS[label].as_strategy(generation_mode=mode))
    def run(case: Case[Any]) -> None:
        finite(case)
        response = case.call(base_url=served.url, session=session, timeout=TIMEOUT_S)
        met.add(response.status_code)
        case.validate_response(response, checks=list(CHECKS))
        if response.status_code >= 400 and case.operation.path != "/health":
            assert response.headers["content-type"][0].startswith(PROBLEM_MEDIA_TYPE)
            problem = json.loads(response.content)
            assert problem["status"] == response.status_code
            assert problem["title"]
            assert problem["detail"]

    run()
    return met


@pytest.mark.parametrize("label", OPERATIONS)
def test_what_is_asked_as_documented_is_answered_as_documented(
    label: str, served: Served, session: requests.Session
) -> None:
    assert exercise(label, GenerationMode.POSITIVE, served, session)


@pytest.mark.parametrize(
    "label", [label for label, op in OPERATIONS.items() if op.body or op.query or op.path_parameters]
)
def test_what_is_asked_wrongly_is_refused_as_documented(label: str, served: Served, session: requests.Session) -> None:
    met = exercise(label, GenerationMode.NEGATIVE, served, session)
    assert met
    assert not {status for status in met if status >= 500}


def test_the_document_that_is_served_is_the_one_that_was_tested(served: Served, session: requests.Session) -> None:
    answer = session.get(f"{served.url}/api/v1/openapi.json", timeout=TIMEOUT_S)
    assert answer.json() == json.loads(json.dumps(document(ROUTES)))
    assert answer.json()["openapi"].startswith("3.1")
    assert set(OPERATIONS) == {f"{route.method} {route.path}" for route in ROUTES}
