"""One agent on the bench: fed message by message, its timers run in virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable

from agent.swim import (
    Ack,
    Claim,
    Gossip,
    MemberChanged,
    MemberState,
    Output,
    Ping,
    Send,
    Swim,
    SwimConfig,
    SwimMessage,
    Update,
)

CONFIG = SwimConfig.lan()


class Bench:
    """The agent `me` among `others`, with the outputs of the last step."""

    def __init__(self, others: str = "bcd", incarnation: int = 0) -> None:
        self.now = 0.0
        self.swim = Swim(id="me", config=CONFIG, rng=random.Random(7), now=0.0, incarnation=incarnation)
        self.outputs: list[Output] = []
        self.probed: list[Send] = []
        self.set_members(*others)
        for other in others:
            self.hear(other, Gossip(0))
        self.run_to(0.0)

    def set_members(self, *others: str) -> None:
        self.swim.set_members({other: f"{other}:9998" for other in ("me", *others)}, self.now)
        self.outputs = self.swim.take_outputs()

    def hear(self, sender: str, message: SwimMessage) -> None:
        self.swim.receive(sender, message, self.now)
        self.outputs = self.swim.take_outputs()

    def claim(self, member: str, claim: Claim, incarnation: int = 0, origin: str = "c", sender: str = "c") -> None:
        self.hear(sender, Gossip(0, (Update(member, origin, claim, incarnation),)))

    def link(self, member: str) -> None:
        self.swim.link_alive(member, self.now)
        self.outputs = self.swim.take_outputs()

    def run_to(self, end: float) -> None:
        """Every timer up to `end`; the outputs of all."""
        self.outputs = []
        while self.swim.deadline() <= end:
            self.now = max(self.now, self.swim.deadline())
            self.swim.on_deadline(self.now)
            self.outputs += self.swim.take_outputs()
        self.now = end

    def run_until(self, condition: Callable[[], bool], within: float = 30) -> None:
        end = self.now + within
        while not condition():
            assert self.swim.deadline() <= end, "the condition never held"
            self.run_to(self.swim.deadline())

    def sends(self, kind: type[SwimMessage], to: str | None = None) -> list[Send]:
        return [
            output
            for output in self.outputs
            if isinstance(output, Send) and isinstance(output.message, kind) and to in (None, output.to)
        ]

    def next_probe(self) -> tuple[str, int]:
        """Run to the next probe: its target and sequence."""
        found: list[Send] = []

        def probing() -> bool:
            found[:] = [send for send in self.sends(Ping) if send.message.sequence]  # type: ignore[union-attr]  # Pings
            return bool(found)

        self.outputs = []
        self.run_until(probing)
        message = found[-1].message
        assert isinstance(message, Ping)
        return found[-1].to, message.sequence

    def answered_probe(self) -> str:
        """Run to the next probe and answer it; its target."""
        target, sequence = self.next_probe()
        self.probed = self.sends(Ping, target)
        self.hear(target, Ack(sequence, 0))
        return target

    def changes(self) -> list[tuple[str, MemberState]]:
        return [(output.member, output.new) for output in self.outputs if isinstance(output, MemberChanged)]

    def state(self, member: str) -> MemberState:
        return self.swim.members()[member].state


def silent_until_dead(bench: Bench, member: str) -> float:
    start = bench.now
    bench.run_until(lambda: bench.state(member) is MemberState.DEAD)
    return bench.now - start
