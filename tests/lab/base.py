"""The base tree that every host's disk is an overlay of: built once, kept under the hash of its recipe.

<cache>/<key>/plain      Debian with systemd, sshd and python3 (debootstrap)
<cache>/<key>/docker     an overlay layer on top of it: what installing docker.io changes
<cache>/<key>/packages   the .debs of docker.io and docker-compose with an index, for `apt-get install` offline
<cache>/<key>/busybox    a static busybox, of which images are made
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import msgspec

from tests.lab.process import LabError, execute

TOOLS = {
    "debootstrap": "debootstrap",
    "systemd-nspawn": "systemd-container",
    "ip": "iproute2",
    "nft": "nftables",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setsid": "util-linux",
}
"""Command → Debian package: what the machine itself has to have."""

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""Without it, on Ubuntu for one, debootstrap would take what it downloads unverified."""

SUITE = "bookworm"
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "openssh-server", "sudo", "python3", "ca-certificates"),
    *("iproute2", "iptables", "nftables", "procps", "curl"),
)
DOCKER = "docker.io"
OFFLINE_PACKAGES = (DOCKER, "docker-compose")
PACKAGES_AT = "/srv/packages"
"""Where hosts find the offline packages; their apt knows no other source."""

MASKED_UNITS = (
    # These would change the machine's own kernel, which the hosts share, or wake up in the middle of a measurement.
    *("systemd-sysctl.service", "systemd-modules-load.service", "sys-kernel-debug.mount", "sys-kernel-tracing.mount"),
    *("dev-hugepages.mount", "apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "e2scrub_reap.service"),
    *("fstrim.timer", "dpkg-db-backup.timer", "getty.target", "console-getty.service"),
)

CGROUPS_UNIT = """\
[Unit]
Description=Make the cgroup v1 controllers writable for Docker
DefaultDependencies=no
Before=sysinit.target
ConditionPathIsDirectory=/sys/fs/cgroup/memory

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'for c in devices blkio cpuset cpu cpuacct freezer memory pids; do \
mount -o remount,rw,bind /sys/fs/cgroup/$$c || :; done'

[Install]
WantedBy=sysinit.target
"""

FILES = {
    "etc/apt/sources.list": f"deb [trusted=yes] file:{PACKAGES_AT} ./\n",
    "etc/resolv.conf": "",
    "etc/default/locale": "LANG=C.UTF-8\n",
    "etc/machine-id": "",
    "etc/sudoers.d/ops": "ops ALL=(ALL) NOPASSWD: ALL\n",
    "etc/ssh/sshd_config.d/lab.conf": "PasswordAuthentication no\nUseDNS no\n",
    "etc/systemd/system/lab-cgroups.service": CGROUPS_UNIT,
}
REMOVED = (
    *("etc/ssh/ssh_host_*", "var/lib/dbus/machine-id", "var/cache/apt/*", "var/lib/apt/lists/*", "var/log/*.log"),
    *("usr/share/doc/*", "usr/share/man/*", "usr/share/locale/*", "usr/share/info/*"),
)
OPS_UID = 1000

IN_DOCKER_LAYER = """\
set -e
mount -t overlay overlay -o lowerdir=plain,upperdir=docker,workdir=work,index=off,redirect_dir=off,metacopy=off mnt
mount -t proc proc mnt/proc
mount --bind packages mnt/srv/packages
cp /etc/resolv.conf mnt/etc/resolv.conf
printf '#!/bin/sh\\nexit 101\\n' > mnt/usr/sbin/policy-rc.d
chmod 755 mnt/usr/sbin/policy-rc.d
echo "deb $1 $2 main" > mnt/etc/apt/sources.list
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
in_tree() { chroot mnt "$@" < /dev/null; }
in_tree apt-get update
archives="-o Dir::Cache::archives=/srv/packages -o APT::Sandbox::User=root -o APT::Install-Recommends=false"
in_tree apt-get install -y --download-only $archives $3
in_tree apt-get install -y $archives $4
in_tree sh -c 'cd /srv/packages && apt-get -o APT::Sandbox::User=root download busybox-static'
in_tree sh -c 'rm -rf /var/cache/apt/* /var/lib/apt/lists/* /usr/share/doc/* /usr/share/man/* /usr/share/locale/*'
rm mnt/usr/sbin/policy-rc.d
cp plain/etc/apt/sources.list mnt/etc/apt/sources.list
: > mnt/etc/resolv.conf
"""

Say = Callable[[str], None]


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """A built base: `key` names it, `path` holds it."""

    key: str
    path: Path

    def layers(self, *, docker: bool) -> str:
        """The `lowerdir` of a host's overlay, topmost first."""
        plain = str(self.path / "plain")
        return f"{self.path / 'docker'}:{plain}" if docker else plain


def cache_dir() -> Path:
    """MUSTER_LAB_CACHE moves it."""
    return Path(os.environ.get("MUSTER_LAB_CACHE", "/var/cache/muster-lab"))


def current() -> Base:
    """This recipe's base, built or not."""
    recipe = [SUITE, PACKAGES, DOCKER, OFFLINE_PACKAGES, MASKED_UNITS, FILES, REMOVED, OPS_UID, IN_DOCKER_LAYER]
    key = hashlib.sha256(msgspec.json.encode(recipe)).hexdigest()[:12]
    return Base(key=key, path=cache_dir() / key)


def is_built() -> bool:
    return current().path.is_dir()


def missing_tools() -> list[str]:
    """The Debian packages that this machine lacks."""
    missing = {package for command, package in TOOLS.items() if shutil.which(command) is None}
    return sorted(missing if KEYRING.exists() else {*missing, "debian-archive-keyring"})


def written_bytes() -> int:
    """What a build that is under way has written so far."""
    sizes = 0
    for directory, _, names in os.walk(_building(current())):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                sizes += os.lstat(os.path.join(directory, name)).st_blocks * 512  # stat(2): blocks of 512 bytes
    return sizes


def ensure(say: Say = lambda line: print(line, file=sys.stderr)) -> Base:
    """The built base; installs missing tools and builds it first if need be (about 90 s). Raises LabError."""
    base = current()
    if is_built() and not missing_tools():
        return base
    if os.geteuid() != 0:
        raise LabError("building the lab's base tree needs root")
    with _only_builder():
        _install_tools(say)
        if not is_built():
            _build(base, say)
    return base


def prune(in_use: Collection[str]) -> list[str]:
    """Remove the trees of other recipes, but those whose key is `in_use`; returns the removed keys."""
    with _only_builder():
        keep = {current().key, *in_use}
        old = sorted(path.name for path in cache_dir().iterdir() if path.is_dir() and path.name not in keep)
        for name in old:
            shutil.rmtree(cache_dir() / name)
    return old


def _install_tools(say: Say) -> None:
    packages = missing_tools()
    if not packages:
        return
    if shutil.which("apt-get") is None:
        raise LabError(f"this machine lacks {', '.join(packages)} (Debian's names), and has no apt to install them")
    say(f"lab: installing {' '.join(packages)} on this machine with apt-get")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    execute(["apt-get", "update"], timeout_s=300, env=env)
    execute(["apt-get", "install", "-y", "--no-install-recommends", *packages], timeout_s=600, env=env)


def _build(base: Base, say: Say) -> None:
    say(f"lab: building the base tree {base.path} (once, 1 to 2 minutes)")
    tree = _building(base)
    if tree.exists():  # a build whose machine went down; the lock says nobody is at it now
        shutil.rmtree(tree)
    try:
        _fill(tree, say)
        tree.rename(base.path)
    except BaseException:
        shutil.rmtree(tree, ignore_errors=True)  # what it started may be dying still; the next build looks again
        raise
    say(f"lab: base tree built in {base.path}")


def _building(base: Base) -> Path:
    """Where it is until it is whole."""
    return cache_dir() / f".building-{base.key}"


def _fill(tree: Path, say: Say) -> None:
    mirror = os.environ.get("MUSTER_LAB_MIRROR", "http://deb.debian.org/debian")
    for name in ("plain", "docker", "packages", "work", "mnt"):
        (tree / name).mkdir(parents=True)
    private = ["unshare", "--mount", "--propagation", "private"]
    say(f"lab: Debian {SUITE} with systemd, sshd and python3")
    execute(
        [*private, "debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, "plain", mirror],
        timeout_s=1200,
        cwd=tree,
    )
    _customise(tree / "plain")
    say("lab: Docker, and its packages for hosts without it")
    execute(
        [*private, "sh", "-c", IN_DOCKER_LAYER, "sh", mirror, SUITE, " ".join(OFFLINE_PACKAGES), DOCKER],
        timeout_s=1200,
        cwd=tree,
    )
    _take_busybox(tree)
    _index_packages(tree / "packages")
    for name in ("work", "mnt"):
        shutil.rmtree(tree / name)


def _customise(plain: Path) -> None:
    execute(["chroot", str(plain), "useradd", "--create-home", "--shell=/bin/bash", f"--uid={OPS_UID}", "ops"])
    for pattern in REMOVED:
        for path in plain.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name, text in FILES.items():
        (plain / name).write_text(text)
    (plain / "etc/sudoers.d/ops").chmod(0o440)
    (plain / PACKAGES_AT.removeprefix("/")).mkdir(exist_ok=True)
    (plain / "var/lib/dbus/machine-id").symlink_to("/etc/machine-id")
    units = plain / "etc/systemd/system"
    for unit in MASKED_UNITS:
        for wanted in units.glob(f"*.wants/{unit}"):
            wanted.unlink()
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    (units / "sysinit.target.wants").mkdir(exist_ok=True)
    (units / "sysinit.target.wants/lab-cgroups.service").symlink_to("../lab-cgroups.service")


def _take_busybox(tree: Path) -> None:
    package = next((tree / "packages").glob("busybox-static_*.deb"))
    execute(["dpkg-deb", "-x", str(package), str(tree / "mnt")])
    shutil.copy2(tree / "mnt/bin/busybox", tree / "busybox")
    package.unlink()


def _index_packages(directory: Path) -> None:
    """Write `Packages` (deb822, as dpkg-scanpackages would), all that apt needs of a trusted flat repository."""
    shutil.rmtree(directory / "partial", ignore_errors=True)
    (directory / "lock").unlink(missing_ok=True)
    entries = []
    for package in sorted(directory.glob("*.deb")):
        control = execute(["dpkg-deb", "--field", str(package)]).stdout.strip()
        digest = hashlib.sha256(package.read_bytes()).hexdigest()
        entries.append(f"{control}\nFilename: ./{package.name}\nSize: {package.stat().st_size}\nSHA256: {digest}\n")
    (directory / "Packages").write_text("\n".join(entries))


@contextlib.contextmanager
def _only_builder() -> Iterator[None]:
    cache_dir().mkdir(parents=True, exist_ok=True)
    with (cache_dir() / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
