"""A lab and the operator's desk in it, for tests and benchmarks of `bootstrap install`."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import Lab, Result
from tests.support.waiting import wait_for_sync

ROOT = Path(__file__).parents[2]
COPIED = ("agent", "bootstrap", "systemd", "requirements.lock")
COMMAND_TIMEOUT_S = 240.0
READY_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Desk:
    """Commands run with a copy of the sources: an edit while tests run must not look like a later version."""

    lab: Lab
    sources: Path

    def run(
        self, *argv: str, env: Mapping[str, str] | None = None, check: bool = True, input: str | None = None
    ) -> Result:
        """A command at the desk, in its HOME."""
        environ = {**self._environ(), **(env or {})}
        return self.lab.operator.run(argv, env=environ, check=check, input=input, timeout_s=COMMAND_TIMEOUT_S)

    def popen(self, *argv: str) -> subprocess.Popen[bytes]:
        """The same, started: a session of its own, with its outputs in pipes."""
        return self.lab.operator.popen(argv, env=self._environ())

    def _environ(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self.sources), "XDG_CACHE_HOME": str(self.sources / "cache")}

    def write_hosts(self, *lines: str, name: str = "hosts.txt") -> str:
        """The list of hosts."""
        (self.lab.operator.home / name).write_text("".join(f"{line}\n" for line in lines))
        return name

    def install(self, *arguments: str, hosts: str = "hosts.txt", check: bool = True) -> dict[str, Any]:
        """`bootstrap install --json`: its document, hosts by alias under "hosts"."""
        result = self.run("bootstrap", "install", hosts, "--json", *arguments, check=False)
        assert result.stdout, f"exit {result.returncode}: {result.stderr}"
        document: dict[str, Any] = json.loads(result.stdout)
        document["hosts"] = {host["host"]: host for host in document["hosts"]}
        document["exit"] = result.returncode
        if check:
            assert document["ok"], document
            assert result.returncode == 0
        return document

    def status(self, *arguments: str) -> dict[str, Any]:
        """`agent status --json`."""
        found: dict[str, Any] = json.loads(self.run("agent", "status", "--json", *arguments, check=False).stdout)
        return found

    def wait_all_alive(self, names: Sequence[str]) -> dict[str, Any]:
        """Until the coordinator itself sees these hosts, and no others, alive."""

        def alive() -> dict[str, Any] | None:
            result = self.run("agent", "status", "--json", check=False)
            if not result.stdout:
                return None
            found: dict[str, Any] = json.loads(result.stdout)
            states = {host["name"]: host["state"] for host in found["hosts"]}
            return found if states == dict.fromkeys(names, "alive") and not found["stale"] else None

        found = wait_for_sync(alive, READY_TIMEOUT_S, what=f"{', '.join(names)} alive")
        assert found is not None
        return found


@contextmanager
def desk_of(lab: Lab, directory: Path) -> Iterator[Desk]:
    """The desk of that lab; `directory` holds the copy of the sources and the bundles made of it."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, directory / name)
    yield Desk(lab, directory)
