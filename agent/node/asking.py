"""Sends hosts on errands: each is sent its list when that changes, and again while its reports don't show it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct, field

from agent.model.errand import Errand, errand_id
from agent.model.report import HostReport
from agent.model.types import AgentId
from agent.node.context import Context
from agent.node.instant import Instant
from agent.node.messages import AskFrame

ASK_AGAIN_S = 2.0  # a frame was dropped, or the host's ledger is behind; a host answers within milliseconds


class _Told(Struct, frozen=True):
    """`ids`: the ids of the errands, with which each report is compared."""

    errands: tuple[Errand, ...]
    ids: frozenset[str]
    at: float


class Asking(Struct):
    """The coordinator's side. `ask_here` takes the errands of the coordinator's own host.

    `ways`: over whose link each host's last report came, so that errands reach hosts that have no link with us.
    """

    context: Context
    ask_here: Callable[[tuple[Errand, ...]], None] = lambda _: None
    ways: dict[AgentId, AgentId] = field(default_factory=dict)
    _told: dict[AgentId, _Told] = field(default_factory=dict)

    def ask(
        self, errands: Mapping[AgentId, tuple[Errand, ...]], reports: Mapping[AgentId, HostReport], when: Instant
    ) -> None:
        """Send them to hosts that don't know theirs; hosts without errands that still show some are told that these are
        over.
        """
        for host in sorted(errands.keys() | reports.keys() | self._told.keys()):
            wanted = errands.get(host, ())
            told = self._told.get(host)
            if not wanted and told is None and not _shown(reports.get(host)):
                continue
            if (
                told is not None
                and told.errands == wanted
                and (when.mono - told.at < ASK_AGAIN_S or _shown(reports.get(host)) == told.ids)
            ):
                continue
            self._tell(host, wanted, when)

    def told(self, host: AgentId) -> tuple[Errand, ...]:
        """The errands that the host was sent on last."""
        told = self._told.get(host)
        return told.errands if told is not None else ()

    def forget(self) -> None:
        """Another coordinates: it asks for itself."""
        self._told.clear()
        self.ways.clear()

    def _tell(self, host: AgentId, wanted: tuple[Errand, ...], when: Instant) -> None:
        way = host if host in self.context.peers else self.ways.get(host)
        if host == self.context.id:
            self.ask_here(wanted)
        elif way in self.context.peers:
            self.context.send(way, AskFrame(host=host, errands=wanted))
        else:
            self._told.pop(host, None)
            return
        self._told[host] = _Told(wanted, frozenset(map(errand_id, wanted)), when.mono)


def _shown(report: HostReport | None) -> frozenset[str]:
    return frozenset(finding.errand for finding in report.findings) if report is not None else frozenset()
