"""Histories too rare to wait for: some bugs need several things to meet in order, so these worlds are directed.

Each passes as it is; with its bug switched on (tests.sim.mutants) it breaks a property.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import replace

from agent.model.spec import ReplicaKey
from agent.model.types import AgentId
from agent.node.core import NodeCore
from agent.node.instant import Instant
from agent.node.machine import Compaction
from agent.node.messages import Frame, RaftFrame
from agent.raft import Configuration, EntryKind, RaftLimits
from agent.raft.messages import AppendResponse
from tests.sim.checks import Violated
from tests.sim.disk import SimDisk
from tests.sim.liars import Liar
from tests.sim.operators import Sent
from tests.sim.weather import Weather
from tests.sim.world import SimAgent, World

SOON_S = 0.0002
ONE_BY_ONE_S = 0.001
LOOK_S = 0.02  # shorter than what hosts take to do what they are told
LONG_S = 6.0  # how long paths stay shut
SCENE = {"name": "scene", "services": {"web": {"runtime": "process", "command": ["serve"]}}}
TAIL = 300  # entries that only a minority has: more than a new leader writes until the old one leads again


def changes_by_two_leaders() -> World:
    """Each of two leaders changes four voters by one, the second before it has committed anything (Ongaro 2015)."""

    def script(world: World) -> None:
        world.after(4.0, lambda: _grow(world))

    return World(4, size=4, until_s=24.0, given=Weather.fair(), script=script)


def _leader(world: World) -> SimAgent:
    return max(
        (agent for agent in world.alive() if agent.leads), key=lambda a: a.core.context.raft.term if a.core else 0
    )


def _shut(world: World, one: Collection[AgentId], other: Collection[AgentId]) -> None:
    paths = [(a, b) for a in one for b in other]
    world.network.block([*paths, *((b, a) for a, b in paths)], LONG_S, None)


def _grow(world: World) -> None:
    """The observer becomes the fourth voter; what follows comes before the autopilot takes one away again."""
    first = _leader(world)
    world.propose_configuration(first, Configuration.of(list(world.agents)))
    assert len(first.voters) == len(world.agents)

    def once_committed() -> None:
        assert first.core is not None
        if first.core.context.raft.configuration_committed:
            _change_apart(world, first)
        else:
            world.after(SOON_S, once_committed)

    once_committed()


def _change_apart(world: World, first: SimAgent) -> None:
    everybody = first.voters
    others = [voter for voter in everybody if voter != first.id]
    removed = others[0]
    _shut(world, [first.id], others)
    world.propose_configuration(first, Configuration.of([voter for voter in everybody if voter != removed]))

    def elected(second: SimAgent) -> None:
        rest = [voter for voter in others if voter != second.id]
        partner = removed if removed in rest else rest[0]
        world.network.block([(second.id, voter) for voter in rest if voter != partner], LONG_S, None)
        world.after(0.0, lambda: world.propose_configuration(second, Configuration.of(others)))

    world.mishaps.elected = elected  # type: ignore[assignment,method-assign]  # the director decides what happens then


def an_acknowledgement_of_an_earlier_term() -> World:
    """A follower's yes to entries that were thrown away since comes when its leader leads again."""

    def script(world: World) -> None:
        world.after(3.0, lambda: _lead_in_vain(world))

    small = RaftLimits(append_entries=1, inflight_messages=TAIL)
    return World(
        5, size=5, until_s=24.0, given=replace(Weather.fair(), limits=small, steady=True, pace_s=4.0), script=script
    )


