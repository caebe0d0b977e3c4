"""Half a minute of `make soak`, with every run of the lab's tests."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.soak.__main__ import soak_in
from tests.soak.run import HISTORY

SECONDS = 30.0
OPERATORS = 4


@pytest.mark.lab
@pytest.mark.timeout(300)
def test_what_operators_were_told_is_linearizable_while_hosts_are_cut_off_and_without_power(tmp_path: Path) -> None:
    if reason := Lab.unavailable():
        pytest.skip(reason)
    seed, name = random.SystemRandom().getrandbits(32), f"s{os.getpid()}"
    print(f"again with the same mishaps: python -m tests.soak --for {SECONDS:.0f} --seed {seed}")
    soak_in(tmp_path, hosts=3, seconds=SECONDS, operators=OPERATORS, seed=seed, name=name)
    assert (tmp_path / HISTORY).stat().st_size > 0
