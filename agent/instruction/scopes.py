"""Who may do what: the scope that each act on each kind of target needs (docs/security.md "Operators")."""

from __future__ import annotations

from fnmatch import fnmatchcase

from agent.errors import NotAllowed
from agent.model.cluster import Operator, ScopeName
from agent.model.instruction import Act

ORDER: tuple[ScopeName, ...] = ("read", "operate", "deploy", "admin")
"""Each includes the ones before it."""

_NEEDED: dict[Act, ScopeName] = {
    "restart": "operate",
    "scale": "operate",
    "stop": "operate",
    "start": "operate",
    "drain": "operate",
    "undrain": "operate",
    "deploy": "deploy",
    "place": "deploy",
    "remove": "deploy",
    "enrol": "admin",
    "expel": "admin",
    "relabel": "admin",
    "grant": "admin",
    "revoke": "admin",
    "grant-key": "admin",
    "revoke-key": "admin",
    "recover": "admin",
}


def includes(scope: ScopeName, needed: ScopeName) -> bool:
    """Whether an operator with `scope` may do what needs `needed`."""
    return ORDER.index(scope) >= ORDER.index(needed)


def needed_scope(act: Act, target: str) -> ScopeName:
    """The least scope for `act` on `target`.

    `cancel` only takes a revision, which the weakest act on that kind of target does as well; so it needs `operate` on
    a stack or a host, and `admin` on anything else.
    """
    if act == "cancel":
        return "operate" if target.startswith(("stack:", "host:")) else "admin"
    return _NEEDED[act]


def covers_stack(operator: Operator, stack: str) -> bool:
    """Whether the operator's globs let it act on that stack; `admin` isn't limited."""
    return operator.scope == "admin" or any(fnmatchcase(stack, glob) for glob in operator.stacks)


def covers_all_stacks(operator: Operator) -> bool:
    """Whether the operator may act on every stack there can be."""
    return operator.scope == "admin" or "*" in operator.stacks


def grant_stack(operator: Operator, stack: str) -> str:
    """The command that grants the operator that stack in addition to its present ones."""
    return f"agent operator grant {operator.name} --stacks '{','.join((*operator.stacks, stack))}'"


def check_scope(operator: Operator, act: Act, target: str) -> None:
    """Raises NotAllowed, naming the scope or the stack that is missing."""
    needed = needed_scope(act, target)
    if not includes(operator.scope, needed):
        raise NotAllowed(
            f"{operator.name} has scope {operator.scope}, and {act} needs {needed}",
            where=target,
            fix=f"An admin can give it: agent operator grant {operator.name} --scope {needed}",
        )
    kind, _, name = target.partition(":")
    if kind == "stack" and not covers_stack(operator, name):
        raise NotAllowed(
            f"{operator.name} may act on stacks {', '.join(operator.stacks)}, not on {name}",
            where=target,
            fix=f"An admin can give it: {grant_stack(operator, name)}",
        )
    if kind == "host" and not covers_all_stacks(operator):
        raise NotAllowed(
            f"{operator.name} may act on stacks {', '.join(operator.stacks)}, and a host's replicas are of any stack",
            where=target,
            fix=f"An admin can do it, or give all stacks: agent operator grant {operator.name} --stacks '*'",
        )
