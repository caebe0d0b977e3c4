"""`bootstrap install` beside the least that any tool over ssh has to do, on lab hosts: same bytes, same machine."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.figures import Figure, as_text
from tests.bootstrap.desk import Desk, desk_of
from tests.lab import Lab

INSTALL_RATIO = 1.5
AGAIN_RATIO = 1.2
UNIT = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"

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


@contextmanager
def lab_desk(hosts: int) -> Iterator[Desk]:
    """Fresh hosts with Docker, and the bundle in the desk's cache."""
    with (
        tempfile.TemporaryDirectory(prefix="muster-bench-") as directory,
        Lab.up(hosts, name="bench") as lab,
        desk_of(lab, Path(directory)) as desk,
    ):
        desk.write_hosts(*(f"root@{name}" for name in lab.hosts))
        yield desk


def measure_floor(desk: Desk, bundle: Path) -> float:
    """Seconds; the hosts are left as they were."""
    script = FLOOR.format(unit=UNIT.replace("\n", "\\n"))
    seconds = desk.run("sh", "-c", script, "sh", str(bundle), *desk.lab.hosts).seconds
    for host in desk.lab.hosts.values():
        host.run(["sh", "-c", "systemctl disable -q floor; rm -rf /opt/floor /etc/systemd/system/floor.service"])
    return seconds


def install_on(hosts: int, runs: int) -> list[Figure]:
    """The figures for so many hosts."""
    floors, firsts, agains = [], [], []
    with lab_desk(hosts) as desk:
        desk.install("--name", "warm")  # makes the bundle, which an operator has from the first install on
        desk.run("bootstrap", "uninstall", "hosts.txt", "--yes", "--home", ".config/muster/warm")
        bundle = bundle_path(desk)
        for run in range(runs):
            floors.append(measure_floor(desk, bundle))
            name = f"b{run}"
            firsts.append(desk.run("bootstrap", "install", "hosts.txt", "--name", name).seconds)
            agains.append(desk.run("bootstrap", "install", "hosts.txt", "--name", name).seconds)
            desk.run("bootstrap", "uninstall", "hosts.txt", "--yes", "--home", f".config/muster/{name}")
    note = "one ssh each, tar over stdin, unit enabled"
    floor = Figure(name=f"floor, {hosts} hosts", unit="s", values=floors, note=note)
    return [
        floor,
        Figure(name=f"install, {hosts} hosts", unit="s", values=firsts, target=INSTALL_RATIO * floor.median),
        Figure(name=f"again, {hosts} hosts", unit="s", values=agains, target=AGAIN_RATIO * floor.median),
    ]


def bundle_path(desk: Desk) -> Path:
    """The bundle that the desk's first run made."""
    [path] = (desk.sources / "cache" / "muster").glob("bundle-*.tar.gz")
    return path


def install(runs: int) -> list[Figure]:
    """`bootstrap install` on 5 hosts of a lab, beside the least that ssh and tar need."""
    return install_on(5, runs)


if __name__ == "__main__":
    print(as_text(install_on(int(sys.argv[1]) if len(sys.argv) > 1 else 5, 3)))
