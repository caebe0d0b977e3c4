"""Starting a plain command so that it outlives the agent: own session, own log files, own cgroup under systemd.

Under systemd the command runs in a transient scope: `systemd-run --scope` moves itself there and then executes the
command in its own place. So the pid stays, environment and files are inherited (nothing of them shows in an argument
list), the exit code reaches us, and stopping the agent's unit doesn't stop the scope. Shell; call in a thread.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from agent import errors
from agent.host.facts import replica_environment, substitute
from agent.model.spec import ReplicaSpec
from agent.runtime.logfiles import Stream
from agent.runtime.records import RUN_VARIABLE

SYSTEMCTL_TIMEOUT_S = 15.0  # a busy systemd answers well before; then we go on with signals alone
_INHERITED = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "HOME",
)  # nothing else of the agent's environment is a workload's business


def has_scopes() -> bool:
    """Whether systemd is PID 1 (sd_booted(3)) and can be asked for scopes."""
    return Path("/run/systemd/system").is_dir() and shutil.which("systemd-run") is not None


def variables(spec: ReplicaSpec) -> dict[str, str]:
    """What the plan and Muster give the process, for its environment and for `${NAME}` in its arguments."""
    return replica_environment(spec.environment, spec.facts)


def environment_of(spec: ReplicaSpec, run: str) -> dict[str, str]:
    """The whole environment of the process."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    inherited.setdefault("PATH", os.defpath)
    return {**inherited, **variables(spec), RUN_VARIABLE: run}


def resolve_command(spec: ReplicaSpec, directory: Path) -> list[str]:
    """The argument list, its program found. Raises NotFound when there is no such program."""
    arguments, _ = substitute(spec.command, variables(spec))
    program = arguments[0] if arguments else ""
    if "/" in program:
        candidate = directory / program  # an absolute one stays as it is
        found = str(candidate) if os.access(candidate, os.X_OK) and candidate.is_file() else None
    else:
        found = shutil.which(program, path=environment_of(spec, "")["PATH"])
    if found is None:
        raise errors.NotFound(
            f"there is no program {program!r} on this host", fix="Install it, or deploy another command."
        )
    return [found, *arguments[1:]]


def scope_command(command: list[str], unit: str, spec: ReplicaSpec) -> list[str]:
    """The command inside a transient scope, with the plan's limits."""
    limits = []
    if spec.resources.memory_mib:
        limits.append(f"--property=MemoryMax={spec.resources.memory_mib}M")
    if spec.resources.cpu_millis:
        limits.append(f"--property=CPUQuota={max(spec.resources.cpu_millis // 10, 1)}%")
    return ["systemd-run", "--scope", "--quiet", "--collect", f"--unit={unit}", *limits, "--", *command]


def spawn(
    command: list[str], *, environment: Mapping[str, str], directory: Path, logs: Mapping[Stream, Path]
) -> subprocess.Popen[bytes]:
    """Start it in a session of its own with its output in `logs`. Raises OSError when it can't be executed."""
    opened: dict[str, int] = {}
    try:
        for stream, path in logs.items():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            opened[stream] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return subprocess.Popen(
            command,
            executable=command[0] if "/" in command[0] else None,
            stdin=subprocess.DEVNULL,
            stdout=opened["stdout"],
            stderr=opened["stderr"],
            cwd=directory,
            env=dict(environment),
            start_new_session=True,
            close_fds=True,
        )
    finally:
        for descriptor in opened.values():
            os.close(descriptor)


def end_scope(unit: str) -> None:
    """Kill whatever is left in a scope. If it is gone, or systemd doesn't answer, the signals have done what can be
    done.
    """
    try:
        subprocess.run(
            ["systemctl", "kill", "--signal=SIGKILL", "--", unit],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=SYSTEMCTL_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return
