"""`bootstrap demo`: a cluster at work, with the commands that a user would type.

Three agents on loopback addresses; a web service deployed through one that doesn't coordinate; the coordinator killed;
the next one, the same replicas, and an answer again; the killed one comes back. Then everything is cleaned up. No root
needed. Where a Docker daemon answers, the replicas are containers, of three agents that share it.
"""

from __future__ import annotations

import http.client
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from agent.errors import EXIT_ERROR, EXIT_OK, MusterError, NotFound, TimedOut
from agent.model.status import ReplicaStatus, Status
from bootstrap.local import LocalCluster, clean_environment
from bootstrap.story import Step, Story

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "web"
STACK = "web"

COMMAND_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 2.0
WAIT_TIMEOUT_S = 15.0  # an election or a start takes well below a second; a machine that is busy gets its time
LOOK_INTERVAL_S = 0.02
MISSED_AFTER_S = 5.0  # a new coordinator gives every host as long before it places elsewhere what a dead one ran


class Demo:
    """The steps, over one cluster in a directory of its own."""

    def __init__(self, story: Story, cluster: LocalCluster, plan: Path) -> None:
        self._story = story
        self._cluster = cluster
        self._plan = plan

    def run(self) -> None:
        """All of it except the cleaning up. Raises MusterError."""
        with self._story.step("Three agents find each other and elect a coordinator") as step:
            self._cluster.up()
            status = self._cluster.wait_ready()
            for host in status.hosts:
                step.note(f"{host.name}  {host.address}  {host.role}")
        with self._story.step("Deploy a web service through an agent that doesn't coordinate") as step:
            through = other_than(status, coordinator_of(status))
            self._agent(step, "deploy", _as_typed(self._plan), "--via", through)
        with self._story.step("See what runs, ask it something") as step:
            self._agent(step, "status")
            self._ask_replicas(step, self._cluster.status(through))
        before = self._cluster.status(through)
        lost = coordinator_of(before)
        with self._story.step(f"Kill the coordinator, {lost}, in the middle of its work") as step:
            pid = self._cluster.pid(lost)
            self._cluster.kill(lost)
            killed_at = time.monotonic()
            step.command(["kill", "-9", str(pid)])
            following = self._successor(lost, through)
            step.note(f"{coordinator_of(following)} coordinates {1000 * (time.monotonic() - killed_at):.0f} ms later")
        with self._story.step("Nothing was lost: every replica answers, and the next change is taken") as step:
            self._ask_replicas(step, before)
            self._agent(step, "scale", STACK, f"{STACK}=4", "--detach")
        with self._story.step(f"Start {lost} again: it finds what it ran, and touches nothing") as step:
            step.command(["agent", "run", "--config", str(self._cluster.config_file(lost))])
            self._cluster.start(lost)
            self._cluster.wait_ready()
            away_s = time.monotonic() - killed_at
            after = self._healthy(through, 4)
            self._agent(step, "status")
            step.note(what_stayed(replicas_of(before), replicas_of(after), lost, away_s))

    def _agent(self, step: Step, *arguments: str) -> None:
        """Runs a command as a user would; its output is shown. Raises MusterError with the output when it fails."""
        step.command(["agent", *arguments])
        environ = clean_environment() | {"MUSTER_HOME": str(self._cluster.home), "COLUMNS": str(self._story.columns)}
        done = subprocess.run(
            self._cluster.agent_command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            env=environ,
            check=False,
        )
        step.output(done.stdout)
        if done.returncode != EXIT_OK:
            raise MusterError(f"`agent {' '.join(arguments)}` ended with {done.returncode}")

    def _ask_replicas(self, step: Step, status: Status) -> None:
        """A GET to every replica, on whatever host it is, without going through an agent."""
        addresses = {host.name: host.address for host in status.hosts}
        for replica in replicas_of(status):
            for port in replica.ports:
                address, number = addresses[replica.host], port.host_port
                step.command(["curl", f"http://{address}:{number}/"])
                step.output(_fetch(address, number))

    def _successor(self, lost: str, through: str) -> Status:
        """The status once another coordinator is known. Raises TimedOut."""

        def succeeded() -> Status | None:
            try:
                status = self._cluster.status(through)
            except MusterError:
                return None
            known = status.coordinator is not None and status.coordinator.name != lost and not status.stale
            return status if known else None

        return _wait_for(succeeded, f"no other coordinator than {lost}")

    def _healthy(self, through: str, count: int) -> Status:
        """The status once that many replicas are healthy. Raises TimedOut."""

        def healthy() -> Status | None:
            status = self._cluster.status(through)
            states = [replica.state for replica in replicas_of(status)]
            return status if states == ["healthy"] * count else None

        return _wait_for(healthy, f"fewer than {count} replicas are healthy")


