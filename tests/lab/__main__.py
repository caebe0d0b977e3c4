"""`python -m tests.lab`: the lab by hand."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import click

from tests.lab import base, state
from tests.lab import lab as labs
from tests.lab.host import Host
from tests.lab.images import DEMO
from tests.lab.lab import DEFAULT_NAME, Lab
from tests.lab.process import LabError

RAW = {"ignore_unknown_options": True, "allow_interspersed_args": False}
"""What follows belongs to the command that is run, options and all."""


class Group(click.Group):
    """The lab's errors are for a person to read: one line, exit status 1."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except LabError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--name", "-n", default=DEFAULT_NAME, show_default=True, help="Which lab: several can be up.")
@click.pass_context
def main(ctx: click.Context, name: str) -> None:
    """A LAN of real hosts on this machine. Needs root."""
    ctx.obj = name


@main.command("base")
@click.option("--prune", is_flag=True, help="Also remove the trees of other recipes that no lab uses.")
def base_command(prune: bool) -> None:
    """Build the base tree ahead, and install what this machine lacks."""
    click.echo(base.ensure().path)
    if prune:
        for key in base.prune([state.load(name).base for name in state.names()]):
            click.echo(f"removed {key}")


@main.command()
@click.argument("count", metavar="N", type=int)
@click.option("--without-docker", multiple=True, metavar="HOST")
@click.option("--ssh-port", multiple=True, metavar="HOST=PORT")
@click.option("--behind-bastion", multiple=True, metavar="HOST")
@click.option("--bastion-routes", is_flag=True, help="The other hosts reach those behind the bastion.")
@click.option("--cgroup-v2", multiple=True, metavar="HOST")
@click.pass_obj
def up(
    name: str,
    count: int,
    without_docker: tuple[str, ...],
    ssh_port: tuple[str, ...],
    behind_bastion: tuple[str, ...],
    bastion_routes: bool,
    cgroup_v2: tuple[str, ...],
) -> None:
    """Boot hosts n1 to nN."""
    started = time.monotonic()
    ports = dict(text.partition("=")[::2] for text in ssh_port)
    if bad := [host for host, port in ports.items() if not port.isdecimal()]:
        raise LabError(f"--ssh-port is written HOST=PORT: {', '.join(bad)}")
    lab = Lab.up(
        count,
        name=name,
        without_docker=without_docker,
        ssh_port={host: int(port) for host, port in ports.items()},
        behind_bastion=behind_bastion,
        bastion_routes=bastion_routes,
        cgroup_v2=cgroup_v2,
        keep=True,
    )
    click.echo(f"{len(lab.hosts)} hosts up in {time.monotonic() - started:.1f} s")


@main.command()
@click.pass_obj
def down(name: str) -> None:
    """Remove the lab and everything of it."""
    labs.down(name)


@main.command()
@click.pass_obj
def leftovers(name: str) -> None:
    """List what of the lab is on this machine; exit status 1 if there is anything."""
    found = labs.leftovers(name)
    click.echo("\n".join(found) or "nothing")
    sys.exit(1 if found else 0)


@main.command()
def sweep() -> None:
    """Remove labs whose test run has ended without doing it, also those of its workers."""
    gone = []
    for place in state.all_labs_dirs():
        os.environ[state.LABS_DIR] = str(place)
        gone += labs.sweep()
    click.echo("\n".join(gone) or "nothing")


@main.command()
@click.pass_obj
def status(name: str) -> None:
    """Show the hosts and what is broken."""
    lab = Lab.attach(name)
    faults = lab.faults
    for node in lab.layout.machines:
        host = lab.host(node.name)
        notes = [f"ssh port {node.ssh_port}"] if node.ssh_port != 22 else []
        notes += [] if node.docker else ["without docker"]
        notes += [f"behind {node.jump}"] if node.jump else []
        notes += ["cable out"] if node.name in faults.cables_out else []
        notes += [f"loss {faults.loss[node.name]:g} %"] if node.name in faults.loss else []
        click.echo(f"{node.name:<9}{node.address:<12}{'on' if host.running else 'off':<5}{', '.join(notes)}".rstrip())
    if faults.groups:
        click.echo("partition " + " | ".join(",".join(group) for group in faults.groups))
    for source, target in faults.blocks:
        click.echo(f"blocked {source} -> {target}")


@main.command(context_settings=RAW)
@click.argument("host")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def run(name: str, host: str, argv: tuple[str, ...]) -> None:
    """Run a command on a host as root, in the foreground."""
    sys.exit(subprocess.call(Lab.attach(name).host(host).command(argv)))


@main.command(context_settings=RAW)
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def operator(name: str, argv: tuple[str, ...]) -> None:
    """Run a command at the operator's desk, in the foreground."""
    desk = Lab.attach(name).operator
    sys.exit(subprocess.call(desk.command(argv), env=desk.environment()))


@main.command("power-cut")
@click.argument("host")
@click.pass_obj
def power_cut(name: str, host: str) -> None:
    """Pull a host's plug."""
    Lab.attach(name).host(host).power_cut()


@main.command("shut-down")
@click.argument("host")
@click.pass_obj
def shut_down(name: str, host: str) -> None:
    """Power a host off in order."""
    Lab.attach(name).host(host).shut_down()


@main.command()
@click.argument("host")
@click.pass_obj
def start(name: str, host: str) -> None:
    """Power a host on."""
    Lab.attach(name).host(host).start()


@main.command("cable-out")
@click.argument("host")
@click.pass_obj
def cable_out(name: str, host: str) -> None:
    """Pull a host's network cable."""
    Lab.attach(name).host(host).cable_out()


@main.command("cable-in")
@click.argument("host")
@click.pass_obj
def cable_in(name: str, host: str) -> None:
    """Put the cable back."""
    Lab.attach(name).host(host).cable_in()


@main.command()
@click.argument("groups", metavar="A,B C...", nargs=-1, required=True)
@click.pass_obj
def partition(name: str, groups: tuple[str, ...]) -> None:
    """Cut the network between groups of hosts."""
    Lab.attach(name).partition(*(group.split(",") for group in groups))


@main.command()
@click.argument("source")
@click.argument("target")
@click.pass_obj
def block(name: str, source: str, target: str) -> None:
    """Lose everything from SOURCE to TARGET, in that direction only."""
    Lab.attach(name).block(source, target)


@main.command()
@click.argument("host")
@click.argument("percent", type=float)
@click.pass_obj
def loss(name: str, host: str, percent: float) -> None:
    """Lose PERCENT of a host's frames, in each direction."""
    Lab.attach(name).loss(host, percent)


@main.command()
@click.pass_obj
def heal(name: str) -> None:
    """End partition, blocks and loss, put all cables in."""
    Lab.attach(name).heal()


@main.command()
@click.argument("image", default=DEMO)
@click.pass_obj
def image(name: str, image: str) -> None:
    """Make an image REPOSITORY:TAG and load it on every running host that has Docker."""

    def load(host: Host) -> None:
        click.echo(f"{host.name} {host.load_image(image)}")

    lab = Lab.attach(name)
    labs.in_parallel(load, [host for host in lab.hosts.values() if host.running and host.has_docker])


if __name__ == "__main__":
    main(prog_name="python -m tests.lab")
