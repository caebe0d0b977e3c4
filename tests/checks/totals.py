"""Add up pytest's reports: ``python -m tests.checks.totals unit.xml lab.xml`` ends with one line in pytest's words."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path


def counts(report: Path) -> Counter[str]:
    """Return how many tests of one report passed, failed, were skipped or had errors, and its whole ``seconds``.

    Raises FileNotFoundError for a part that never ran, ValueError for one that ran no test or was cut off.
    """
    try:
        suites = list(ET.parse(report).getroot().iter("testsuite"))
    except ET.ParseError as error:
        raise ValueError(f"{report} is no report of pytest's: {error}") from error
    given = {name: sum(int(s.get(name, 0)) for s in suites) for name in ("tests", "failures", "errors", "skipped")}
    if not given["tests"]:
        raise ValueError(f"{report}: no test ran")
    return Counter(
        passed=given["tests"] - given["failures"] - given["errors"] - given["skipped"],
        failed=given["failures"],
        errors=given["errors"],
        skipped=given["skipped"],
        seconds=round(sum(float(s.get("time", 0)) for s in suites)),
    )


def main(paths: list[str]) -> int:
    """Print the totals of all reports; return 1 if any test failed or a part is missing, which counts as an error."""
    totals: Counter[str] = Counter()
    for path in map(Path, paths):
        try:
            totals.update(counts(path))
        except (FileNotFoundError, ValueError) as error:
            totals["errors"] += 1
            print(f"ERROR {error}")
    further = "".join(f", {totals[name]} {name}" for name in ("errors", "skipped") if totals[name])
    print(f"{totals['passed']} passed, {totals['failed']} failed{further} in {totals['seconds']}s")
    return 0 if totals["passed"] and not totals["failed"] and not totals["errors"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
