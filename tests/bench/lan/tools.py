"""The least that any tool over ssh has to do on each host, and the same done by pyinfra and by Ansible.

All ship the same tarball, unpack it, write a unit, enable and start it; done again they find nothing to do. Each is set
up as its users are told to for speed: as many hosts at once as there are, no gathering of facts that nobody asked for,
Ansible with pipelining and a kept connection.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.lan.cluster import on_all
from tests.bootstrap.desk import Desk

UNIT = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"

# One ssh a host, all at once: a tarball by stdin, unpacked; a unit, enabled.
FLOOR = """\
bundle=$1; shift
for host; do
    ssh -o BatchMode=yes "root@$host" "mkdir -p /opt/floor && tar -xzf - -C /opt/floor &&
        printf '{unit}' > /etc/systemd/system/floor.service && systemctl enable -q floor.service" < "$bundle" &
    pids="$pids $!"
done
for pid in $pids; do wait "$pid" || exit 1; done
"""

PYINFRA = """\
from io import StringIO
from pyinfra.operations import files, server, systemd

sent = files.put(src="{bundle}", dest="/opt/floor.tar.gz")
server.shell(commands=["mkdir -p /opt/floor && tar -xzf /opt/floor.tar.gz -C /opt/floor"], _if=sent.did_change)
unit = files.put(src=StringIO({unit!r}), dest="/etc/systemd/system/floor.service")
systemd.daemon_reload(_if=unit.did_change)
systemd.service("floor", running=True, enabled=True)
"""

ANSIBLE = """\
- hosts: all
  gather_facts: false
  tasks:
    - file: {{path: /opt/floor, state: directory}}
    - unarchive: {{src: "{bundle}", dest: /opt/floor, creates: /opt/floor/MANIFEST}}
    - copy: {{content: {unit}, dest: /etc/systemd/system/floor.service}}
      register: unit
    - systemd: {{name: floor, enabled: true, state: started, daemon_reload: "{{{{ unit.changed }}}}"}}
"""

# What came is moved away, not deleted: for five minutes ext4 looks past each inode that was freed (`recently_deleted`
# in fs/ext4/ialloc.c), so that who unpacks thousands of files right after as many went pays for those before. It is
# written out, as who syncs would pay for that, too.
PUT_AWAY = """\
systemctl disable -q --now floor
rm -f /etc/systemd/system/floor.service
away=/opt/away/$(date +%s.%N)
mkdir -p "$away"
for place in /opt/floor /opt/floor.tar.gz /opt/muster/versions; do [ ! -e "$place" ] || mv "$place" "$away"; done
sync
"""
PIP_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Tool:
    """`argv` installs on all hosts, from the desk."""

    name: str
    argv: Sequence[str]
    environment: dict[str, str]

    def seconds(self, desk: Desk) -> float:
        """Of one run."""
        return desk.lab.operator.run(self.argv, env=self.environment, timeout_s=PIP_TIMEOUT_S).seconds


def floor(desk: Desk, bundle: Path) -> Tool:
    """Plain ssh."""
    script = FLOOR.format(unit=UNIT.replace("\n", "\\n"))
    return Tool("floor", ["sh", "-c", script, "sh", str(bundle), *desk.lab.hosts], {})


def pyinfra(desk: Desk, bundle: Path) -> Tool | None:
    """None, and why on stderr, where it can't be had."""
    program = cache() / "pyinfra" / "bin" / "pyinfra"
    if not program.exists() and (reason := make_venv(program.parents[1], "pyinfra")):
        print(f"pyinfra isn't measured: {reason}", file=sys.stderr)
        return None
    home = desk.lab.operator.home
    hosts = [(name, {"ssh_user": "root"}) for name in desk.lab.hosts]
    (home / "inventory.py").write_text(f"hosts = {hosts!r}\n")
    (home / "deploy.py").write_text(PYINFRA.format(bundle=bundle, unit=UNIT))
    argv = [str(program), "-y", "--parallel", str(len(hosts)), "inventory.py", "deploy.py"]
    return Tool("pyinfra", argv, {})


def ansible(desk: Desk, bundle: Path) -> Tool | None:
    """None, and why on stderr, where it isn't installed."""
    if shutil.which("ansible-playbook") is None:
        print("Ansible isn't measured: apt-get install ansible", file=sys.stderr)
        return None
    home, hosts = desk.lab.operator.home, desk.lab.hosts
    (home / "inventory.ini").write_text("".join(f"{name} ansible_user=root\n" for name in hosts))
    (home / "playbook.yml").write_text(ANSIBLE.format(bundle=bundle, unit=json.dumps(UNIT)))
    environment = {
        "ANSIBLE_FORKS": str(len(hosts)),
        "ANSIBLE_PIPELINING": "true",
        "ANSIBLE_GATHERING": "explicit",
        "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",
        "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=60s -o PreferredAuthentications=publickey",
    }
    return Tool("Ansible", ["ansible-playbook", "-i", "inventory.ini", "playbook.yml"], environment)


def clean(desk: Desk) -> None:
    """The hosts as they were before any of them; of ours only what is unpacked, `bootstrap uninstall` has the rest."""
    on_all(desk, "sh", "-c", PUT_AWAY)


def cache() -> Path:
    """Where tools are kept that are no dependency of ours."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(configured) if configured.startswith("/") else Path.home() / ".cache") / "muster-bench"


def make_venv(place: Path, package: str) -> str | None:
    """An environment of its own with that package; why there can't be one, or None."""
    place.parent.mkdir(parents=True, exist_ok=True)
    pip = [str(place / "bin" / "pip"), "install", "--quiet", package]
    for argv in ([sys.executable, "-m", "venv", str(place)], pip):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False)
        if done.returncode != 0:
            shutil.rmtree(place, ignore_errors=True)
            return (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    return None
