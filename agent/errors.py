"""The error tree: every error a person can meet says what happened, where, and what to do next.

Each class carries the HTTP status its RFC 9457 problem gets (`status`), the problem's stable name (`kind`) and the
CLI's exit code (`exit_code`): 1 error, 2 usage or bad input, 3 degraded or failed deployment, 4 unreachable,
5 not allowed, 65 an agent can't start until somebody repairs what it starts from.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_OK = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_DEGRADED = 3
EXIT_UNREACHABLE = 4
EXIT_NOT_ALLOWED = 5
EXIT_NEEDS_REPAIR = 65  # EX_DATAERR (sysexits.h); systemd doesn't start the agent again then (its unit)
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
EXIT_READER_GONE = 141  # 128 + SIGPIPE


class MusterError(Exception):
    """Something a person has to know.

    `what` happened, in one sentence without the place; `where` is a path (`$.services.web`), a file, a host or an
    empty string; `fix` is what to do next, or an empty string when nothing can be done.
    """

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = EXIT_ERROR

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  {self.fix}" if self.fix else head


class InputError(MusterError):
    """A file, option, request, datagram or frame isn't what it must be. `where` names the place."""

    status = 400
    kind = "bad-input"
    exit_code = EXIT_USAGE


class TooLarge(InputError):
    """A body, frame or file over its named bound."""

    status = 413
    kind = "too-large"


class NotAuthenticated(MusterError):
    """No token, or one that isn't valid: who is asking isn't known."""

    status = 401
    kind = "not-authenticated"
    exit_code = EXIT_NOT_ALLOWED


class NotAllowed(MusterError):
    """Who is asking is known and may not do this."""

    status = 403
    kind = "not-allowed"
    exit_code = EXIT_NOT_ALLOWED


class NotFound(MusterError):
    """The thing named doesn't exist."""

    status = 404
    kind = "not-found"


class Conflict(MusterError):
    """Another change was first; `what` names who and when."""

    status = 409
    kind = "conflict"


class Unprocessable(MusterError):
    """Well-formed and signed, but it can't be done as it is, e.g. a pin on a host that isn't a member."""

    status = 422
    kind = "unprocessable"


class TooMany(MusterError):
    """A named bound on load is reached; try again later."""

    status = 429
    kind = "too-many"


class NoMajority(MusterError):
    """The ledger takes nothing now: no coordinator, or no majority behind it."""

    status = 503
    kind = "no-majority"
    exit_code = EXIT_DEGRADED


class TimedOut(MusterError):
    """No answer within the deadline; the change may still happen, so ask by jti or send the same again."""

    status = 504
    kind = "timed-out"
    exit_code = EXIT_DEGRADED


class Unreachable(MusterError):
    """No agent answered at any known address."""

    status = 502
    kind = "unreachable"
    exit_code = EXIT_UNREACHABLE


class DeploymentFailed(MusterError):
    """A deployment ended in `failed`, or a cluster is degraded: the command worked, the world isn't well."""

    kind = "deployment-failed"
    exit_code = EXIT_DEGRADED


class RuntimeUnavailable(MusterError):
    """The container engine or process supervisor doesn't answer."""

    status = 503
    kind = "runtime-unavailable"


class StorageError(MusterError):
    """The ledger or key files can't be read or written now; the agent stops, and its next start may succeed."""

    kind = "storage"


class NeedsRepair(StorageError):
    """The ledger, identity or configuration that an agent starts from is damaged, missing or of a later version.

    Starting again can't mend that, so the agent stays down until somebody does. Raise it only for faults that time
    can't heal (as it may those of a disk, mount, network, port or another process) and that no single other agent could
    have caused.
    """

    exit_code = EXIT_NEEDS_REPAIR

    @classmethod
    def of(cls, error: InputError) -> NeedsRepair:
        """From an error in a file of this host that people write."""
        return cls(error.what, where=error.where, fix=error.fix or "Correct it, then start the agent again.")


class DiskFull(StorageError):
    """There is no room for what has to be written; once there is, the agent can go on."""


class InvariantBroken(Exception):
    """A local invariant doesn't hold. Never caught: the process ends, systemd starts it again."""


class PortTaken(MusterError):
    """Host ports that can't be bound; `ports` are their numbers."""

    status = 409
    kind = "port-taken"

    def __init__(self, ports: tuple[int, ...], *, where: str = "") -> None:
        listed = ", ".join(str(port) for port in ports)
        super().__init__(f"port {listed} is taken", where=where)
        self.ports = ports
