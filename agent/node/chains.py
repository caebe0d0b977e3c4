"""The ledger's hash chain after each of its newest entries, to compare histories by. Pure."""

from __future__ import annotations

from agent.model.types import Digest

KEPT_CHAINS = 8_192  # 256 KiB; more than the entries behind a snapshot and before the next (agent.node.machine)
_BYTES = 32


class Chains:
    """A ring. Invariant: it holds the chain at each of the indices from `first` to `last`."""

    def __init__(self, index: int, chain: Digest) -> None:
        self._ring = bytearray(KEPT_CHAINS * _BYTES)  # zeroed memory, which the kernel gives page by page as it is used
        self.begin(index, chain)

    def begin(self, index: int, chain: Digest) -> None:
        """Nothing before this one is known."""
        self.first = self.last = index
        self._put(index, chain)

    def add(self, chain: Digest) -> None:
        """At the next entry."""
        self.last += 1
        self.first = max(self.first, self.last - KEPT_CHAINS + 1)
        self._put(self.last, chain)

    def at(self, index: int) -> Digest | None:
        """The chain after that entry; None if it isn't known any more, or yet."""
        if not self.first <= index <= self.last:
            return None
        start = index % KEPT_CHAINS * _BYTES
        return self._ring[start : start + _BYTES].hex()

    def _put(self, index: int, chain: Digest) -> None:
        start = index % KEPT_CHAINS * _BYTES
        self._ring[start : start + _BYTES] = bytes.fromhex(chain)
