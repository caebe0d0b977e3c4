"""A cluster of agents on this machine's loopback addresses: to try things out, to demonstrate, to test.

    cluster = LocalCluster.create(Path("/tmp/try"), count=3)     # home, keys, genesis: as bootstrap does over ssh
    cluster.up()
    cluster.wait_ready()
    …                                                            # cluster.agent_command("status")
    cluster.down()                                               # stops the agents and all they ran

Everything is in one directory: `local.json` (Layout), `home/` (the cluster home), `recovery.key`, and for each agent
`n<i>/` with `agent.toml`, `agent.pid`, `agent.out`, `data/`, `log/`, `run/`. A call that was cut off is made good by
the next one. Agents are in sessions of their own, so they survive whoever started them.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from agent import procfs
from agent.config import ENVIRONMENT, TimingName
from agent.errors import Conflict, InputError, MusterError, NotFound, StorageError, TimedOut
from agent.home import GENESIS_FILE, Home, as_json, open_home, read_file, write_file
from agent.model.api import Members
from agent.model.cluster import Genesis, IdentityRequest, Member
from agent.model.decode import convert, decode_json
from agent.model.stack import RuntimeName
from agent.model.status import MemberView, Status
from agent.model.types import HostAddress, Label, Port
from bootstrap import leftovers, processes
from bootstrap.genesis import grant, load_genesis, make_genesis, remember_members
from bootstrap.home import create_home
from bootstrap.ports import Wanted, choose, require_free
from bootstrap.socket_api import get

LAYOUT_FILE = "local.json"
MAX_AGENTS = 50  # 75 MB each; more is a matter for the simulator
MAX_LAYOUT_BYTES = 65_536
MAX_REQUEST_BYTES = 65_536  # an identity request is about 1 KiB
MAX_SOCKET_PATH_BYTES = 107  # unix(7): sun_path, with its final zero

HOST_COMMAND_TIMEOUT_S = 30.0  # `agent identity` takes a quarter of a second on an idle machine
READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0  # a clean stop hands leadership over first; it takes well below a second
LOOK_INTERVAL_S = 0.02  # between two looks whether the cluster is ready
OUTPUT_TAIL_LINES = 15

AGENT = (sys.executable, "-P", "-m", "agent")
"""The agent of this very installation; -P: not one that lies about in the working directory."""
OPERATOR_NAME = "local"
BROADCAST_ADDRESS = "127.255.255.255"


class LocalAgent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One agent; all of a cluster use the same ports, each on its own address."""

    name: Label
    address: HostAddress


