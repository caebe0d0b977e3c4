"""The loop: a question, its answer, until the operator's side is gone."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from bootstrap.remote import install, joining, removal, tree
from bootstrap.remote.probe import probe
from bootstrap.remote.system import alone, disk_failure
from bootstrap.remote.wire import BLOCK_BYTES, Failure, Wire

SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ, which Python names since 3.10

Answer = Callable[[dict[str, Any]], object]


def serve(wire: Wire, ssh_connection: str) -> None:
    """Answer until the end of input. A question that fails is answered too, and the next one taken."""
    newcomer, staging = joining.Joining(), tree.Staging()
    answers: dict[str, Answer] = {
        "probe": lambda ask: probe(ask, ssh_connection),
        "look": lambda ask: tree.look(ask["version"], ask["manifest"]),
        "unpack": lambda ask: staging.unpack(wire, ask),
        "apply": lambda ask: _alone(wire, ask, lambda: install.apply(ask, wire.step, staging)),
        "request": newcomer.request,
        "accept": newcomer.accept,
        "retire": lambda ask: _alone(wire, ask, lambda: removal.retire(ask, wire.step)),
        "take": joining.take,
        "start": lambda ask: newcomer.start(staging) if newcomer.granted else install.start(ask, staging),
        "wait": install.wait,
        "reach": install.reach,
        "remove": lambda ask: _alone(wire, ask, lambda: removal.remove(ask, wire.step)),
    }
    wire.hello()
    try:
        while (ask := wire.receive()) is not None:
            _answer(wire, answers, ask)
    finally:
        newcomer.end()
        staging.end()


def _alone(wire: Wire, ask: dict[str, Any], act: Callable[[], object]) -> object:
    """Questions that change the host get it for themselves; those that only look wait for nobody."""
    if ask["dry"]:
        return act()
    with alone(wire.step):
        return act()


def _answer(wire: Wire, answers: dict[str, Answer], ask: dict[str, Any]) -> None:
    wire.expect(ask.get("size", 0))
    try:
        try:
            answer = answers[ask["do"]](ask)
        finally:
            for _ in wire.blob():
                pass
    except Failure as failure:
        wire.failed(failure)
    except OSError as error:
        wire.failed(disk_failure(error, ""))
    else:
        wire.done(answer)


def main() -> None:
    """Standard output is for frames alone: anything else that would be written there goes to stderr.

    A tarball comes faster than it is unpacked: with a pipe of only 64 KiB sshd takes 0.1 s more CPU for it.
    """
    os.umask(0o022)
    with suppress(OSError):  # no pipe, or one may not have as much
        fcntl.fcntl(0, SET_PIPE_SIZE, BLOCK_BYTES)
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(Wire(sys.stdin.buffer, sink), sys.argv[1] if len(sys.argv) > 1 else "")
