r"""Posterior means with most of the Monte Carlo variance taken out, by control variates of the local energy.

For draws `x` of `p` with scores `a = grad log p` and any smooth `phi` that grows slowly enough,

    E_p[ lap phi + grad phi . a ] = 0 :

it is the local energy of the trial state `phi sqrt(p)`, whose mean under `p` vanishes with the
Hamiltonian's ground energy. Polynomials `phi` of order 1 and 2 in whitened coordinates give `a_i` and `2
delta_ij + x_i a_j + x_j a_i`. The best linear combination of them is taken from `f`, fitted on other
chains than it is applied to, so that the mean stays unbiased; where `p` is Gaussian and `f` a polynomial
of the order, nothing is left of the variance.

References:     Assaraf and Caffarel, Phys. Rev. Lett. 83 (1999) 4682; Mira, Solgi and Imparato, Stat.
Comput. 23 (2013) 653;     Oates, Girolami and Chopin, J. R. Stat. Soc. B 79 (2017) 695 (cross-fitting).
"""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from arviz_base import dict_to_dataset
from arviz_stats.base.array import array_stats

from qdesampler.diagnostics.convert import to_datatree
from qdesampler.diagnostics.dims import SAMPLE_DIMS
from qdesampler.infer.scores import run_scores

__all__ = ["ESTIMATES", "ZeroVarianceWarning", "zero_variance"]

ESTIMATES = ("mean", "mcse", "plain_mean", "plain_mcse", "gain")
_FOLDS = 4
_DRAWS_A_FEATURE = 4  # effective draws that one coefficient needs
_RIDGE = 1e-8  # of the mean square of the features
_ALARM = 5.0  # standard errors that both means may differ
_MOST_FEATURES = 4000


class ZeroVarianceWarning(UserWarning):
    """Plain and zero-variance means disagree beyond their errors."""


def zero_variance(mcmc: Any, fn: Callable[[dict[str, Any]], Any] | None = None, order: int = 2) -> xr.Dataset:
    r"""Posterior means by zero-variance estimators, beside the plain ones.

    `mean = average of f - beta . c` with the control variates `c` of this module and `beta` fitted by least
    squares on the other folds (chains; blocks of draws where there are fewer than two chains). For every
    scalar the order with the least error on draws that its fit has not seen is taken: `order`, its diagonal
    part, 1, or 0, the plain mean. Orders with more coefficients than the effective draws can determine are
    not tried. Draws are taken to unconstrained space for this; what is reported is what was asked for.

    Args:
        mcmc: a `numpyro.infer.MCMC` after `run`, with a kernel that knows its potential. Thinned runs do.
            Gradients collected with `extra_fields=("z_grad",)` are used, else computed again.
        fn: function of one draw, `{site: value}` (constrained and deterministic sites), returning a number,
            an array or a dict of these; None: every site itself.
        order: highest order of the polynomials: 1 or 2; 0 for plain means only.

    Returns:
        One variable a site, or a key of `fn`'s dict ("fn" where it returns no dict), with the dimension
        `estimate`: "mean", "mcse" (its standard error, from the autocorrelated residuals), "plain_mean",
        "plain_mcse", and "gain", `(plain_mcse / mcse)^2`. Variables `<name>_order` have the order taken:
        0, 1, 1.5 (the diagonal part of order 2) or 2. Attributes: `evaluations` of the log density that
        were needed, `effective_draws`, `disagreeing` scalars.

    Warns:
        ZeroVarianceWarning: a zero-variance mean is further from the plain one than the errors allow: the run
            is too short to judge, or the density's tails are too heavy for the identity.

    Raises:
        ValueError: `order` is not 0, 1 or 2; `fn` returns what is not finite or not numeric; there are fewer
            than 8 draws; see also `qdesampler.infer.scores.run_scores`.
    """
    if order not in (0, 1, 2):
        raise ValueError(f"order must be 0, 1 or 2, got {order!r}.")
    values = _values(mcmc, fn)
    run = run_scores(mcmc)
    chains, draws, _ = run.positions.shape
    if chains * draws < 8:
        raise ValueError(f"Got {chains} x {draws} draws; zero-variance estimates need at least 8.")
    fold = np.repeat(np.arange(chains) % _FOLDS, draws)
    if chains < 2:
        fold = np.arange(draws) * _FOLDS // draws
    effective = _least_ess(run.positions)
    sets = _feature_sets(run.positions, run.scores, order, effective)
    out: dict[str, xr.DataArray] = {}
    disagreeing: list[str] = []
    for name, variable in values.data_vars.items():
        stacked = variable.transpose(*SAMPLE_DIMS, ...)
        shape = stacked.shape[2:]
        columns = np.asarray(stacked, np.float64).reshape(chains * draws, -1)
        if not np.all(np.isfinite(columns)):
            raise ValueError(f"{name} is not finite at every draw; its mean cannot be estimated.")
        table, orders = _estimate(columns, sets, fold, (chains, draws))
        off = np.abs(table[:, 0] - table[:, 2]) > _ALARM * np.hypot(table[:, 1], table[:, 3])
        disagreeing += [f"{name}[{i}]" if shape else str(name) for i in np.flatnonzero(off)]
        dims = stacked.dims[2:]
        coords = {dim: stacked.coords[dim] for dim in dims if dim in stacked.coords}
        out[str(name)] = xr.DataArray(
            table.reshape(*shape, len(ESTIMATES)),
            dims=(*dims, "estimate"),
            coords={**coords, "estimate": list(ESTIMATES)},
        )
        out[f"{name}_order"] = xr.DataArray(orders.reshape(shape), dims=dims, coords=coords)
    if disagreeing:
        warnings.warn(
            f"Plain and zero-variance means disagree by more than {_ALARM:g} standard errors for "
            f"{', '.join(disagreeing[:5])}{' and others' if len(disagreeing) > 5 else ''}: the run is too "
            "short to tell its own error, or the tails are too heavy. Draw more, and trust neither.",
            ZeroVarianceWarning,
            stacklevel=2,
        )
    facts = {"evaluations": run.evaluations, "effective_draws": effective, "disagreeing": disagreeing}
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


