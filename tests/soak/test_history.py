"""What the soak's judge says of histories, and how they are kept."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tests.sim.linear import Answered
from tests.soak.history import Written, read, wrong_in


def written(
    target: str, revision: int, jti: str, invoked: float, returned: float | None, outcome: Answered | None
) -> Written:
    return Written(
        target=target,
        revision=revision,
        jti=jti,
        invoked=invoked,
        returned=returned,
        outcome=outcome,
        through=("n1",),
    )


def test_targets_are_judged_apart() -> None:
    assert wrong_in([written("stack:a", 1, "x", 0, 1, "applied"), written("stack:b", 1, "y", 0, 1, "applied")]) == {}


def test_what_nobody_answered_may_have_happened_or_not() -> None:
    unsure = written("stack:a", 1, "x", 0, None, None)
    assert wrong_in([unsure, written("stack:a", 2, "y", 2, 3, "applied")]) == {}
    assert wrong_in([unsure, written("stack:a", 1, "y", 2, 3, "applied")]) == {}


def test_a_lost_acknowledgement_is_found_and_told() -> None:
    lost = written("stack:a", 1, "x", 0, 1, "applied")
    again = written("stack:a", 1, "y", 2, 3, "applied")
    assert wrong_in([lost, again, written("stack:a", 2, "z", 4, 5, "applied")]) == {"stack:a": [lost, again]}


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    history = [written("stack:a", 1, "x", 0.5, 1.5, "applied"), written("stack:a", 2, "y", 2.0, None, None)]
    (tmp_path / "history").write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in history))
    assert read(tmp_path / "history") == history
