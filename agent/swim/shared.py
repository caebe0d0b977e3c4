"""What all parts of one agent's core share."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct, field

from agent.swim.awareness import Awareness
from agent.swim.config import SwimConfig
from agent.swim.members import Roster
from agent.swim.outputs import Drop, Output


class Shared(Struct):
    """`now`: of the input that is being taken, in monotonic seconds. `incarnation`: the own one."""

    id: str
    config: SwimConfig
    roster: Roster
    awareness: Awareness
    now: float
    incarnation: int
    leaving: bool = False
    drops: Counter[Drop] = field(default_factory=Counter)
    outputs: list[Output] = field(default_factory=list)
