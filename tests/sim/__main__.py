"""`python -m tests.sim [--seed N] [--worlds N | --for S] [--jobs N]`: worlds of the simulator, or one, line by line."""

from __future__ import annotations

import sys

import click

from tests.sim.batch import run_batch, size_of
from tests.sim.world import World


@click.command()
@click.option("--seed", type=int, help="Run this one world and print a line per event.")
@click.option("--worlds", default=40, show_default=True, help="How many fresh worlds to run.")
@click.option("--for", "for_s", type=float, help="Run fresh worlds for so many seconds instead.")
@click.option("--seconds", default=60.0, show_default=True, help="Virtual seconds of each world.")
@click.option("--jobs", default=1, show_default=True, help="Processes.")
def main(seed: int | None, worlds: int, for_s: float | None, seconds: float, jobs: int) -> None:
    """Check consensus and node core in simulated worlds."""
    if seed is not None:
        world = World(seed, size=size_of(seed), until_s=seconds, trace=click.echo).run()
        click.echo(f"seed {seed}: {world.events} events, {world.faults} faults, all properties held")
        return
    report = run_batch(worlds=worlds, for_s=for_s, seconds=seconds, jobs=jobs)
    for number, error in report.failed:
        click.echo(f"seed {number}: {error}\nagain, line by line: make sim SEED={number}", err=True)
    click.echo(report)
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
