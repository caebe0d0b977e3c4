"""One machine of the lab: a disk, a cable, and an init that boots on them under systemd-nspawn.

Its mounts are made in the mount namespace of its own launcher, so they end with it and nothing stays
mounted on the machine.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.lab import base, cgroups, images, network, state
from tests.lab.layout import Node
from tests.lab.process import COMMAND_TIMEOUT_S, LabError, Result, execute, spawn, wait_until

BOOT_TIMEOUT_S = 90.0
"""A boot takes 1 to 3 s; ten at once on two busy cores take longer."""

CUT_TIMEOUT_S = 10.0
"""Killing an init takes milliseconds; the kernel then ends everything in its PID namespace."""

SHUT_DOWN_TIMEOUT_S = 120.0
"""systemd gives each service up to 90 s to stop."""

DOCKER_ANSWER_TIMEOUT_S = 5.0
"""One attempt; while dockerd starts, its socket takes connections and answers later."""

CONSOLE_SHOWN_CHARS = 1500

_ENVIRONMENT = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8")

DISK_BUSY_TRIES = 50
"""Tenths of a second for which a disk may still be held by the boot before."""

# Arguments: the launcher's cgroup, then a command. Joining comes before the fork, so that an empty cgroup means that
# the launcher has ended.
_LAUNCH = """\
echo $$ > "$1/cgroup.procs"
shift
exec setsid --fork "$@"
"""

# Arguments: lowerdir, the host's directory, tries, then the command that boots. With index=on the kernel refuses a disk
# that an earlier boot has not let go of yet, instead of letting two of them write it. nspawn's exit status 133 means
# that the host wants to boot again (systemd-nspawn(1), --keep-unit).
_SUPERVISE = """\
lower=$1 disk=$2 tries=$3
shift 3
until mount -t overlay overlay -o "lowerdir=$lower,upperdir=$disk/upper,workdir=$disk/work,index=on" "$disk/root"; do
    [ "$((tries -= 1))" -gt 0 ]
    sleep 0.1
done
status=133
while [ "$status" = 133 ]; do
    status=0
    "$@" || status=$?
