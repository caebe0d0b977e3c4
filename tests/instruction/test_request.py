"""An admin's word for one request to one agent, and for nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from agent.errors import NotAllowed, NotAuthenticated
from agent.instruction import new_key, public_hex, read_backup, read_request, sign_backup, sign_request
from agent.model.cluster import Operator, ScopeName

KEY = new_key()
CLUSTER = "abcdefghijklmnop"
HOST, OTHER = "a" * 26, "b" * 26
DOES = "GET /api/v1/backup/state"
NOW_S = 1_700_000_000.0


def operators(scope: ScopeName = "admin") -> dict[str, Operator]:
    return {"ann": Operator(name="ann", key=public_hex(KEY), scope=scope)}


def signed(**changes: Any) -> str:
    fields: dict[str, Any] = {
        "operator_name": "ann",
        "cluster": CLUSTER,
        "epoch": 1,
        "host": HOST,
        "does": DOES,
        "now_s": NOW_S,
    }
    return sign_request(KEY, **(fields | changes))


def read(token: str, *, scope: ScopeName = "admin", now_s: float = NOW_S, host: str = HOST, does: str = DOES) -> None:
    read_request(token, operators(scope), f"{CLUSTER}.1", now_s, host=host, does=does)


def test_it_is_good_for_the_request_it_names() -> None:
    read(signed())


@pytest.mark.parametrize(("host", "does"), [(OTHER, DOES), (HOST, "GET /api/v1/backup/api-log"), (HOST, "PUT /x")])
def test_at_another_agent_or_for_another_request_it_is_worth_nothing(host: str, does: str) -> None:
    with pytest.raises(NotAllowed):
        read(signed(), host=host, does=does)


@pytest.mark.parametrize("scope", ["read", "operate", "deploy"])
def test_only_admins_see_environment_values(scope: ScopeName) -> None:
    with pytest.raises(NotAllowed, match="admin"):
        read(signed(), scope=scope)


def test_it_ends_with_its_time_its_epoch_and_its_key() -> None:
    with pytest.raises(NotAuthenticated):
        read(signed(), now_s=NOW_S + 400)
    with pytest.raises(NotAuthenticated):
        read(signed(epoch=2))
    with pytest.raises(NotAuthenticated):
        read(signed(operator_name="bob"))


def test_a_backups_signature_holds_for_its_very_manifest() -> None:
    fields: dict[str, Any] = {"operator_name": "ann", "cluster": CLUSTER, "epoch": 1, "now_s": NOW_S}
    token = sign_backup(KEY, manifest=b"the parts", **fields)
    read_backup(token, b"the parts", operators(), CLUSTER, 1)
    wrong: tuple[tuple[bytes, dict[str, Operator], int], ...] = (
        (b"other parts", operators(), 1),
        (b"the parts", {}, 1),
        (b"the parts", operators(), 2),
    )
    for manifest, known, epoch in wrong:
        with pytest.raises(NotAuthenticated):
            read_backup(token, manifest, known, CLUSTER, epoch)
