"""What `Swim` asks its driver to do."""

from __future__ import annotations

from enum import Enum
from typing import TypeAlias

from msgspec import Struct

from agent.swim.messages import SwimMessage
from agent.swim.states import MemberState


class Send(Struct, frozen=True):
    """Sign `message` and send it to member `to` at `address` in one datagram.

    over_link: send it over the peer link *also*, when one is up; a member whose UDP port is blocked hears only there
    what is said of it, and must be able to answer. Messages are idempotent.
    """

    to: str
    address: str
    message: SwimMessage
    over_link: bool = False


class MemberChanged(Struct, frozen=True):
    """`member` went from `old` to `new` at `at` (the driver's monotonic seconds)."""

    member: str
    old: MemberState
    new: MemberState
    at: float


Output: TypeAlias = Send | MemberChanged


class Drop(Enum):
    """Why something from a remote was ignored; counted in `Swim.drops`."""

    UNKNOWN_SENDER = "unknown_sender"  # not a member in our ledger (yet)
    UNKNOWN_MEMBER = "unknown_member"  # an update about, or a request for, somebody outside our ledger
    BAD_ORIGIN = "bad_origin"  # a suspicion by nobody we know, or by the suspected itself
    INCARNATION_STEP = "incarnation_step"  # further ahead than any honest member can be
    UNEXPECTED_ANSWER = "unexpected_answer"  # an Ack or Nack nobody asked this sender for
    RELAYS_FULL = "relays_full"  # too many pings under way for others
