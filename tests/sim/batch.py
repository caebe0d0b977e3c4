"""Many worlds in several processes: fresh seeds, counted and timed."""

from __future__ import annotations

import gc
import multiprocessing
import random
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from tests.sim.checks import Violated
from tests.sim.world import World

MAX_WORLDS = 1_000_000  # of a batch that ends by time
WORLD_LIMIT_S = 120.0  # the longest of thousands took 5 s alone
LAST_CALLS = 8  # told of a world that doesn't end
TWENTY = (1, 3, 2, 4, 5, 3, 1, 3, 9, 5, 2, 3, 3, 3, 3, 1, 5, 3, 4, 2)
# Three hosts show most known bugs in their time, four and five not many fewer, nine a third: one in forty has nine.
SIZES = (*TWENTY, *(3 if size == 9 else size for size in TWENTY))


@dataclass(slots=True)
class Report:
    """What a batch did. `failed`: seeds with what they broke. `processor_s`: without what other programs took."""

    first_seed: int = 0
    took_s: float = 0.0
    processor_s: float = 0.0
    worlds: int = 0
    events: int = 0
    least_faults: int = 1 << 30
    failed: list[tuple[int, str]] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"seeds {self.first_seed} to {self.first_seed + self.worlds - 1}\n"
            f"{self.worlds} worlds with at least {self.least_faults} faults each, {self.events} events in "
            f"{self.took_s:.0f} s: {self.worlds / self.took_s:.2f} worlds/s, {self.events / self.took_s:,.0f} events/s "
            f"({self.worlds / self.processor_s:.2f} worlds for a second of one processor)"
        )


def size_of(seed: int) -> int:
    """1 to 5 hosts, or 9, which take as long as five worlds of one; of 2, 4 and 9, one or four only observe."""
    return SIZES[seed % len(SIZES)]


@contextmanager
def in_time(limit_s: float = WORLD_LIMIT_S) -> Iterator[None]:
    """End a world that doesn't end by itself, whether it burns a core or waits; raises `Violated` where it is.

    For a process's first thread, whose one alarm it sets.
    """

    def late(_: int, frame: FrameType | None) -> None:
        last = reversed(traceback.extract_stack(frame)[-LAST_CALLS:])
        calls = " < ".join(f"{call.name} ({call.lineno})" for call in last)
        raise Violated(f"not over after {limit_s:.0f} s: {calls}")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def processes(jobs: int, prepare: Callable[[], None]) -> ProcessPoolExecutor:
    """Each begins with `prepare`. One that dies ends the run with `BrokenProcessPool`, where a `Pool` would wait on."""
    return ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=prepare)


def run_batch(*, worlds: int, for_s: float | None, seconds: float, jobs: int) -> Report:
    """Fresh worlds until there are `worlds`, or until `for_s` are over; `jobs` processes."""
    report, begin = Report(), time.monotonic()
    report.first_seed = random.SystemRandom().getrandbits(32)
    count = MAX_WORLDS if for_s is not None else worlds
    seeds = iter(range(report.first_seed, report.first_seed + count))
    with processes(jobs, _prepare) as pool:
        window = deque(pool.submit(play, next(seeds), seconds) for _ in range(min(2 * jobs, count)))
        while window:
            seed, events, faults, processor_s, error = window.popleft().result()
            report.processor_s += processor_s
            report.worlds += 1
            report.events += events
            report.least_faults = min(report.least_faults, faults)
            if error is not None:
                report.failed.append((seed, error))
            late = for_s is not None and time.monotonic() - begin > for_s
            following = None if late else next(seeds, None)
            if following is not None:
                window.append(pool.submit(play, following, seconds))
    report.took_s = time.monotonic() - begin
    return report


def _prepare() -> None:
    """What is imported lives for ever; a world's garbage is collected once, behind it."""
    gc.freeze()
    gc.disable()


def play(seed: int, seconds: float) -> tuple[int, int, int, float, str | None]:
    """One world: its seed, events, faults, seconds of a processor, and what was wrong."""
    begin = time.process_time()
    world = World(seed, size=size_of(seed), until_s=seconds)
    error: str | None = None
    try:
        with in_time():
            world.run()
    except Exception as broken:  # noqa: BLE001 - whatever it is, it is told with its seed, and fails the batch
        error = f"{type(broken).__name__}: {broken}"[:600]
    events, faults = world.events, world.faults
    del world
    gc.collect()
    return seed, events, faults, time.process_time() - begin, error
