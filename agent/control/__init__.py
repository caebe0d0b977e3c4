"""The coordinator's decisions, pure: state and facts in, ledger entries out.

facts = cluster_facts(state.members, configuration.voters, watch, now)
decision = decide(state, facts, ledger_now_ms)    # once all that was proposed before is applied
for entry in decision.entries:
    raft.propose(encode_entry(entry), now)    # and each host is told its decision.errands
change = next_change(configuration, state.members, health, me)    # one configuration change in flight
"""

from agent.control.autopilot import AgentHealth, VoterChange, next_change, successor
from agent.control.facts import ClusterFacts, HostFacts
from agent.control.failure import Sighting, Watch, cluster_facts, streams
from agent.control.removal import Removal
from agent.control.rollout import Decision, decide
from agent.control.scheduler import Schedule, same_container, schedule

__all__ = [
    "AgentHealth",
    "ClusterFacts",
    "Decision",
    "HostFacts",
    "Removal",
    "Schedule",
    "Sighting",
    "VoterChange",
    "Watch",
    "cluster_facts",
    "decide",
    "next_change",
    "same_container",
    "schedule",
    "streams",
    "successor",
]
