"""What a voter passes on for the hosts that follow it: their reports to the coordinator, its errands to them
(ARCHITECTURE.md "Membership and links").

A report is its host's own word, signed: passed on it counts as much as over a link. Errands name what the ledger says
already, so a host takes them from the voter that also tells it the ledger. Instructions, questions and events are
passed on by the parts that know them (`agent.node.submissions`, `agent.node.inquiries`, `agent.node.chronicle`). What
was passed on once isn't again, so that nothing goes round where two agents take each other for the coordinator.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import Struct, field

from agent.instruction import is_signed_report, sign_report
from agent.model.errand import Errand
from agent.model.report import HostReport
from agent.model.types import AgentId
from agent.node.context import Context
from agent.node.instant import Instant
from agent.node.messages import AskFrame, ReportFrame
from agent.state import audience_of

# What one host's reports may take of our link with the coordinator, which consensus uses too. A host with a hundred
# replicas that start reports some 100 KiB/s for a moment; what goes beyond is told again within seconds.
PASSED_BYTES_PER_S = 1_048_576
PASSED_BYTES_AT_ONCE = 4 * PASSED_BYTES_PER_S
CHECK_COSTS_BYTES = 4_096  # each costs the coordinator a signature to check, however short it is

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(HostReport)


def signed_report(context: Context, sign: Callable[[bytes], bytes], report: HostReport, term: int) -> ReportFrame:
    """The report of this agent's host, for the coordinator of that term."""
    data = _encoder.encode(report)
    signature = sign_report(sign, audience=audience_of(context.state), term=term, report=data)
    return ReportFrame(host=context.id, term=term, report=data, signature=signature)


class _Share(Struct):
    """How many bytes of one host may still be relayed, and when that was true (monotonic seconds).

    The last one may be larger than what is left, so that a large report gets through at all.
    """

    at: float
    left: float = float(PASSED_BYTES_AT_ONCE)

    def take(self, size: int, now: float) -> bool:
        self.left = min(self.left + (now - self.at) * PASSED_BYTES_PER_S, float(PASSED_BYTES_AT_ONCE))
        self.at = now
        if self.left <= 0.0:
            return False
        self.left -= size + CHECK_COSTS_BYTES
        return True


class Passing(Struct, frozen=True):
    """Relays for the hosts that follow us. `report` takes a report that is for us, the coordinator, and the link that
    it came over; `asked` this host's errands. `drop` counts what is neither relayed nor taken. `_shares`: one for each
    member that ever followed us.
    """

    context: Context
    report: Callable[[HostReport, AgentId, Instant], None]
    asked: Callable[[tuple[Errand, ...]], None]
    drop: Callable[[str], None]
    _shares: dict[AgentId, _Share] = field(default_factory=dict)

    def reported(self, sender: AgentId, frame: ReportFrame, when: Instant) -> None:
        """A report came over the link with `sender`, which is its host or relays it."""
        context = self.context
        if context.raft.is_leader:
            report = self._read(sender, frame)
            if isinstance(report, str):
                self.drop(report)
            else:
                self.report(report, sender, when)
        elif frame.host == sender and context.leader in context.peers:
            if self._shares.setdefault(sender, _Share(when.mono)).take(len(frame.report), when.mono):
                context.send(context.leader, frame)
            else:
                self.drop("report_beyond_share")
        else:
            self.drop("report_for_another")

    def errands(self, sender: AgentId, frame: AskFrame) -> None:
        """The coordinator's errands, for us or for a host that follows us."""
        context = self.context
        if frame.host == context.id and sender in (context.leader, context.followed):
            self.asked(frame.errands)
        elif frame.host != context.id and sender == context.leader and frame.host in context.peers:
            context.send(frame.host, frame)
        else:
            self.drop("errands_of_another")

    def _read(self, sender: AgentId, frame: ReportFrame) -> HostReport | str:
        """The report, or why it isn't one. A voter may relay what others signed for this very term."""
        context = self.context
        if frame.host != sender and sender not in context.raft.configuration.voters:
            return "report_for_another"
        if frame.term != context.raft.term:
            return "report_of_another_term"
        if frame.host != sender and not self._is_signed(frame):
            return "report_unsigned"
        try:
            report = _decoder.decode(frame.report)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
            return "report_unreadable"
        return report if report.host == frame.host else "report_for_another"

    def _is_signed(self, frame: ReportFrame) -> bool:
        member, audience = self.context.state.members.get(frame.host), audience_of(self.context.state)
        return member is not None and is_signed_report(
            member.signing_key, frame.signature, audience=audience, term=frame.term, report=frame.report
        )
