"""`python -m tests.soak [--for S] [--hosts N]`: boot a lab, install a cluster, and soak it."""

from __future__ import annotations

import os
import random
import sys
import tempfile
from pathlib import Path

import click

from tests.bootstrap.desk import ROOT, desk_of
from tests.lab import Lab
from tests.lab.process import LabError
from tests.soak.run import Soak

HOME = "soak-home"
KEPT_IN = ROOT / "build" / "soak"


def soak_in(directory: Path, *, hosts: int, seconds: float, operators: int, seed: int, name: str) -> None:
    """A lab of its own, from the first boot to the last check; nothing of it is left but `directory`."""
    with Lab.up(hosts, name=name) as lab, tempfile.TemporaryDirectory() as sources, desk_of(lab, Path(sources)) as desk:
        click.echo(f"{hosts} hosts are up; installing")
        desk.write_hosts(*(f"root@{host}" for host in lab.hosts))
        desk.install("--home", HOME)
        Soak(desk, lab.operator.home / HOME, directory, click.echo).run(seconds, operators=operators, seed=seed)


@click.command()
@click.option("--for", "seconds", default=300.0, show_default=True, help="Seconds of writing.")
@click.option("--hosts", default=3, show_default=True)
@click.option("--operators", default=4, show_default=True, help="Two share a target each.")
@click.option("--seed", type=int, help="Of the mishaps; what the operators do isn't drawn from it.")
def main(seconds: float, hosts: int, operators: int, seed: int | None) -> None:
    """Operators write through any host while hosts are cut off, lossy and without power."""
    if reason := Lab.unavailable():
        raise click.ClickException(f"no lab can run here: {reason}")
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    click.echo(f"seed {seed}")
    try:
        soak_in(KEPT_IN, hosts=hosts, seconds=seconds, operators=operators, seed=seed, name=f"soak{os.getpid()}")
    except (AssertionError, LabError, TimeoutError) as failure:
        click.echo(f"failed: {failure}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
