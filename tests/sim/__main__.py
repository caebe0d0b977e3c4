"""`python -m tests.sim [--seed N] [--worlds N] [--seconds S]`: worlds of the simulator, or one again, line by line."""

from __future__ import annotations

import random
import sys
import time

import click

from tests.sim.checks import Violated
from tests.sim.world import World


@click.command()
@click.option("--seed", type=int, help="Run this one world and print a line per event.")
@click.option("--worlds", default=20, show_default=True, help="How many fresh worlds to run.")
@click.option("--seconds", default=30.0, show_default=True, help="Virtual seconds of each world.")
def main(seed: int | None, worlds: int, seconds: float) -> None:
    """Check consensus and node core in simulated worlds."""
    if seed is not None:
        world = World(seed, size=size_of(seed), until_s=seconds, trace=click.echo).run()
        click.echo(f"seed {seed}: {world.events} events, {world.faults} faults, all properties held")
        return
    begin, events = time.monotonic(), 0
    for number in [random.SystemRandom().getrandbits(32) for _ in range(worlds)]:
        try:
            events += World(number, size=size_of(number), until_s=seconds).run().events
        except (Violated, AssertionError) as error:
            click.echo(f"seed {number}: {error}\nagain, line by line: make sim SEED={number}", err=True)
            sys.exit(1)
    took = time.monotonic() - begin
    click.echo(f"{worlds} worlds, {events} events, {worlds / took:.1f} worlds/s, {events / took:,.0f} events/s")


def size_of(seed: int) -> int:
    """1, 3, 3, 4 or 5 hosts; of four, one only observes."""
    return (1, 3, 3, 4, 5)[seed % 5]


if __name__ == "__main__":
    main()
