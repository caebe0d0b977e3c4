"""What is there: the machine, its Pythons, Docker, disks, ports, and what of Muster is installed. Changes nothing."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import time
from typing import Any

from bootstrap.remote import layout
from bootstrap.remote.firewall import firewalls
from bootstrap.remote.system import lines, read, run, which
from bootstrap.remote.wire import Failure

PYTHONS = ("python3.14", "python3.13", "python3.12", "python3.11")
MODULES = ("asyncio", "ctypes", "hashlib", "sqlite3", "ssl", "zlib")
"""What Debian's python3-minimal lacks some of."""

# Prints what `_own_python` says of the running interpreter.
_ASK_PYTHON = (
    "import sys, importlib.util as u\n"
    "print('%d.%d.%d' % sys.version_info[:3],"
    " *[m for m in " + repr(MODULES) + " if u.find_spec(m) is None])"
)
ENGINE_TIMEOUT_S = 10.0  # a busy dockerd answers within one
JOURNAL_LINES = "8"
DOCKER_SOCKET = "/var/run/docker.sock"
LISTENING = {"tcp": "0A", "udp": "07"}
"""The state of a socket that waits for others (proc(5), /proc/net/tcp; the kernel's tcp_states.h)."""


def probe(ask: dict[str, Any], ssh_connection: str) -> dict[str, Any]:
    """Facts, as `bootstrap.probe.Facts` reads them."""
    return {
        "hostname": socket.gethostname().partition(".")[0].lower(),
        "system": os.uname().sysname,
        "machine": os.uname().machine,
        "libc": "musl" if os.path.exists(f"/lib/ld-musl-{os.uname().machine}.so.1") else "gnu",
        "root": os.geteuid() == 0,
        "systemd": under_systemd(),
        "clock_ms": time.time_ns() // 1_000_000,
        "pythons": pythons(ask.get("python")),
        "docker": docker(),
        "package_manager": "apt" if which("apt-get") else "",
        "disks": dict(map(_disk, (layout.ROOT, layout.DATA, layout.CONFIG_DIRECTORY))),
        "taken": taken_ports(ask["ports"]),
        "firewalls": firewalls(ask["open"]),
        "addresses": addresses(),
        "ssh_address": _ssh_address(ssh_connection),
        "installed": installed(),
    }


def installed() -> dict[str, Any]:
    """What of Muster is installed. `ended`: how an agent was found that should be running, else empty."""
    config = read(layout.CONFIG)
    certificate = read(layout.DATA + "/identity/certificate.pem")
    unit = unit_state()
    return {
        "config": config.decode("utf-8", "replace") if config is not None else None,
        "certificate": certificate.decode("ascii", "replace") if certificate is not None else None,
        "granted": os.path.exists(layout.GRANT),
        "active": unit["active"],
        "enabled": unit["enabled"],
        "ended": _how_it_ended(unit["active"]) if unit["enabled"] == "enabled" and unit["active"] != "active" else "",
    }


def _how_it_ended(active: str) -> str:
    """In systemd's words and its own: "failed (watchdog): …"."""
    result = run(["systemctl", "show", "--property=Result", "--value", layout.UNIT]).out.strip()
    return f"{active} ({result}): {last_words()}"


def last_words() -> str:
    """The end of the agent's journal, on one line."""
    said = run(["journalctl", "-u", layout.UNIT, "-n", JOURNAL_LINES, "-o", "cat", "--no-pager"]).out
    own = [line for line in lines(said) if "muster-agent.service" not in line and layout.UNIT not in line]
    return " / ".join(line.strip() for line in own[-3:]) or "it says nothing"


def unit_state() -> dict[str, Any]:
    """`active` and `enabled` of the agent's unit, in systemd's words; empty if there is no systemd.

    `stale`: systemd has loaded another unit than the file's. `restarts`: how often systemd restarted it. Raises Failure
    when systemd doesn't say: a unit of which nothing is known isn't one that doesn't run.
    """
    if not under_systemd():
        return {"active": "", "enabled": "", "stale": False, "restarts": 0}
    properties = "ActiveState,UnitFileState,NeedDaemonReload,NRestarts"
    output = run(["systemctl", "show", f"--property={properties}", layout.UNIT])
    values = dict(line.partition("=")[::2] for line in lines(output.out))
    if output.code != 0 or not values.get("ActiveState"):
        what = f"systemd doesn't say how the agent is: {output.said or 'no answer'}"
        raise Failure(what, fix="`systemctl status` there says more; then run this again.")
    restarts = values.get("NRestarts", "")
    return {
        "active": values["ActiveState"],
        "enabled": values.get("UnitFileState", ""),
        "stale": values.get("NeedDaemonReload") == "yes",
        "restarts": int(restarts) if restarts.isdecimal() else 0,
    }


