"""What an agent says of its own expulsion, in its status and its examination."""

from msgspec import Struct


class Expulsion(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """That this host was expelled.

    Known from an operator's signature, in the epoch `epoch`: `by` whom, `at` (RFC 3339) and the `reason` given, which
    may be empty. Else only the hosts `told_by` say so.
    """

    told_by: tuple[str, ...] = ()
    by: str = ""
    at: str = ""
    reason: str = ""
    epoch: int = 0

    @property
    def is_known(self) -> bool:
        """Whether it is more than what others say."""
        return bool(self.by)

    @property
    def what(self) -> str:
        """A sentence for people."""
        if not self.is_known:
            who = " and ".join(filter(None, (", ".join(self.told_by[:-1]), *self.told_by[-1:])))
            return f"{who} {'say' if self.told_by[1:] else 'says'} that this host was expelled"
        why = f": {self.reason}" if self.reason else ""
        return f"this host was expelled from the cluster, by {self.by} at {self.at}{why}"


def back_or_away(host: str) -> str:
    """What to do about it: a sentence for people."""
    return (
        f"`bootstrap install hosts.txt --limit {host}` makes it a member again, with a new identity; "
        f"`bootstrap uninstall hosts.txt --limit {host}` takes the agent off. Volumes stay either way."
    )
