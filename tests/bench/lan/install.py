"""`bootstrap install` on hosts with Docker, beside the least that ssh and tar need, pyinfra and Ansible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.bench.figures import Figure
from tests.bench.lan.cluster import fresh_hosts
from tests.bench.lan.tools import Tool, ansible, clean, floor, pyinfra
from tests.bootstrap.desk import Desk

HOSTS = (5, 10)
INSTALL_RATIO = 1.5
AGAIN_RATIO = 1.2

Took = Callable[[str, float], None]
"""Takes what was done, and its seconds."""


def install(runs: int) -> list[Figure]:
    """`bootstrap install` on 5 and on 10 hosts, and again, beside plain ssh, pyinfra and Ansible."""
    return [figure for hosts in HOSTS for figure in install_on(hosts, runs)]


def install_on(hosts: int, runs: int) -> list[Figure]:
    """The figures for so many hosts."""
    seconds: dict[str, list[float]] = {}

    def took(what: str, value: float) -> None:
        seconds.setdefault(f"{what}, {hosts} hosts", []).append(value)

    with fresh_hosts(hosts) as desk:
        bundle = warm_up(desk)
        tools = [tool for tool in (floor(desk, bundle), pyinfra(desk, bundle), ansible(desk, bundle)) if tool]
        for run in range(runs):
            for tool in tools:
                measure_tool(desk, tool, took)
            measure_ours(desk, f"b{run}", took)
    return judged(seconds, f"floor, {hosts} hosts")


def warm_up(desk: Desk) -> Path:
    """An operator has the bundle from the first install on; every tool finds its own byte code."""
    desk.install("--name", "warm")
    take_away(desk, "warm")
    [bundle] = (desk.sources / "cache" / "muster").glob("bundle-*.tar.gz")
    for make in (pyinfra, ansible):
        if tool := make(desk, bundle):
            tool.seconds(desk)
    clean(desk)
    return bundle


def measure_tool(desk: Desk, tool: Tool, took: Took) -> None:
    """Once, and for one that looks before it acts once more; the hosts are left as they were."""
    took(tool.name, tool.seconds(desk))
    if tool.name != "floor":
        took(f"{tool.name} again", tool.seconds(desk))
    clean(desk)


def measure_ours(desk: Desk, name: str, took: Took) -> None:
    """A cluster made, and again, and taken away."""
    for what in ("install", "install again"):
        took(what, desk.run("bootstrap", "install", "hosts.txt", "--name", name).seconds)
    take_away(desk, name)


def take_away(desk: Desk, name: str) -> None:
    """Ours."""
    clean(desk)
    desk.run("bootstrap", "uninstall", "hosts.txt", "--yes", "--home", f".config/muster/{name}")


def judged(seconds: dict[str, list[float]], floor_name: str) -> list[Figure]:
    """Ours against the floor of the same run; the others only shown, as how many times the floor."""
    note = "one ssh each, tar over stdin, unit enabled"
    least = Figure(name=floor_name, unit="s", values=seconds[floor_name], note=note)
    figures = [least]
    for name, values in seconds.items():
        if name == floor_name:
            continue
        ratio = {"install": INSTALL_RATIO, "install again": AGAIN_RATIO}.get(name.rpartition(",")[0])
        target = ratio * least.median if ratio is not None else None
        figure = Figure(name=name, unit="s", values=values, target=target)
        figures.append(replace(figure, note=f"{figure.median / least.median:.2f} × the floor"))
    return figures
