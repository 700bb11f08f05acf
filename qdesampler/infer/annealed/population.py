"""From walkers to the choice of a ladder: reference, barrier, number of rungs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from qdesampler.infer.model.evaluation import value_and_gradient
from qdesampler.kernels.paths.path import TemperingPath
from qdesampler.kernels.paths.path_integral import PATHS
from qdesampler.kernels.references.reference import Reference
from qdesampler.kernels.smc.persistent_sampling import Walkers, WalkerSettings, run_walkers
from qdesampler.kernels.smc.reference_fit import FittedReference, fit_reference, with_reference
from qdesampler.kernels.tempering.schedule import (
    direct_acceptance,
    predicted_rejections,
    probe_fractions,
    rungs_for,
)
from qdesampler.numerics.types import ValueAndScore

__all__ = [
    "Start",
    "agree",
    "check_arrival",
    "flat_evaluation",
    "path_named",
    "walk",
]

MOST_UNCOVERED = 0.1  # of the walkers may lie outside a reference that replaces the broad one
_LARGE = 0.2  # mass of an overlooked mode for which the fitted reference, which holds it, is taken anyway
_WORTH = 0.8  # share of the broad barrier that a fitted reference has to fall below
_DIRECT = 0.7  # acceptance of swaps from end to end above which two rungs are enough
_DIRECT_DRAWS = 128  # over all chains, to measure it


class Start(NamedTuple):
    """What the populations of a batch of chains found, one a chain.

    Attributes:
        walkers: their runs, seen from the reference where they began, leading axis `chains`.
        wide: the broad reference.
        fit: the one fitted to all of them together.
        probes: fractions at which rejections were predicted, shape `(chains, probes)`.
        broad_rejections: between these, from the broad reference.
        fitted_rejections: likewise from the fitted one.
        direct: how often fresh draws of the fitted reference would be taken, shape `(chains,)`.
        num_evals: evaluations of walkers and fit, shape `(chains,)`.
    """

    walkers: Walkers
    wide: Reference
    fit: FittedReference
    probes: jax.Array
    broad_rejections: jax.Array
    fitted_rejections: jax.Array
    direct: jax.Array
    num_evals: jax.Array

    def reference(self, fitted: Any) -> Reference:
        """The reference of a leg."""
        return jax.tree.map(lambda a, b: jnp.where(fitted, a, b), self.fit.reference, self.wide)

    def rejections(self, fitted: Any) -> jax.Array:
        """Predicted on a leg."""
        return jnp.where(fitted, self.fitted_rejections, self.broad_rejections)


def walk(
    keys: jax.Array,
    evaluate: ValueAndScore,
    begin: Reference,
    wide: Reference,
    path: TemperingPath,
    settings: WalkerSettings,
    rich: bool = True,
    look: bool = True,
) -> Start:
    """Anneal one population for each key from `begin`, fit one reference to all and predict the barriers."""
    split = jax.vmap(lambda key: jax.random.split(key, 5))(keys)
    walkers = jax.vmap(lambda key: run_walkers(key, evaluate, begin, path, settings))(split[:, 0])
    fit = fit_reference(split[0, 1], walkers, evaluate, wide, path, rich, look)
    chains = keys.shape[0]
    draws = -(-_DIRECT_DRAWS // chains)

    def predict(walkers, key_broad, key_fitted, key_direct):
        probes = probe_fractions(walkers.fractions, walkers.used)
        seen = with_reference(walkers, fit.reference, path)
        return (
            probes,
            predicted_rejections(key_broad, with_reference(walkers, wide, path), path, probes),
            predicted_rejections(key_fitted, seen, path, probes),
            direct_acceptance(key_direct, seen, evaluate, fit.reference, path, draws),
        )

    # The fit's evaluations are shared out, so that the chains' bills add up to the whole.
    share = fit.num_evals // chains + (jnp.arange(chains) < fit.num_evals % chains)
    predicted = jax.vmap(predict)(walkers, split[:, 2], split[:, 3], split[:, 4])
    evals = walkers.num_evals + share + draws * path.slices
    return Start(walkers, wide, fit, *predicted, evals)


def check_arrival(walkers: Any) -> None:
    """Refuse walkers that never saw a density or did not arrive (traced runs pass).

    Raises:
        RuntimeError: with what to change.
    """
    if isinstance(walkers.used, Tracer):
        return
    used = np.asarray(walkers.used)
    last = np.take_along_axis(np.asarray(walkers.fractions), used[:, None] - 1, axis=1)[:, 0]
    log_z = np.take_along_axis(np.asarray(walkers.log_normalisers), used[:, None] - 1, axis=1)[:, 0]
    if not np.all(np.isfinite(log_z)):
        raise RuntimeError(
            "No walker drawn from the broad reference saw a finite log density, so that there is nothing to "
            "anneal: give reference=(centre, scale) where the density is positive, or raise num_walkers."
        )
    if not np.all(last >= 1):
        raise RuntimeError(
            f"The walkers came only to fraction {last.min():.3g} of the path in {int(used.max())} stages: "
            "the reference lies too far from the posterior. Give a closer reference=(centre, scale), or "
            "raise num_walkers."
        )


def agree(found: Start, leg: str, num_rungs: int | None, max_rungs: int) -> tuple[int, Any]:
    """Number of rungs, and whether the fitted reference is taken, for all chains of a batch.

    Two rungs, where fresh draws of the fitted reference are accepted as they are, else by the barrier.

    Under a transform the second is an array, and the first cannot depend on the barrier.
    """
    broad_barrier = found.broad_rejections.sum(-1)
    fitted_barrier = found.fitted_rejections.sum(-1)
    covers = (found.fit.uncovered <= MOST_UNCOVERED) & (found.fit.components != 0)
    covers |= found.fit.hidden_share > _LARGE
    short = covers & (jnp.mean(found.direct) >= _DIRECT)
    good = short | (covers & (fitted_barrier < _WORTH * broad_barrier))
    fitted: Any = {"fitted": True, "broad": False, "auto": None}[leg]
    if isinstance(broad_barrier, Tracer):
        fitted = jnp.all(good) if fitted is None else fitted
        return num_rungs or max(3, max_rungs // 2), fitted
    if fitted is None:
        fitted = bool(np.all(good))
    if fitted and bool(short):
        return num_rungs or 2, fitted
    barrier = float(np.max(fitted_barrier if fitted else broad_barrier))
    return num_rungs or rungs_for(barrier, max_rungs), fitted


def path_named(path: str | TemperingPath) -> TemperingPath:
    """The path of a name, or the path itself.

    Raises:
        ValueError: for an unknown name, or an object without `coefficients`.
    """
    if isinstance(path, str):
        if path not in PATHS:
            raise ValueError(f"path is {path!r}; expected one of {sorted(PATHS)}, or a path.")
        return PATHS[path]
    if not hasattr(path, "coefficients"):
        raise ValueError(f"path is a {type(path).__name__}; expected one of {sorted(PATHS)}, or a path.")
    return path


def flat_evaluation(potential: Callable, unravel: Callable, forward_mode: bool = False) -> ValueAndScore:
    """`x -> (log p, grad log p)` over flat positions; NaN counts as no density."""
    evaluate = value_and_gradient(potential, forward_mode)

    def evaluated(x):
        energy, gradient = evaluate(unravel(x))
        return -energy, -ravel_pytree(gradient)[0].astype(x.dtype)

    return evaluated
