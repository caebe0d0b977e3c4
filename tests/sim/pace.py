"""How much happens in a world in how little time: what goes round, among agents or in the world itself, is ended and
named, as it would keep the world from ever being over, and real hosts busy with nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.sim.checks import Violated

# In a virtual second. The busiest of a thousand worlds had 250, but for one with 2,000: 100 entries were brought to a
# voter one by one, over a network that reorders what a link doesn't.
MAX_EVENTS_PER_HOST = 20_000
NAMED_EVENTS = 1_000  # of what goes round a part tells what it is


@dataclass(slots=True)
class Pace:
    """`_left`: how much may happen until `_until`, a virtual second after the first that was counted."""

    _until: float = float("-inf")
    _left: int = 0
    _names: Counter[str] = field(default_factory=Counter)

    def count(self, event: Callable[[], None], now: float, hosts: int) -> None:
        """What happens at `now`, in a world of so many hosts. Raises Violated."""
        if now >= self._until:
            self._until, self._left = now + 1.0, MAX_EVENTS_PER_HOST * hosts
            self._names.clear()
        self._left -= 1
        if self._left < NAMED_EVENTS:
            self._names[_name(event)] += 1
        if self._left < 0:
            named = ", ".join(f"{name} ({count})" for name, count in self._names.most_common(3))
            raise Violated(f"{MAX_EVENTS_PER_HOST * hosts} events within a second, the last {NAMED_EVENTS} are {named}")


def _name(event: Callable[[], None]) -> str:
    return str(getattr(getattr(event, "func", event), "__qualname__", event)).replace(".<locals>", "")
