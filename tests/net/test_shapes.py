"""What frames look like changes with their version alone, and each version only adds to the one before."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from msgspec import Struct

from agent.node import versions
from agent.node.messages import CancelFrame, RaftFrame, TakenFrame
from agent.node.versions import FRAME_VERSION, OLDEST_FRAME_VERSION, spoken_with
from agent.raft.messages import Heartbeat
from tests.net import shapes


def since(monkeypatch: pytest.MonkeyPatch, kind: type[Struct], version: int) -> None:
    monkeypatch.setitem(versions.SINCE, kind, version)


HOW = (
    "What goes over peer links has changed. Until FRAME_VERSION (agent/node/versions.py) was released once, "
    "`python -m tests.net.shapes` writes it down; afterwards it takes a later version, and a file of its own."
)


def test_frames_look_as_their_version_says() -> None:
    assert shapes.today() == shapes.kept(FRAME_VERSION), HOW


def test_every_version_that_is_spoken_is_written_down() -> None:
    kept = {int(file.stem) for file in shapes.FOLDER.iterdir()}
    assert kept == set(range(min(kept), FRAME_VERSION + 1))
    assert OLDEST_FRAME_VERSION in kept


@pytest.mark.parametrize("version", range(OLDEST_FRAME_VERSION + 1, FRAME_VERSION + 1))
def test_a_version_only_adds_what_the_one_before_can_do_without(version: int) -> None:
    assert shapes.differences(shapes.kept(version - 1), shapes.kept(version), version) == []


def test_no_kind_is_of_a_version_that_is_not_there() -> None:
    assert all(OLDEST_FRAME_VERSION < since <= FRAME_VERSION for since in versions.SINCE.values())


def _take_away(new: shapes.Shapes) -> None:
    del new["structs"]["Unheard"]


def _require(new: shapes.Shapes) -> None:
    new["structs"]["KeptFrame"]["fields"]["extra"] = "int"


def _lengthen_an_array(new: shapes.Shapes) -> None:
    new["structs"]["Heartbeat"]["fields"]["extra"] = "int = 0"


def _open_a_closed_one(new: shapes.Shapes) -> None:
    new["structs"]["AssignedPort"]["fields"]["extra"] = "int = 0"


def _widen(new: shapes.Shapes) -> None:
    new["structs"]["CancelFrame"]["fields"]["id"] = "int (ge=0)"


def _mean_something_else(new: shapes.Shapes) -> None:
    new["structs"]["Submit"]["fields"]["pass_on"] = "bool = True"


def _ask_something_else(new: shapes.Shapes) -> None:
    new["structs"]["CallFrame"]["fields"]["request"] += " | FollowAlerts"


def _say_something_else(new: shapes.Shapes) -> None:
    new["roots"]["Frame"] += " | PulseFrame"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_take_away, "Unheard is gone"),
        (_require, "KeptFrame.extra has no default"),
        (_lengthen_an_array, "Heartbeat.extra: an earlier version takes no field more"),
        (_open_a_closed_one, "AssignedPort.extra: an earlier version takes no field more"),
        (_widen, "CancelFrame.id was"),
        (_mean_something_else, "Submit.pass_on was bool = False"),
        (_ask_something_else, "CallFrame.request was"),
        (_say_something_else, "Frame is"),
    ],
)
def test_what_an_earlier_agent_would_not_understand_is_noticed(
    change: Callable[[shapes.Shapes], None], told: str
) -> None:
    earlier = shapes.kept(FRAME_VERSION)
    later = copy.deepcopy(earlier)
    change(later)
    (difference,) = shapes.differences(earlier, later, FRAME_VERSION + 1)
    assert difference.startswith(told)


def test_a_kind_that_is_kept_from_whoever_does_not_know_it_may_come(monkeypatch: pytest.MonkeyPatch) -> None:
    class PulseFrame(CancelFrame, frozen=True, tag="pulse"):
        pass

    since(monkeypatch, PulseFrame, FRAME_VERSION + 1)
    earlier = shapes.kept(FRAME_VERSION)
    later = copy.deepcopy(earlier)
    _say_something_else(later)
    assert shapes.differences(earlier, later, FRAME_VERSION + 1) == []
    assert shapes.differences(earlier, later, FRAME_VERSION + 2) != []


def test_a_link_speaks_the_lower_of_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert spoken_with(FRAME_VERSION + 5) == FRAME_VERSION
    assert spoken_with(OLDEST_FRAME_VERSION) == OLDEST_FRAME_VERSION
    monkeypatch.setattr(versions, "OLDEST_FRAME_VERSION", 2)
    assert spoken_with(1) is None


def test_a_frame_is_of_the_version_of_what_it_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    beat = RaftFrame(message=Heartbeat(term=1, commit=0, round=1))
    assert shapes.version_of(beat) == shapes.version_of(TakenFrame(id=1, parts=1)) == 1
    since(monkeypatch, Heartbeat, 7)
    since(monkeypatch, TakenFrame, 8)
    assert (shapes.version_of(beat), shapes.version_of(TakenFrame(id=1, parts=1))) == (7, 8)
