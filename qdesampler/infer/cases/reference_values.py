"""Draws against reference values: is the posterior that was sampled the right one?

A reference is the content of a ``reference.json``::

    {"source": "how the values were made",
     "parameters": {"beta[1]": {"mean": ..., "sd": ..., "mean_sq": ..., "sd_sq": ...,
                                "ess": ..., "mcse": ..., "mcse_sq": ...}, ...}}

with one entry for each scalar, named as in `flatten_draws`: the mean and standard deviation of x and of x^2,
the effective sample size behind them, and the Monte Carlo standard errors of both means.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from numpyro.diagnostics import effective_sample_size

__all__ = ["ReferenceComparison", "compare_with_reference", "flatten_draws", "validate_reference"]

_STATISTICS = ("mean", "sd", "mean_sq", "sd_sq", "ess", "mcse", "mcse_sq")
_POSITIVE = ("sd", "sd_sq", "ess", "mcse", "mcse_sq")


def validate_reference(reference: Any) -> None:
    """Check that ``reference`` has the form given at the head of this module. Further keys are allowed.

    Args:
        reference: the parsed JSON.

    Raises:
        ValueError: a part is missing, not a number, not finite, or not positive where it has to be.
    """
    if not isinstance(reference, Mapping) or not isinstance(reference.get("parameters"), Mapping):
        raise ValueError("expected an object with 'source' and 'parameters'.")
    if not isinstance(reference.get("source"), str) or not reference["source"].strip():
        raise ValueError("'source' is missing: expected a sentence on how the values were made.")
    if not reference["parameters"]:
        raise ValueError("'parameters' is empty.")
    for name, entry in reference["parameters"].items():
        for key in _STATISTICS:
            value: Any = entry.get(key) if isinstance(entry, Mapping) else None
            positive = key in _POSITIVE
            if not _is_finite_number(value) or (positive and not value > 0):
                kind = "a positive finite number" if positive else "a finite number"
                raise ValueError(f"parameter {name}: {key} is {value!r}, expected {kind}.")


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def flatten_draws(samples_by_chain: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    """Give every scalar of every site its own name: ``tau``, ``beta[1]``, ``L[2,1]``, counted from 1.

    Args:
        samples_by_chain: ``mcmc.get_samples(group_by_chain=True)``; each site of shape
            ``(chains, draws, *event)``.

    Returns:
        Each scalar's draws, float64 of shape ``(chains, draws)``, in row-major order within a site.

    Raises:
        ValueError: a site has no axes for chains and draws, or draws that are not finite.
    """
    flat = {}
    for site, values in samples_by_chain.items():
        draws = np.asarray(values, dtype=np.float64)
        if draws.ndim < 2:
            raise ValueError(
                f"site {site} has shape {draws.shape}, expected (chains, draws, ...): "
                "use mcmc.get_samples(group_by_chain=True)."
            )
        bad = int(np.sum(~np.isfinite(draws)))
        if bad:
            raise ValueError(f"site {site} has {bad} draws that are NaN or infinite.")
        for name, index in _element_names(site, draws.shape[2:]):
            flat[name] = draws[(slice(None), slice(None), *index)]
    return flat


def _element_names(site: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for index in np.ndindex(shape):
        yield (f"{site}[{','.join(str(i + 1) for i in index)}]" if shape else site), index


@dataclass(frozen=True, eq=False)
class ReferenceComparison:
    """One row for each parameter of the reference; columns are arrays of shape ``(parameters,)``.

    Attributes:
        names: the parameters, in the reference's order.
        mean, mean_sq: means of x and x^2 over the draws.
        ess, ess_sq: effective sample sizes of x and x^2 (see `compare_with_reference`).
        error, error_sq: ``(mean - reference mean) / combined standard error``, signed, for x and x^2. For
            draws from the reference's posterior these are close to standard normal.
        bias, bias_sq: ``(mean - reference mean) / reference sd``, signed: the size of the error, whatever the
            number of draws.
    """

    names: tuple[str, ...]
    mean: np.ndarray
    mean_sq: np.ndarray
    ess: np.ndarray
    ess_sq: np.ndarray
    error: np.ndarray
    error_sq: np.ndarray
    bias: np.ndarray
    bias_sq: np.ndarray

    @property
    def largest_error(self) -> float:
        """Largest ``|error|`` over the parameters, of x and x^2, in combined standard errors."""
        return float(np.max(np.abs([self.error, self.error_sq])))

    @property
    def smallest_ess(self) -> float:
        """Smallest effective sample size over the parameters, of x and x^2."""
        return float(np.min([self.ess, self.ess_sq]))

    def __str__(self) -> str:
        width = max(9, *map(len, self.names))
        lines = [
            f"{'parameter':<{width}} {'mean':>12} {'error/se':>9} {'error/sd':>9} {'ess':>8} "
            f"{'mean sq':>12} {'error/se':>9} {'error/sd':>9} {'ess':>8}"
        ]
        for i, name in enumerate(self.names):
            lines.append(
                f"{name:<{width}} {self.mean[i]:12.5g} {self.error[i]:9.2f} {self.bias[i]:9.4f} "
                f"{self.ess[i]:8.0f} {self.mean_sq[i]:12.5g} {self.error_sq[i]:9.2f} {self.bias_sq[i]:9.4f} "
                f"{self.ess_sq[i]:8.0f}"
            )
        return "\n".join(lines)


def compare_with_reference(
    samples_by_chain: Mapping[str, ArrayLike], reference: Mapping[str, Any]
) -> ReferenceComparison:
    """Compare draws with reference values, in standard errors that hold both sides' Monte Carlo error.

    For f(x) = x and f(x) = x^2 and each parameter of the reference, with n effective draws and standard
    deviation s of f over all draws,

        error = (mean f - reference mean) / sqrt(s^2 / n + reference mcse^2).

    n is `numpyro.diagnostics.effective_sample_size` of f itself (not of its ranks): Geyer's initial monotone
    sequence over all chains, where a disagreement of the chains counts as correlation. Each chain is first
    split in two halves, so that a drift within a chain counts too, and n is bounded by N log10 N for N draws
    (Vehtari, Gelman, Simpson, Carpenter & Buerkner, Bayesian Analysis 16(2), 2021), which matters for
    antithetic chains only. The estimate of s^2 / n is itself poor when n is below about 100: look at
    ``smallest_ess`` before trusting ``error``, for draws that know little agree with anything.

    Args:
        samples_by_chain: ``mcmc.get_samples(group_by_chain=True)``; sites of shape
            ``(chains, draws, *event)``. Sites that the reference does not name are left aside.
        reference: reference values, as ``ModelCase.reference``.

    Returns:
        The table of errors.

    Raises:
        ValueError: the reference is malformed, names a parameter that the draws lack, or a parameter's draws
            are fewer than 8 a chain, not finite, or all equal.
    """
    validate_reference(reference)
    draws = flatten_draws(samples_by_chain)
    parameters = reference["parameters"]
    missing = [name for name in parameters if name not in draws]
    if missing:
        raise ValueError(
            f"the draws lack {', '.join(missing)} of the reference; "
            f"they have {', '.join(draws) or 'nothing'}."
        )
    rows = []
    for name, expected in parameters.items():
        mean, variance, ess = _mean_variance_ess(name, draws[name])
        mean_sq, variance_sq, ess_sq = _mean_variance_ess(f"{name}^2", draws[name] ** 2)
        difference, difference_sq = mean - expected["mean"], mean_sq - expected["mean_sq"]
        rows.append(
            (
                mean,
                mean_sq,
                ess,
                ess_sq,
                difference / math.hypot(math.sqrt(variance / ess), expected["mcse"]),
                difference_sq / math.hypot(math.sqrt(variance_sq / ess_sq), expected["mcse_sq"]),
                difference / expected["sd"],
                difference_sq / expected["sd_sq"],
            )
        )
    return ReferenceComparison(tuple(parameters), *np.array(rows).T)


def _mean_variance_ess(name: str, draws: np.ndarray) -> tuple[float, float, float]:
    """Mean, variance and effective sample size of ``draws``, shape ``(chains, draws)``."""
    half = draws.shape[1] // 2
    if half < 4:
        raise ValueError(f"{name} has {draws.shape[1]} draws a chain, expected at least 8.")
    variance = float(np.var(draws, ddof=1))
    if not variance > 0.0 or not math.isfinite(variance):
        raise ValueError(f"the draws of {name} have variance {variance}: they never moved or overflow.")
    ess = float(effective_sample_size(np.concatenate([draws[:, :half], draws[:, -half:]])))
    if math.isnan(ess):
        raise ValueError(
            f"the effective sample size of {name} is not a number: a chain holds extreme values."
        )
    bound = draws.size * math.log10(draws.size)
    # A non-positive autocorrelation time is noise around a strongly antithetic chain.
    return float(np.mean(draws)), variance, min(ess, bound) if ess > 0.0 else bound