class Layout(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`local.json`: what every call has to know."""

    version: Literal[1] = 1
    name: Label
    agents: Annotated[tuple[LocalAgent, ...], Meta(min_length=1, max_length=MAX_AGENTS)]
    api_port: Port
    peer_port: Port
    discovery_port: Port
    timing: TimingName
    runtimes: tuple[RuntimeName, ...]
    discovery: tuple[Literal["beacon", "mdns", "seeds"], ...]


class LocalCluster:
    """Agents are named n1 … nN. Every method may be called again, also by another process."""

    def __init__(self, directory: Path, layout: Layout) -> None:
        self.directory = directory
        self.layout = layout

    @classmethod
    def create(
        cls,
        directory: Path,
        count: int = 3,
        name: str = "local",
        *,
        api_port: int = 9999,
        peer_port: int = 9998,
        timing: TimingName = "local",
        runtimes: Sequence[RuntimeName] | None = None,
        discovery: Sequence[str] = ("beacon", "mdns", "seeds"),
    ) -> "LocalCluster":
        """Make the cluster in `directory`, or complete it; nothing is started.

        `api_port` 0 chooses free ports, so that several clusters run beside each other. `runtimes` None: process, and
        docker where an engine answers. Raises Conflict when there is a cluster of another shape, and MusterError.
        """
        directory = directory.absolute()
        path = directory / LAYOUT_FILE
        if path.exists():
            cluster = cls.open(directory)
            if len(cluster.layout.agents) != count or cluster.layout.name != name:
                there = f"{cluster.layout.name} with {len(cluster.layout.agents)} agents"
                fix = "`bootstrap local down --delete` removes it; --dir names another place."
                raise Conflict(f"another cluster is there already: {there}", where=str(directory), fix=fix)
        else:
            agents = [{"name": f"n{number}", "address": f"127.0.0.{number}"} for number in range(1, count + 1)]
            addresses = [agent["address"] for agent in agents]
            if api_port == 0:
                api_port = choose(addresses)
                peer_port = choose(addresses, taken=[api_port])
            if runtimes is None:
                runtimes = ("docker", "process") if leftovers.docker_answers() else ("process",)
            fields = {
                "name": name,
                "agents": agents,
                "api_port": api_port,
                "peer_port": peer_port,
                "discovery_port": api_port,
                "timing": timing,
                "runtimes": runtimes,
                "discovery": discovery,
            }
            cluster = cls(directory, convert(fields, Layout, "the cluster's layout"))
            _check_socket_path(cluster.agent_directory(agents[-1]["name"]))
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_file(path, as_json(cluster.layout), mode=0o600)
        cluster._complete()
        return cluster

    @classmethod
    def open(cls, directory: Path) -> "LocalCluster":
        """The cluster in `directory`. Raises NotFound, InputError."""
        path = directory.absolute() / LAYOUT_FILE
        if not path.exists():
            raise NotFound("there is no local cluster", where=str(directory), fix="`bootstrap local up` makes one.")
        layout = decode_json(read_file(path), Layout, where=f"{path}: $", max_bytes=MAX_LAYOUT_BYTES)
        return cls(directory.absolute(), layout)

    @property
    def names(self) -> tuple[str, ...]:
        """The agents' names."""
        return tuple(agent.name for agent in self.layout.agents)

    @property
    def home(self) -> Path:
        """The cluster home, for `agent --home`."""
        return self.directory / "home"

    def address(self, name: str) -> str:
        """The agent's loopback address. Raises NotFound."""
        for agent in self.layout.agents:
            if agent.name == name:
                return agent.address
        raise NotFound(f"there is no agent {name}", where=str(self.directory), fix=f"Agents: {', '.join(self.names)}.")

    def agent_directory(self, name: str) -> Path:
        """The directory with everything of one agent."""
        self.address(name)
        return self.directory / name

    def config_file(self, name: str) -> Path:
        """Its configuration."""
        return self.agent_directory(name) / "agent.toml"

    def output_file(self, name: str) -> Path:
        """What it wrote to stdout and stderr, in all its runs."""
        return self.agent_directory(name) / "agent.out"

    def data_dir(self, name: str) -> Path:
        """Its identity, ledger and workloads."""
        return self.agent_directory(name) / "data"

    def socket_path(self, name: str) -> Path:
        """Its API without a token, for reading."""
        return self.agent_directory(name) / "run" / "agent.sock"

    def agent_command(self, *arguments: str) -> list[str]:
        """The argv of the operator's own command against this cluster."""
        return [*AGENT, "--home", str(self.home), *arguments]

    def pid(self, name: str) -> int | None:
        """The agent's process; None when it doesn't run."""
        mark, noted = self._mark(name), self._noted_pid(name)
        if noted and processes.has(noted, mark):
            return noted
        return next(iter(procfs.find(mark.__eq__)), None)

    def start(self, name: str) -> int:
        """Start the agent unless it runs; its pid. Raises Conflict when another program has one of its ports."""
        if (pid := self.pid(name)) is not None:
            return pid
        directory, layout, address = self.agent_directory(name), self.layout, self.address(name)
        wanted = [
            Wanted(address, layout.api_port, "tcp"),
            Wanted(address, layout.peer_port, "tcp"),
            Wanted(address, layout.peer_port, "udp"),
        ]
        require_free(wanted, fix="Stop that, or take free ports with `bootstrap local up --api-port 0 --dir DIR`.")
        environ = clean_environment() | dict([self._mark(name).decode().split("=", 1)])
        pid = processes.spawn(
            [*AGENT, "run", "--config", str(self.config_file(name))], environ=environ, output=self.output_file(name)
        )
        write_file(directory / "agent.pid", f"{pid}\n".encode(), mode=0o600, replace=True)
        return pid

    def up(self, names: Iterable[str] | None = None) -> None:
        """Start all agents, or these."""
        for name in self.names if names is None else names:
            self.start(name)

    def kill(self, name: str) -> None:
        """SIGKILL the agent, like a crash; its replicas keep running."""
        self._end(name, signal.SIGKILL)

    def stop(self, name: str) -> None:
        """SIGTERM the agent and wait for its clean end; its replicas keep running. Raises TimedOut."""
        self._end(name, signal.SIGTERM)

    def status(self, name: str) -> Status:
        """The cluster's status as this agent reports it. Raises Unreachable when it doesn't answer."""
        return get(self.socket_path(name), "/api/v1/deployment/status", Status)

    def members(self, name: str) -> tuple[MemberView, ...]:
        """How this agent itself sees the others. Raises Unreachable."""
        return get(self.socket_path(name), "/api/v1/members", Members).members

    def wait_ready(self, names: Iterable[str] | None = None, *, timeout_s: float = READY_TIMEOUT_S) -> Status:
        """Wait until these agents (None: all) name one coordinator and see each other alive; returns the status.

        Raises TimedOut with what is missing, and at once MusterError when one of them has ended.
        """
        wanted = self.names if names is None else tuple(names)
        self._wait(wanted, lambda: self._missing(wanted), timeout_s)
        return self.status(wanted[0])

    def wait_answers(self, name: str) -> None:
        """Wait until this agent answers, whether or not others do. Raises as `wait_ready`."""

        def silent() -> str:
            try:
                self.members(name)
            except MusterError:
                return f"{name} doesn't answer yet"
            return ""

        self._wait((name,), silent, READY_TIMEOUT_S)

    def _wait(self, names: Sequence[str], missing: Callable[[], str], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while what := missing():
            for name in names:
                if self.pid(name) is None:
                    where = str(self.output_file(name))
                    raise MusterError(f"{name} has ended:\n{self.output_tail(name)}", where=where)
            if time.monotonic() > deadline:
                fix = f"The agents' logs are in {self.directory}/*/agent.out"
                raise TimedOut(f"not ready after {timeout_s:g} s: {what}", where=self.layout.name, fix=fix)
            time.sleep(LOOK_INTERVAL_S)

    def output_tail(self, name: str) -> str:
        """The last lines that the agent wrote."""
        try:
            lines = self.output_file(name).read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join(lines[-OUTPUT_TAIL_LINES:])

    def down(self, *, delete: bool = False) -> None:
        """End every agent and everything they ran; `delete` removes the directory too.

        All is tried before the first failure is raised: TimedOut or MusterError. Raises Conflict where something is
        mounted in the directory, StorageError where it can't be removed.
        """
        failures: list[MusterError] = []
        for step in (self._end_agents, self._end_workloads):
            try:
                step()
            except MusterError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        if delete:
            self._remove()

    def _remove(self) -> None:
        from bootstrap.remote.removal import mount_points  # what a host's removal takes beside it is seldom needed

        directory = self.directory.resolve()
        points = mount_points(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))
        if mounted := sorted(point for point in points if Path(point).is_relative_to(directory)):
            what, fix = "nothing runs any more, but something is mounted there, and stays", "Unmount it, then again."
            raise Conflict(what, where=mounted[0], fix=fix)
        try:
            shutil.rmtree(directory)
        except OSError as error:
            what = f"nothing runs any more, but the directory can't be removed: {error.strerror}"
            raise StorageError(what, where=str(directory)) from error

    def write_config(self, name: str, **changes: object) -> None:
        """The agent's configuration; `changes` are keys of `agent.config.Config`. Counts at the next start."""
        layout, directory, address = self.layout, self.agent_directory(name), self.address(name)
        seeds = [f"{other.address}:{layout.peer_port}" for other in layout.agents if other.name != name]
        keys: dict[str, object] = {
            "name": name,
            "listen": address,
            "advertise": address,
            "publish": address,
            "api_port": layout.api_port,
            "peer_port": layout.peer_port,
            "discovery_port": layout.discovery_port,
            "broadcast_address": BROADCAST_ADDRESS,
            "seeds": seeds if "seeds" in layout.discovery else [],
            "discovery_beacon": "beacon" in layout.discovery,
            "discovery_mdns": "mdns" in layout.discovery,
            "data_dir": str(directory / "data"),
            "log_dir": str(directory / "log"),
            "run_dir": str(directory / "run"),
            "policy_file": str(directory / "policy.toml"),
            "runtimes": layout.runtimes,
            "timing": layout.timing,
        }
        # JSON's strings, numbers, booleans and lists of them are TOML's as well.
        lines = [f"{key} = {msgspec.json.encode(value).decode()}\n" for key, value in (keys | changes).items()]
        write_file(self.config_file(name), "".join(lines).encode(), mode=0o600, replace=True)

    def _noted_pid(self, name: str) -> int | None:
        """What the pid file says; also None if the process that started the agent was interrupted before writing it."""
        try:
            return int((self.agent_directory(name) / "agent.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _mark(self, name: str) -> bytes:
        return f"BOOTSTRAP_LOCAL_AGENT={self.directory / name}".encode()

    def _complete(self) -> None:
        """Make what isn't there yet of home, directories, configurations, identities, genesis."""
        if not self.home.exists():
            # A recovery key without its home is of a call that was cut off.
            (self.directory / "recovery.key").unlink(missing_ok=True)
            recovery_file = self.directory / "recovery.key"
            create_home(self.home, name=self.layout.name, operator=OPERATOR_NAME, recovery_file=recovery_file)
        home = open_home(self.home)
        for name in self.names:
            for part in ("data", "log", "run"):
                (self.agent_directory(name) / part).mkdir(parents=True, exist_ok=True, mode=0o700)
            if not self.config_file(name).exists():
                self.write_config(name)
        waiting = [name for name in self.names if not (self.data_dir(name) / "identity" / "grant.json").exists()]
        if waiting or not home.cluster.members:
            self._identify(home, waiting)

    def _identify(self, home: Home, waiting: Sequence[str]) -> None:
        """As bootstrap does over ssh, with subprocesses in place of ssh connections."""
        requests: dict[str, IdentityRequest] = {}
        for name, answer in self._on_hosts(self.names, "request").items():
            where = f"{name}: identity request"
            requests[name] = decode_json(answer, IdentityRequest, where=where, max_bytes=MAX_REQUEST_BYTES)
        if not (self.home / GENESIS_FILE).exists():
            make_genesis(home, requests.values(), now_ms=time.time_ns() // 1_000_000)
        grants = {name: msgspec.json.encode(grant(home, requests[name])) for name in waiting}
        self._on_hosts(waiting, "accept", grants.__getitem__)
        remember_members(home, _genesis_members(home))

    def _on_hosts(
        self, names: Sequence[str], act: str, given: Callable[[str], bytes] = lambda _: b""
    ) -> dict[str, bytes]:
        """`agent identity <act>` for each agent, all at once; what each wrote to stdout."""
        running = {
            name: subprocess.Popen(
                [*AGENT, "identity", act, "--config", str(self.config_file(name))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=clean_environment(),
            )
            for name in names
        }
        answers, failure = {}, ""
        for name, process in running.items():
            try:
                answers[name], complaint = process.communicate(given(name), timeout=HOST_COMMAND_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                _, complaint = process.communicate()
            if process.returncode != 0:
                text = complaint.decode(errors="replace").strip()
                failure = failure or f"`agent identity {act}` failed on {name}: {text}"
        if failure:
            raise MusterError(failure, where=str(self.directory))
        return answers

    def _missing(self, wanted: Sequence[str]) -> str:
        """What these agents still lack to be one cluster, in a few words; empty when nothing."""
        coordinators = set()
        for name in wanted:
            try:
                status, members = self.status(name), self.members(name)
            except MusterError:
                return f"{name} doesn't answer yet"
            if status.coordinator is None or status.stale:
                return f"{name} knows no coordinator"
            coordinators.add(status.coordinator.name)
            unseen = [member.name for member in members if member.name in wanted and member.state != "alive"]
            if unseen:
                return f"{name} doesn't see {', '.join(sorted(unseen))}"
        return "" if len(coordinators) == 1 else f"several coordinators: {', '.join(sorted(coordinators))}"

    def _end(self, name: str, number: signal.Signals) -> None:
        pid = self.pid(name)
        if pid is None:
            return
        if not processes.end(pid, self._mark(name), number, STOP_TIMEOUT_S):
            fix = f"Its log is {self.output_file(name)}; `kill -9 {pid}` ends it."
            raise TimedOut(f"pid {pid} runs on {STOP_TIMEOUT_S:g} s after {number.name}", where=name, fix=fix)

    def _end_agents(self) -> None:
        left = processes.end_all([self._mark(name) for name in self.names], grace_s=STOP_TIMEOUT_S)
        for name in self.names:
            if pid := self._noted_pid(name):
                processes.reap(pid)  # one that had ended by itself
            (self.agent_directory(name) / "agent.pid").unlink(missing_ok=True)
        if left:
            raise MusterError(f"agents that can't be ended: {', '.join(map(str, left))}", where=str(self.directory))

    def _end_workloads(self) -> None:
        leftovers.end_processes([self.data_dir(name) for name in self.names])
        if "docker" in self.layout.runtimes and self.home.exists():
            leftovers.remove_containers(open_home(self.home).cluster.id)


def clean_environment() -> dict[str, str]:
    """This process's environment without variables that would configure an agent or name another cluster."""
    ours = {*ENVIRONMENT.values(), "MUSTER_HOME"}
    return {name: value for name, value in os.environ.items() if name not in ours}


def _genesis_members(home: Home) -> tuple[Member, ...]:
    data, _ = load_genesis(home)
    return decode_json(data, Genesis, where="genesis", max_bytes=len(data)).members


def _check_socket_path(directory: Path) -> None:
    """An agent that can't make its socket would be told about it in a log only."""
    path = directory / "run" / "agent.sock"
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        what = f"the path is too long for a socket in it ({MAX_SOCKET_PATH_BYTES} bytes with run/agent.sock)"
        raise InputError(what, where=str(directory), fix="Name a shorter one with --dir.")
