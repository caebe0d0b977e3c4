"""Finds the part that a member's frame, or call, is for."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from agent.model.types import AgentId
from agent.node.chronicle import Chronicle
from agent.node.context import Context
from agent.node.effects import Serve, Unserve
from agent.node.followers import Followers
from agent.node.inquiries import Inquiries
from agent.node.instant import Instant
from agent.node.messages import (
    AskFrame,
    CallFrame,
    CancelFrame,
    FollowEvents,
    FollowLedger,
    Frame,
    GetSnapshotName,
    GetStatus,
    ReplyFrame,
    ReportFrame,
    Request,
    Served,
    Submit,
    SwimFrame,
    TakenFrame,
    Unheard,
)
from agent.node.passing import Passing
from agent.node.submissions import Submissions
from agent.node.subscriptions import Following
from agent.node.vouching import Vouching


class Dispatch(Struct, frozen=True):
    """The parts that hear peers. Frames of consensus don't come here: consensus also hears agents
    that aren't members.
    """

    context: Context
    chronicle: Chronicle
    followers: Followers
    following: Following
    inquiries: Inquiries
    passing: Passing
    submissions: Submissions
    vouching: Vouching
    drop: Callable[[str], None]

    def frame(self, sender: AgentId, frame: Frame, when: Instant) -> None:
        """A frame that its sender is allowed to send."""
        match frame:
            case SwimFrame(message=message):
                self.context.swim.receive(sender, message, when.mono)
            case ReportFrame():
                self.passing.reported(sender, frame, when)
            case AskFrame():
                self.passing.errands(sender, frame)
            case CallFrame(id=call, request=request):
                self._serve(sender, call, request, when)
            case ReplyFrame(id=call, reply=reply, end=end):
                if not self.context.calls.replied(sender, call, reply, end, when):
                    self.drop("unasked_reply")
            case CancelFrame(id=call):
                self.submissions.cancelled(sender, call)
                self.inquiries.cancelled(sender, call)
                self.followers.cancelled(sender, call)
                self.chronicle.cancelled(sender, call)
                self.context.emit(Unserve(peer=sender, call=call))
            case TakenFrame(id=call, parts=parts):
                self.followers.taken(sender, call, parts, when)
            case Unheard():
                self.following.unheard(sender, when)

    def _serve(self, sender: AgentId, call: int, request: Request, when: Instant) -> None:
        match request:
            case Submit():
                self.submissions.serve(sender, call, request, when)
            case GetStatus():
                self.inquiries.serve(sender, call, request, when)
            case FollowEvents():
                self.chronicle.serve(sender, call, request)
            case FollowLedger():
                self.followers.serve(sender, call, request, when)
            case GetSnapshotName():
                self.vouching.serve(sender, call, request)
                self.following.asked(sender, request.index, when)
            case _ if isinstance(request, Served):
                self.context.emit(Serve(peer=sender, call=call, request=request))

    def peer_lost(self, peer: AgentId, when: Instant) -> None:
        """Nothing more comes from `peer`, nor gets there: what was open with it is over."""
        self.followers.peer_lost(peer)
        self.chronicle.peer_lost(peer)
        self.submissions.peer_lost(peer)
        self.inquiries.peer_lost(peer)
        self.context.calls.peer_lost(peer, when)
        self.context.emit(Unserve(peer=peer))
