"""A world in which something goes round is ended, and told what it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.node.core import NodeCore
from agent.node.instant import Instant
from agent.raft import Raft
from agent.raft.messages import Heartbeat, HeartbeatResponse, Message
from tests.sim import pace
from tests.sim.batch import in_time
from tests.sim.checks import Violated
from tests.sim.weather import Weather
from tests.sim.world import World

LIMIT_S = 60.0  # none of them comes near it: it ends a world that isn't ended


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes round is noticed early, as it costs time."""
    monkeypatch.setattr(pace, "MAX_EVENTS_PER_HOST", 1_000)


def goes_round(world: World) -> None:
    """Something that happens again and again in the same moment."""
    world.after(0.0, lambda: goes_round(world))


def test_what_happens_again_and_again_in_one_moment_is_named() -> None:
    with pytest.raises(Violated, match=r"events within a second, .*goes_round"), in_time(LIMIT_S):
        World(1, script=goes_round).run()


def answers_without_end(
    receive: Callable[[Raft, str, Message, float], None],
) -> Callable[[Raft, str, Message, float], None]:
    """Each answer to a heartbeat is answered by a heartbeat."""

    def mutant(self: Raft, sender: str, message: Message, now: float) -> None:
        receive(self, sender, message, now)
        if isinstance(message, HeartbeatResponse) and self.is_leader:
            again = Heartbeat(term=self.term, commit=0, round=message.round)
            self._state.outbox.send_now(sender, again)

    return mutant


def test_agents_that_answer_each_other_without_end_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """At first in a conversation or two, each heartbeat beginning one more."""
    monkeypatch.setattr(Raft, "receive", answers_without_end(Raft.receive))
    with pytest.raises(Violated, match=r"events within a second, .*Network\._deliver\.arrive"), in_time(LIMIT_S):
        World(1, given=Weather.fair()).run()


def test_an_agent_whose_timer_is_always_due_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hair later each time, so that it is never the same moment."""
    on_deadline = NodeCore.on_deadline
    seen: list[float] = [0.0]

    def due_at_once(self: NodeCore, when: Instant) -> None:
        on_deadline(self, when)
        seen[0] = when.mono

    monkeypatch.setattr(NodeCore, "on_deadline", due_at_once)
    monkeypatch.setattr(NodeCore, "deadline", lambda _self: seen[0])
    with pytest.raises(Violated, match="n1: its timer spins"), in_time(LIMIT_S):
        World(1, size=1, given=Weather.fair()).run()
