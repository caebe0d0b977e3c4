"""Which version of the frames agents speak with each other (ARCHITECTURE.md "Versions on the wire"). Pure.

Each side's hello says the highest version it knows; the link speaks the lower one, `Peer.frames`. What a version knows
stays as it is for good; a later one may only add:

- a kind (frame, request, reply, message of consensus): with its version in `SINCE`. Whoever sends it looks
  at `Peer.frames` first, and does without where that is lower: the peer would drop it, and count it.
- a field with a default, in a struct that takes unknown ones: an earlier agent ignores it, a later one reads the
  default where an earlier one says nothing. So the default has to mean what was so before.

Everything else is a kind of its own. Arrays (consensus, SWIM) and closed structs get no fields. What a version looks
like is kept in tests/net/kept_shapes/, and what an agent of an earlier version makes of it is played in the simulator.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

FRAME_VERSION: Final = 2

# The earliest that is still spoken. Who speaks none that we do is refused by `version`; it goes up when kinds that
# nobody sends any more are taken away.
OLDEST_FRAME_VERSION: Final = 1

SINCE: Final[dict[type[Struct], int]] = {}
"""The first version of each kind that the first one didn't know."""


def spoken_with(highest: int) -> int | None:
    """The version of a link with a peer that knows versions up to `highest`; None if there is none."""
    return min(highest, FRAME_VERSION) if highest >= OLDEST_FRAME_VERSION else None
