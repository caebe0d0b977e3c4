"""The cluster's state: what every agent derives from the ledger. Pure; the same at the same index everywhere.

state = genesis_state(entry_1)
state, applied = apply(state, index, data)        # for every committed entry of the ledger, in order
snapshot = encode_snapshot(state)                 # decode_snapshot checks every signature in it again
"""

from agent.state.apply import (
    STATE_LEVEL,
    apply,
    begin_epoch,
    chain_of_genesis,
    genesis_state,
    is_readable,
    link,
    stamp_of,
)
from agent.state.epochs import check_crossing
from agent.state.errors import SnapshotRefused, UnknownEntry
from agent.state.membership import EXPULSION_LEVEL, expelled_unproven
from agent.state.placing import PHASE_OF, PORT_TRIES, PREDECESSOR_LEVEL, may_have, predecessor_of
from agent.state.proof import beginnings, proven_expelled
from agent.state.queries import (
    assignments_of,
    assignments_on,
    audience_of,
    deployed_stack,
    expulsions,
    hosts_of,
    key_of,
    member_named,
    ports_to_ask,
    rests,
    satisfies,
    service_of,
    serving,
    stack_at,
    validation_of,
    wanted_replicas,
    wants_stopped,
)
from agent.state.snapshot import decode_snapshot, encode_snapshot
from agent.state.stacks import REMOVAL_LEVEL
from agent.state.types import Applied, ClusterState, Evidence, SignedStack, StackState

__all__ = [
    "EXPULSION_LEVEL",
    "PHASE_OF",
    "PORT_TRIES",
    "PREDECESSOR_LEVEL",
    "REMOVAL_LEVEL",
    "STATE_LEVEL",
    "Applied",
    "ClusterState",
    "Evidence",
    "SignedStack",
    "SnapshotRefused",
    "StackState",
    "UnknownEntry",
    "apply",
    "assignments_of",
    "assignments_on",
    "audience_of",
    "begin_epoch",
    "beginnings",
    "chain_of_genesis",
    "check_crossing",
    "decode_snapshot",
    "deployed_stack",
    "encode_snapshot",
    "expelled_unproven",
    "expulsions",
    "genesis_state",
    "hosts_of",
    "is_readable",
    "key_of",
    "link",
    "may_have",
    "member_named",
    "ports_to_ask",
    "predecessor_of",
    "proven_expelled",
    "rests",
    "satisfies",
    "service_of",
    "serving",
    "stack_at",
    "stamp_of",
    "validation_of",
    "wanted_replicas",
    "wants_stopped",
]
