"""How bad a world is: probabilities, times in seconds, and which faults happen how often, drawn from the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from agent.node.machine import Compaction
from agent.raft import RaftLimits, RaftTiming
from agent.swim import SwimConfig

CALM_S = 14.0  # without faults at the end: agreement has to come within it
PROGRESS_S = 8.0  # after the faults stopped, an instruction applies within this; both more where timeouts are longer
FOUL = (
    "crash",
    "crash_leader",
    "power_cut",
    "cut",
    "one_way",
    "hub",
    "chain",
    "pause",
    "jump",
    "stall",
    "meddle",
    "drain",
)
FAR = 0.25  # of the worlds span sites: timeouts of seconds
MIXED = 0.25  # of the worlds are being upgraded from one version to the next
LABELLED = 0.25  # of the worlds have hosts whose labels change, and services that want some
BEREFT = 0.05  # of the worlds lose the majority of their voters, and go on in another epoch
# Operators who hardly wait make a world twice as dear, and show half as many known bugs for its price, so that one in
# twenty has them: where leaders are slow to change, and more is under way at once.
QUICK_S = 0.5
RARE = ("enrol", "expel")  # once or twice in a world: every member ever enrolled costs time until its end


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """Faults stop at `calm_after_s`; what is left out at the end stays so (`Faults.settle_for_calm`).

    `steady`: delays and writes all take their mean, so that nothing but the agents themselves breaks a tie.
    `crash_every_effects`: the mean number of effects between two crashes in the middle of carrying them out; 0: none.
    `upstart`: how likely whoever has just won an election is hit at that moment. `ghosts`: how likely old messages come
    again then. `pace_s`: operators wait up to this after an answer; `idle`: none of them works. `mixed`: how likely
    hosts of two versions meet. `labelled`: how likely hosts' labels change. `bereft`: how likely a majority is lost,
    for good or as far as its operator knows. `starts_s`: how long a replica takes to.
    """

    calm_after_s: float
    progress_s: float = PROGRESS_S
    timing: RaftTiming = field(default_factory=RaftTiming.lan)
    swim: SwimConfig = field(default_factory=SwimConfig.lan)
    loss: float = 0.0
    duplication: float = 0.0
    straggling: float = 0.0
    steady: bool = False
    delay_s: float = 0.0005
    write_s: float = 0.0003
    crash_voting: float = 0.0
    crash_every_effects: int = 0
    upstart: float = 0.0
    ghosts: float = 0.0
    pace_s: float = 1.0
    idle: bool = False
    mixed: float = 0.0
    labelled: float = 0.0
    bereft: float = 0.0
    fault_every_s: float = 1.0
    no_image: float = 0.0
    port_taken: float = 0.0
    unreached: float = 0.0
    ailing: float = 0.0
    starts_s: float = 0.0
    weights: dict[str, float] = field(default_factory=dict)
    limits: RaftLimits = field(default_factory=RaftLimits)
    compaction: Compaction = field(default_factory=Compaction)
    left_out: str = "nobody"

    @classmethod
    def draw(cls, rng: random.Random, until_s: float) -> Weather:
        """From fair to foul. Of the kinds of faults, a few dominate each world, so that they meet their own kind."""
        weights = {kind: rng.choice([0.0, 1.0, 1.0, 6.0]) for kind in FOUL} | dict.fromkeys(RARE, 0.1)
        small = RaftLimits(
            append_entries=rng.choice([1, 2, 1024]), inflight_messages=rng.choice([2, 64]), chunk_bytes=2048
        )
        every = rng.choice([8, 30, 5000])
        far = rng.random() < FAR
        timing, swim = (RaftTiming.wan(), SwimConfig.wan()) if far else (RaftTiming.lan(), SwimConfig.lan())
        patience_s = 2 * (timing.election_timeout_max_s - RaftTiming.lan().election_timeout_max_s)
        return cls(
            calm_after_s=max(until_s * 0.5, until_s - CALM_S - patience_s),
            progress_s=PROGRESS_S + patience_s,
            timing=timing,
            swim=swim,
            loss=rng.choice([0.0, 0.02, 0.1, 0.25]),
            duplication=rng.choice([0.0, 0.02, 0.1]),
            straggling=rng.choice([0.0, 0.01, 0.05]),
            steady=rng.random() < 0.3,
            delay_s=rng.choice([0.0005, 0.005, 0.03]),
            write_s=rng.choice([0.0003, 0.003, 0.03]),
            crash_voting=rng.choice([0.0, 0.1, 0.5]),
            crash_every_effects=rng.choice([0, 0, 3000, 600]),
            upstart=rng.choice([0.0, 0.0, 0.3, 0.7]),
            ghosts=rng.choice([0.0, 0.0, 0.5]),
            pace_s=rng.choice([QUICK_S if far else 3.0, 4.0, 4.0, 5.0, 5.0]),
            weights=weights,
            limits=small,
            compaction=Compaction(every_entries=every, kept_entries=rng.choice([0, every // 2])),
            no_image=rng.choice([0.0, 0.0, 0.2]),
            port_taken=rng.choice([0.0, 0.2]),
            unreached=rng.choice([0.0, 0.0, 0.2]),
            ailing=rng.choice([0.0, 0.0, 0.2]),
            mixed=MIXED,
            labelled=LABELLED,
            bereft=BEREFT,
            left_out=rng.choice(["nobody", "dead", "cut off", "deaf", "mute"]),
        )

    @classmethod
    def fair(cls) -> Weather:
        """Nothing happens that a script doesn't say."""
        return cls(calm_after_s=0.0)

    @classmethod
    def slow(cls) -> Weather:
        """As fair; for stories of minutes, as every instruction costs time until the end."""
        return cls(calm_after_s=0.0, pace_s=8.0)
