"""An idle agent does what is nearly due when something else wakes it."""

from __future__ import annotations

from agent.node.messages import RaftFrame
from agent.raft.messages import Heartbeat
from tests.node.cluster import Cluster


def test_a_heartbeat_begins_the_probe_that_is_due_and_no_timer_has_to() -> None:
    cluster = Cluster(3)
    leader = cluster.elect()
    cluster.run(20.0)  # what is new has gone round
    follower = next(node for node in cluster.alive if node is not leader)
    raft, swim = follower.up.context.raft, follower.up.context.swim
    while swim.latest() == swim.deadline():  # an answer is awaited
        cluster.run(0.05)
    due = swim.deadline()
    heartbeat = RaftFrame(message=Heartbeat(term=raft.term, commit=raft.commit, round=1))
    cluster.now = due - 0.001
    follower.up.frame(leader.id, heartbeat, follower.when)
    assert swim.deadline() == due
    cluster.now = due + 0.01
    assert follower.up.deadlines()["swim"] <= cluster.now < swim.latest()
    follower.up.frame(leader.id, heartbeat, follower.when)
    assert swim.deadline() > cluster.now
