"""Draws against reference values: one number each for means, for their significance, and for spreads."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qdesampler.infer import compare_with_reference, flatten_draws, validate_reference

__all__ = ["Accuracy", "accuracy"]


@dataclass(frozen=True)
class Accuracy:
    """Largest errors over the parameters of a reference.

    Attributes:
        error_sd: error of a mean of x or x^2, in posterior standard deviations of x or x^2.
        error_se: error of the same mean, in combined standard errors.
        sd_error: relative error of a standard deviation of x.
    """

    error_sd: float
    error_se: float
    sd_error: float


def accuracy(
    samples: Mapping[str, Any], reference: Mapping[str, Any], log_weights: np.ndarray | None = None
) -> Accuracy:
    """Compare chains, or weighted independent draws, with reference values.

    Chains are compared as in `qdesampler.infer.compare_with_reference`. For normalised weights `w` the
    squared standard error of a mean m is that of self-normalised importance sampling, `sum w^2 (f - m)^2`.

    Raises:
        ValueError: as `compare_with_reference`; also for parameters that the draws lack.
    """
    draws = flatten_draws(samples)
    parameters = reference["parameters"]
    if log_weights is None:
        found = compare_with_reference(samples, reference)
        error_sd = max(float(np.abs(found.bias).max()), float(np.abs(found.bias_sq).max()))
        spreads = [np.std(draws[name], ddof=1) / entry["sd"] for name, entry in parameters.items()]
        return Accuracy(error_sd, found.largest_error, _largest(spreads))

    validate_reference(reference)
    missing = [name for name in parameters if name not in draws]
    if missing:
        raise ValueError(f"the draws lack {', '.join(missing)} of the reference.")
    weights = np.exp(log_weights).ravel()
    in_sd, in_se, spreads = [], [], []
    for name, entry in parameters.items():
        x = draws[name].ravel()
        for f, mean, sd, mcse in (
            (x, entry["mean"], entry["sd"], entry["mcse"]),
            (x**2, entry["mean_sq"], entry["sd_sq"], entry["mcse_sq"]),
        ):
            estimate = float(weights @ f)
            error = abs(estimate - mean)
            in_sd.append(error / sd)
            in_se.append(error / math.hypot(math.sqrt(float(weights**2 @ (f - estimate) ** 2)), mcse))
        spreads.append(math.sqrt(float(weights @ (x - weights @ x) ** 2)) / entry["sd"])
    return Accuracy(max(in_sd), max(in_se), _largest(spreads))


def _largest(spreads: list[Any]) -> float:
    return max(abs(float(spread) - 1.0) for spread in spreads)
