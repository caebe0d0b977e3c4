"""Whole clusters in memory: a few stories, and seeded chaos against Raft's properties (Raft fig. 3.2)."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import pytest

from agent.raft import Configuration, RaftError, RaftLimits, Role
from tests.raft.cluster import Cluster, Network


def test_a_single_voter_leads_at_once() -> None:
    cluster = Cluster(1)
    cluster.start()
    assert cluster.run_until(lambda: cluster.leader() == "a") < 0.01
    cluster.replicate(b"x")


@pytest.mark.parametrize("size", [2, 3, 4, 5])
@pytest.mark.parametrize("seed", range(5))
def test_a_cluster_at_term_0_elects_as_soon_as_a_majority_is_linked(size: int, seed: int) -> None:
    cluster = Cluster(size, seed=seed)
    cluster.start()
    assert cluster.run_until(lambda: cluster.leader() is not None) < 0.5
    cluster.replicate(b"x")
    assert {member.machine.data for member in cluster.members.values()} == {cluster.members["a"].machine.data}


@pytest.mark.parametrize("seed", range(20))
def test_a_dead_leader_process_is_replaced_in_well_under_400_ms(seed: int) -> None:
    cluster = Cluster(3, seed=seed)
    cluster.start()
    cluster.replicate(b"x")
    cluster.run(1.0)
    leader = cluster.elect()
    cluster.crash(leader)
    assert cluster.run_until(lambda: cluster.leader() is not None) < 0.4


@pytest.mark.parametrize("seed", range(10))
def test_a_leader_whose_cable_is_pulled_is_replaced_in_two_seconds_and_steps_down(seed: int) -> None:
    cluster = Cluster(5, seed=seed)
    cluster.start()
    cluster.replicate(b"x")
    old = cluster.elect()
    cluster.partition([old], [id for id in cluster.ids if id != old])
    cluster.run_until(lambda: cluster.leader() not in (None, old), within_s=2.5)
    cluster.run_until(lambda: cluster.raft(old).role is not Role.LEADER, within_s=1.5)


def test_a_returning_member_does_not_disturb_a_leader_that_is_well() -> None:
    """Thesis §9.6: a partitioned member's term doesn't grow, so that its return costs no election."""
    cluster = Cluster(3)
    cluster.start()
    cluster.replicate(b"x")
    leader = cluster.elect()
    term = cluster.raft(leader).term
    lonely = next(id for id in cluster.ids if id != leader)
    cluster.partition([lonely], [id for id in cluster.ids if id != lonely])
    cluster.run(20.0)
    cluster.heal()
    cluster.run(3.0)
    assert cluster.leader() == leader
    assert {cluster.raft(id).term for id in cluster.ids} == {term}


def test_a_far_behind_member_catches_up_by_a_snapshot_in_chunks() -> None:
    cluster = Cluster(3, limits=RaftLimits(chunk_bytes=64))
    cluster.start()
    cluster.replicate(b"x")
    leader = cluster.elect()
    behind = next(id for id in cluster.ids if id != leader)
    cluster.crash(behind)
    for number in range(50):
        cluster.replicate(b"%d" % number)
    applied = cluster.raft(leader).applied
    cluster.raft(leader).compact(applied, cluster.members[leader].machine.data, keep_entries=2)
    cluster.work()
    cluster.start(behind)
    cluster.run_until(lambda: cluster.raft(behind).applied >= applied)
    assert cluster.members[behind].disk.snapshot is not None
    cluster.replicate(b"after")
    assert cluster.members[behind].machine.data == cluster.members[leader].machine.data


class Chaos:
    """Random crashes, partitions, proposals, changes of members, compactions; everything from one seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        network = Network(loss=0.05, repeat=0.05, delay_s=(0.0, self.rng.choice([0.002, 0.2])), fsync_s=(0.0, 0.03))
        limits = RaftLimits(append_bytes=40, inflight_messages=4, chunk_bytes=50, committed_bytes=30)
        self.cluster = Cluster(5, seed=seed, voters=self.rng.choice([2, 3, 5]), network=network, limits=limits)
        self.asked = 0

    def run(self, rounds: int) -> None:
        self.cluster.start()
        for _ in range(rounds):
            self.rng.choice([self.crash, self.restart, self.partition, self.heal, self.change, self.compact])()
            for _ in range(self.rng.randrange(4)):
                self.propose()
                self.cluster.run(self.rng.uniform(0.0, 0.6))
            self.cluster.check_logs()
        self.calm()

    def propose(self) -> None:
        self.asked += 1
        for id in self.cluster.running():
            if self.cluster.raft(id).is_leader:
                self.attempt(id, partial(self.cluster.raft(id).propose, b"p%d" % self.asked, self.cluster.now))

    def attempt(self, id: str, action: Callable[[], object]) -> None:
        try:
            action()
        except RaftError:
            return
        finally:
            self.cluster.work()

    def crash(self) -> None:
        running = self.cluster.running()
        if len(running) > 2:
            self.cluster.crash(self.rng.choice(running), links_close=self.rng.random() < 0.5)

    def restart(self) -> None:
        down = [id for id in self.cluster.ids if id not in self.cluster.running()]
        if down:
            self.cluster.start(self.rng.choice(down))

    def partition(self) -> None:
        ids = self.rng.sample(self.cluster.ids, k=len(self.cluster.ids))
        cut = self.rng.randrange(1, len(ids))
        self.cluster.partition(ids[:cut], ids[cut:])

    def heal(self) -> None:
        self.cluster.heal()

    def change(self) -> None:
        for id in self.cluster.running():
            raft = self.cluster.raft(id)
            if raft.is_leader:
                voters = list(raft.configuration.voters)
                one = self.rng.choice(self.cluster.ids)
                wanted = [voter for voter in voters if voter != one] if one in voters else [*voters, one]
                if wanted:
                    learners = [other for other in self.cluster.ids if other not in wanted and self.rng.random() < 0.5]
                    change = Configuration.of(wanted, learners)
                    self.attempt(id, partial(raft.propose_configuration, change, self.cluster.now))
                if self.rng.random() < 0.3:
                    self.attempt(id, partial(raft.transfer_leadership, None, self.cluster.now))

    def compact(self) -> None:
        for id in self.cluster.running():
            member, raft = self.cluster.members[id], self.cluster.raft(id)
            if member.flight is None and raft.applied > (raft.snapshot.index if raft.snapshot else 0):
                raft.compact(raft.applied, member.machine.data, keep_entries=self.rng.randrange(4))
        self.cluster.work()

    def calm(self) -> None:
        """With everybody back and a good network, the cluster must work again (liveness)."""
        cluster = self.cluster
        cluster.heal()
        cluster.network = Network()
        for id in cluster.ids:
            if id not in cluster.running():
                cluster.start(id)
        cluster.run(8.0)
        index = cluster.propose(b"calm")
        members = cluster.raft(cluster.elect()).configuration.members
        cluster.run_until(lambda: all(cluster.raft(id).applied >= index for id in members))
        cluster.check_logs()
        assert len({cluster.members[id].machine.data for id in members}) == 1


@pytest.mark.parametrize("seed", range(60))
def test_no_property_of_raft_breaks_in_chaos(seed: int) -> None:
    Chaos(seed).run(30)
