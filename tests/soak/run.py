"""One soak on a lab with a cluster in it: operators write, mishaps happen, the history and the ledgers are judged."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from tests.bootstrap.desk import ROOT, Desk
from tests.lab import Lab
from tests.soak.history import Written, read, wrong_in
from tests.soak.mishaps import Mishaps
from tests.support.waiting import wait_for_sync

SETTLES_S = 30.0  # until a host that just booted has caught up, and everyone agrees
ENDS_S = 60.0  # for the last instructions' answers
CALM_S = 5.0  # at the end operators go on and nothing happens to hosts: the history ends with answers
HISTORY = "history.jsonl"
Told = Callable[[str], None]


class Soak:
    """`directory` gets the history, and after a failure every host's log."""

    def __init__(self, desk: Desk, home: Path, directory: Path, told: Told) -> None:
        self._desk = desk
        self._home = home
        self._directory = directory
        self._told = told
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def _lab(self) -> Lab:
        return self._desk.lab

    def run(self, seconds: float, *, operators: int, seed: int) -> list[Written]:
        """The history, which is linearizable. Raises AssertionError with what is wrong; the logs are kept then."""
        began = time.monotonic()

        def told(line: str) -> None:
            self._told(f"{time.monotonic() - began:6.1f} s  {line}")

        try:
            mishaps = Mishaps(self._lab, random.Random(seed), told)
            history = self._write_through(mishaps, began + seconds, operators)
            self._tell(history, mishaps.count, seconds)
            self._judge(history)
            self._must_agree()
        except BaseException:
            self._keep_logs()
            raise
        return history

    def _write_through(self, mishaps: Mishaps, end: float, operators: int) -> list[Written]:
        out = self._directory / HISTORY
        argv = ["python", "-m", "tests.soak.writers", str(self._home), str(out)]
        argv += ["--for", str(end - time.monotonic()), "--operators", str(operators)]
        writers = self._lab.operator.popen(argv, env={"PYTHONPATH": str(ROOT)})
        try:
            mishaps.until(end - CALM_S)
            _, errors = writers.communicate(timeout=CALM_S + ENDS_S)
        finally:
            writers.kill()
        assert writers.returncode == 0, f"the operators' program ended with {writers.returncode}: {errors.decode()}"
        return read(out)

    def _tell(self, history: list[Written], mishaps: int, seconds: float) -> None:
        outcomes = Counter(written.outcome or "open" for written in history)
        again = sum(len(written.through) > 1 for written in history)
        waits = sorted(written.returned - written.invoked for written in history if written.returned is not None)
        self._told(
            f"{mishaps} mishaps in {seconds:.0f} s; {len(history)} instructions: {outcomes['applied']} applied, "
            f"{outcomes['conflict']} conflicts, {outcomes['open']} never answered, {again} sent more than once; "
            f"answered within {waits[len(waits) // 2]:.3f} s (median), {waits[-1]:.1f} s at most"
            if waits
            else "nothing was ever answered"
        )

    def _judge(self, history: list[Written]) -> None:
        assert any(written.outcome == "applied" for written in history), "no instruction was ever applied"
        wrong = wrong_in(history)
        lines = [msgspec.json.encode(written).decode() for part in wrong.values() for written in part]
        assert not wrong, "no order explains these answers:\n" + "\n".join(lines)
        self._told("the history is linearizable")

    def _must_agree(self) -> None:
        """Every host has the same ledger, to the last entry."""
        heads: dict[str, tuple[int, str]] = {}

        def agreed() -> bool:
            argv = ["python", "-m", "tests.soak.heads", str(self._home)]
            result = self._lab.operator.run(argv, env={"PYTHONPATH": str(ROOT)}, check=False)
            heads.update({name: (index, chain) for name, index, chain in json.loads(result.stdout or "[]")})
            return len(heads) == len(self._lab.hosts) and len(set(heads.values())) == 1

        wait_for_sync(agreed, SETTLES_S, what="the same ledger on every host")
        index, chain = next(iter(heads.values()))
        self._told(f"{len(heads)} hosts have the same ledger: entry {index}, {chain[:16]}")

    def _keep_logs(self) -> None:
        for name, host in self._lab.hosts.items():
            if host.running:
                log = host.run(["journalctl", "-u", "muster-agent", "--no-pager", "-o", "short-precise"], check=False)
                (self._directory / f"{name}.log").write_text(log.stdout)
        self._told(f"history and logs are in {self._directory}")
