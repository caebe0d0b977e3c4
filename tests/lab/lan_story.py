"""What the demo shows on a LAN: installing over SSH, deploying, losing the coordinator's host, going on.

Every command is one that the operator types, run at the desk; only plugs are pulled from outside.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from agent.errors import EXIT_DEGRADED, EXIT_OK, MusterError
from agent.model.status import ReplicaStatus, Status
from bootstrap.demo import EXAMPLE, coordinator_of, other_than, replicas_of
from bootstrap.socket_api import get
from bootstrap.story import Step, Story
from tests.lab import base, images
from tests.lab.lab import Lab
from tests.lab.process import wait_until

T = TypeVar("T")

HOSTS = "root@n1\nroot@n2\nops@n3\n"
IMAGE_FILE = "muster-web.tar"

COMMAND_TIMEOUT_S = 120.0
"""The longest, `bootstrap install`, takes 10 s; three busy hosts on one busy machine get their time."""

WAIT_TIMEOUT_S = 60.0
"""An election takes a second, a boot with its containers five; the same reason."""

# What `curl` would do, which this machine may lack. Arguments: URLs.
_FETCH = """\
import sys, urllib.request
for url in sys.argv[1:]:
    print(urllib.request.urlopen(url, timeout=5).read().decode().strip(), flush=True)
"""


class LanStory:
    """The steps, over a lab of three hosts that is up."""

    def __init__(self, story: Story, lab: Lab) -> None:
        self._story = story
        self._lab = lab

    def run(self) -> None:
        """All of it but taking the lab down. Raises MusterError, LabError."""
        with self._story.step("Make a cluster of them over SSH, from the operator's desk") as step:
            (self._lab.operator.home / "hosts.txt").write_text(HOSTS)
            step.command(["cat", "hosts.txt"])
            step.output(HOSTS)
            self._type(step, "bootstrap", "install", "hosts.txt")
        status = self._status("n1")
        lost = coordinator_of(status)
        through = other_than(status, lost)
        with self._story.step("Put an image on every host, without a registry") as step:
            self._make_image()
            self._type(step, "agent", "load", IMAGE_FILE)
        with self._story.step(
            f"Deploy a web service through {through}, though {lost} coordinates: any host takes it"
        ) as step:
            self._type(step, "agent", "deploy", self._copy_plan(), "--via", through)
            self._type(step, "agent", "status")
            before = self._status(through)
            self._curl(step, replicas_of(before))
        self._lose(lost, through, before)
        self._bring_back(lost, through)

    def _lose(self, lost: str, through: str, before: Status) -> None:
        with self._story.step(f"Pull the plug of the coordinator's host, {lost}") as step:
            self._lab.hosts[lost].power_cut()
            cut_at = time.monotonic()
            step.note(f"{lost} is off. The containers on the others don't need it:")
            self._curl(step, [replica for replica in replicas_of(before) if replica.host != lost])
            following = _wait_for(lambda: self._succeeded(lost, through), f"no other coordinator than {lost}")
            step.note(f"{following} coordinates, seen {time.monotonic() - cut_at:.1f} s after the cut")
        wanted = len(replicas_of(before)) + 1
        with self._story.step(f"Change something meanwhile; what {lost} ran starts elsewhere") as step:
            self._type(step, "agent", "scale", "web", f"web={wanted}", "--detach")
            _wait_for(lambda: self._healthy(through) == wanted, f"there are no {wanted} healthy replicas")
            self._type(step, "agent", "status", codes=(EXIT_OK, EXIT_DEGRADED))
            self._curl(step, replicas_of(self._status(through)))

    def _bring_back(self, lost: str, through: str) -> None:
        with self._story.step(f"Power on {lost}: its agent starts with it, and takes its place again") as step:
            self._lab.hosts[lost].start()
            _wait_for(lambda: self._whole(through), f"{lost} isn't back")
            self._type(step, "agent", "status")

    def _make_image(self) -> None:
        """The example's image as a `docker save` file at the desk: the lab's busybox and the example's script."""
        script = (EXAMPLE / "serve.sh").read_text()
        (self._lab.operator.home / IMAGE_FILE).write_bytes(images.archive(self._lab.base, serve=script))

    def _copy_plan(self) -> str:
        """The example's plan, at the desk where it is in the project."""
        name = "examples/web/plan.docker.json"
        copy = self._lab.operator.home / name
        copy.parent.mkdir(parents=True)
        copy.write_bytes((EXAMPLE / "plan.docker.json").read_bytes())
        return name

    def _type(self, step: Step, *argv: str, codes: Sequence[int] = (EXIT_OK,)) -> None:
        """A command at the desk; what it writes is shown while it runs. Raises MusterError when it fails."""
        step.command(argv)
        desk = self._lab.operator
        cache = base.cache_dir() / "operator"  # what is sent to hosts is made once
        more = {"COLUMNS": str(self._story.columns), "PYTHONUNBUFFERED": "1", "XDG_CACHE_HOME": str(cache)}
        environ = desk.environment(more)
        code = _show(step, desk.command(argv), environ)
        if code not in codes:
            raise MusterError(f"`{shlex.join(argv)}` ended with {code}")

    def _curl(self, step: Step, replicas: Sequence[ReplicaStatus]) -> None:
        """A GET from the desk to each of these replicas, on its own host; the agents aren't on the way."""
        urls = [f"http://{replica.host}:{port.host_port}/" for replica in replicas for port in replica.ports]
        answers = self._lab.operator.run([sys.executable, "-Ic", _FETCH, *urls]).stdout.splitlines()
        for url, answer in zip(urls, answers, strict=True):
            step.command(["curl", url])
            step.output(answer)

    def _status(self, host: str) -> Status:
        """As that host's agent tells it, through its local socket. Raises MusterError, LabError."""
        socket = self._lab.hosts[host].root / "run/muster/agent.sock"
        return get(socket, "/api/v1/deployment/status", Status)

    def _succeeded(self, lost: str, through: str) -> str | None:
        """The other coordinator, once one is known."""
        try:
            status = self._status(through)
        except MusterError:
            return None
        known = status.coordinator is not None and status.coordinator.name != lost and not status.stale
        return coordinator_of(status) if known else None

    def _healthy(self, through: str) -> int:
        return sum(replica.state == "healthy" for replica in replicas_of(self._status(through)))

    def _whole(self, through: str) -> bool:
        """Every host is there, and every voter answers."""
        status = self._status(through)
        alive = all(host.state == "alive" and host.fit for host in status.hosts)
        return alive and status.quorum.reachable == status.quorum.voters and not status.problems


def _show(step: Step, argv: Sequence[str], environ: dict[str, str]) -> int:
    """Run it, tell line by line what it writes; its exit status. A blank line waits for what comes after it."""
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environ,
        start_new_session=True,
    ) as process:
        limit = threading.Timer(COMMAND_TIMEOUT_S, lambda: os.killpg(process.pid, signal.SIGKILL))
        limit.start()
        try:
            assert process.stdout is not None, "a pipe was asked for"
            waiting = ""
            for line in process.stdout:
                waiting += line
                if line.strip():
                    step.output(waiting)
                    waiting = ""
            return process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            limit.cancel()
            limit.join()


def _wait_for(condition: Callable[[], T], otherwise: str) -> T:
    """The condition's first true value. Raises LabError."""
    found: T = wait_until(condition, otherwise, WAIT_TIMEOUT_S)
    return found
