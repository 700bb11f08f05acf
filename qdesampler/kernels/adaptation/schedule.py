r"""The plan of the warm-up: a table with one row an iteration, divided into sections.

    descend    descents of `-log p`, until all have arrived
    rounds     one step of the trial's imaginary time an iteration, until it is solved or hopeless
    local      for a hopeless trial: growing windows that fit the metric, then the search for a trajectory
               length, then the step size
    tune       for a middling trial: the step size of the local moves
    refine     for a solved or middling trial: one more fit from many proposals, then its efficiency measured
    rest       for the iterations that remain: no evaluations
    frozen     nothing is adapted any more; stands for every iteration after the warm-up

A row is a set of bits (`Row`), and a section that ends early is left early: the rows that remain of it are
skipped. Without a solve only `local` and `frozen` are there.

       descend    rounds                 local                   tune        refine      rest  frozen
     | DDDDDDDD | ooOooOoo | wwwW wwwwwwW wwwwwwwwwV sssS mmmF | raaraaaS | cccccC cccccF | __ | .... |
     |          |          |                                   |          |               |    |
     0       .rounds    .local                              .tune     .refine           .rest  last row

    D  DESCEND                        s  ADAPT | SEARCH               r  ADAPT | REFINE | RECORD
    o  ROUND | RECORD | REFIT         S  the row before, END_SEARCH   c  REFINE | RECORD
    O  the same and RECENTRE          m  ADAPT | MEASURE | RECORD     C  the same, REFIT and RECENTRE
    w  ADAPT | RECORD                 F  the row before, FREEZE       _  REST
    W  the same, REFIT and RECENTRE   a  ADAPT                        .  0
    V  the same and REFIT
"""

import enum
from typing import Any, NamedTuple

import jax
import numpy as np

__all__ = ["REFINING_ROWS", "SMALLEST_SOLVE", "Row", "WarmupPlan", "WarmupPlanSettings", "has"]
__all__ += ["make_warmup_plan"]


class Row(enum.IntFlag):
    """What an iteration of the warm-up does; the empty row is "frozen"."""

    RECORD = 1  # points go into the window
    REFIT = 2  # metric and trial are fitted afterwards
    SEARCH = 4  # the trajectory length is searched for
    END_SEARCH = 8  # the search ends with this row
    FREEZE = 16  # the adaptation ends with this row
    ADAPT = 32  # the step size follows the acceptance
    DESCEND = 64  # points of descents
    ROUND = 128  # proposals of one round of the solve
    REFINE = 256  # proposals of the refinement
    MEASURE = 512  # local moves, and some global ones that measure the trial
    RECENTRE = 1024  # the coordinates are re-centred before the fit
    REST = 2048  # no evaluations


def has(flags: jax.Array, bits: Row) -> jax.Array:
    """Whether any of these bits is set in a row of the plan."""
    return (flags & int(bits)) != 0


FIRST_WINDOW = 10  # iterations of the first window
WINDOW_GROWTH = 1.5  # by this factor each window is longer than the one before
EARLY_STEPS, WINDOW_STEPS = 8, 32  # longest trajectories, in steps, in the first windows and in the others
EARLY_WINDOWS = 3  # windows begun before so many times `FIRST_WINDOW` iterations count as the first ones
SMALLEST_SOLVE = 40  # iterations of warm-up below which no solve is tried
REFINING_ROWS = 12  # iterations of the refinement: half for the last fit, half to measure it
DESCENT_EVALUATIONS = 320  # most evaluations of a descent
LOCAL_DRAWS = 1400  # most draws of local adaptation after a solve, over all chains
LEAST_LOCAL = 350  # iterations of it that a warm-up may have with any number of chains
_SHORTEST_SEARCH = 60  # iterations of local adaptation below which no length is searched for
_WINDOWS, _WINDOWS_AND_SEARCH = 0.7, 0.85  # fraction of the local adaptation at which each part ends


class WarmupPlanSettings(NamedTuple):
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


class WarmupPlan(NamedTuple):
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


