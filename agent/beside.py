"""`bootstrap`, which lies beside `agent` in a checkout, an installation and a host's tree, as a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_PROGRAM = "import sys; sys.path.insert(0, sys.argv.pop(1)); from bootstrap.cli import main; main()"


def bootstrap_argv(*arguments: str) -> list[str]:
    """The command line of `bootstrap ARGUMENTS`, with this very Python and this very version."""
    return [sys.executable, "-I", "-c", _PROGRAM, str(_ROOT), *arguments]
