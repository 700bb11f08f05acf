"""The draws of a run in unconstrained space, with the gradients of their log density."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.handlers import seed
from numpyro.infer.util import get_transforms, potential_energy

__all__ = ["RunScores", "run_scores"]

_AT_ONCE = 512  # draws evaluated in one batch


class RunScores(NamedTuple):
    """Where a run has been, and the slope of its target there; NumPy arrays in float64.

    Attributes:
        positions: unconstrained and flat, shape `(chains, draws, dim)`.
        scores: `grad log p` there, same shape.
        evaluations: log-density evaluations that this took: none where the run had collected its gradients.
    """

    positions: np.ndarray
    scores: np.ndarray
    evaluations: int


def run_scores(mcmc: Any) -> RunScores:
    """Unconstrained draws and scores of a run with any gradient-based NumPyro kernel.

    Gradients that the run has collected (`extra_fields=("z_grad",)`) are used; else they are computed again,
    one evaluation a draw.

    Args:
        mcmc: a `numpyro.infer.MCMC` after `run`.

    Raises:
        ValueError: nothing was sampled yet; a site that was moved is not among the draws; the target has no
            continuous coordinate; the scores are not finite at every draw.
    """
    if mcmc.last_state is None:
        raise ValueError("There are no draws: run the sampler first, with mcmc.run(key, ...).")
    kernel, args, kwargs = mcmc.sampler, mcmc._args, mcmc._kwargs
    draws = mcmc.get_samples(group_by_chain=True)
    one = getattr(mcmc.last_state, kernel.sample_field)
    one = one if mcmc.num_chains == 1 else jax.tree.map(lambda leaf: leaf[0], one)
    model = getattr(kernel, "model", None)
    unconstrain = (lambda draw: draw) if model is None else _bijection(model, args, kwargs, one, draws)
    if model is not None:
        draws = {name: draws[name] for name in one}
    if hasattr(kernel, "get_potential_fn"):
        potential = kernel.get_potential_fn(args, kwargs)
    elif model is not None:

        def potential(z):
            return potential_energy(model, args, kwargs, z)

    else:
        raise ValueError(f"{type(kernel).__name__} shows no potential: there are no scores to be had.")
    _, unravel = ravel_pytree(one)

    def flat(draw):
        return ravel_pytree(unconstrain(draw))[0]

    chains, number = jax.tree.leaves(draws)[0].shape[:2]
    rows = jax.tree.map(lambda leaf: leaf.reshape(chains * number, *leaf.shape[2:]), draws)
    positions = jax.jit(lambda rows: jax.lax.map(flat, rows, batch_size=_AT_ONCE))(rows)
    if positions.shape[1] == 0:
        raise ValueError("The target has no continuous coordinate: there are no scores.")
    collected = mcmc.get_extra_fields(group_by_chain=True).get("z_grad")
    evaluations = 0
    if collected is None:
        slope = jax.grad(lambda x: potential(unravel(x)))
        slopes = jax.jit(lambda rows: jax.lax.map(slope, rows, batch_size=_AT_ONCE))(positions)
        evaluations = chains * number
    else:
        together = jax.tree.map(lambda leaf: leaf.reshape(chains * number, *leaf.shape[2:]), collected)
        slopes = jax.vmap(lambda z: ravel_pytree(z)[0])(together)
    shape = (chains, number, -1)
    found = RunScores(
        np.asarray(positions, np.float64).reshape(shape),
        -np.asarray(slopes, np.float64).reshape(shape),
        evaluations,
    )
    bad = ~np.all(np.isfinite(found.positions) & np.isfinite(found.scores), axis=(0, 1))
    if np.any(bad):
        names = jnp.flatnonzero(bad)[:5].tolist()
        raise ValueError(
            f"Position or gradient is not finite at some draws in the flat coordinates {names} of "
            f"{bad.size}: zero-variance estimates need finite gradients. Look at diagnose(mcmc)."
        )
    return found


def _bijection(
    model: Callable, args: tuple, kwargs: dict, one: dict[str, Any], draws: dict[str, Any]
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """From the sites of one draw to unconstrained space."""
    missing = [name for name in one if name not in draws]
    if missing:
        raise ValueError(f"The draws lack the sites {', '.join(missing)}, which the kernel moved.")
    filled = seed(model, jax.random.key(0))
    known = get_transforms(filled, args, kwargs, {name: draws[name][0, 0] for name in one})
    absent = [name for name in one if name not in known]
    if absent:
        raise ValueError(f"The model has no continuous latent site {', '.join(absent)}.")

    def unconstrain(draw):
        # a support may depend on other sites: bijections are found anew for every draw
        transforms = get_transforms(filled, args, kwargs, draw)
        return {name: transforms[name].inv(value) for name, value in draw.items()}

    return unconstrain
