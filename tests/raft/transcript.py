"""A small language to talk to a few members by hand, as in etcd raft's `testdata`.

A transcript is a list of blocks: a command line, `----`, what happened, an empty line. `#` begins a comment. Nothing
happens by itself: messages wait until they are delivered, and Readys until they are handled.

    members a b c [learners=x,y]    start these members, term 0
    time-out a                      let a's deadline pass
    elect a                         the same, then `stabilize`, without a word
    link a b | unlink a b           both ends notice
    propose a TEXT                  also: configure a voters=a,b [learners=c] · read a TEXT · transfer a b
    handle a                        one Ready: send, persist, send, apply, advance
    take a | finish a               the same in two halves: send_now and the disk begins | the disk ends, the rest
    deliver [a->b]                  all messages waiting (of one direction), in order
    drop a->b                       lose them
    say x->b vote term=9            x, who may be anybody, sends a vote, heartbeat, append-response or pre-vote
    wait SECONDS                    let time pass; nothing happens by itself
    stabilize                       handle and deliver until nothing is left
    crash a                         lose what isn't on disk, and what it is doing
    restart a
    compact a                       at what it applied, keeping one entry
    status
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.raft import (
    Configuration,
    Entry,
    EntryKind,
    Envelope,
    Message,
    Persist,
    RaftError,
    RaftLimits,
    RaftTiming,
    Ready,
)
from agent.raft.entry import Snapshot
from agent.raft.messages import (
    Append,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    PreVote,
    Vote,
)
from tests.raft.cluster import Machine, Member


def _entry(entry: Entry) -> str:
    if entry.kind is EntryKind.NOOP:
        what = "noop"
    elif entry.kind is EntryKind.CONFIG and entry.term > 0:
        what = _configuration(Configuration.decode(entry.data))
    else:
        what = f'"{entry.data.decode()}"'
    return f"{entry.term}/{entry.index} {what}"


def _entries(entries: tuple[Entry, ...]) -> str:
    return "[" + ", ".join(map(_entry, entries)) + "]"


def _configuration(configuration: Configuration) -> str:
    learners = f" learners={','.join(configuration.learners)}" if configuration.learners else ""
    return f"voters={','.join(configuration.voters)}{learners}"


def _snapshot(snapshot: Snapshot) -> str:
    return f"{snapshot.term}/{snapshot.index} {_configuration(snapshot.configuration)} {len(snapshot.data)} bytes"


def _message(message: Message) -> str:
    match message:
        case Append():
            entries = f" {_entries(message.entries)}" if message.entries else ""
            previous = f"after {message.prev_term}/{message.prev_index}"
            return f"Append term={message.term} {previous} commit={message.commit}{entries}"
        case AppendResponse(accepted=True):
            return f"AppendResponse term={message.term} has={message.index}"
        case AppendResponse():
            hint = f"perhaps {message.hint_term}/{message.hint_index}"
            return f"AppendResponse term={message.term} refuses={message.index} {hint}"
        case Heartbeat():
            return f"Heartbeat term={message.term} commit={message.commit} round={message.round}"
        case HeartbeatResponse():
            return f"HeartbeatResponse term={message.term} round={message.round}"
        case InstallSnapshot():
            return (
                f"InstallSnapshot term={message.term} {message.snapshot_term}/{message.index} "
                f"bytes {message.offset}-{message.offset + len(message.data)} of {message.total}"
            )
    fields = " ".join(f"{name}={getattr(message, name)!r}" for name in message.__struct_fields__)
    return f"{type(message).__name__} {fields}"


def _persist(persist: Persist) -> Iterator[str]:
    if persist.hard_state is not None:
        yield f"disk: term={persist.hard_state.term} vote={persist.hard_state.vote}"
    if persist.truncate_from is not None:
        yield f"disk: truncate from {persist.truncate_from}"
    if persist.entries:
        yield f"disk: write {_entries(persist.entries)}"
    if persist.snapshot is not None:
        yield f"disk: snapshot {_snapshot(persist.snapshot)}"
    if persist.compact_to is not None:
        yield f"disk: compact to {persist.compact_to}"


class Transcript:
    """The members of one transcript and the messages between them."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._waiting: list[tuple[str, Envelope]] = []
        self._now = 0.0
        self._lines: list[str] = []

    def run(self, command: str) -> str:
        """What happens on one command."""
        self._lines = []
        verb, *arguments = command.split()
        action: Callable[..., None] = getattr(self, "do_" + verb.replace("-", "_"))
        try:
            action(*arguments)
        except RaftError as error:
            self._say(f"{type(error).__name__}: {error}")
        return "\n".join(self._lines or ["ok"])

    def _say(self, line: str) -> None:
        self._lines.append(line)

    def _start(self, id: str) -> None:
        limits = RaftLimits(chunk_bytes=16)
        self._members[id].start(RaftTiming.lan(), limits, random.Random(id), self._now)

    def do_members(self, *arguments: str) -> None:
        learners = [
            name for argument in arguments if argument.startswith("learners=") for name in argument[9:].split(",")
        ]
        voters = [argument for argument in arguments if "=" not in argument]
        for id in sorted(voters + learners):
            self._members[id] = Member(id, Configuration.of(voters, learners))
            self._start(id)
            # Everybody has applied the genesis: it's the same in every transcript.
            self.do_handle(id)
        self._lines = []

    def do_time_out(self, id: str) -> None:
        raft = self._members[id].running
        self._now = max(self._now, raft.deadline())
        raft.on_deadline(self._now)
        self._say(f"{id} is {raft.role.value} in term {raft.term}")

    def do_elect(self, id: str) -> None:
        self.do_time_out(id)
        self.do_stabilize()
        assert self._members[id].running.is_leader
        self._lines = []

    def do_link(self, one: str, two: str) -> None:
        self._members[one].running.peer_linked(two, self._now)
        self._members[two].running.peer_linked(one, self._now)

    def do_unlink(self, one: str, two: str) -> None:
        for id, other in ((one, two), (two, one)):
            raft = self._members[id].raft
            if raft is not None:
                raft.peer_unlinked(other, self._now)

    def do_propose(self, id: str, text: str) -> None:
        self._say(f"index {self._members[id].running.propose(text.encode(), self._now)}")

    def do_configure(self, id: str, *arguments: str) -> None:
        named = dict(argument.split("=") for argument in arguments)
        learners = named["learners"].split(",") if "learners" in named else []
        configuration = Configuration.of(named["voters"].split(","), learners)
        self._say(f"index {self._members[id].running.propose_configuration(configuration, self._now)}")

    def do_read(self, id: str, text: str) -> None:
        self._members[id].running.read_index(text.encode(), self._now)

    def do_transfer(self, id: str, to: str) -> None:
        self._members[id].running.transfer_leadership(to, self._now)

    def do_handle(self, id: str) -> None:
        self.do_take(id)
        if self._members[id].flight is not None:
            self.do_finish(id)

    def do_take(self, id: str) -> None:
        member = self._members[id]
        ready = member.running.take_ready()
        if ready is None:
            self._say(f"{id} has nothing to do")
            return
        self._say(f"> {id}")
        member.flight = ready
        if ready.soft is not None:
            self._say(f"  {ready.soft.role.value} in term {ready.soft.term}, leader {ready.soft.leader or 'unknown'}")
        self._send(id, ready.send_now)

    def do_finish(self, id: str) -> None:
        member = self._members[id]
        ready = member.flight
        assert ready is not None, f"{id} is idle"
        if ready.persist is not None:
            member.disk.write(ready.persist)
            for line in _persist(ready.persist):
                self._say("  " + line)
        self._send(id, ready.send_after_persist)
        self._apply(member, ready)
        member.flight = None
        member.running.advance(ready, self._now)

    def _apply(self, member: Member, ready: Ready) -> None:
        if ready.restore is not None:
            member.machine = Machine(ready.restore.data)
            self._say(f"  restore {_snapshot(ready.restore)}")
        for entry in ready.committed:
            member.machine.apply(entry)
            self._say(f"  apply {_entry(entry)}")
        for read in ready.reads:
            self._say(f"  read {read.context.decode()} at {read.index}")

    def _send(self, sender: str, envelopes: tuple[Envelope, ...]) -> None:
        for envelope in envelopes:
            self._say(f"  {sender}->{envelope.to} {_message(envelope.message)}")
            self._waiting.append((sender, envelope))

    def _pick(self, direction: str | None) -> list[tuple[str, Envelope]]:
        picked = [one for one in self._waiting if direction in (None, f"{one[0]}->{one[1].to}")]
        self._waiting = [one for one in self._waiting if one not in picked]
        return picked

    def do_deliver(self, direction: str | None = None) -> None:
        for sender, envelope in self._pick(direction):
            raft = self._members[envelope.to].raft if envelope.to in self._members else None
            if raft is None:
                self._say(f"{sender}->{envelope.to} is lost")
            else:
                raft.receive(sender, envelope.message, self._now)

    def do_drop(self, direction: str) -> None:
        self._say(f"{len(self._pick(direction))} lost")

    def do_say(self, direction: str, kind: str, term: str) -> None:
        """A message that no core of ours made: of somebody who was removed, or who lies."""
        sender, receiver = direction.split("->")
        number = int(term.removeprefix("term="))
        messages: dict[str, Message] = {
            "vote": Vote(term=number, last_index=99, last_term=number, forced=True),
            "pre-vote": PreVote(term=number, last_index=99, last_term=number),
            "heartbeat": Heartbeat(term=number, commit=1, round=1),
            "append-response": AppendResponse(term=number, accepted=False, index=1),
        }
        message = messages[kind]
        self._say(f"{direction} {_message(message)}")
        raft = self._members[receiver].running
        before = dict(raft.dropped)
        raft.receive(sender, message, self._now)
        for reason, count in raft.dropped.items():
            if count != before.get(reason, 0):
                self._say(f"{receiver} drops it: {reason}")

    def do_wait(self, seconds: str) -> None:
        self._now += float(seconds)

    def do_stabilize(self) -> None:
        while True:
            busy = [id for id, member in self._members.items() if member.raft is not None and member.raft.has_ready()]
            if not busy and not self._waiting:
                return
            for id in busy:
                self.do_handle(id)
            self.do_deliver()

    def do_crash(self, id: str) -> None:
        self._members[id].raft = self._members[id].flight = None

    def do_restart(self, id: str) -> None:
        self._start(id)

    def do_compact(self, id: str) -> None:
        member = self._members[id]
        member.running.compact(member.running.applied, member.machine.data, keep_entries=1)

    def do_status(self) -> None:
        for id, member in self._members.items():
            if (raft := member.raft) is None:
                self._say(f"{id}: down")
                continue
            log = f"log {raft.first_index}-{raft.last_index} commit={raft.commit} applied={raft.applied}"
            who = f"{raft.role.value} term={raft.term} leader={raft.leader}"
            self._say(f"{id}: {who} {log} {_configuration(raft.configuration)}")
            for follower, progress in raft.followers().items():
                self._say(f"   {follower}: {progress.state.value} match={progress.match}")


def play(text: str) -> str:
    """The transcript as it would be written now."""
    transcript, lines = Transcript(), []
    inside = False
    for line in text.splitlines():
        if inside:
            inside = bool(line)
        elif line == "----":
            inside = True
        elif not line or line.startswith("#"):
            lines.append(line)
        else:
            lines += [line, "----", transcript.run(line), ""]
    return "\n".join(_one_empty_line_between(lines)).rstrip() + "\n"


def _one_empty_line_between(lines: list[str]) -> Iterator[str]:
    previous = ""
    for line in lines:
        if line or previous:
            yield line
        previous = line


def paths() -> list[Path]:
    return sorted((Path(__file__).parent / "transcripts").glob("*.txt"))
