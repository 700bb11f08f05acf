"""What one seed of a method gives, and the sizes that methods share."""

import math
from typing import NamedTuple

__all__ = ["Result", "Sizes"]


class Sizes(NamedTuple):
    """Iterations of warm-up and draws of a chain, and the seeds."""

    warmup: int
    draws: int
    seeds: int


class Result(NamedTuple):
    """One seed of one method.

    Attributes:
        log_evidence: the estimate, in nats.
        error: its stated standard error.
        mass: posterior mass of the target's chosen mode.
        warmup_evals: evaluations before the draws.
        draw_evals: evaluations of the draws; 0 for a method without draws that could be added.
        alarms: codes of the findings.
        round_trips: round trips of all chains in the kept iterations.
    """

    log_evidence: float
    error: float
    mass: float
    warmup_evals: int
    draw_evals: int
    alarms: tuple[str, ...] = ()
    round_trips: float = math.nan