def _lead_in_vain(world: World) -> None:
    first = _leader(world)
    others = [voter for voter in first.voters if voter != first.id]
    follower, rest = others[0], others[1:]
    data = next(e.data for e in reversed(first.disk.log.values()) if e.kind is EntryKind.NORMAL)
    held: dict[int, Frame] = {}
    send = world.network.send

    def hold(sender: SimAgent, to: AgentId, frame: Frame) -> None:
        if (sender.id, to) == (follower, first.id) and isinstance(frame, RaftFrame):
            if isinstance(frame.message, AppendResponse) and frame.message.accepted:
                held[frame.message.index] = frame
            return
        send(sender, to, frame)

    def write(core: NodeCore, when: Instant) -> None:
        core.context.raft.propose(data, when.mono)
        core.on_deadline(when)

    _shut(world, [first.id, follower], rest)
    world.network.send = hold  # type: ignore[method-assign]  # a network may keep what it likes
    for number in range(TAIL):  # one by one, so that each is acknowledged by itself
        world.after(number * ONE_BY_ONE_S, lambda: world.hand_in(first, write))

    def mend() -> None:
        world.network.send = send  # type: ignore[method-assign]  # it keeps nothing any more
        world.network.open_all()

    def hand_over() -> None:
        world.mishaps.elected = elected  # type: ignore[assignment,method-assign]  # the director decides what happens then
        world.hand_in(_leader(world), lambda core, when: _transfer(core, first.id, when))

    def elected(again: SimAgent) -> None:
        if again is not first or again.core is None:
            return
        _shut(world, [first.id], [voter for voter in others if voter != rest[0]])
        late = held.get(again.core.context.raft.last_index)
        assert late is not None, f"the follower had no entry {again.core.context.raft.last_index}: {sorted(held)}"
        world.after(0.0, lambda: world.hand_in(first, lambda core, when: core.frame(follower, late, when)))

    world.after(2.5, mend)
    world.after(3.5, hand_over)


def a_no_by_a_deposed_leader() -> World:
    """A leader that doesn't know yet that another one was elected is asked for what only that one can know (§6.4)."""

    def script(world: World) -> None:
        world.after(4.0, lambda: _ask_both(world))

    return World(6, size=3, until_s=24.0, given=Weather.fair(), script=script)


def moves(seed: int = 10) -> World:
    """Hosts are drained and used again while agents crash and links break for moments: a service of one replica, which
    takes a second to start, is never without one that runs. Nobody is away for so long that it counts as dead.
    """
    weights = {"drain": 6.0, "crash": 2.0, "crash_leader": 1.0, "pause": 0.5}
    weather = Weather(calm_after_s=48.0, weights=weights, starts_s=1.0, pace_s=3.0, port_taken=0.2)
    return World(seed, size=(3, 4, 5)[seed % 3], until_s=60.0, given=weather, script=_watch)


def _watch(world: World) -> None:
    key, seen = ReplicaKey(stack="lone", service="web", slot=1), False
    ports = [{"host_port": 8080, "container_port": 80}]
    web = {"runtime": "process", "command": ["serve"], "replicas": 1, "ports": ports}
    world.operators.insist("deploy", f"stack:{key.stack}", {"name": key.stack, "services": {key.service: web}})

    def look() -> None:
        nonlocal seen
        serving = any(agent.host.serves(key) for agent in world.agents.values() if agent.life)
        if seen and not serving:
            raise Violated(f"{key} runs nowhere, and nobody is dead")
        seen = seen or serving
        world.after(LOOK_S, look)

    def must_run() -> None:
        if not seen:
            raise Violated(f"{key} never ran")

    world.after(LOOK_S, look)
    world.after(world.until_s / 2, must_run)


def a_doctored_snapshot(seed: int = 7) -> World:
    """The coordinator tells another past to a voter and to an observer that were away, until it starts anew."""

    def script(world: World) -> None:
        world.after(4.0, lambda: _lie_to_the_absent(world))

    often = Compaction(every_entries=8, kept_entries=0)
    weather = replace(Weather.fair(), compaction=often, limits=RaftLimits(chunk_bytes=2048), pace_s=0.5)
    return World(seed, size=4, until_s=34.0, given=weather, script=script)


def _lie_to_the_absent(world: World) -> None:
    first = _leader(world)
    liar = Liar(world, first)
    liar.begin()
    follower = next(agent for agent in world.alive() if agent.id in first.voters and agent is not first)
    observer = next(agent for agent in world.alive() if agent.id not in first.voters)
    for absent in (follower, observer):
        world.crash(absent)
        world.restart(absent, LONG_S)

    def confess() -> None:
        assert liar.told, "nobody needed a snapshot"
        world.faults += liar.told
        liar.lies = False
        world.crash(first)
        world.restart(first, 1.0)

    world.after(2 * LONG_S, confess)


def a_disk_that_went_back() -> World:
    """Two of three commit, then one is gone, and the other has forgotten it: the third must not be elected by that."""

    def script(world: World) -> None:
        world.after(4.0, lambda: _forget(world))

    return World(8, size=3, until_s=34.0, given=replace(Weather.fair(), pace_s=0.5), script=script)


