"""Reading the file that an argument names."""

from __future__ import annotations

import sys
from pathlib import Path

from agent.errors import InputError, TooLarge


def read_bounded(name: str, max_bytes: int) -> tuple[bytes, str]:
    """The file's bytes (`-`: standard input), and what messages call its root. Raises InputError, TooLarge."""
    if name == "-":
        data, where = sys.stdin.buffer.read(max_bytes + 1), "standard input"
    else:
        where = name
        try:
            with Path(name).open("rb") as file:
                data = file.read(max_bytes + 1)
        except FileNotFoundError:
            raise InputError("there is no such file", where=name) from None
        except OSError as error:
            raise InputError(f"can't be read: {(error.strerror or 'error').lower()}", where=name) from None
    if len(data) > max_bytes:
        raise TooLarge(f"more than {max_bytes} bytes", where=where)
    return data, f"{where}: $"
