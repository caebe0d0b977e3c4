"""What is measured on a LAN of booted hosts, beside others' tools doing the same on the same hosts, in the same run."""

from __future__ import annotations

from collections.abc import Callable

from tests.bench.figures import Figure
from tests.bench.lan.answers import answers
from tests.bench.lan.deploy import deploy
from tests.bench.lan.elections import false_elections
from tests.bench.lan.formation import formation
from tests.bench.lan.idle import idle
from tests.bench.lan.install import install
from tests.bench.lan.succession import killed, succession
from tests.bench.lan.workers import workers

MEASURES: dict[str, Callable[[int], list[Figure]]] = {
    "install": install,
    "formation_lan": formation,
    "deploy": deploy,
    "workers": workers,
    "idle_lan": idle,
    "answers_lan": answers,
    "succession_lan": succession,
    "killed_lan": killed,
    "false_elections_lan": false_elections,
}