def under_systemd() -> bool:
    """Whether it is PID 1 (sd_booted(3))."""
    return os.path.isdir("/run/systemd/system")


def pythons(named: str | None) -> list[dict[str, Any]]:
    """Interpreters, the running one first: path, version, modules that it lacks."""
    own = {
        "path": _stable_path(),
        "version": list(sys.version_info[:3]),
        "lacks": [name for name in MODULES if importlib.util.find_spec(name) is None],
    }
    found = [own]
    for name in [named] if named else PYTHONS:
        path = name if name.startswith("/") else which(name)
        if path is None or os.path.realpath(path) == os.path.realpath(sys.executable):
            continue
        output = run([path, "-I", "-c", _ASK_PYTHON])
        if output.code == 0:
            version, *lacks = output.out.split()
            numbers = [int(part) for part in version.split(".")]
            found.append({"path": path, "version": numbers, "lacks": lacks})
    return found


def docker() -> dict[str, Any]:
    """Whether there is an engine, and whether it answers."""
    if which("dockerd") is None and not os.path.exists(DOCKER_SOCKET):
        return {"present": False, "answers": False}
    return {"present": True, "answers": engine_answers()}


def engine_answers() -> bool:
    """GET /_ping over the engine's socket."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(ENGINE_TIMEOUT_S)
        try:
            link.connect(DOCKER_SOCKET)
            link.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            return b" 200 " in link.recv(64)
        except OSError:
            return False


def taken_ports(wanted: list[list[Any]]) -> list[dict[str, Any]]:
    """Which of these (port, protocol) another program than our agent listens on, and which program."""
    found = []
    listening = {protocol: _listeners(protocol) for protocol in {protocol for _, protocol in wanted}}
    for port, protocol in wanted:
        inodes = listening[protocol].get(port)
        if not inodes:
            continue
        holder = _holder(inodes)
        if holder is None or layout.UNIT not in (read(f"/proc/{holder}/cgroup") or b"").decode("utf-8", "replace"):
            found.append({"port": port, "protocol": protocol, "holder": _describe(holder)})
    return found


def addresses() -> list[dict[str, str]]:
    """Addresses of interfaces that are up: interface, address. Empty if there is no `ip` command."""
    found = []
    for line in lines(run(["ip", "-o", "address", "show", "up"]).out):
        fields = line.split()
        if len(fields) > 3 and fields[2] in ("inet", "inet6"):
            found.append({"interface": fields[1], "address": fields[3].partition("/")[0]})
    return found


def _stable_path() -> str:
    """The interpreter by the name that survives an update of the distribution's python3."""
    name = f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    return name if os.path.realpath(name) == os.path.realpath(sys.executable) else sys.executable


def _disk(path: str) -> tuple[str, dict[str, Any]]:
    """Of the directory, which may be a disk of its own; if it doesn't exist, of its nearest parent that does."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    state = os.statvfs(path)
    free_bytes = state.f_bavail * state.f_frsize
    return path, {"free_bytes": free_bytes, "read_only": bool(state.f_flag & os.ST_RDONLY)}


def _ssh_address(connection: str) -> str:
    """The address that the operator's ssh came to (ssh(1), SSH_CONNECTION: client and port, server and port)."""
    fields = connection.split()
    return fields[2].partition("%")[0] if len(fields) == 4 else ""


def _listeners(protocol: str) -> dict[int, list[str]]:
    """Port → inodes of listening sockets. For each reading the kernel goes through its whole table."""
    inodes: dict[int, list[str]] = {}
    for file in (protocol, protocol + "6"):
        for line in (read("/proc/net/" + file) or b"").decode().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING[protocol]:
                inodes.setdefault(int(fields[1].rpartition(":")[2], 16), []).append(fields[9])
    return inodes


def _holder(inodes: list[str]) -> int | None:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            for descriptor in os.listdir(f"/proc/{entry}/fd"):
                if os.readlink(f"/proc/{entry}/fd/{descriptor}") in wanted:
                    return int(entry)
        except OSError:
            continue
    return None


def _describe(pid: int | None) -> str:
    if pid is None:
        return "another program"
    command = (read(f"/proc/{pid}/cmdline") or b"").replace(b"\0", b" ").decode("utf-8", "replace").strip()
    return f"pid {pid} ({command[:80] or 'ended meanwhile'})"
