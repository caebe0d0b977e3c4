"""Reads the segments of the ledger's past: who changed what, and whether everything still fits together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import zip_longest

import msgspec
from msgspec import Struct, field

from agent.errors import MusterError
from agent.formats.timestamps import rfc3339
from agent.instruction import unverified_claims
from agent.instruction.tokens import Header as TokenHeader
from agent.model.audit import AuditGap, AuditLine, AuditPage, AuditProof
from agent.model.decode import prepare
from agent.model.instruction import Claims
from agent.model.ledger import InstructionEntry, decode_entry
from agent.model.types import Digest, Label
from agent.state import link
from agent.storage.audit import AuditLog, Header, Record, SegmentReader

prepare(TokenHeader, Claims, AuditLine)  # for the thread that reads them here, beside the event loop's


def page(
    log: AuditLog,
    name: Label,
    *,
    after: int,
    limit: int,
    shows: Callable[[str], bool],
    born: Digest,
    now: tuple[int, Digest],
) -> AuditPage:
    """The next `limit` instructions behind `after` whose target `shows`.

    `born`: the ledger's chain at its genesis; `now`: its index and chain here, up to which the log should go. Reads
    files: not for the event loop.
    """
    lines: list[AuditLine] = []
    gaps: list[AuditGap] = []
    for found in _behind(log, after, born, now):
        if isinstance(found, AuditGap):
            gaps.append(found)
            continue
        line = _line(found)
        if line is None or not shows(line.target):
            continue
        if len(lines) == limit:
            more = lines[-1].index
            here = tuple(gap for gap in gaps if gap.after < more)  # the others come with the next page
            return AuditPage(answered_by=name, lines=tuple(lines), gaps=here, more=more)
        lines.append(line)
    return AuditPage(answered_by=name, lines=tuple(lines), gaps=tuple(gaps))


def _behind(log: AuditLog, after: int, born: Digest, now: tuple[int, Digest]) -> Iterator[Record | AuditGap]:
    paths = log.paths()
    chain, last = born, 1
    for path, following in zip_longest(paths, paths[1:]):
        header = SegmentReader(following).header if following is not None else None
        if header is not None and header.index <= after:
            continue
        reader = SegmentReader(path)
        if reader.header is None:
            continue
        if reader.header.index > after and reader.header.chain != chain:
            yield AuditGap(after=max(last, after), through=reader.header.index)
        chain, last = reader.header.chain, reader.header.index
        for record in reader.records():
            chain, last = link(chain, record.index, record.data), record.index
            if record.index > after:
                yield record
    index, end = now
    if chain != end and max(last, after) < index:
        yield AuditGap(after=max(last, after), through=index)


def _line(record: Record) -> AuditLine | None:
    try:
        entry = decode_entry(record.data)
        if not isinstance(entry, InstructionEntry):
            return None
        claims = unverified_claims(entry.token)
        return msgspec.convert(
            {
                "index": record.index,
                "at": rfc3339(entry.at),
                "act": claims.act,
                "target": claims.target,
                "revision": claims.rev,
                "by": claims.iss,
                "via": entry.via,
                "outcome": record.outcome,
                "what": record.what,
                "digest": claims.bdg,
                "jti": claims.jti,
            },
            AuditLine,
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, MusterError):
        return None  # a token that nobody could read: the ledger refused it, and there is nobody to name


class _Walk(Struct):
    """What was found so far. `chain`, `last`: after the newest entry; `told`: up to the index that was asked for."""

    gaps: list[AuditGap] = field(default_factory=list)
    entries: int = 0
    first: int = 0
    last: int = 0
    chain: str = ""
    told: str = ""
    told_at: int = 0
    broken: str = ""

    def breaks(self, what: str) -> None:
        self.broken = self.broken or what

    def through(self, reader: SegmentReader, header: Header, at: int | None) -> None:
        name = reader.path.name
        if header.index < self.last or (header.index == self.last and self.chain not in ("", header.chain)):
            self.breaks(f"{name} doesn't go on where the segment before it ends")
        elif self.chain not in ("", header.chain):
            self.gaps.append(AuditGap(after=self.last, through=header.index))
        self.chain = header.chain
        for record in reader.records():
            if record.index <= max(self.last, header.index):
                self.breaks(f"{name}: entry {record.index} comes behind entry {max(self.last, header.index)}")
            self.chain = link(self.chain, record.index, record.data)
            self.entries, self.first, self.last = self.entries + 1, self.first or record.index, record.index
            if at is None or record.index <= at:
                self.told, self.told_at = self.chain, record.index


def prove(log: AuditLog, name: Label, *, voter: bool, at: int | None) -> AuditProof:
    """Computes the chain of all segments again; `at`: report it up to there, else up to the end. Not for the event
    loop.
    """
    walk, paths = _Walk(), log.paths()
    for path in paths:
        reader = SegmentReader(path)
        if reader.header is None or reader.header.cluster != log.cluster:
            walk.breaks(f"{path.name} isn't a segment of this cluster")
            continue
        walk.through(reader, reader.header, at)
        if reader.is_cut and path != paths[-1]:
            walk.breaks(f"{path.name} is damaged behind entry {walk.last}")
    return AuditProof(
        name=name,
        voter=voter,
        segments=len(paths),
        entries=walk.entries,
        first=walk.first,
        last=walk.last,
        gaps=tuple(walk.gaps),
        at=walk.told_at if at is None else at,
        chain=walk.told,
        broken=walk.broken,
    )
