"""Network faults: which traffic the lab's bridges drop. Pure up to `ruleset`, which nft loads in one transaction.

Partitions, blocks and loss drop frames of any protocol between the bridge's ports, without a word to either end, as
broken networks do. A cable that is out takes the carrier away instead, which the host sees.
"""

from __future__ import annotations

import msgspec

from tests.lab.layout import Layout
from tests.lab.process import LabError

TABLE = "mlab"
LOSS_STEPS = 10_000
"""Loss is drawn in steps of 0.01 %."""


class Faults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is broken now. `groups` are the sides of the one partition; `blocks` are (from, to), one direction each;
    `loss` is in percent of the frames in each direction; `cables_out` are host names."""

    groups: tuple[tuple[str, ...], ...] = ()
    blocks: tuple[tuple[str, str], ...] = ()
    loss: dict[str, float] = {}
    cables_out: tuple[str, ...] = ()

    def with_partition(self, *groups: tuple[str, ...]) -> Faults:
        """One partition replaces another. Raises LabError if a host stands on two sides, or there is one side only."""
        members = [name for group in groups for name in group]
        if len(groups) < 2:
            raise LabError("a partition has two sides or more: partition n1 n2,n3")
        if len(members) != len(set(members)):
            raise LabError("a host can stand on one side of a partition only")
        return msgspec.structs.replace(self, groups=groups)

    def with_block(self, source: str, target: str) -> Faults:
        if source == target:
            raise LabError(f"{source} always hears itself")
        return msgspec.structs.replace(self, blocks=tuple(sorted({*self.blocks, (source, target)})))

    def with_loss(self, name: str, percent: float) -> Faults:
        if not 0 <= percent <= 100:
            raise LabError(f"loss of {percent} %: 0 to 100 is possible")
        others = {host: value for host, value in self.loss.items() if host != name}
        return msgspec.structs.replace(self, loss={**others, name: percent} if percent else others)

    def with_cable(self, name: str, *, out: bool) -> Faults:
        cables = {*self.cables_out, name} if out else set(self.cables_out) - {name}
        return msgspec.structs.replace(self, cables_out=tuple(sorted(cables)))


def blocked_pairs(faults: Faults) -> set[tuple[str, str]]:
    """The (from, to) pairs of hosts between which nothing passes. A host in no group reaches all groups."""
    pairs = set(faults.blocks)
    for index, group in enumerate(faults.groups):
        others = [name for other in (*faults.groups[:index], *faults.groups[index + 1 :]) for name in other]
        pairs.update((name, other) for name in group for other in others)
    return pairs


def ruleset(faults: Faults, layout: Layout) -> str:
    """The nft script that makes the bridges drop exactly this, whatever they dropped before."""
    ports = {node.name: [nic.port for nic in node.nics] for node in layout.nodes}
    both_ways = blocked_pairs(msgspec.structs.replace(faults, blocks=()))
    rules = [
        # A block must not take the other direction along once the neighbours have forgotten each other: ARP passes.
        f'iifname "{source}" oifname "{target}" {"drop" if pair in both_ways else "ether type != arp drop"}'
        for pair in sorted(blocked_pairs(faults))
        for source in ports[pair[0]]
        for target in ports[pair[1]]
    ]
    rules += [
        f'{direction} "{port}" numgen random mod {LOSS_STEPS} < {round(percent * LOSS_STEPS / 100)} drop'
        for name, percent in sorted(faults.loss.items())
        for port in ports[name]
        for direction in ("iifname", "oifname")
    ]
    body = "".join(f"    {rule}\n" for rule in rules)
    # Adding before deleting makes the deletion safe on a bridge that has no table yet.
    return (
        f"add table bridge {TABLE}\ndelete table bridge {TABLE}\ntable bridge {TABLE} {{\n  chain forward {{\n"
        f"    type filter hook forward priority 0; policy accept;\n{body}  }}\n}}\n"
    )
