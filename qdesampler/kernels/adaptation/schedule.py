r"""The plan of the warm-up: a table of rows, one an iteration, walked from section to section.

    descend    descents of `-log p`, until all have arrived
    rounds     one step of the trial's imaginary time an iteration, until it is solved or hopeless
    local      for a hopeless trial: growing windows that fit the metric, the search for a length, the step
        size
    tune       for a middling trial: the step size of the local moves
    refine     for a solved or middling trial: one more fit from many candidates, then its efficiency measured
    frozen     nothing moves any more; stands for every iteration after the warm-up

A section that is done early is left early: rows are skipped, and the iterations that remain of the warm-up
are spent in the last row but one, "rest", which evaluates nothing. Without a solve only `local` is there.
"""

from typing import Any, NamedTuple

import numpy as np

__all__ = ["ADAPT", "DESCEND", "FREEZE", "MEASURE", "RECENTRE", "RECORD", "REFINE", "REFIT", "REST", "ROUND"]
__all__ += ["REFINING_ROWS", "SEARCH", "SETTLE", "Plan", "PlanSettings", "make_plan"]

RECORD, REFIT, SEARCH, SETTLE, FREEZE, ADAPT = 1, 2, 4, 8, 16, 32
DESCEND, ROUND, REFINE, MEASURE, RECENTRE, REST = 64, 128, 256, 512, 1024, 2048
FIRST_WINDOW, WINDOW_GROWTH = 10, 1.5
EARLY_STEPS, WINDOW_STEPS = 8, 32  # longest trajectories before the geometry is known
SMALLEST_SOLVE = 40  # iterations of warm-up below which no solve is tried
REFINING_ROWS = 12  # half of them for the last fit, half to measure it
DESCENT_EVALUATIONS = 320  # most evaluations of a descent
LOCAL_DRAWS = 1400  # draws of all chains together that local adaptation gets at most after a solve


class PlanSettings(NamedTuple):
    """What the plan depends on besides its length.

    Attributes:
        solve: whether the trial is solved for.
        adapt_metric: whether windows are recorded and fitted.
        search_length: whether the trajectory length is searched for.
        max_steps: most steps of a trajectory (warm-up, sampling).
        chains: chains of the batch.
    """

    solve: bool
    adapt_metric: bool
    search_length: bool
    max_steps: tuple[int, int]
    chains: int


class Plan(NamedTuple):
    """The table: flags and longest trajectory by row, and the first row of each section.

    Attributes:
        flags: one word of bits a row; the last is zero, "frozen".
        steps_limit: longest trajectory in steps by row.
        rounds: first row of the rounds.
        local: first row of the local adaptation.
        tune: first row of the step-size tuning.
        refine: first row of the refinement.
        rest: the resting row.
        descent_stages: evaluations of a descent in one iteration.
    """

    flags: np.ndarray
    steps_limit: np.ndarray
    rounds: int
    local: int
    tune: int
    refine: int
    rest: int
    descent_stages: int


def make_plan(num_warmup: int, settings: PlanSettings) -> Plan:
    """The plan of a warm-up of `num_warmup` iterations."""
    sections: list[tuple[np.ndarray, np.ndarray]] = []
    warm, kept = settings.max_steps

    def add(flags: Any, limit: Any = warm) -> int:
        flags = np.asarray(flags, np.int32)
        sections.append((flags, np.broadcast_to(np.asarray(limit, np.int32), flags.shape)))
        return sum(len(f) for f, _ in sections[:-1])

    if num_warmup == 0:
        return Plan(np.zeros(1, np.int32), np.full(1, kept, np.int32), 0, 0, 0, 0, 0, 1)
    solve = settings.solve and num_warmup >= SMALLEST_SOLVE
    num_descend, num_rounds, num_local, descent_stages = 0, 0, num_warmup, 1
    if solve:
        num_descend = int(np.clip(num_warmup // 5, 8, 80))
        descent_stages = -(-DESCENT_EVALUATIONS // num_descend)
        num_rounds = int(np.clip(num_warmup // 10, 4, 24))
        most = max(350, LOCAL_DRAWS // settings.chains)
        num_local = min(num_warmup - num_descend - num_rounds, most)
    add([DESCEND] * num_descend)
    rounds = add([ROUND | RECORD | REFIT | (RECENTRE if k % 3 == 2 else 0) for k in range(num_rounds)])
    local = add(*_local(num_local, settings, measure=solve))
    tune = add([ADAPT] * (num_tune := int(np.clip(num_warmup // 6, 8, 60)) if solve else 0))
    if num_tune:
        sections[-1][0][:-1:3] |= REFINE | RECORD
        sections[-1][0][-1] |= SETTLE
    refine = add(_refine() if solve else [])
    rest = add([REST] if solve else [])
    add([0], kept)
    flags, limits = (np.concatenate(column) for column in zip(*sections, strict=True))
    return Plan(flags, limits, rounds, local, tune, refine, min(rest, len(flags) - 1), descent_stages)


def _refine() -> list[int]:
    collect = [REFINE | RECORD] * (REFINING_ROWS // 2)
    collect[-1] |= REFIT | RECENTRE
    measure = [REFINE | RECORD] * (REFINING_ROWS // 2)
    measure[-1] |= FREEZE
    return [*collect, *measure]


def _local(num_rows: int, settings: PlanSettings, measure: bool) -> tuple[np.ndarray, np.ndarray]:
    """Windows (70%), the length search (15%), the step size (15%)."""
    flags = np.full(num_rows, ADAPT, dtype=np.int32)
    limit = np.full(num_rows, settings.max_steps[0], dtype=np.int32)
    search_length = settings.search_length and num_rows >= 60
    windows_end = int(num_rows * (0.7 if search_length else 0.85))
    if settings.adapt_metric and windows_end >= 2 * FIRST_WINDOW:
        start, size = 0, float(FIRST_WINDOW)
        while start < windows_end:
            end = start + int(size)
            last = end + int(size * WINDOW_GROWTH) > windows_end
            if last:
                end = windows_end
            flags[start:end] |= RECORD
            flags[end - 1] |= REFIT | (0 if last else RECENTRE)
            most = EARLY_STEPS if start < 3 * FIRST_WINDOW else WINDOW_STEPS
            limit[start:end] = np.minimum(limit[start:end], most)
            start, size = end, size * WINDOW_GROWTH
    settle = windows_end
    if search_length:
        settle = int(num_rows * 0.85)
        flags[windows_end:settle] |= SEARCH
        flags[settle - 1] |= SETTLE
    if measure:
        flags[settle:] |= MEASURE | RECORD
    flags[num_rows - 1] |= FREEZE
    return flags, limit