def _least_ess(positions: np.ndarray) -> float:
    """Effective draws behind the worst mean of a coordinate, by ArviZ."""
    by_dim = np.moveaxis(positions, 2, 0)
    ess = [array_stats.ess(column, method="mean", chain_axis=0, draw_axis=1) for column in by_dim]
    return float(np.nanmin(ess)) if np.any(np.isfinite(ess)) else 0.0


def _whitened(positions: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    flat, slopes = (array.reshape(-1, array.shape[-1]) for array in (positions, scores))
    centred = flat - flat.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(flat))
    root = np.sqrt(np.maximum(values, 1e-12 * max(values[-1], 1e-300)))
    return centred @ (vectors / root), slopes @ (vectors * root)


def _feature_sets(
    positions: np.ndarray, scores: np.ndarray, order: int, effective: float
) -> list[tuple[float, np.ndarray]]:
    """Orders that the draws can bear, and their control variates, shape `(draws, features)`."""
    dim = positions.shape[-1]
    sets: list[tuple[float, np.ndarray]] = []
    most = min(effective / _DRAWS_A_FEATURE, _MOST_FEATURES)
    if order == 0 or dim > most:
        return sets
    x, a = _whitened(positions, scores)
    sets.append((1.0, a))
    if order == 2 and 2 * dim <= most:
        squares = 2 + 2 * x * a
        sets.append((1.5, np.concatenate([a, squares], 1)))
        if dim > 1 and dim + dim * (dim + 1) // 2 <= most:
            i, j = np.triu_indices(dim, 1)
            sets.append((2.0, np.concatenate([a, squares, x[:, i] * a[:, j] + x[:, j] * a[:, i]], 1)))
        elif dim == 1:
            sets[-1] = (2.0, sets[-1][1])
    return sets


def _estimate(
    columns: np.ndarray,
    sets: list[tuple[float, np.ndarray]],
    fold: np.ndarray,
    shape: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `ESTIMATES` for every column, and the orders taken."""
    plain = columns.mean(0)
    plain_mcse = _mcse(columns, shape)
    rounding = np.finfo(jnp.result_type(float)).eps * np.sqrt(np.mean(columns**2, 0))
    best, best_mcse, orders = plain.copy(), plain_mcse.copy(), np.zeros(len(plain))
    for order, features in sets:
        residual = np.empty_like(columns)
        for k in np.unique(fold):
            out = fold == k
            c, f = features[~out], columns[~out]
            c, f = c - c.mean(0), f - f.mean(0)
            gram = c.T @ c
            gram[np.diag_indices_from(gram)] += _RIDGE * np.trace(gram) / len(gram) + 1e-300
            beta = np.linalg.solve(gram, c.T @ f)
            residual[out] = columns[out] - features[out] @ beta
        mcse = np.hypot(_mcse(residual, shape), rounding)  # draws and scores are no more exact than this
        better = mcse < best_mcse
        best = np.where(better, residual.mean(0), best)
        best_mcse = np.where(better, mcse, best_mcse)
        orders = np.where(better, order, orders)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.where(best_mcse > 0, (plain_mcse / best_mcse) ** 2, np.where(plain_mcse > 0, np.inf, 1.0))
    return np.stack([best, best_mcse, plain, plain_mcse, gain], 1), orders


def _mcse(columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Standard error of the mean of every column, autocorrelation counted, at least the rounding of a draw.

    The residuals of a good fit live on few far draws, and their variance is itself uncertain, by
    `sqrt((kurtosis - 1) / draws)` of it: so much is added.
    """
    out = np.zeros(columns.shape[1])
    for i, column in enumerate(columns.T):
        if np.ptp(column) > 1e-12 * np.max(np.abs(column)):
            error = array_stats.mcse(column.reshape(shape), method="mean", chain_axis=0, draw_axis=1)
            z = (column - column.mean()) / column.std()
            out[i] = error * np.sqrt(1 + np.sqrt(max(np.mean(z**4) - 1, 0) / z.size))
    return out
