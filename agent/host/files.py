"""Which of a plan's files a replica mounts, and which version of each a host keeps. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from agent.host.policy import volume_kind
from agent.model.spec import MountedFile, ReplicaSpec
from agent.model.stack import Service, Stack, Volume


def shipped_path(volume: Volume) -> str | None:
    """The path in the stack's directory that a volume mounts, "" for all of it; None for other kinds of volumes."""
    if volume_kind(volume) != "relative":
        return None
    path = posixpath.normpath(volume.source)
    return "" if path == "." else path


def mounted_files(stack: Stack, service: Service) -> tuple[MountedFile, ...]:
    """The stack's files below the service's relative volumes, in the order of paths."""
    mounts = [path for volume in service.volumes if (path := shipped_path(volume)) is not None]
    return tuple(
        MountedFile(path=path, digest=file.digest, size=file.size, mode=file.mode)
        for path, file in sorted(stack.files.items())
        if any(mount in ("", path) or path.startswith(f"{mount}/") for mount in mounts)
    )


def newest_files(specs: Iterable[ReplicaSpec]) -> dict[str, dict[str, MountedFile]]:
    """The files that have to be in each stack's directory: {stack: {path: file}}.

    During a rollout two revisions may mount one path; the newest one's content is there then, so that a restart of the
    older replica doesn't take it back.
    """
    found: dict[str, dict[str, MountedFile]] = {}
    for spec in sorted(specs, key=lambda spec: (spec.revision, spec.key)):
        for file in spec.files:
            found.setdefault(spec.key.stack, {})[file.path] = file
    return found
