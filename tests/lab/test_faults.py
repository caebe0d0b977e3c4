"""Which traffic a set of faults stops."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lab.faults import Faults, blocked_pairs, ruleset
from tests.lab.layout import plan
from tests.lab.process import LabError

NAMES = ["operator", "n1", "n2", "n3", "n4", "n5"]


@given(sides=st.lists(st.sampled_from(["a", "b", "c", None]), min_size=6, max_size=6))
def test_a_partition_blocks_exactly_the_pairs_on_different_sides(sides: list[str | None]) -> None:
    groups = [tuple(name for name, own in zip(NAMES, sides, strict=True) if own == side) for side in "abc"]
    groups = [group for group in groups if group]
    pairs = blocked_pairs(Faults(groups=tuple(groups)))
    side_of = dict(zip(NAMES, sides, strict=True))
    for source in NAMES:
        for target in NAMES:
            apart = None not in (side_of[source], side_of[target]) and side_of[source] != side_of[target]
            assert ((source, target) in pairs) == apart


def test_a_host_on_two_sides_and_a_single_side_are_refused() -> None:
    with pytest.raises(LabError, match="one side of a partition only"):
        Faults().with_partition(("n1", "n2"), ("n2",))
    with pytest.raises(LabError, match="two sides or more"):
        Faults().with_partition(("n1",))


def test_faults_add_up_until_each_is_taken_back() -> None:
    faults = Faults().with_block("n1", "n2").with_block("n1", "n2").with_loss("n3", 2.5).with_cable("n2", out=True)
    assert faults == Faults(blocks=(("n1", "n2"),), loss={"n3": 2.5}, cables_out=("n2",))
    assert faults.with_loss("n3", 0).with_cable("n2", out=False) == Faults(blocks=(("n1", "n2"),))


@pytest.mark.parametrize("percent", [-1, 100.5])
def test_loss_is_a_share(percent: float) -> None:
    with pytest.raises(LabError, match="0 to 100"):
        Faults().with_loss("n1", percent)


def test_the_ruleset_replaces_the_one_before_and_names_every_port_of_a_machine() -> None:
    faults = Faults(blocks=(("n1", "n2"),), groups=(("n1",), ("n3",)), loss={"bastion": 2.5})
    assert ruleset(faults, plan(4, behind_bastion={"n4"})) == (
        "add table bridge mlab\n"
        "delete table bridge mlab\n"
        "table bridge mlab {\n"
        "  chain forward {\n"
        "    type filter hook forward priority 0; policy accept;\n"
        '    iifname "pn1" oifname "pn2" ether type != arp drop\n'
        '    iifname "pn1" oifname "pn3" drop\n'
        '    iifname "pn3" oifname "pn1" drop\n'
        '    iifname "pbastion" numgen random mod 10000 < 250 drop\n'
        '    oifname "pbastion" numgen random mod 10000 < 250 drop\n'
        '    iifname "pbastion1" numgen random mod 10000 < 250 drop\n'
        '    oifname "pbastion1" numgen random mod 10000 < 250 drop\n'
        "  }\n"
        "}\n"
    )
