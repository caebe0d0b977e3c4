"""A MusterError as data: what crosses the peer link, and what becomes an RFC 9457 problem at the API."""

from msgspec import Struct

from agent import errors


class Fault(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`kind` is the error class's stable name, `status` its HTTP status."""

    kind: str
    status: int
    what: str
    where: str = ""
    fix: str = ""


def _by_kind(base: type[errors.MusterError]) -> dict[str, type[errors.MusterError]]:
    found = {base.kind: base} if base is not errors.PortTaken else {}
    for sub in base.__subclasses__():
        found.update(_by_kind(sub))
    return found


_CLASSES = _by_kind(errors.MusterError)


def fault_of(error: errors.MusterError) -> Fault:
    """The error as data."""
    return Fault(kind=error.kind, status=error.status, what=error.what, where=error.where, fix=error.fix)


def error_of(fault: Fault) -> errors.MusterError:
    """The error again, of the class with that kind; MusterError itself for a kind this version doesn't know."""
    return _CLASSES.get(fault.kind, errors.MusterError)(fault.what, where=fault.where, fix=fault.fix)
