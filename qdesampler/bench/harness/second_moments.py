"""Evaluations until second moments are known: the b^2 measure of the microcanonical sampling papers.

For the running mean of x_i^2 over the first t draws of one chain,

    b_i^2(t) = (mean_t x_i^2 - E x_i^2)^2 / Var x_i^2,

which independent draws bring to 1/t on average; 0.01 is worth about 100 effective draws. Averaged over the
scalars i, or for the worst of them, it is charged with the log-density evaluations of those t draws (Hoffman
& Sountsov, AISTATS 2022; Robnik, De Luca, Silverstein & Seljak, JMLR 24, 2023).
"""

import math

import numpy as np

__all__ = ["THRESHOLD", "b2_evaluations", "settled_after"]

THRESHOLD = 0.01  # squared relative error: about a hundred effective draws


def b2_evaluations(
    values: np.ndarray, draw_evals: np.ndarray, mean_sq: np.ndarray, sd_sq: np.ndarray
) -> tuple[float, float]:
    """Evaluations of one chain, after its warm-up, until b^2 stays below 0.01: median over the chains.

    Args:
        values: draws, shape `(chains, draws, scalars)`.
        draw_evals: evaluations of each draw, shape `(chains, draws)`.
        mean_sq: mean of x^2 under the target, shape `(scalars,)`.
        sd_sq: standard deviation of x^2 under the target, shape `(scalars,)`.

    Returns:
        For the mean of b^2 over the scalars, and for the largest; infinite where the median chain ends above
        the threshold.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    chains, draws, scalars = values.shape
    if draw_evals.shape != (chains, draws) or mean_sq.shape != (scalars,) or sd_sq.shape != (scalars,):
        raise ValueError(
            f"draws of shape {values.shape} do not fit evaluations of shape {draw_evals.shape} and moments "
            f"of shapes {mean_sq.shape}, {sd_sq.shape}."
        )
    spent = np.cumsum(draw_evals, axis=1)
    found = []
    for chain in range(chains):
        running = np.cumsum(values[chain] ** 2, axis=0) / np.arange(1, draws + 1)[:, None]
        b2 = ((running - mean_sq) / sd_sq) ** 2
        found.append(
            [settled_after(b2.mean(axis=1), spent[chain]), settled_after(b2.max(axis=1), spent[chain])]
        )
    mean, worst = _median(np.array(found))
    return float(mean), float(worst)


def settled_after(b2: np.ndarray, spent: np.ndarray) -> float:
    """Evaluations up to the draw from which `b2` stays below the threshold; infinite if it ends above."""
    above = np.flatnonzero(~(b2 < THRESHOLD))
    if above.size == 0:
        return float(spent[0])
    return float(spent[above[-1] + 1]) if above[-1] + 1 < len(b2) else math.inf


def _median(columns: np.ndarray) -> np.ndarray:
    """Median down the columns; of an even number the upper one, so that infinities are not averaged away."""
    return np.sort(columns, axis=0)[len(columns) // 2]