def _forget(world: World) -> None:
    first = _leader(world)
    victim, other = (world.agents[voter] for voter in first.voters if voter != first.id)
    older = copy.deepcopy(victim.disk)
    _shut(world, [first.id], [other.id])

    def put_back() -> None:
        for agent in (first, victim):
            world.crash(agent)
        world.restart(first, LONG_S)
        victim.disk = older
        world.start(victim)

    world.after(LONG_S / 3, put_back)


def a_disk_that_went_back_beside_one_that_was_away(copied_after_s: float = 0.0) -> World:
    """Of three voters one is away and needs a snapshot; of the two others one has forgotten much of what that missed.

    Its disk was copied while all were there, or so long afterwards: then the third alone knows. All of them start anew.
    """

    def script(world: World) -> None:
        world.after(4.0, lambda: _forget_beside_one_away(world, copied_after_s))

    often = Compaction(every_entries=8, kept_entries=0)
    weather = replace(Weather.fair(), compaction=often, pace_s=1.0)
    return World(9, size=3, until_s=80.0, given=weather, script=script)


def _forget_beside_one_away(world: World, copied_after_s: float) -> None:
    first = _leader(world)
    victim, other = (world.agents[voter] for voter in first.voters if voter != first.id)
    older: list[SimDisk] = []

    def put_back() -> None:
        for agent in (first, victim):
            world.crash(agent)
        victim.disk = older[0]
        for agent in (first, victim, other):
            world.start(agent)

    world.after(copied_after_s, lambda: older.append(copy.deepcopy(victim.disk)))

    world.after(LONG_S / 3, lambda: world.crash(other))
    world.after(LONG_S, put_back)


def a_sole_voters_disk_that_went_back() -> World:
    """Two hosts, of which one votes, become three that all do; then the first one's disk is that of before."""

    def script(world: World) -> None:
        world.after(4.0, lambda: _grow_and_forget(world))

    return World(10, size=2, until_s=100.0, given=Weather.slow(), script=script)


def _grow_and_forget(world: World) -> None:
    first = _leader(world)
    older = copy.deepcopy(first.disk)
    world.operators.join(1)

    def once_grown() -> None:
        if len(_leader(world).voters) < 3:
            world.after(1.0, once_grown)
            return
        world.after(LONG_S, put_back)

    def put_back() -> None:
        world.faults += 1
        world.crash(first)
        first.disk = older
        world.checks.put_back.add(first.id)
        world.start(first)
        world.after(0.0, lambda: world.operators.send(late, first))

    late = world.operators.sign("deploy", "stack:scene", 1, SCENE)
    once_grown()


def _ask_both(world: World) -> None:
    first, target = _leader(world), "stack:scene"
    others = [world.agents[voter] for voter in first.voters if voter != first.id]
    _shut(world, [first.id], [other.id for other in others])
    for other in others:  # they hear that it is gone; it hears nothing
        world.hand_in(other, lambda core, when: core.context.raft.peer_unlinked(first.id, when.mono))

    def once_elected() -> None:
        second = next((other for other in others if other.core is not None and other.core.context.leads), None)
        if second is None:
            world.after(SOON_S, once_elected)
            return
        sent = world.operators.sign("deploy", target, 1, SCENE)
        world.operators.send(sent, second)
        once_applied(sent)

    def once_applied(sent: Sent) -> None:
        if not sent.done:
            world.after(SOON_S, lambda: once_applied(sent))
            return
        assert first.leads, "it has noticed"
        asked = world.operators.sign("scale", target, 2, {"services": {"web": 2}})
        world.operators.send(asked, first)
        world.after(SOON_S, lambda: once_answered(asked))

    def once_answered(asked: Sent) -> None:
        """A no that was told too early would let this one be the second."""
        if not asked.done and world.now < LONG_S:
            world.after(SOON_S, lambda: once_answered(asked))
            return
        another = world.operators.sign("scale", target, 2, {"services": {"web": 3}})
        world.operators.send(another, next(other for other in others if other.leads))

    once_elected()


def _transfer(core: NodeCore, to: AgentId, when: Instant) -> None:
    core.context.raft.transfer_leadership(to, when.mono)
    core.on_deadline(when)
