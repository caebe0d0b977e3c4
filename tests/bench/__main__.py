"""`python -m tests.bench [name …] [--runs N] [--json]`: measure what docs/performance.md tells, on this machine."""

from __future__ import annotations

import argparse
import json
import os
import sys

from tests.bench.answers import answers
from tests.bench.elections import false_elections, handover
from tests.bench.figures import Figure, as_json, as_text
from tests.bench.history import history
from tests.bench.lan import MEASURES as LAN
from tests.bench.measures import MEASURES as LOOPBACK
from tests.bench.scale import scale
from tests.bench.throughput import throughput
from tests.lab import Lab

MEASURES = {
    **LOOPBACK,
    "answers": answers,
    "handover": handover,
    "false_elections": false_elections,
    "throughput": throughput,
    "history": history,
    "scale": scale,
    **LAN,
}


def main() -> int:
    """Print the figures; 1 when one of them misses its target."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("names", nargs="*", metavar="name", help=f"which: {' '.join(MEASURES)} (all)")
    parser.add_argument("--runs", type=int, default=5, help="at least this many of each (5)")
    parser.add_argument("--json", action="store_true", help="for a program")
    options = parser.parse_args()
    if unknown := set(options.names) - set(MEASURES):
        parser.error(f"no such measure: {', '.join(sorted(unknown))}; there are {' '.join(MEASURES)}")
    if (load := os.getloadavg()[0]) > (cores := os.cpu_count() or 1) / 2:
        # Agents that wait for a core are not slow agents.
        print(f"load {load:.1f} on {cores} cores: others are at work here, so times will be too long", file=sys.stderr)
    figures: list[Figure] = []
    names = options.names or list(MEASURES)
    if LAN.keys() & set(names) and (reason := Lab.unavailable()):
        print(f"not measured, {', '.join(name for name in names if name in LAN)}: {reason}", file=sys.stderr)
        names = [name for name in names if name not in LAN]
    for name in names:
        print(f"{name}: {(MEASURES[name].__doc__ or '').splitlines()[0]}", file=sys.stderr, flush=True)
        figures += MEASURES[name](options.runs)
    if options.json:
        print(json.dumps([as_json(figure) for figure in figures], indent=2))
    else:
        print(f"\n{as_text(figures)}")
    return 0 if all(figure.reached for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
