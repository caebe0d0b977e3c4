"""A host that has all it needs, as its helper would tell it."""

from __future__ import annotations

from typing import Any

from agent.model.decode import convert
from bootstrap.probe import Facts

NOW_S = 1_800_000_000.0
FREE_BYTES = 50 * 2**30


def python(*version: int, path: str | None = None, lacks: tuple[str, ...] = ()) -> dict[str, Any]:
    """An interpreter."""
    major, minor, *_ = version
    return {
        "path": path or f"/usr/bin/python{major}.{minor}",
        "version": (*version, 0)[:3],
        "lacks": lacks,
    }


def facts(**changes: Any) -> Facts:
    """Those of a plain Debian 12, changed."""
    disk = {"free_bytes": FREE_BYTES, "read_only": False}
    told = {
        "hostname": "n1",
        "system": "Linux",
        "machine": "x86_64",
        "libc": "gnu",
        "root": True,
        "systemd": True,
        "clock_ms": int(NOW_S * 1000),
        "pythons": [python(3, 11, 2)],
        "docker": {"present": True, "answers": True},
        "package_manager": "apt",
        "disks": {"/opt": disk, "/var/lib": disk, "/etc": disk},
        "taken": [],
        "firewalls": [],
        "addresses": [
            {"interface": "lo", "address": "127.0.0.1"},
            {"interface": "eth0", "address": "10.0.0.7"},
            {"interface": "eth0", "address": "fe80::1"},
            {"interface": "docker0", "address": "172.17.0.1"},
        ],
        "ssh_address": "10.0.0.7",
        "installed": {
            "config": None,
            "certificate": None,
            "granted": False,
            "active": "inactive",
            "enabled": "",
            "ended": "",
        },
    }
    made: Facts = convert(told | changes, Facts, "facts")
    return made