def _as_typed(path: Path) -> str:
    """The command line without the path to the working directory."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def coordinator_of(status: Status) -> str:
    """The name of its host. Raises MusterError when there is none."""
    if status.coordinator is None:
        raise MusterError("there is no coordinator")
    return status.coordinator.name


def replicas_of(status: Status) -> list[ReplicaStatus]:
    """Of all stacks."""
    return [replica for stack in status.stacks for service in stack.services for replica in service.replicas]


def what_stayed(before: list[ReplicaStatus], after: list[ReplicaStatus], lost: str, away_s: float) -> str:
    """What kept running, in words. Raises MusterError if a replica was started again without need."""
    running = {replica.container_id for replica in after}
    gone = {replica.host for replica in before if replica.container_id not in running}
    if not gone:
        return f"All {len(before)} replicas from before still run; one more has joined them."
    if gone != {lost} or away_s < MISSED_AFTER_S:
        raise MusterError("a replica was started anew")
    return f"{lost} was away for {away_s:.0f} s, so what it ran was placed elsewhere; all others still run."


def other_than(status: Status, name: str) -> str:
    """The first host but this one."""
    return next(host.name for host in status.hosts if host.name != name)


def _fetch(address: str, port: int) -> str:
    connection = http.client.HTTPConnection(address, port, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise MusterError(f"no answer: {error}", where=f"http://{address}:{port}/") from None
    finally:
        connection.close()


def _wait_for(condition: Callable[[], Status | None], otherwise: str) -> Status:
    deadline = time.monotonic() + WAIT_TIMEOUT_S
    while (found := condition()) is None:
        if time.monotonic() > deadline:
            raise TimedOut(f"{otherwise} after {WAIT_TIMEOUT_S:g} s")
        time.sleep(LOOK_INTERVAL_S)
    return found


def choose_plan(runtimes: Sequence[str], step: Step) -> Path:
    """The example for Docker where there is an engine and its image can be made, else the one with processes."""
    if not EXAMPLE.is_dir():
        raise NotFound("the example isn't installed", where=str(EXAMPLE), fix="Run the demo from the source tree.")
    if "docker" not in runtimes:
        return EXAMPLE / "plan.json"
    made = subprocess.run(
        [str(EXAMPLE / "image.sh")], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    if made.returncode != 0:
        step.note(f"Docker is here, but not the image: {made.stderr.strip()}; plain processes will do.")
        return EXAMPLE / "plan.json"
    return EXAMPLE / "plan.docker.json"


@click.command()
@click.option("--keep-logs", is_flag=True, help="Leave the agents' directory in place.")
def demo(keep_logs: bool) -> None:
    """Show a cluster at work on this machine: deploy, lose the coordinator, go on. Takes half a minute at most."""
    story = Story.on(sys.stdout)
    directory = Path(tempfile.mkdtemp(prefix="muster-demo-"))
    failed = ""
    cluster: LocalCluster | None = None
    try:
        story.say(f"A cluster on loopback addresses, in {directory}")
        with story.step("Make keys for three hosts, certify them, sign the cluster's genesis") as step:
            cluster = LocalCluster.create(directory, name="demo", api_port=0, timing="lan")
            plan = choose_plan(cluster.layout.runtimes, step)
        Demo(story, cluster, plan).run()
    except (MusterError, subprocess.TimeoutExpired) as error:
        failed = str(error)
    finally:  # after Ctrl-C as well
        try:
            with story.step("Stop the agents and all they ran") as step:
                if cluster is not None:
                    cluster.down()
                if failed or keep_logs:
                    step.note(f"The agents' logs are {directory}/*/agent.out")
        finally:  # also when there is nobody to tell any more: a closed terminal or pipe
            if cluster is not None:
                cluster.down()
            if not failed and not keep_logs:
                shutil.rmtree(directory)
    if failed:
        click.echo(f"error: {failed}", err=True)
        raise click.exceptions.Exit(EXIT_ERROR)
    story.say(f"\nThat was all of it, in {story.elapsed_s:.0f} s. `bootstrap local up` makes a cluster that stays.")
