"""A network of this process's own: nothing but loopback, and every port free, whatever runs beside it."""

from __future__ import annotations

import ctypes
import os
import subprocess

CLONE_NEWNET = 0x40000000  # unshare(2); os.unshare came with Python 3.12


def leave_network() -> None:
    """Put this thread, and what it starts from now on, into a fresh network namespace.

    Raises OSError where that isn't allowed: it takes root.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "unshare(CLONE_NEWNET)")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
