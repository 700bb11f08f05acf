"""Ends of descents that are no modes: places where the density is what rounding has left of it.

Where large terms cancel, a log density in float32 may be constant, or scatter, while its gradient says
something else. There the trapezoidal rule fails over short steps: on a smooth density

    log p(x + d) - log p(x) = (grad log p(x) + grad log p(x + d)) . d / 2

up to the third order in `d`, exactly on a Gaussian however stiff.
"""

import numpy as np

from qdesampler.solvers.gaussian.descents import Descent, Evaluate

__all__ = ["is_rounding", "without_rounding"]

_NEIGHBOURS = 4  # points about an end, half of which must contradict its gradient
_SCATTER, _RELATIVE = 1.0, 0.2  # nats, and fraction of both slopes, by which the rule may fail


def is_rounding(evaluate: Evaluate, end: Descent, precision: float) -> bool:
    """Whether values about an end contradict its gradient; 4 evaluations.

    Args:
        evaluate: the target.
        end: a descent that has ended at a finite density.
        precision: relative rounding of the log densities.
    """
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (_NEIGHBOURS, end.position.size))
    steps = signs * precision ** (2 / 3) * (1 + np.abs(end.position))
    values, scores = evaluate(end.position + steps)
    sound = np.isfinite(values) & np.all(np.isfinite(scores), 1)
    with np.errstate(invalid="ignore", over="ignore"):
        first, last = steps @ end.score, np.sum(steps * scores, 1)
        off = np.abs(values - end.log_density - 0.5 * (first + last))
        wrong = off > _SCATTER + _RELATIVE * (np.abs(first) + np.abs(last))
    return 2 * int(np.sum(wrong & sound)) >= _NEIGHBOURS


def without_rounding(
    evaluate: Evaluate, descents: list[Descent], precision: float
) -> tuple[list[Descent], int]:
    """Descents whose ends are no rounding, as far as they may be the highest; and the evaluations.

    Ends are examined from the highest down, until one is sound. All are returned if none is.
    """
    order = sorted((d for d in descents if np.isfinite(d.log_density)), key=lambda d: -d.log_density)
    for number, end in enumerate(order):
        if not is_rounding(evaluate, end, precision):
            dropped = {id(descent) for descent in order[:number]}
            kept = [descent for descent in descents if id(descent) not in dropped]
            return kept, _NEIGHBOURS * (number + 1)
    return descents, _NEIGHBOURS * len(order)
