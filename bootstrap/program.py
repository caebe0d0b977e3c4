"""The program that is sent to a host: the modules of `bootstrap.remote` as one text that any Python
can at least read.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final

from bootstrap.remote import wire

HELLO: Final = wire.HELLO

SHARED: Final = "agent/formats/firewalls.py"
"""Read by the agent too; it needs nothing but the standard library either."""

MODULES: Final = (
    "wire",
    "layout",
    "system",
    "firewall",
    "probe",
    "archive",
    "tree",
    "install",
    "joining",
    "removal",
    "main",
)
"""In the order in which they import each other."""

LOADING: Final = "muster-loader"
"""The loader writes it to stderr once it runs: whatever asked for a password before has got it."""

LOADER: Final = (
    f'import sys;print("{LOADING}",file=sys.stderr,flush=True);b=sys.stdin.buffer;'
    'exec(compile(b.read(int(b.readline())),"muster","exec"))'
)
"""All that stands in a command line: read a length, then so many bytes of program. No single quote in it, and nothing
that shells or sudoers' patterns read otherwise (a backslash, a star): administrators copy it into a rule."""

TOO_OLD_EXIT: Final = 90
TOO_OLD: Final = "muster: python3 here is"

_HEAD: Final = f"""\
import sys
if sys.version_info < (3, 9):
    sys.stderr.write("{TOO_OLD} %d.%d\\n" % sys.version_info[:2])
    sys.exit({TOO_OLD_EXIT})
import types
for name, text in (
"""
_TAIL: Final = """\
):
    module = types.ModuleType(name)
    sys.modules[name] = module
    parent, _, own = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], own, module)
    exec(compile(text, name, "exec"), module.__dict__)
sys.modules["bootstrap.remote.main"].main()
"""


@functools.cache
def program() -> bytes:
    """The program with its length in front, as LOADER reads it."""
    directory = Path(wire.__file__).parent
    parts = [("agent", ""), ("agent.formats", ""), ("bootstrap", ""), ("bootstrap.remote", "")]
    parts.append((SHARED.removesuffix(".py").replace("/", "."), (directory.parents[1] / SHARED).read_text("utf-8")))
    parts += [(f"bootstrap.remote.{name}", (directory / f"{name}.py").read_text("utf-8")) for name in MODULES]
    text = _HEAD + "".join(f"    ({name!r}, {source!r}),\n" for name, source in parts) + _TAIL
    data = text.encode()
    return f"{len(data)}\n".encode() + data
