"""What the process runtime does to processes: start, find again, signal, clean up. Shell; every method blocks, call
them in threads.

A process is only ever signalled if it is the one that a record names: by boot, pid and start time, or by the mark in
its environment.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

from msgspec.structs import replace

from agent import errors
from agent.model.spec import ReplicaKey, ReplicaSpec
from agent.model.types import AgentId, ClusterId, is_label
from agent.runtime import proc, spawn
from agent.runtime.logfiles import STREAMS, Stream, written
from agent.runtime.records import Record, Records
from agent.runtime.sockets import taken_ports


def _now_ms() -> int:
    return int(time.time() * 1000)


class Supervisor:
    """Invariant: records are written under the lock only, and an old run never overwrites a younger one's record."""

    def __init__(self, *, cluster: ClusterId, agent: AgentId, data_dir: Path, publish_address: str) -> None:
        self._cluster = cluster
        self._agent = agent
        self._data_dir = data_dir
        self._publish_address = publish_address
        self._records = Records(data_dir / "processes")
        self._lock = threading.Lock()
        self._boot = ""
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._codes: dict[str, int | None] = {}  # by run, between its end and the record of it
        self.systemd = False

    def open(self, use_systemd: bool | None) -> None:
        """Make the directories, learn about the machine, take over what this host ran under an earlier identity.

        A data directory is one agent's, so nobody else's records are in it.
        """
        self._records.create()
        for record in self._records.all():
            if (record.cluster, record.agent) != (self._cluster, self._agent):
                self._records.write(replace(record, cluster=self._cluster, agent=self._agent))
        self._boot = proc.boot_id()
        self.systemd = spawn.has_scopes() if use_systemd is None else use_systemd

    def close(self) -> None:
        """Let go of our children, which keep running."""
        for child in self._children.values():
            child.returncode = 0  # not ours to wait for any more; init does, and Popen mustn't warn about it
        self._children.clear()

    def directory(self, stack: str) -> Path:
        """The working directory of a stack's processes."""
        return self._data_dir / "stacks" / stack

    def log_paths(self, key: ReplicaKey) -> dict[Stream, Path]:
        """Where the replica's output goes."""
        directory = self._data_dir / "logs" / key.stack
        return {stream: directory / f"{key.service}.{key.slot}.{stream}.log" for stream in STREAMS}

    def prepare(self, spec: ReplicaSpec) -> None:
        """Raises NotFound when the program can't be found."""
        spawn.resolve_command(spec, self.directory(spec.key.stack))

    def start(self, spec: ReplicaSpec) -> Record:
        """Start it, or find that it runs already. Raises PortTaken, NotFound, MusterError; then nothing is left."""
        with self._lock:
            present = self._records.read(spec.key)
            if present is not None and present.pid and self.runs(present):
                if present.spec_hash == spec.hash:
                    return present
                raise errors.Conflict("another run of it hasn't ended", where=str(spec.key))
            directory = self.directory(spec.key.stack)
            command = spawn.resolve_command(spec, directory)
            if taken := taken_ports(self._publish_address, spec.ports):
                raise errors.PortTaken(taken, where=str(spec.key))
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            record = self._planned(spec)
            self._records.write(record)
            try:
                started = self._spawn(spec, record, command, directory)
            except OSError as error:
                self._records.delete(spec.key)
                what = f"{command[0]} can't be started: {error.strerror}"
                raise errors.MusterError(what, where=str(spec.key)) from error
            self._records.write(started)
            return started

    def _planned(self, spec: ReplicaSpec) -> Record:
        run = secrets.token_hex(16)
        unit = f"muster-{spec.key.stack}-{spec.key.service}-{spec.key.slot}-{run[:8]}.scope" if self.systemd else ""
        return Record(
            key=spec.key,
            cluster=self._cluster,
            agent=self._agent,
            name=spec.container_name,
            revision=spec.revision,
            spec_hash=spec.hash,
            ports=spec.ports,
            stop_grace_ms=spec.stop_grace_ms,
            run=run,
            boot=self._boot,
            unit=unit,
            earlier=written(self.log_paths(spec.key)),
        )

    def _spawn(self, spec: ReplicaSpec, record: Record, command: list[str], directory: Path) -> Record:
        child = spawn.spawn(
            spawn.scope_command(command, record.unit, spec) if record.unit else command,
            environment=spawn.environment_of(spec, record.run),
            directory=directory,
            logs=self.log_paths(spec.key),
        )
        self._children[child.pid] = child
        # It may have ended already: not waited for, it is a zombie that still has its start time.
        start = proc.start_time(child.pid, zombie=True)
        assert start is not None
        return replace(record, pid=child.pid, start=start, started_at=_now_ms())

    def runs(self, record: Record) -> bool:
        """Whether the very process that the record names is there."""
        return record.boot == self._boot and record.pid > 0 and proc.start_time(record.pid) == record.start

    def look(self) -> list[Record]:
        """Every record of ours; unnoticed ends are noticed now, and interrupted starts completed or undone."""
        found = []
        for record in self._records.all():
            if (record.cluster, record.agent) != (self._cluster, self._agent):
                continue
            known = record if record.pid else self._complete(record.key)
            if known is not None and not known.ended and not self.runs(known):
                known = self.end(known, "")
            if known is not None:
                found.append(known)
        return found

    def _complete(self, key: ReplicaKey) -> Record | None:
        """A record without a process: nobody starts it now (the lock), so whoever did was interrupted."""
        with self._lock:
            record = self._records.read(key)
            if record is None or record.pid:
                return record
            for pid in proc.marked_processes(record.mark) if record.boot == self._boot else []:
                start = proc.start_time(pid)
                if start is not None and os.getsid(pid) == pid:
                    record = replace(record, pid=pid, start=start, started_at=_now_ms())
                    self._records.write(record)
                    return record
            proc.kill_marked(record.mark)
            self._records.delete(key)
            return None

    def find(self, workload_id: str) -> Record | None:
        """The record with that workload id."""
        for record in self._records.all():
            if (
                record.pid
                and record.id == workload_id
                and (record.cluster, record.agent) == (self._cluster, self._agent)
            ):
                return record
        return None

    def signal(self, record: Record, number: signal.Signals) -> None:
        """Signal the whole process group, if its leader still is who the record says."""
        if self.runs(record):
            proc.signal_group(record.pid, number)

    def end(self, record: Record, reason: str) -> Record:
        """Note that it ended, with its exit code if that can be known, and kill what it left behind."""
        with self._lock:
            if record.run not in self._codes:
                present = self._records.read(record.key)
                if present is not None and present.run == record.run and present.ended:
                    return present
                self._codes[record.run] = self._reap(record)  # only the first who asks is told
            code = self._codes[record.run]
        proc.kill_marked(record.mark)
        if record.unit:
            spawn.end_scope(record.unit)
        with self._lock:
            self._codes.pop(record.run, None)
            present = self._records.read(record.key)
            ended = replace(record, ended=True, exit_code=code, reason=reason or _how(code))
            if present is None or present.run != record.run:
                return ended
            if present.ended:
                return present
            self._records.write(ended)
            return ended

    def _reap(self, record: Record) -> int | None:
        """The exit code as a shell gives it (128 + signal); None when it wasn't our child, so nobody told us."""
        if record.boot != self._boot:
            return None
        child = self._children.pop(record.pid, None)
        if child is not None:
            proc.signal_group(record.pid, signal.SIGKILL)  # not waited for yet: the number is still its own
            code: int | None = child.wait()
        else:
            try:
                pid, status = os.waitpid(record.pid, os.WNOHANG)
            except ChildProcessError:
                return None
            code = os.waitstatus_to_exitcode(status) if pid else None
        return 128 - code if code is not None and code < 0 else code

    def forget(self, record: Record) -> None:
        """Delete its record. It has ended; the logs stay until the stack goes."""
        with self._lock:
            present = self._records.read(record.key)
            if present is not None and present.run == record.run:
                self._records.delete(record.key)

    def tidy(self, stacks_in_use: frozenset[str], delete_volumes_of: frozenset[str]) -> None:
        """Remove logs of stacks that are gone, and the working directories of those whose volumes go too."""
        busy = stacks_in_use | {record.key.stack for record in self._records.all()}
        logs = self._data_dir / "logs"
        names = os.listdir(logs) if logs.is_dir() else []
        for name in names:
            if is_label(name) and name not in busy:
                shutil.rmtree(logs / name, ignore_errors=True)
        for name in delete_volumes_of - busy:
            if is_label(name):
                shutil.rmtree(self.directory(name), ignore_errors=True)


def _how(code: int | None) -> str:
    if code is None:
        return "ended while the agent was away: its exit code isn't known"
    if code > 128:
        try:
            return f"ended by {signal.Signals(code - 128).name}"
        except ValueError:
            pass  # a program may choose such a code itself
    return f"ended with code {code}"
