"""Whether a home may follow its cluster into another epoch: a key that it knows must have signed the epoch's beginning.

When an admin continued with one survivor after the majority was lost for good (`agent recover --new-epoch`), other
operators' homes learn of it from any member, and check the signature themselves: an agent's word alone moves no home.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.errors import Conflict, MusterError, NotFound
from agent.home import GENESIS_FILE, GENESIS_TOKEN_FILE, Home, OperatorFile, read_file, read_recovery
from agent.instruction import audience_of, read_genesis, read_instruction, unverified_claims
from agent.model.api import EpochBeginning, Epochs
from agent.model.cluster import Operator
from agent.model.explain import shown
from agent.model.instruction import Recover
from agent.model.types import OperatorName


def admins_known(home: Home) -> dict[OperatorName, Operator]:
    """The keys whose signature under an epoch's beginning the home believes: its operator's, and its genesis's admins'.

    A later key of the same name wins, e.g. the operator's own after it was replaced. Reads files.
    """
    known: dict[OperatorName, Operator] = {}
    if (home.path / GENESIS_FILE).exists():
        token = read_file(home.path / GENESIS_TOKEN_FILE).decode("ascii", "replace")
        genesis = read_genesis(token, read_file(home.path / GENESIS_FILE))
        if (genesis.cluster, genesis.trust_anchor) == (home.cluster.id, home.trust_anchor):
            known |= {admin.name: admin for admin in genesis.admins}
    try:
        recovery = read_recovery(home)
        known[recovery.name] = _admin(recovery)
    except NotFound:
        pass  # only the first admin's home has it
    known[home.operator.name] = _admin(home.operator)
    return known


def follow(home: Home, told: Epochs, admins: Mapping[OperatorName, Operator]) -> int:
    """The epoch that the home may follow to: step by step from its own, each begun in the one before and signed. Pure.

    Raises Conflict, naming the signer that isn't a known admin, or the step that isn't signed at all.
    """
    epoch = home.cluster.epoch
    begun = {each.epoch: each for each in told.begun}
    while epoch < told.epoch:
        _check(home, epoch + 1, begun.get(epoch + 1), admins)
        epoch += 1
    return epoch


def _check(home: Home, epoch: int, begun: EpochBeginning | None, admins: Mapping[OperatorName, Operator]) -> None:
    fix = f"Ask an admin. If it is right: agent recover --follow {epoch}"
    if begun is None:
        raise Conflict(f"it says that epoch {epoch} began, and doesn't show who signed that", fix=fix)
    try:
        verified = read_instruction(begun.token, begun.body.encode(), admins, audience_of(home.cluster.id, epoch - 1))
    except MusterError:
        what = f"epoch {epoch} began, and {_who(begun)} signed that, whose key this home doesn't know"
        raise Conflict(what, fix=fix) from None
    body = verified.body
    if not isinstance(body, Recover) or body.epoch != epoch:
        raise Conflict(f"what it shows for epoch {epoch} began something else", fix=fix)


def _who(begun: EpochBeginning) -> str:
    try:
        name = unverified_claims(begun.token).iss
    except MusterError:
        return "nobody"
    return name if name.isprintable() else shown(name)  # nobody vouches for it


def _admin(file: OperatorFile) -> Operator:
    return Operator(name=file.name, key=file.key, scope="admin")
