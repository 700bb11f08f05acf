"""NumPyro's NUTS on a function of NumPy: a model whose density is a callback to the host."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS

__all__ = ["NutsRun", "callback_model", "nuts"]


class NutsRun(NamedTuple):
    """Draws, shape `(chains, draws, dim)`, and evaluations of the warm-up and of the draws."""

    draws: np.ndarray
    of_warmup: int
    of_draws: int


def callback_model(evaluate: Callable, dim: int) -> Callable[[], None]:
    """A NumPyro model with the site `x` and the log density of `evaluate`, one call for value and gradient.

    Args:
        evaluate: `points (n, dim) -> (log densities, scores)`, in NumPy.
        dim: number of coordinates.
    """

    def on_host(x):
        values, scores = evaluate(np.asarray(x, float).reshape(1, dim))
        with np.errstate(over="ignore"):  # a step that ran away
            return np.asarray(values[0], x.dtype), np.asarray(scores[0], x.dtype)

    def call(x):
        shapes = jax.ShapeDtypeStruct((), x.dtype), jax.ShapeDtypeStruct((dim,), x.dtype)
        return jax.pure_callback(on_host, shapes, x, vmap_method="sequential")

    @jax.custom_vjp
    def log_density(x):
        return call(x)[0]

    log_density.defvjp(call, lambda score, cotangent: (cotangent * score,))

    def model():
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), event_shape=(dim,)))
        numpyro.factor("density", log_density(x))

    return model


def nuts(evaluate: Callable, dim: int, warmup: int, draws: int, chains: int, *, dense: bool) -> NutsRun:
    """A run of NUTS, chains one after another, with every call of `evaluate` counted.

    Args:
        evaluate: the density.
        dim: number of coordinates.
        warmup: iterations of each chain.
        draws: of each chain.
        chains: number of chains.
        dense: whether the mass matrix is dense.
    """
    calls = [0]

    def counted(points):
        calls[0] += len(points)
        return evaluate(points)

    mcmc = MCMC(
        NUTS(callback_model(counted, dim), dense_mass=dense),
        num_warmup=warmup,
        num_samples=draws,
        num_chains=chains,
        chain_method="sequential",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0), extra_fields=("num_steps",))
    steps = int(np.sum(mcmc.get_extra_fields()["num_steps"]))
    found = np.asarray(mcmc.get_samples(group_by_chain=True)["x"], float)
    return NutsRun(found, calls[0] - steps, steps)
