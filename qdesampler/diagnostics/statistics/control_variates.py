r"""Posterior means with most of the Monte Carlo variance taken out, by control variates of the local energy.

For draws `x` of `p` with scores `a = grad log p` and any smooth `phi` that grows slowly enough,

    E_p[ lap phi + grad phi . a ] = 0 :

it is the local energy of the trial state `phi sqrt(p)`, whose mean under `p` is zero like the ground energy
of the Hamiltonian. Polynomials `phi` of order 1 and 2 in whitened coordinates give `a_i` and `2 delta_ij +
x_i a_j + x_j a_i`. The best linear combination of them is subtracted from `f`. It is fitted on other chains
than those that it is applied to, so that the mean stays unbiased. If `p` is Gaussian and `f` a polynomial of
the same order, the variance becomes zero.

References:
    Assaraf and Caffarel, Phys. Rev. Lett. 83 (1999) 4682; Mira, Solgi and Imparato, Stat. Comput. 23 (2013)
    653; Oates, Girolami and Chopin, J. R. Stat. Soc. B 79 (2017) 695 (cross-fitting).
"""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import xarray as xr
from arviz_base import dict_to_dataset

from qdesampler.diagnostics.datatree.convert import to_datatree
from qdesampler.diagnostics.datatree.dims import SAMPLE_DIMS
from qdesampler.diagnostics.datatree.kernel_answers import kernel_facts
from qdesampler.diagnostics.statistics.array_statistics import ess_mean
from qdesampler.diagnostics.statistics.control_fit import affordable_orders, estimate, whitened_points
from qdesampler.infer.model.scores import NoScoresError, run_scores

__all__ = ["ESTIMATES", "LEAST_DRAWS", "ZeroVarianceWarning", "estimates_of", "zero_variance"]

ESTIMATES = ("mean", "mcse", "plain_mean", "plain_mcse", "gain")
LEAST_DRAWS = 8  # draws of all chains together that the estimates need
_FOLDS = 4  # parts of the draws; the fit for one part uses the others
_ALARM = 5.0  # standard errors by which the two means may differ
_BLOCK = 4_000_000  # numbers in memory at a time


class ZeroVarianceWarning(UserWarning):
    """Plain and zero-variance means disagree beyond their errors."""


def zero_variance(mcmc: Any, fn: Callable[[dict[str, Any]], Any] | None = None, order: int = 2) -> xr.Dataset:
    r"""Posterior means by zero-variance estimators, together with the plain means.

    `mean = average of f - beta . c` with the control variates `c` of this module and `beta` fitted by least
    squares on the other folds (chains, or blocks of draws if there is only one chain). For every scalar the
    order with the smallest error on draws outside its fit is chosen: `order`, its diagonal part, 1, or 0, the
    plain mean. Orders with more coefficients than the effective draws can determine are not tried. The fit is
    made in unconstrained space; the means are those of the values of the sites.

    Args:
        mcmc: a `numpyro.infer.MCMC` after `run`, thinned or not, with a kernel that has a potential function.
            Gradients collected with `extra_fields=("z_grad",)` are used, otherwise they are computed again.
        fn: function of one draw, `{site: value}` (constrained and deterministic sites), that returns a
            number, an array or a dict of these; None: every site itself.
        order: highest order of the polynomials: 1 or 2; 0 for plain means only.

    Returns:
        One variable for each site, or for each key of the dict of `fn` ("fn" if it does not return a dict),
        with the dimension `estimate`: "mean", "mcse" (its standard error, from the autocorrelated residuals),
        "plain_mean", "plain_mcse", and "gain", `(plain_mcse / mcse)^2`. Variables `<name>_order` hold the
        chosen order: 0, 1, 1.5 (the diagonal part of order 2) or 2. Attributes: `evaluations` of the log
        density that were made, the name of the `slowest` coordinate and its `effective_draws`, `disagreeing`
        scalars, the number of `coordinates`, and the `highest_order` that was tried.

    Warns:
        ZeroVarianceWarning: a zero-variance mean differs from the plain mean by more than the errors allow:
            the run is too short to judge, or the tails of the density are too heavy for the identity.

    Raises:
        ValueError: `order` is not 0, 1 or 2; `fn` returns values that are not finite or not numeric; there
            are fewer than 8 draws; NoScoresError, one of these: the density has edges, at which the identity
            behind the estimates does not hold; see also `qdesampler.infer.model.scores.run_scores`.
    """
    if order not in (0, 1, 2):
        raise ValueError(f"order must be 0, 1 or 2, got {order!r}.")
    return estimates_of(_values(mcmc, fn), mcmc, order)


