"""Reports as hosts sign them, whatever is in them."""

from __future__ import annotations

from agent.model.report import HostReport
from agent.node.messages import ReportFrame
from agent.node.passing import signed_report
from tests.node.cluster import Node
from tests.support.ledger import key_of_host


def signed_by(node: Node, report: HostReport, *, term: int | None = None) -> ReportFrame:
    """For the term that the host knows, unless another is named."""
    context = node.up.context
    return signed_report(context, key_of_host(node.name).sign, report, context.raft.term if term is None else term)
