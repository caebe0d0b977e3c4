"""The operator's desk: a network namespace with nothing running in it, and a HOME with an ssh key and configuration.

ssh takes the home directory from passwd, not from $HOME, so each of the operator's commands runs in a mount namespace
of its own with another /etc/passwd, /etc/hosts and /etc/resolv.conf bound over the real ones, until the command ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab import network, state
from tests.lab.layout import Layout, Node
from tests.lab.process import COMMAND_TIMEOUT_S, Result, execute, spawn

_AT_THE_DESK = """\
echo $$ > "$1/cgroup.procs"
for file in passwd hosts resolv.conf; do mount --bind "$2/../etc/$file" "/etc/$file"; done
cd "$3"
shift 3
exec "$@"
"""


class Operator:
    """Runs commands where the operator sits. `home` is its HOME, also readable from outside."""

    def __init__(self, lab: str, cgroup: Path) -> None:
        self.home = state.operator_home(lab)
        self.public_key_path = self.home / ".ssh" / "id_ed25519.pub"
        self._lab = lab
        self._cgroup = cgroup

    def run(
        self,
        argv: Sequence[str],
        *,
        input: str | bytes | None = None,
        check: bool = True,
        timeout_s: float = COMMAND_TIMEOUT_S,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Result:
        """Run a command to its end. It gets a clean environment and `env`; `cwd` is HOME unless given.

        Raises LabError on a timeout, and with `check` on a non-zero exit.
        """
        command = self.command(argv, cwd=cwd)
        return execute(
            command,
            input=input,
            check=check,
            timeout_s=timeout_s,
            env=self.environment(env),
            shown=("operator:", *argv),
        )

    def popen(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command that runs on, with a pipe at stdin and both outputs; `down` ends it if nobody else does."""
        return spawn(self.command(argv, cwd=cwd), stdin=subprocess.PIPE, env=self.environment(env))

    def command(self, argv: Sequence[str], *, cwd: Path | None = None) -> list[str]:
        """The argv that runs `argv` at the desk, for callers who start processes themselves."""
        private = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-ec", _AT_THE_DESK, "sh"]
        places = [str(self._cgroup), str(self.home), str(cwd or self.home)]
        return [*network.enter(self._lab, "operator"), *private, *places, *argv]

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The project's commands (this interpreter's scripts) come first in PATH; nothing else leaks in."""
        path = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        base = {"HOME": str(self.home), "USER": "root", "LOGNAME": "root", "PATH": path, "LANG": "C.UTF-8"}
        if "TERM" in os.environ:
            base["TERM"] = os.environ["TERM"]
        return {**base, **(more or {})}


def prepare(lab: str, layout: Layout) -> str:
    """Make the operator's home and key; returns the public key's line."""
    home = state.operator_home(lab)
    ssh = home / ".ssh"
    etc = home.parent / "etc"
    ssh.mkdir(parents=True, mode=0o700)
    etc.mkdir()
    execute(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "operator", "-f", str(ssh / "id_ed25519")])
    (ssh / "config").write_text(ssh_config(layout))
    (etc / "passwd").write_text(passwd(Path("/etc/passwd").read_text(), home))
    (etc / "hosts").write_text(layout.hosts_file())
    (etc / "resolv.conf").write_text("")
    for file in ("passwd", "hosts", "resolv.conf"):  # nothing can be bound over a file that isn't there
        if not Path("/etc", file).exists():
            Path("/etc", file).touch()
    return (ssh / "id_ed25519.pub").read_text()


def write_known_hosts(lab: str, keys: Mapping[str, str], layout: Layout) -> None:
    """`keys`: host name → its public key line ("ssh-ed25519 AAAA…")."""
    lines = [known_hosts_line(node, keys[node.name]) for node in layout.machines]
    (state.operator_home(lab) / ".ssh" / "known_hosts").write_text("".join(lines))


def known_hosts_line(node: Node, key: str) -> str:
    """sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT": other ports are written [host]:port."""
    names = [node.name, node.address]
    if node.ssh_port != 22:
        names = [f"[{name}]:{node.ssh_port}" for name in names]
    return f"{','.join(names)} {' '.join(key.split()[:2])}\n"


def ssh_config(layout: Layout) -> str:
    """What ssh can't know by itself: other ports, and the bastion in front of some hosts."""
    lines = ["StrictHostKeyChecking yes"]
    for node in layout.machines:
        settings = [f"  Port {node.ssh_port}"] if node.ssh_port != 22 else []
        settings += [f"  ProxyJump {node.jump}"] if node.jump else []
        if settings:
            lines += [f"Host {node.name} {node.address}", *settings]
    return "\n".join(lines) + "\n"


def passwd(text: str, home: Path) -> str:
    """The machine's passwd with another home for root (passwd(5): the sixth field)."""
    lines = []
    for line in text.splitlines():
        fields = line.split(":")
        if fields[0] == "root":
            fields[5] = str(home)
        lines.append(":".join(fields))
    return "\n".join(lines) + "\n"
