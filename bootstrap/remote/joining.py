"""A host becomes a member: the agent that will run makes its keys, and takes the grant (agent.cli.joining).

It is started for that before it has an identity, so that it imports while other hosts are still being seen to; it is
enabled later, and stopped again when no grant comes.
"""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any

from bootstrap.remote import layout, tree
from bootstrap.remote.install import enable, load_unit, until_it_runs
from bootstrap.remote.probe import last_words, unit_state
from bootstrap.remote.system import hold, must, run
from bootstrap.remote.wire import Failure

IDENTITY_TIMEOUT_S = 60.0  # a quarter of a second on an idle machine
ROUND_S = 0.02  # between two looks for the agent's socket
LOOK_S = 1.0  # between two looks at how its unit is, while the socket isn't there
MAX_ANSWER_BYTES = 65_536


class Joining:
    """Of one host: its request, then its grant. `granted`: the waiting agent has it, and continues."""

    def __init__(self) -> None:
        self.granted = False
        self._started = False  # by us, and not granted yet
        self._looked = False  # so that systemd has read that the unit isn't enabled, and goes on saying so
        self._agent: socket.socket | None = None
        self._lock: int | None = None

    def request(self, ask: dict[str, Any]) -> dict[str, Any]:
        """The identity request of this host, with the keys it has or makes now. Raises Failure."""
        self.end()
        if os.path.exists(layout.GRANT) or not self._alone():
            return _command(["request", "--name", ask["name"], "--address", ask["address"]])
        self._agent = self._start()
        return self._ask(json.dumps({"name": ask["name"], "address": ask["address"]}).encode() + b"\n")

    def accept(self, ask: dict[str, Any]) -> None:
        """Give the grant to this host's agent, which checks it. Raises Failure."""
        grant = ask["grant"].encode()
        if self._agent is None:
            _command(["accept"], grant)
            return
        self._ask(grant, last=True)
        self.granted, self._started = True, False
        self.end()

    def start(self, staging: tree.Staging) -> dict[str, Any]:
        """Wait until the agent that has its grant runs, and enable it; as `install.start`. Raises Failure."""
        until_it_runs("start")
        enable(staging, reload=self._looked)
        return {"did": True}

    def end(self) -> None:
        """Stop an agent that got no grant."""
        if self._agent is not None:
            self._agent.close()
            self._agent = None
        if self._started:
            run(["systemctl", "stop", layout.UNIT])
            self._started = False
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _alone(self) -> bool:
        """Two lines of a list may lead to this host; one of them is refused when both have said who it is."""
        handle = os.open(layout.ROOT, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if not hold(handle):
            os.close(handle)
            return False
        self._lock = handle
        return True

    def _start(self) -> socket.socket:
        """The agent, started and waiting."""
        state = unit_state()
        if state["active"] not in ("inactive", "failed"):
            must(["systemctl", "stop", layout.UNIT])  # it waits for a helper that was killed, or can't start
        if state["restarts"] or state["active"] == "failed":
            run(["systemctl", "reset-failed", layout.UNIT])  # counts restarts anew: a stop between two goes on counting
        load_unit(state)
        self._started = True
        must(["systemctl", "start", "--no-block", layout.UNIT])
        deadline, look = time.monotonic() + IDENTITY_TIMEOUT_S, time.monotonic() + LOOK_S
        while True:
            link = socket.socket(socket.AF_UNIX)
            link.settimeout(IDENTITY_TIMEOUT_S)
            try:
                link.connect(layout.JOINING)
            except (FileNotFoundError, ConnectionRefusedError):
                link.close()
            else:
                return link
            if time.monotonic() > look:
                look += LOOK_S
                self._looked = True
                state = unit_state()
                if state["restarts"] or state["active"] == "failed" or time.monotonic() > deadline:
                    what = f"the agent doesn't start: {last_words()}"
                    raise Failure(what, fix=f"`journalctl -u {layout.UNIT}` says more.")
            time.sleep(ROUND_S)

    def _ask(self, data: bytes, *, last: bool = False) -> dict[str, Any]:
        """Send a line, or the grant, which ends with the stream; one line comes back."""
        assert self._agent is not None
        try:
            self._agent.sendall(data)
            if last:
                self._agent.shutdown(socket.SHUT_WR)
            answer = b""
            while not answer.endswith(b"\n") and len(answer) < MAX_ANSWER_BYTES:
                block = self._agent.recv(MAX_ANSWER_BYTES)
                if not block:
                    raise Failure(f"the agent ended: {last_words()}", fix=f"`journalctl -u {layout.UNIT}` says more.")
                answer += block
        except OSError as error:  # timeouts are no TimeoutError before Python 3.10
            what = f"the agent didn't take its identity ({error}): {last_words()}"
            raise Failure(what, fix=f"`journalctl -u {layout.UNIT}` says more.") from None
        return _understood(answer.decode("utf-8", "replace"))


def take(ask: dict[str, Any]) -> bool:
    """Let this host's agent keep an identity that was made elsewhere; it goes by standard input. Raises Failure."""
    _command(["take"], ask["handed"].encode())
    return True


def _command(arguments: list[str], data: bytes | None = None) -> dict[str, Any]:
    """The answer of `agent identity …`. Raises Failure."""
    argv = [f"{layout.CURRENT}/{layout.LAUNCHER}", "identity", *arguments, "--json"]
    output = run(argv, data, IDENTITY_TIMEOUT_S)
    return _understood(output.out if output.code == 0 else output.err)


def _understood(text: str) -> dict[str, Any]:
    """The last line's object. Raises Failure for a problem (RFC 9457), and for what is no object."""
    try:
        value = json.loads(text.strip().splitlines()[-1])
        if "detail" not in value:
            return dict(value)
        failure = Failure(value["detail"], value.get("where", ""), value.get("fix", ""))
    except (ValueError, IndexError, TypeError):
        failure = Failure(f"`agent identity` failed: {text.strip()[-300:]}")
    raise failure