def make_warmup_plan(num_warmup: int, settings: WarmupPlanSettings) -> WarmupPlan:
    """The plan of a warm-up of `num_warmup` iterations."""
    sections: list[tuple[np.ndarray, np.ndarray]] = []
    warm, kept = settings.max_steps

    def add(flags: Any, limit: Any = warm) -> int:
        flags = np.asarray(flags, np.int32)
        sections.append((flags, np.broadcast_to(np.asarray(limit, np.int32), flags.shape)))
        return sum(len(f) for f, _ in sections[:-1])

    if num_warmup == 0:
        return WarmupPlan(np.zeros(1, np.int32), np.full(1, kept, np.int32), 0, 0, 0, 0, 0, 1)
    solve = settings.solve and num_warmup >= SMALLEST_SOLVE
    num_descend, num_rounds, num_local, descent_stages = 0, 0, num_warmup, 1
    if solve:
        num_descend = int(np.clip(num_warmup // 5, 8, 80))
        descent_stages = -(-DESCENT_EVALUATIONS // num_descend)
        num_rounds = int(np.clip(num_warmup // 10, 4, 24))
        most = max(LEAST_LOCAL, LOCAL_DRAWS // settings.chains)
        num_local = min(num_warmup - num_descend - num_rounds, most)
    add([Row.DESCEND] * num_descend)
    one_round = Row.ROUND | Row.RECORD | Row.REFIT
    rounds = add([one_round | (Row.RECENTRE if k % 3 == 2 else 0) for k in range(num_rounds)])
    local = add(*_local(num_local, settings, measure=solve))
    tune = add([Row.ADAPT] * (num_tune := int(np.clip(num_warmup // 6, 8, 60)) if solve else 0))
    if num_tune:
        sections[-1][0][:-1:3] |= Row.REFINE | Row.RECORD
        sections[-1][0][-1] |= Row.END_SEARCH
    refine = add(_refine() if solve else [])
    rest = add([Row.REST] if solve else [])
    add([0], kept)
    flags, limits = (np.concatenate(column) for column in zip(*sections, strict=True))
    return WarmupPlan(flags, limits, rounds, local, tune, refine, min(rest, len(flags) - 1), descent_stages)


def _refine() -> list[Row]:
    """Half of the rows for the last fit, half to measure it."""
    collect = [Row.REFINE | Row.RECORD] * (REFINING_ROWS // 2)
    collect[-1] |= Row.REFIT | Row.RECENTRE
    measure = [Row.REFINE | Row.RECORD] * (REFINING_ROWS // 2)
    measure[-1] |= Row.FREEZE
    return [*collect, *measure]


def _local(num_rows: int, settings: WarmupPlanSettings, *, measure: bool) -> tuple[np.ndarray, np.ndarray]:
    """Windows (70%), the length search (15%), the step size (15%)."""
    flags = np.full(num_rows, Row.ADAPT, dtype=np.int32)
    limit = np.full(num_rows, settings.max_steps[0], dtype=np.int32)
    search_length = settings.search_length and num_rows >= _SHORTEST_SEARCH
    windows_end = int(num_rows * (_WINDOWS if search_length else _WINDOWS_AND_SEARCH))
    if settings.adapt_metric and windows_end >= 2 * FIRST_WINDOW:
        start, size = 0, float(FIRST_WINDOW)
        while start < windows_end:
            end = start + int(size)
            last = end + int(size * WINDOW_GROWTH) > windows_end
            if last:
                end = windows_end
            flags[start:end] |= Row.RECORD
            flags[end - 1] |= Row.REFIT | (0 if last else Row.RECENTRE)
            most = EARLY_STEPS if start < EARLY_WINDOWS * FIRST_WINDOW else WINDOW_STEPS
            limit[start:end] = np.minimum(limit[start:end], most)
            start, size = end, size * WINDOW_GROWTH
    search_end = windows_end
    if search_length:
        search_end = int(num_rows * _WINDOWS_AND_SEARCH)
        flags[windows_end:search_end] |= Row.SEARCH
        flags[search_end - 1] |= Row.END_SEARCH
    if measure:
        flags[search_end:] |= Row.MEASURE | Row.RECORD
    flags[num_rows - 1] |= Row.FREEZE
    return flags, limit