def estimates_of(values: xr.Dataset, mcmc: Any, order: int = 2) -> xr.Dataset:
    """`zero_variance` for functions whose values at the draws are given, dimensions chain and draw first."""
    if kernel_facts(mcmc).get("density_edges", 0):
        raise NoScoresError("the density ends at an edge, or jumps, where it is large: use plain means.")
    run = run_scores(mcmc)
    chains, draws, dim = run.positions.shape
    if chains * draws < LEAST_DRAWS:
        raise ValueError(
            f"Got {chains} x {draws} draws; zero-variance estimates need at least {LEAST_DRAWS}."
        )
    fold = np.repeat(np.arange(chains) % _FOLDS, draws)
    if chains < 2:
        fold = np.arange(draws) * _FOLDS // draws
    variables = {str(name): values[name].transpose(*SAMPLE_DIMS, ...) for name in values.data_vars}
    functions = []
    for name, variable in variables.items():
        functions.append(np.asarray(variable).reshape(chains * draws, -1))
        if not np.all(np.isfinite(functions[-1])):
            raise ValueError(f"{name} is not finite at every draw; its mean cannot be estimated.")
    slowest, effective = _slowest(run.positions)
    orders = affordable_orders(dim, order, effective)
    points = whitened_points(
        run.positions.reshape(-1, dim), run.scores.reshape(-1, dim), fold, whiten=bool(orders)
    )
    table, taken = estimate(functions, points, orders, (chains, draws))
    off = np.abs(table[:, 0] - table[:, 2]) > _ALARM * np.hypot(table[:, 1], table[:, 3])
    out: dict[str, xr.DataArray] = {}
    disagreeing: list[str] = []
    start = 0
    for (name, variable), columns in zip(variables.items(), functions, strict=True):
        rows = slice(start, start + columns.shape[1])
        start = rows.stop
        shape, dims = variable.shape[2:], variable.dims[2:]
        disagreeing += [f"{name}[{i}]" if shape else name for i in np.flatnonzero(off[rows])]
        coords = {axis: variable.coords[axis] for axis in dims if axis in variable.coords}
        out[name] = xr.DataArray(
            table[rows].reshape(*shape, len(ESTIMATES)),
            dims=(*dims, "estimate"),
            coords={**coords, "estimate": list(ESTIMATES)},
        )
        out[f"{name}_order"] = xr.DataArray(taken[rows].reshape(shape), dims=dims, coords=coords)
    if disagreeing:
        warnings.warn(
            f"Plain and zero-variance means disagree by more than {_ALARM:g} standard errors for "
            f"{', '.join(disagreeing[:5])}{' and others' if len(disagreeing) > 5 else ''}: the run is too "
            "short to estimate its own error, or the tails are too heavy. Draw more, and trust neither.",
            ZeroVarianceWarning,
            stacklevel=3,
        )
    facts = {"evaluations": run.evaluations, "effective_draws": effective, "disagreeing": disagreeing}
    facts |= {"coordinates": dim, "slowest": run.labels[slowest], "highest_order": max(orders, default=0.0)}
    return xr.Dataset(out, attrs=facts)


def _values(mcmc: Any, fn: Callable | None) -> xr.Dataset:
    if fn is None:
        return to_datatree(mcmc)["posterior"].to_dataset()
    samples = mcmc.get_samples(group_by_chain=True)
    found = jax.jit(jax.vmap(jax.vmap(fn)))(samples)
    named = found if isinstance(found, dict) else {"fn": found}
    for name, value in named.items():
        if not hasattr(value, "dtype") or np.asarray(value).dtype.kind not in "fiub":
            raise ValueError(f"fn must return numbers, arrays or a dict of them; {name!r} is {type(value)}.")
    return dict_to_dataset({name: np.asarray(value) for name, value in named.items()})


def _slowest(positions: np.ndarray) -> tuple[int, float]:
    """The coordinate whose mean has the smallest effective sample size, and that size."""
    chains, draws, dim = positions.shape
    if draws < 4:
        return 0, 0.0
    step = max(1, _BLOCK // (chains * draws))
    parts = [np.moveaxis(positions[:, :, i : i + step], 2, 0) for i in range(0, dim, step)]
    sizes = np.concatenate([ess_mean(np.ascontiguousarray(part)) for part in parts])
    return int(sizes.argmin()), float(sizes.min())
