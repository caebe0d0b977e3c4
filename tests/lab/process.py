"""Run commands: argv in, `Result` out. Nothing here knows about hosts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.support.waiting import wait_for_sync

COMMAND_TIMEOUT_S = 60.0
"""A command that says nothing for so long has hung; tests pass their own limit where they know better."""

KILLED_OUTPUT_TIMEOUT_S = 2.0
"""After a kill, how long to wait for the pipes: a process that left the session may hold them open for ever."""

POLL_INTERVAL_S = 0.02
"""Between two looks at a condition the kernel has no event for; short beside a boot, dear to nobody."""

STDERR_SHOWN_CHARS = 2000
"""What an error quotes of a command's output: the end says why it failed."""


class LabError(Exception):
    """The lab can't do what was asked: the message says what, where, and what to do next."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a command did. `stdout` and `stderr` are UTF-8 text (bad bytes replaced), `seconds` its wall time."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def ok(self) -> bool:
        return self.returncode == 0


def execute(
    argv: Sequence[str],
    *,
    input: str | bytes | None = None,
    check: bool = True,
    timeout_s: float = COMMAND_TIMEOUT_S,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
    shown: Sequence[str] | None = None,
) -> Result:
    """Run `argv` to its end in a session of its own, so that a timeout ends its children too.

    `shown` is what errors and the result call the command (wrappers like nsenter are noise to a reader).
    Raises LabError on a timeout, and with `check` on a non-zero exit.
    """
    data = input.encode() if isinstance(input, str) else input
    name = tuple(shown if shown is not None else argv)
    started = time.monotonic()
    with spawn(argv, stdin=subprocess.PIPE if data is not None else subprocess.DEVNULL, env=env, cwd=cwd) as process:
        try:
            out, err = process.communicate(data, timeout=timeout_s)
        except subprocess.TimeoutExpired as late:
            _kill_session(process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=KILLED_OUTPUT_TIMEOUT_S)
            text = _tail(late.stderr or late.stdout or b"")
            raise LabError(f"no end after {timeout_s:g} s: {' '.join(name)}: {text}") from late
        except BaseException:
            _kill_session(process)
            raise
    result = Result(
        argv=name,
        returncode=process.returncode,
        stdout=out.decode(errors="replace"),
        stderr=err.decode(errors="replace"),
        seconds=time.monotonic() - started,
    )
    if check and not result.ok:
        raise LabError(f"exit {result.returncode}: {' '.join(name)}: {_tail(err or out)}")
    return result


def spawn(
    argv: Sequence[str],
    *,
    stdin: int = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
) -> subprocess.Popen[bytes]:
    """Start `argv` in a session of its own with both outputs piped; the caller waits for it."""
    return subprocess.Popen(
        list(argv),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=None if env is None else dict(env),
        cwd=cwd,
        start_new_session=True,
    )


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float) -> Any:
    """Return the condition's first true value; raises LabError when there is none within `timeout_s`."""
    try:
        return wait_for_sync(condition, timeout_s, what=what, interval_s=POLL_INTERVAL_S)
    except AssertionError:
        raise LabError(f"not within {timeout_s:g} s: {what}") from None


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _tail(output: bytes) -> str:
    return output.decode(errors="replace").strip()[-STDERR_SHOWN_CHARS:]
