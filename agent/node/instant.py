"""The two clocks an input comes with."""

from __future__ import annotations

from msgspec import Struct


class Instant(Struct, frozen=True, gc=False):
    """`mono`: seconds, monotonic, for every timer. `wall_ms`: epoch milliseconds, for stamps and `exp` only."""

    mono: float
    wall_ms: int
