"""The coordinator's decisions, pure: state and facts in, ledger entries out.

facts = cluster_facts(state.members, configuration.voters, watch, now)
for entry in next_entries(state, facts, ledger_now_ms):    # once all that was proposed before is applied
    raft.propose(encode_entry(entry), now)
change = next_change(configuration, state.members, health, me)    # one configuration change in flight
"""

from agent.control.autopilot import AgentHealth, VoterChange, next_change
from agent.control.facts import ClusterFacts, HostFacts
from agent.control.failure import Sighting, Watch, cluster_facts, next_look
from agent.control.rollout import next_entries, step
from agent.control.scheduler import Schedule, same_container, schedule

__all__ = [
    "AgentHealth",
    "ClusterFacts",
    "HostFacts",
    "Schedule",
    "Sighting",
    "VoterChange",
    "Watch",
    "cluster_facts",
    "next_change",
    "next_entries",
    "next_look",
    "same_container",
    "schedule",
    "step",
]
