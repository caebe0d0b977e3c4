"""How to start `bootstrap`, which is installed beside `agent`, as a separate process."""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_PROGRAM = "import sys; sys.path.insert(0, sys.argv.pop(1)); from bootstrap.cli import main; main()"


def bootstrap_argv(*arguments: str) -> list[str]:
    """The command line of `bootstrap ARGUMENTS`, with the Python that runs this and the same version of the code."""
    return [sys.executable, "-I", "-c", _PROGRAM, str(_ROOT), *arguments]
