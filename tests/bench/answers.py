"""What an idle agent's answers cost: the status a second and at p99, and what keeping a connection saves."""

from __future__ import annotations

import http.client
import socket
import statistics
from collections.abc import Callable
from pathlib import Path

from bootstrap.local import LocalCluster
from tests.bench.figures import Figure
from tests.bench.measures import SETTLE_S, coordinator_of, pause, ready_cluster, timed
from tests.support.agents import TIMEOUT_S, AgentHttps, Desk

STATUS = "/api/v1/deployment/status"
LOCAL_ANSWERS = 1_000  # over the local socket, which no rate limit slows down
HTTPS_ANSWERS = 100  # over HTTPS, PAUSE_S apart: below the API's 50 a second
PAUSE_S = 0.03


class LocalHttp(http.client.HTTPConnection):
    """A local socket that speaks HTTP, the agent's or the engine's, with a kept connection."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Dial the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))

    def ask(self, url: str = STATUS) -> None:
        """One answer; another than 200 is a failure of the benchmark."""
        self.request("GET", url)
        answer = self.getresponse()
        body = answer.read()
        assert answer.status == 200, body


def answers(_: int) -> list[Figure]:
    """An idle agent answers the status, on a kept connection and on new ones."""
    with ready_cluster() as cluster:
        pause(SETTLE_S)
        coordinator = coordinator_of(cluster, "n1")
        assert coordinator is not None
        other = next(name for name in cluster.names if name != coordinator)
        figures = [
            one_client(cluster.socket_path(name), f"status from {label}")
            for label, name in (("the coordinator", coordinator), ("another agent", other))
        ]
        return [*figures, *_https(cluster, coordinator)]


def one_client(path: Path, what: str, url: str = STATUS) -> Figure:
    """A client that asks again over the local socket as soon as it is answered."""
    local = LocalHttp(path)
    try:
        local.ask(url)
        values = [1000 * timed(lambda: local.ask(url)) for _ in range(LOCAL_ANSWERS)]
    finally:
        local.close()
    rate = LOCAL_ANSWERS / (sum(values) / 1000)
    p99 = statistics.quantiles(values, n=100)[98]
    return Figure(name=f"{what}, one client", unit="ms", values=values, note=f"p99 {p99:.1f} ms, {rate:.0f} a second")


def _https(cluster: LocalCluster, name: str) -> list[Figure]:
    """TLS and the token included; the difference is what a new connection costs both sides."""
    token = Desk(cluster).access_token()
    with AgentHttps(cluster, name) as agent:

        def ask() -> None:
            reply = agent.ask("GET", STATUS, token=token)
            assert reply.status == 200, reply.body

        def ask_anew() -> None:
            agent.close()
            ask()

        return [
            _spaced("status over HTTPS, kept connection", ask),
            _spaced("status over HTTPS, a new one each", ask_anew),
        ]


def _spaced(name: str, ask: Callable[[], None]) -> Figure:
    ask()
    values = []
    for _ in range(HTTPS_ANSWERS):
        values.append(1000 * timed(ask))
        pause(PAUSE_S)
    return Figure(name=name, unit="ms", values=values, note=f"p99 {statistics.quantiles(values, n=100)[98]:.1f} ms")
