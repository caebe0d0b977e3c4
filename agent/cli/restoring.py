"""What a restore would change: compares the stacks of a backup with those that are deployed now. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct

from agent.formats.backup import Part
from agent.home import HalfRestored
from agent.host.policy import volume_kind
from agent.instruction import body_digest, encode_body
from agent.model.api import StackView
from agent.model.spec import ReplicaKey
from agent.model.stack import Stack
from agent.model.types import Digest, Label, OperatorName
from agent.state import ClusterState, deployed_stack


class StackPlan(Struct, frozen=True, kw_only=True):
    """What to do about one stack; `changes` says it to a person, and is empty if there is nothing to do.

    `scale` has to be set again after the deploy, `stopped` isn't to run, `starts` is stopped now and is to run.
    `volumes` are to be put back. `placed` is the revision of a stack that is deployed as it should be and entirely
    stopped, as an interrupted restore leaves it; else 0.
    """

    name: Label
    body: Stack
    deploys: bool
    scale: dict[Label, int]
    stopped: tuple[Label, ...]
    starts: tuple[Label, ...]
    placed: int
    volumes: tuple[Part, ...]
    changes: tuple[str, ...]


def plan_stacks(
    state: ClusterState, present: Mapping[Label, StackView | None], parts: Sequence[Part], *, over: Collection[Label]
) -> list[StackPlan]:
    """By name. `present`: each stack as it is deployed now, None if it isn't. `over`: the stacks whose volumes are
    replaced.
    """
    return [
        _plan(state, name, present.get(name), [part for part in parts if part.stack == name], over=name in over)
        for name, stack in sorted(state.stacks.items())
        if not stack.removing
    ]


def _plan(state: ClusterState, name: Label, view: StackView | None, parts: list[Part], *, over: bool) -> StackPlan:
    stack = state.stacks[name]
    body = deployed_stack(state, stack)
    deploys = view is None or view.deployed.digest != body_digest(encode_body(body))
    scale = stack.scale if deploys or view is None or view.scale != stack.scale else {}
    stopped = tuple(sorted(stack.stopped))
    if not deploys and view is not None and tuple(sorted(view.stopped)) == stopped:
        stopped = ()
    starts = () if deploys or view is None else tuple(sorted(set(view.stopped) - stack.stopped))
    rests = not deploys and view is not None and set(view.stopped) == view.stack.services.keys()
    placed = view.revision if rests and view is not None else 0
    fresh = view is None or (bool(starts) and _never_ran(view))
    volumes = tuple(part for part in parts if part.kind == "volume") if fresh or over else ()
    changes = [
        *(["is deployed" if view is None else "is deployed again"] if deploys else []),
        *(f"{service} is scaled to {count}" for service, count in sorted(scale.items())),
        *(f"volume {part.volume} of {part.host} is put back ({part.size} bytes)" for part in volumes),
        *(f"{service} is stopped" for service in stopped),
        *(f"{service} is started" for service in starts),
    ]
    if volumes:
        stopped = tuple(sorted(stack.stopped))  # to put them back, everything is stopped
    return StackPlan(
        name=name,
        body=body,
        deploys=deploys,
        scale=scale,
        stopped=stopped,
        starts=starts,
        placed=placed,
        volumes=volumes,
        changes=tuple(changes),
    )


def _never_ran(view: StackView) -> bool:
    """Placed where nothing was, entirely stopped, and at most scaled since: it has no data of its own."""
    since = 1 if view.scale else 0
    return (
        view.previous is None
        and set(view.stopped) == view.stack.services.keys()
        and view.revision == view.deployed.revision + since
    )


def broken_off(
    half: Mapping[Label, HalfRestored], present: Mapping[Label, StackView | None], backup: Digest
) -> tuple[set[Label], list[str]]:
    """The stacks that an earlier restore of this very backup left stopped with only some volumes back: these are
    continued.

    And a sentence for each stack for which that isn't so, because another backup's volumes began to replace it or it
    was changed since: nobody overwrites that unasked. `present`: as `plan_stacks`.
    """
    go_on: set[Label] = set()
    said: list[str] = []
    for name, was in sorted(half.items()):
        view = present.get(name)
        if view is None:  # not in this backup, or gone, and then its volumes are put back in any case
            continue
        began = f"{name}: a restore of its volumes from the backup of {was.made_at} broke off"
        if was.backup == backup and view.revision == was.revision:
            go_on.add(name)
        elif was.backup == backup:
            said.append(f"{began}, and it was changed since; --volumes puts them all back")
        else:
            said.append(f"{began}, so they are of two times; restore that one, or this one with --volumes")
    return go_on, said


def left_to_people(
    state: ClusterState,
    *,
    operators: Collection[OperatorName],
    keys: Collection[OperatorName],
    drained: Mapping[Label, bool],
) -> list[str]:
    """What the backup has, this cluster hasn't, and only a person can bring back: a sentence each, with the command.

    Authority is granted by somebody, never by a file, and a file can't know whether a host is well again. `operators`
    and `keys`: the names that this cluster has; `drained`: whether each of its hosts is.
    """
    hosts = sorted(state.members[agent].name for agent in state.drained)
    return [
        *(
            f"operator {name} isn't in this cluster: agent operator grant {name} --key …"
            for name in sorted(set(state.operators) - set(operators))
        ),
        *(
            f"API key {name} isn't in this cluster: `agent key create {name}` makes another one"
            for name in sorted(set(state.api_keys) - set(keys))
        ),
        *(f"{host} was drained, and isn't now: agent drain {host}" for host in hosts if drained.get(host) is False),
    ]


def users_of(stack: Stack) -> dict[str, set[Label]]:
    """Which services use each named volume."""
    found: dict[str, set[Label]] = {}
    for name, service in stack.services.items():
        for volume in service.volumes if service.runtime == "docker" else ():
            if volume_kind(volume) == "named":
                found.setdefault(volume.source, set()).add(name)
    return found


def slots_of(state: ClusterState, plan: StackPlan, part: Part) -> set[ReplicaKey]:
    """The replicas that had this volume on its host."""
    users = users_of(plan.body).get(part.volume, set())
    return {
        key
        for key, assignment in state.assignments.items()
        if key.stack == plan.name
        and key.service in users
        and assignment.host in state.members
        and state.members[assignment.host].name == part.host
    }