done
"""

# Arguments: the number of cgroups, the cgroups, then the command to run in them.
_JOIN = """\
count=$1
shift
while [ "$count" -gt 0 ]; do echo $$ > "$1/cgroup.procs"; shift; count=$((count - 1)); done
exec "$@"
"""


_WAIT = '"$@"; exit $?'


class Host:
    """A machine by its lab and its place in the layout. All that changes is on disk or in the kernel, never in here."""

    def __init__(self, lab: str, node: Node, tree: base.Base, lab_cgroups: Sequence[Path]) -> None:
        self.node = node
        self.name = node.name
        self.address = node.address
        self.ssh_port = node.ssh_port
        self.directory = state.host_directory(lab, node.name)
        self._lab = lab
        self._tree = tree
        self._lab_cgroups = tuple(lab_cgroups)
        self._cgroup = self._lab_cgroups[0] / node.name

    def __repr__(self) -> str:
        return f"<Host {self.name} {self.address} of lab {self._lab}>"

    def init(self) -> int | None:
        """The pid of the running init as the machine sees it; None when the power is off."""
        return cgroups.init_of(self._cgroup) if self._cgroup.is_dir() else None

    @property
    def running(self) -> bool:
        return self.init() is not None

    @property
    def root(self) -> Path:
        """The running host's file system, seen from outside. Absolute links in it lead out of it."""
        return Path(f"/proc/{self._init()}/root")

    @property
    def has_docker(self) -> bool:
        """Whether the running host has Docker, from the start or installed since."""
        return (self.root / "usr/sbin/dockerd").exists()

    def command(self, argv: Sequence[str]) -> list[str]:
        """The argv that runs `argv` as root inside, with a clean environment, in /root."""
        enter = ["nsenter", f"--target={self._init()}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        # A host that shuts down stops all its processes before it kills them. nsenter would stop with its child,
        # outside the host, where nobody wakes it again; the shell just waits for its child's end.
        return [*enter, "--no-fork", "--", "env", "-i", "-C", "/root", *_ENVIRONMENT, "sh", "-c", _WAIT, "sh", *argv]

    def run(
        self,
        argv: Sequence[str],
        *,
        input: str | bytes | None = None,
        check: bool = True,
        timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> Result:
        """Run a command as root on the host, to its end, without the network's help (it works with the cable out).

        Raises LabError when the power is off, on a timeout, and with `check` on a non-zero exit.
        """
        shown = (f"{self.name}:", *argv)
        return execute(self.command(argv), input=input, check=check, timeout_s=timeout_s, shown=shown)

    def popen(self, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a command that runs on, with pipes; it ends with the host at the latest."""
        return spawn(self.command(argv), stdin=subprocess.PIPE)

    def load_image(self, image: str | Path = images.DEMO) -> str:
        """Give the host's Docker an image: a name to make (see `images`), or a `docker save` tar. Returns its id."""
        data = image.read_bytes() if isinstance(image, Path) else images.archive(self._tree, image)
        loaded = self.run(["docker", "load", "--quiet"], input=data).stdout
        name = loaded.strip().removeprefix("Loaded image: ").removeprefix("Loaded image ID: ")
        return self.run(["docker", "image", "inspect", "--format={{.Id}}", name]).stdout.strip()

    def start(self) -> None:
        """Power on, and wait until sshd listens, logins are open and dockerd answers. A running host stays as it is.

        Raises LabError with the console's last words if it doesn't come up.
        """
        if self.running:
            return
        self._power_off_rest()
        cable_out = self.name in state.load(self._lab).faults.cables_out
        network.attach(self._lab, self.node, cable_out=cable_out)
        self._launch()
        try:
            wait_until(self._powered, "its init running", BOOT_TIMEOUT_S)
            wait_until(self._booted, "sshd and dockerd answering", BOOT_TIMEOUT_S)
        except LabError as error:
            console = (self.directory / "console.log").read_text(errors="replace").strip()[-CONSOLE_SHOWN_CHARS:]
            raise LabError(f"{self.name} did not boot: {error}; its console: {console or 'silent'}") from error

    def power_cut(self) -> None:
        """Pull the plug: the cable goes dead first, so peers hear no goodbye; the disk stays as it was written."""
        if network.attached(self._lab, self.node):
            network.unplug(self._lab, self.node)
        if (init := self.init()) is not None:
            cgroups.kill(init)
        self._power_off_rest()

    def shut_down(self) -> None:
        """Power off in order: services stop, connections close."""
        if (init := self.init()) is not None:
            os.kill(init, signal.SIGRTMIN + 4)  # systemd(1): start poweroff.target
            wait_until(lambda: not cgroups.pids(self._cgroup), f"{self.name} off", SHUT_DOWN_TIMEOUT_S)
        self._power_off_rest()

    def cable_out(self) -> None:
        """The host loses its carrier and everybody on the network."""
        self._plug(out=True)

    def cable_in(self) -> None:
        self._plug(out=False)

    def _plug(self, *, out: bool) -> None:
        with state.locked(self._lab):
            now = state.load(self._lab)
            faults = now.faults.with_cable(self.name, out=out)
            state.save(msgspec.structs.replace(now, faults=faults))
            if network.attached(self._lab, self.node):
                (network.unplug if out else network.plug)(self._lab, self.node)

    def _init(self) -> int:
        init = self.init()
        if init is None:
            raise LabError(f"{self.name} is off: start it first")
        return init

    def _launch(self) -> None:
        for name in ("upper", "work", "root", "docker"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        # On v2 only leaves hold processes: the host's cgroup is the parent of its launcher's and its machine's.
        above = cgroups.make(self._lab_cgroups, self.name)
        for directory in above:
            cgroups.pass_controllers_on(directory)
        [launcher], own = cgroups.make(above[:1], "launcher"), cgroups.make(above, "machine")
        env = {**os.environ, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "yes"}  # dockerd sets net.* itself
        if self.node.cgroup_v2:
            env["SYSTEMD_NSPAWN_UNIFIED_HIERARCHY"] = "1"
        machine = network.namespace(self._lab, self.name)
        nspawn = [
            *("systemd-nspawn", "--boot", f"--directory={self.directory / 'root'}", "--settings=no"),
            *(f"--machine={machine}", f"--hostname={self.name}", "--register=no", "--keep-unit"),
            *(f"--network-namespace-path={network.NAMESPACES / machine}", "--resolv-conf=off", "--timezone=off"),
            *("--capability=all", "--system-call-filter=add_key keyctl bpf", "--link-journal=no", "--console=pipe"),
            f"--bind={self.directory / 'docker'}:/var/lib/docker",
            f"--bind-ro={self._tree.path / 'packages'}:{base.PACKAGES_AT}",
        ]
        lower = self._tree.layers(docker=self.node.docker)
        launch = ["sh", "-ec", _LAUNCH, "sh", str(launcher)]
        # nspawn mounts the host's /sys before it joins the host's network: it has to be there already, or the host
        # would see, and could change, the machine's own interfaces in /sys/class/net.
        inside = network.enter(self._lab, self.name)
        private = ["unshare", "--mount", "--propagation", "private", "--"]
        supervise = ["sh", "-ec", _SUPERVISE, "sh", lower, str(self.directory), str(DISK_BUSY_TRIES)]
        join = ["sh", "-ec", _JOIN, "sh", str(len(own)), *map(str, own)]
        with (self.directory / "console.log").open("ab") as console:
            # Forked off to the machine's init: the host lives on when this process ends.
            subprocess.run(
                [*launch, *inside, *private, *supervise, *join, *nspawn],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=env,
                check=True,
            )

    def _powered(self) -> bool:
        if not cgroups.pids(self._cgroup):
            raise LabError("its launcher has ended")
        return self.running

    def _booted(self) -> bool:
        init = self.init()
        if init is None:
            raise LabError("its init has ended")
        root = Path(f"/proc/{init}/root")
        listening = any(_listens(init, file, self.ssh_port) for file in ("tcp", "tcp6"))
        if not listening or (root / "run/nologin").exists():
            return False
        wants_docker = os.path.lexists(root / "etc/systemd/system/multi-user.target.wants/docker.service")
        return not wants_docker or _docker_answers(root / "run/docker.sock")

    def _power_off_rest(self) -> None:
        """What is left once init is gone: the launcher, which has its own last words, the cgroups and the network."""
        if self._cgroup.is_dir():
            with contextlib.suppress(LabError):
                wait_until(lambda: not cgroups.pids(self._cgroup), "launcher ended", CUT_TIMEOUT_S)
        own = [directory / self.name for directory in self._lab_cgroups]
        cgroups.kill_all(own)
        cgroups.remove(own)
        network.detach(self._lab, self.node)


def prepare_disk(host: Host, hosts_file: str, operator_key: str) -> str:
    """Write what makes a fresh disk this host's; returns its ssh host key line."""
    upper = host.directory / "upper"
    upper.mkdir(parents=True)
    disk = _Disk(upper, host._tree.path / "plain")
    disk.write("etc/hostname", f"{host.name}\n")
    disk.write("etc/hosts", hosts_file)
    disk.write("etc/machine-id", f"{secrets.token_hex(16)}\n")
    disk.write("root/.ssh/authorized_keys", operator_key, 0o600)
    disk.write("home/ops/.ssh/authorized_keys", operator_key, 0o600, owner=base.OPS_UID)
    if host.ssh_port != 22:
        disk.write("etc/ssh/sshd_config.d/port.conf", f"Port {host.ssh_port}\n")
    key = upper / "etc/ssh/ssh_host_ed25519_key"
    disk.folder(key.parent.relative_to(upper), 0)
    execute(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", host.name, "-f", str(key)])
    return key.with_suffix(".pub").read_text()


class _Disk:
    """An overlay's upper layer. Its directories' owner and mode hold for the merged tree, so they follow the base."""

    def __init__(self, upper: Path, lower: Path) -> None:
        self._upper = upper
        self._lower = lower
        shutil.copystat(lower, upper)

    def folder(self, path: Path, owner: int) -> None:
        if path == Path():
            return
        self.folder(path.parent, owner)
        made, model = self._upper / path, self._lower / path
        if not made.exists():
            made.mkdir(mode=0o700)
            if model.exists():
                shutil.copystat(model, made)
                owner = model.stat().st_uid
            os.chown(made, owner, owner)

    def write(self, name: str, text: str, mode: int = 0o644, *, owner: int = 0) -> None:
        path = self._upper / name
        self.folder(Path(name).parent, owner)
        path.write_text(text)
        path.chmod(mode)
        os.chown(path, owner, owner)


def _listens(pid: int, file: str, port: int) -> bool:
    """Whether something listens on the port in that process's network (proc(5), /proc/PID/net/tcp: state 0A)."""
    try:
        lines = Path(f"/proc/{pid}/net/{file}").read_text().splitlines()[1:]
    except OSError:
        return False
    return any(fields[1].endswith(f":{port:04X}") and fields[3] == "0A" for fields in map(str.split, lines))


def _docker_answers(path: Path) -> bool:
    connection = http.client.HTTPConnection("docker")
    with contextlib.closing(connection), socket.socket(socket.AF_UNIX) as link:
        link.settimeout(DOCKER_ANSWER_TIMEOUT_S)
        try:
            link.connect(str(path))
            connection.sock = link
            connection.request("GET", "/_ping")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
