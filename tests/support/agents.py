"""Talking to real agents in tests and benchmarks: HTTPS with a kept connection, and an operator's signatures."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from agent.home import Home, open_home
from agent.instruction import encode_body, sign_access, sign_instruction
from agent.model.identity import server_name
from agent.model.instruction import Act, Body
from bootstrap.local import LocalCluster, clean_environment

TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Reply:
    """Status and body of an HTTP answer."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class AgentHttps(http.client.HTTPSConnection):
    """One agent's API. The certificate must be the agent's own, signed by the cluster."""

    def __init__(self, cluster: LocalCluster, name: str) -> None:
        home = open_home(cluster.home)
        member = next(member for member in home.cluster.members if member.name == name)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=home.trust_anchor)
        super().__init__(cluster.address(name), cluster.layout.api_port, timeout=TIMEOUT_S, context=context)
        self._tls, self._server_name = context, server_name(member.id)

    def connect(self) -> None:
        """Dial the address, but ask for the agent."""
        plain = socket.create_connection((self.host, self.port), TIMEOUT_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self._server_name)

    def ask(self, method: str, url: str, *, token: str | None = None, body: bytes | None = None) -> Reply:
        """One request; the connection is kept."""
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        self.request(method, url, body, headers)
        response = self.getresponse()
        return Reply(response.status, response.read())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True)
class Desk:
    """Where the operator of a local cluster sits: the key, and the commands."""

    cluster: LocalCluster

    @property
    def home(self) -> Home:
        """The cluster home, as it is now."""
        return open_home(self.cluster.home)

    def run(self, *arguments: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """`agent` with these arguments, outside of any terminal; None takes every exit code."""
        done = subprocess.run(
            self.cluster.agent_command(*arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            env=clean_environment(),
            check=False,
        )
        assert code is None or done.returncode == code, f"ended with {done.returncode}: {done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: str, code: int | None = 0) -> Any:
        """What the command with `--json` wrote."""
        return json.loads(self.run(*arguments, "--json", code=code).stdout)

    def sign(
        self, act: Act, target: str, revision: int, body: Body, *, now_s: float | None = None
    ) -> tuple[str, bytes]:
        """Token and body of an instruction."""
        home = self.home
        data = encode_body(body)
        token = sign_instruction(
            home.operator_key(),
            operator_name=home.operator.name,
            cluster=home.cluster.id,
            epoch=home.cluster.epoch,
            act=act,
            target=target,
            revision=revision,
            body_bytes=data,
            now_s=time.time() if now_s is None else now_s,
        )
        return token, data

    def access_token(self, *, now_s: float | None = None) -> str:
        """A token that may read."""
        home = self.home
        return sign_access(
            home.operator_key(),
            operator_name=home.operator.name,
            cluster=home.cluster.id,
            epoch=home.cluster.epoch,
            now_s=time.time() if now_s is None else now_s,
        )
