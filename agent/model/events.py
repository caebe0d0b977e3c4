"""What happened, as a person reads it: the events of `agent events` and of the SSE stream."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

MAX_WHAT_CHARACTERS = 1_000  # of one event's sentence: a thousand are kept, and each listener gets them all

EventKind = Literal["instruction", "phase", "assignment", "replica", "host", "coordinator", "member"]


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`id` orders the events of one agent; `at` is RFC 3339; `what` is the sentence shown to a person.

    The other fields say the same to programs, where they apply.
    """

    id: int
    at: str
    kind: EventKind
    what: Annotated[str, Meta(max_length=MAX_WHAT_CHARACTERS)]
    host: str = ""
    stack: str = ""
    service: str = ""
    slot: int = 0
    revision: int = 0
    state: str = ""
    by: str = ""


class LogLine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a replica's output. `at` is RFC 3339 with nanoseconds where the runtime has them, else empty."""

    stack: str
    service: str
    slot: int
    host: str
    at: str
    stream: Literal["stdout", "stderr"]
    line: str
