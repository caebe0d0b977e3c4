"""Bad luck for a lab's hosts: one mishap after another, never more than a minority at once, until it is over."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from tests.bench.measures import pause
from tests.lab import Lab

WELL_S = (1.0, 4.0)  # between two mishaps
ILL_S = (1.0, 6.0)  # how long one lasts: shorter and longer than elections take
LOSSES = (5.0, 15.0, 30.0)  # percent


class Mishaps:
    """`told` gets a line for each. A host that is off is the only trouble while it is."""

    def __init__(self, lab: Lab, rng: random.Random, told: Callable[[str], None]) -> None:
        self._lab = lab
        self._rng = rng
        self._told = told
        self.count = 0
        self._kinds = (self._power_cut, self._partition, self._one_way, self._loss, self._cable)

    def until(self, end: float) -> None:
        """Until that moment of the monotonic clock; then all is well again."""
        try:
            while time.monotonic() < end:
                self.count += 1
                self._rng.choice(self._kinds)(self._rng.choice(list(self._lab.hosts)))
                self._pause(WELL_S, end)
        finally:
            self.mend()

    def mend(self) -> None:
        """The network is whole, and every host has power."""
        self._lab.heal()
        for host in self._lab.hosts.values():
            host.start()

    def _pause(self, bounds: tuple[float, float], end: float = float("inf")) -> None:
        pause(max(0.0, min(self._rng.uniform(*bounds), end - time.monotonic())))

    def _power_cut(self, name: str) -> None:
        self._told(f"{name} loses power")
        self._lab.hosts[name].power_cut()
        self._pause(ILL_S)
        self._lab.hosts[name].start()

    def _partition(self, name: str) -> None:
        others = [other for other in self._lab.hosts if other != name]
        self._told(f"{name} is cut off from {', '.join(others)}, and not from the operators")
        self._lab.partition({name}, others)
        self._pause(ILL_S)
        self._lab.heal()

    def _one_way(self, name: str) -> None:
        other = self._rng.choice([other for other in self._lab.hosts if other != name])
        self._told(f"{other} doesn't hear {name}")
        self._lab.block(name, other)
        self._pause(ILL_S)
        self._lab.heal()

    def _loss(self, name: str) -> None:
        percent = self._rng.choice(LOSSES)
        self._told(f"{name} loses {percent:.0f} % of its frames")
        self._lab.loss(name, percent)
        self._pause(ILL_S)
        self._lab.heal()

    def _cable(self, name: str) -> None:
        self._told(f"{name}'s cable is out")
        self._lab.hosts[name].cable_out()
        self._pause(ILL_S)
        self._lab.heal()
