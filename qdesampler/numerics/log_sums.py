"""Logarithms of sums of exponentials, of NumPy's arrays and of JAX's."""

from typing import Any

import jax
import numpy as np
from scipy.special import logsumexp

__all__ = ["log_mean", "log_sum"]


def log_sum(values: Any, axis: int | None = None) -> Any:
    """`log sum exp` over an axis, or over all; an array of the kind that was given."""
    return logsumexp(values, axis=axis) if isinstance(values, np.ndarray) else jax.nn.logsumexp(values, axis)


def log_mean(log_weights: Any) -> Any:
    """Log of the mean over the last axis."""
    return log_sum(log_weights, -1) - np.log(log_weights.shape[-1])
