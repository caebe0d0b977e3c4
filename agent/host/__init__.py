"""What one host has to run, and what to do about it: pure, from verified state and observations to actions.

    wanted = desired(state, agent, HostContext(address=…, policy=…))        # from the ledger
    actions, memory = reconcile(wanted, workloads, memory, now)             # each action idempotent
    replicas = replica_states(wanted, workloads, memory, doing, now)        # what is reported

`agent.node.driver.hosting` runs this loop; runtimes are `agent.runtime`'s business.
"""

from __future__ import annotations

from agent.host.desired import Desired, HostContext, Refused, desired, is_as_before
from agent.host.errands import Task, resolve_errands
from agent.host.life import Life, ReconcileMemory
from agent.host.observation import HostObservation
from agent.host.policy import HostPolicy
from agent.host.reconcile import Action, Prepare, Remove, Start, Stop, reconcile
from agent.host.states import Doing, replica_states

__all__ = [
    "Action",
    "Desired",
    "Doing",
    "HostContext",
    "HostObservation",
    "HostPolicy",
    "Life",
    "Prepare",
    "ReconcileMemory",
    "Refused",
    "Remove",
    "Start",
    "Stop",
    "Task",
    "desired",
    "is_as_before",
    "reconcile",
    "replica_states",
    "resolve_errands",
]
