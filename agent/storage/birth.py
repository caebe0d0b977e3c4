"""Identity and ledger are born together, each naming the other (ARCHITECTURE.md "Boot and restart").

A wiped ledger under a kept identity would let a voter vote twice in one term; a kept ledger under a fresh identity
would speak for somebody else; an older copy of the ledger, put back beside the identity, has forgotten votes. All are
refused: the host comes back as a new member.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent.model.ledger import GenesisEntry, encode_entry
from agent.raft import Boot, Entry, EntryKind
from agent.storage.identity import Identity, bind_ledger
from agent.storage.ledger import Ledger

LEDGER_FILE = "ledger.db"


def genesis_entry(identity: Identity) -> Entry:
    """Entry 1, a pure function of the genesis: the same bytes on every host."""
    genesis = identity.genesis
    data = encode_entry(GenesisEntry(at=genesis.created_at, genesis=genesis))
    return Entry(index=1, term=0, kind=EntryKind.NORMAL, data=data)


async def open_ledger(data_dir: Path, identity: Identity) -> tuple[Ledger, Boot]:
    """The ledger of this identity; made at the identity's first start, and only then.

    Raises NeedsRepair when one of the two is missing, belongs to another, or can't be vouched for; else StorageError.
    """
    ledger, boot = await Ledger.open(
        data_dir / LEDGER_FILE,
        agent_id=identity.id,
        genesis_entry=genesis_entry(identity),
        ledger_id=identity.ledger,
        least_starts=identity.starts,
    )
    # Before anything else is written to it.
    await asyncio.to_thread(bind_ledger, data_dir, ledger.ledger_id, boot.starts)
    return ledger, boot
