"""What this host allows, whatever an operator signs: a local file that can only narrow (docs/security.md "Host
policy").

The shell reads `/etc/muster/policy.toml` and decodes it to a `HostPolicy`; the decisions are here. Example:

    bind_mounts = ["/srv/models:ro", "/srv/data"]
    runtimes = ["docker"]
"""

import posixpath
import re
from typing import Annotated

from msgspec import Meta, Struct

from agent.model.stack import RuntimeName, Service, Volume

POLICY_FILE = "/etc/muster/policy.toml"

READ_ONLY_SUFFIX = ":ro"
_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,127}")  # Docker's own rule; matched whole

BindMount = Annotated[str, Meta(min_length=2, max_length=1024, pattern=r"\A/[^\x00-\x1f:]*(?::ro)?\Z")]


class HostPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`bind_mounts`: absolute host paths that replicas may mount, with everything below them; `:ro` after a path allows
    only reading.

    `runtimes`: which may be used.
    """

    bind_mounts: Annotated[tuple[BindMount, ...], Meta(max_length=256)] = ()
    runtimes: Annotated[tuple[RuntimeName, ...], Meta(max_length=2)] = ("docker", "process")


def volume_kind(volume: Volume) -> str:
    """`named` (managed by the engine), `relative` (below the stack's directory) or `absolute` (a host path)."""
    if volume.source.startswith("/"):
        return "absolute"
    if volume.source.startswith(".") or "/" in volume.source:
        return "relative"
    return "named"


def refusal(service: Service, policy: HostPolicy) -> str:
    """Why this host doesn't run the service, with the policy line that would allow it; empty when it does."""
    if service.runtime not in policy.runtimes:
        allowed = (*policy.runtimes, service.runtime)
        return _refused(f"the {service.runtime} runtime", "runtimes", allowed)
    for volume in service.volumes:
        if reason := _volume_refusal(volume, service.runtime, policy):
            return reason
    return ""


def _volume_refusal(volume: Volume, runtime: RuntimeName, policy: HostPolicy) -> str:
    kind = volume_kind(volume)
    if kind == "relative":
        # The stack's directory is always allowed, so a path that leaves it would be a way around the policy.
        if ".." in volume.source.split("/"):
            return f"volume {volume.source!r} leaves the stack's directory"
        return ""
    if kind == "named":
        if runtime == "process":
            return f"volume {volume.source!r}: named volumes need the docker runtime"
        if _VOLUME_NAME.fullmatch(volume.source) is None:
            return f"volume {volume.source!r} isn't a name that Docker takes"
        return ""
    path = posixpath.normpath("/" + volume.source.lstrip("/"))
    if any(_allows(entry, path, volume.read_only) for entry in policy.bind_mounts):
        return ""
    wanted = path + (READ_ONLY_SUFFIX if volume.read_only else "")
    return _refused(f"the bind mount of {path}", "bind_mounts", (*policy.bind_mounts, wanted))


def _allows(entry: str, path: str, read_only: bool) -> bool:
    if entry.endswith(READ_ONLY_SUFFIX):
        if not read_only:
            return False
        entry = entry.removesuffix(READ_ONLY_SUFFIX)
    allowed = posixpath.normpath(entry)
    return path == allowed or path.startswith(allowed.rstrip("/") + "/")


def _refused(what: str, key: str, values: tuple[str, ...]) -> str:
    listed = ", ".join(f'"{value}"' for value in values)
    return f"this host's policy refuses {what}; {POLICY_FILE} would allow it with: {key} = [{listed}]"
