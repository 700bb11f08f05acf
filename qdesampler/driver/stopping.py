"""Criteria that end a run early: effective draws, R-hat, time, evaluations."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import jax
import numpy as np
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

__all__ = ["ConvergenceCheck", "Until", "check_convergence", "draws_at_checks"]

_FIRST_CHECK = 100  # draws of each chain at the first check
_GROWTH = 1.25  # ratio of the draws at one check to those at the check before
_MOST_READ = 2**24  # numbers read at a time from where the draws are kept
_MOST_WORKED = 2**22  # numbers transformed at a time, with about 50 bytes of memory for each


@dataclass(frozen=True)
class Until:
    """Criteria that end a run before `num_samples`.

    `ess` and `rhat` are checked after 100 draws of each chain, and again whenever the number of draws has
    grown by a quarter. There are few checks, at numbers of draws that are fixed beforehand, so that a run
    with the same key stops at the same draw.

    Args:
        ess: every parameter has at least this many effective draws, all chains together (Geyer's initial
            monotone sequence, Vehtari et al. 2021, arXiv:1903.08008, without ranks).
        rhat: every parameter has a split R-hat of at most this. With `ess`, both must hold at one check.
        max_time: seconds of this call; it ends the warm-up as well, and then no draw is kept.
        max_evals: log-density evaluations of all chains, warm-up included; checked after every chunk.

    Raises:
        ValueError: no criterion is given, or a number is out of its range.
    """

    ess: float | None = None
    rhat: float | None = None
    max_time: float | None = None
    max_evals: float | None = None

    def __post_init__(self) -> None:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        if all(value is None for value in given.values()):
            raise ValueError(f"`until` is empty; expected at least one of {', '.join(given)}.")
        for name, value in given.items():
            least = 1.0 if name == "rhat" else 0.0
            if value is not None and (isinstance(value, (bool, str)) or not value > least):
                raise ValueError(f"`until` has {name}={value!r}; expected a number above {least:g}.")

    @classmethod
    def of(cls, given: "Until | Mapping[str, Any] | None") -> "Until | None":
        """The criteria from a dictionary, an `Until`, or None.

        Raises:
            ValueError: for unknown names, and for values that the constructor refuses.
        """
        if given is None or isinstance(given, cls):
            return given
        known = {field.name for field in fields(cls)}
        if not isinstance(given, Mapping) or not set(given) <= known:
            raise ValueError(
                f"`until` is {given!r}; expected a dictionary with some of {sorted(known)}, for instance "
                "until=dict(ess=400, rhat=1.01)."
            )
        return cls(**given)

    @property
    def needs_draws(self) -> bool:
        """Whether a criterion needs the draws themselves."""
        return self.ess is not None or self.rhat is not None

    def is_met(self, check: "ConvergenceCheck") -> bool:
        """Whether the criteria on effective draws and R-hat hold."""
        enough = self.ess is None or check.ess >= self.ess
        return enough and (self.rhat is None or check.rhat <= self.rhat)


@dataclass(frozen=True)
class ConvergenceCheck:
    """The worst effective sample size and R-hat at one moment of a run.

    Attributes:
        draws: draws of each chain so far.
        ess: smallest number of effective draws of all parameters.
        rhat: largest split R-hat of all parameters.
    """

    draws: int
    ess: float
    rhat: float


def check_convergence(
    samples: Any, draws: int, gathered: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> ConvergenceCheck:
    """The worst effective sample size and R-hat over all scalars of a tree of arrays (chain, draw, ...).

    Only a bounded part of the draws is in memory at a time. Scalars that are equal in all draws of all chains
    (constant deterministic sites) are ignored. A scalar that is not finite somewhere, or that is constant
    within every chain but differs between chains, has no effective draws and an infinite R-hat.

    Args:
        samples: the draws of this process.
        draws: number of draws of each chain to use.
        gathered: function that joins the chains of all processes.
    """
    if draws < 4:  # each half of a chain needs two draws
        return ConvergenceCheck(draws, 0.0, math.inf)
    ess, rhat = math.inf, 1.0
    for own in _scalars(samples, draws):
        flat = gathered(own)
        moving = ~(flat == flat[:1, :1]).all((0, 1))
        if not moving.any():
            continue
        flat = flat[..., moving]
        if not np.isfinite(flat).all():
            return ConvergenceCheck(draws, 0.0, math.inf)
        with np.errstate(divide="ignore", invalid="ignore"):
            sizes, ratios = effective_sample_size(flat), split_gelman_rubin(flat)
        ess = min(ess, float(np.min(np.nan_to_num(sizes, nan=0.0))))
        rhat = max(rhat, float(np.max(np.nan_to_num(ratios, nan=math.inf, posinf=math.inf))))
    return ConvergenceCheck(draws, ess, rhat)


def _scalars(samples: Any, draws: int) -> Iterator[np.ndarray]:
    """All scalars in arrays (chain, draw, scalar) of a bounded size, read piece by piece."""
    for leaf in jax.tree.leaves(samples):
        rows = leaf.shape[0] * draws
        for cuts in _parts(leaf.shape[2:], max(1, _MOST_READ // rows)):
            values = np.asarray(leaf[(slice(None), slice(0, draws), *cuts)])
            flat = values.reshape(*values.shape[:2], -1)
            step = max(1, _MOST_WORKED // rows)
            for first in range(0, flat.shape[2], step):
                yield flat[..., first : first + step].astype(float)


def _parts(shape: tuple[int, ...], most: int) -> Iterator[tuple[slice, ...]]:
    """Slices that divide an array of this shape into parts of at most `most` entries."""
    if math.prod(shape) <= most:
        yield (slice(None),) * len(shape)
        return
    inner = math.prod(shape[1:])
    step = max(1, most // max(inner, 1))
    for first in range(0, shape[0], step):
        for rest in _parts(shape[1:], most):
            yield (slice(first, first + step), *rest)


def draws_at_checks() -> Iterator[int]:
    """Numbers of draws at which convergence is checked: 100, and a quarter more each time."""
    draws = _FIRST_CHECK
    while True:
        yield draws
        draws = math.ceil(_GROWTH * draws)
