"""The draws of a run in unconstrained space, with the gradients of their log density."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.handlers import seed
from numpyro.infer.util import get_transforms, potential_energy
from numpyro.util import nested_attrgetter

__all__ = ["NoScoresError", "RunScores", "log_densities", "moved_draws", "potential_values", "run_scores"]

_BATCH = 512  # draws evaluated together
_SAME = 1e-3  # relative error of a value after the map to unconstrained space and back
_KEY = "qdesampler.infer.model.scores"  # in the run's own cache, which NumPyro drops when a run is pickled


class NoScoresError(ValueError):
    """A run has no scores: there are no draws, or its target cannot be evaluated; the message says why."""


class RunScores(NamedTuple):
    """The positions of a run and the scores of its target there; NumPy arrays in float64.

    Attributes:
        positions: unconstrained and flat, shape `(chains, draws, dim)`.
        scores: `grad log p` at the positions, same shape.
        evaluations: log-density evaluations made for this: 0 if the run had collected its gradients.
        labels: names of the flat coordinates, such as "theta[2]".
    """

    positions: np.ndarray
    scores: np.ndarray
    evaluations: int
    labels: tuple[str, ...]


class _Functions(NamedTuple):
    """Functions compiled for the draws of one run; the next run may have other data."""

    draws: Any
    flat: Callable
    slopes: Callable
    values: Callable
    densities: Callable
    labels: tuple[str, ...]


class _Kept(NamedTuple):
    """Scores, with the draws that they belong to."""

    draws: Any
    collected: Any
    found: RunScores


def run_scores(mcmc: Any, *, require_finite: bool = True) -> RunScores:
    """Unconstrained draws and scores of a run with any gradient-based NumPyro kernel.

    Gradients that the run has collected (`extra_fields=("z_grad",)`) are used; otherwise they are computed,
    with one evaluation a draw. Compiled functions and scores are kept with the run until it runs again. A run
    whose target is no function of JAX answers by a method of its own, `known_scores`.

    Args:
        mcmc: a `numpyro.infer.MCMC` after `run`.
        require_finite: refuse scores that are not finite.

    Raises:
        NoScoresError: nothing was sampled yet; a site that was moved is not among the draws; the kernel has
            no potential, or has lost it when it was pickled; the target has no continuous coordinate; a
            support has no inverse transform; the scores are not finite at every draw.
    """
    found = mcmc.known_scores() if hasattr(mcmc, "known_scores") else _found(mcmc)
    bad = ~np.all(np.isfinite(found.positions) & np.isfinite(found.scores), axis=(0, 1))
    if require_finite and np.any(bad):
        names = ", ".join(np.asarray(found.labels)[bad][:5])
        raise NoScoresError(
            f"Position or gradient is not finite at some draws of {names} ({int(bad.sum())} of {bad.size} "
            "coordinates): zero-variance estimates need finite gradients. Look at diagnose(mcmc)."
        )
    return found


def _found(mcmc: Any) -> RunScores:
    """The scores of a NumPyro run, kept with it."""
    functions = _functions(mcmc)
    draws, collected = moved_draws(mcmc), mcmc.get_extra_fields(group_by_chain=True).get("z_grad")
    cache = _cache(mcmc)
    kept = cache.get((_KEY, "scores"))
    if kept is None or not (_same(kept.draws, draws) and _same(kept.collected, collected)):
        kept = _Kept(draws, collected, _compute(functions, draws, collected))
        cache[(_KEY, "scores")] = kept
    return kept.found


def potential_values(mcmc: Any, positions: np.ndarray) -> np.ndarray:
    """`U = -log p` of a run's target at points of unconstrained space.

    Args:
        mcmc: a `numpyro.infer.MCMC` after `run`.
        positions: flat, as in `RunScores`, shape `(n, dim)`.

    Returns:
        Shape `(n,)`, float64; the values that the target returns, including NaN.

    Raises:
        NoScoresError: as `run_scores`.
    """
    values = _functions(mcmc).values(jnp.asarray(positions, jnp.result_type(float)))
    return np.asarray(values, np.float64)


def log_densities(mcmc: Any, draws: Any) -> np.ndarray:
    """Log density of a run's target at values of its sites, with respect to these values.

    That is `-U(z) - log |dx / dz|`, where `z` is the unconstrained image of the values `x`. It has no
    Jacobians, so it has every symmetry of the model.

    Args:
        mcmc: a `numpyro.infer.MCMC` after `run`.
        draws: the sites that were moved, as `moved_draws` gives them, one leading axis of size `n`.

    Returns:
        Shape `(n,)`, float64, up to a constant; `-inf` outside the support.

    Raises:
        NoScoresError: as `run_scores`.
    """
    values = _functions(mcmc).densities(jax.tree.map(jnp.asarray, draws))
    return np.asarray(values, np.float64)


def _cache(mcmc: Any) -> dict[Any, Any]:
    return getattr(mcmc, "_cache", {})


def _same(first: Any, second: Any) -> bool:
    one, other = jax.tree.leaves(first), jax.tree.leaves(second)
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def moved_draws(mcmc: Any) -> Any:
    """Draws of the sites that the kernel moved, in the model's own values; leaves `(chains, draws, ...)`.

    Raises:
        NoScoresError: nothing was sampled yet, or a site that was moved is not among the draws.
    """
    if mcmc.last_state is None:
        raise NoScoresError("There are no draws: run the sampler first, with mcmc.run(key, ...).")
    draws = mcmc.get_samples(group_by_chain=True)
    if getattr(mcmc.sampler, "model", None) is None:
        return draws
    moved = _position(mcmc)
    missing = [name for name in moved if name not in draws]
    if missing:
        raise NoScoresError(f"The draws lack the sites {', '.join(missing)}, which the kernel moved.")
    return {name: draws[name] for name in moved}


def _position(mcmc: Any) -> Any:
    """The last position of all chains; its field may be nested in the state."""
    return nested_attrgetter(mcmc.sampler.sample_field)(mcmc.last_state)


def _compute(functions: _Functions, draws: Any, collected: Any) -> RunScores:
    chains, number = jax.tree.leaves(draws)[0].shape[:2]

    def rows(tree):
        return jax.tree.map(lambda leaf: leaf.reshape(chains * number, *leaf.shape[2:]), tree)

    positions = functions.flat(rows(draws))
    if positions.shape[1] == 0:
        raise NoScoresError("The target has no continuous coordinate: there are no scores.")
    evaluations = 0
    if collected is None:
        slopes = functions.slopes(positions)
        evaluations = chains * number
    else:
        slopes = jax.vmap(lambda z: ravel_pytree(z)[0])(rows(collected))
    shape = (chains, number, -1)
    return RunScores(
        np.asarray(positions, np.float64).reshape(shape),
        -np.asarray(slopes, np.float64).reshape(shape),
        evaluations,
        functions.labels,
    )


def _functions(mcmc: Any) -> _Functions:
    draws = moved_draws(mcmc)
    kernel, args, kwargs = mcmc.sampler, mcmc._args, mcmc._kwargs
    cache = _cache(mcmc)
    kept = cache.get((_KEY, "functions"))
    if kept is not None and _same(kept.draws, draws):
        return kept
    one = _position(mcmc)
    one = one if mcmc.num_chains == 1 else jax.tree.map(lambda leaf: leaf[0], one)
    model = getattr(kernel, "model", None)
    unconstrain = (lambda draw: draw) if model is None else _bijection(model, args, kwargs, one, draws)
    if hasattr(kernel, "get_potential_fn"):
        try:
            potential = kernel.get_potential_fn(args, kwargs)
        except RuntimeError as error:  # a kernel that was pickled has not seen its model
            raise NoScoresError(f"The potential of {type(kernel).__name__} is not known: {error}") from error
    elif model is not None:

        def potential(z):
            return potential_energy(model, args, kwargs, z)

    else:
        raise NoScoresError(f"{type(kernel).__name__} has no potential, so there are no scores.")
    _, unravel = ravel_pytree(one)
    volume = (lambda draw, z: 0.0) if model is None else _volume(model, args, kwargs)

    def density(draw):
        z = unconstrain(draw)
        value = -potential(z) - volume(draw, z)
        return jnp.where(jnp.isnan(value), -jnp.inf, value)

    found = _Functions(
        draws,
        _mapped(lambda draw: ravel_pytree(unconstrain(draw))[0]),
        _mapped(jax.grad(lambda x: potential(unravel(x)))),
        _mapped(lambda x: potential(unravel(x))),
        _mapped(density),
        _labels(one),
    )
    cache[(_KEY, "functions")] = found
    return found


def _mapped(function: Callable) -> Callable:
    """The function of all rows, in equal batches.

    `jax.lax.map(batch_size=...)` would compile the function twice, the second time for the rows that are left
    over; here the last batch is filled up with its last row.
    """
    batched = jax.vmap(function)

    @jax.jit
    def of_rows(rows):
        count = jax.tree.leaves(rows)[0].shape[0]
        parts = max(1, -(-count // _BATCH))
        size = -(-count // parts)

        def cut(leaf):
            filled = jnp.concatenate([leaf, jnp.repeat(leaf[-1:], parts * size - count, axis=0)])
            return filled.reshape(parts, size, *leaf.shape[1:])

        found = jax.lax.map(batched, jax.tree.map(cut, rows)) if parts > 1 else batched(rows)
        joined = found.reshape(parts * size, *found.shape[2:]) if parts > 1 else found
        return joined[:count]

    return of_rows


def _labels(one: Any) -> tuple[str, ...]:
    names = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(one)[0]:
        stem = jax.tree_util.keystr(path, simple=True, separator=".") or "z"
        indices = np.ndindex(jnp.shape(leaf))
        names += [f"{stem}[{', '.join(map(str, index))}]" if index else stem for index in indices]
    return tuple(names)


def _bijection(
    model: Callable, args: tuple, kwargs: dict[str, Any], one: dict[str, Any], draws: dict[str, Any]
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """From the sites of one draw to unconstrained space."""
    filled = seed(model, jax.random.key(0))
    known = get_transforms(filled, args, kwargs, {name: draws[name][0, 0] for name in one})
    absent = [name for name in one if name not in known]
    if absent:
        raise NoScoresError(f"The model has no continuous latent site {', '.join(absent)}.")

    def unconstrain(draw):
        # A support may depend on other sites, so the bijections are found for every draw.
        transforms = get_transforms(filled, args, kwargs, draw)
        try:
            return {name: transforms[name].inv(value) for name, value in draw.items()}
        except NotImplementedError as error:
            raise NoScoresError("The support of a site has no inverse transform.") from error

    return unconstrain


def _volume(model: Callable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable:
    """`(draw, z) -> log |dx / dz|`; infinite if `z` is not the image of the draw (outside the support)."""
    filled = seed(model, jax.random.key(0))

    def volume(draw, z):
        total = jnp.zeros((), jnp.result_type(float))
        transforms = get_transforms(filled, args, kwargs, draw)
        for name, transform in ((name, transforms[name]) for name in draw):
            back = transform(z[name])
            total += jnp.sum(transform.log_abs_det_jacobian(z[name], back))
            off = jnp.abs(back - draw[name]) > _SAME * (1 + jnp.abs(draw[name]))
            total = jnp.where(jnp.any(off), jnp.inf, total)
        return total

    return volume
