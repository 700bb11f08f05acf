"""The Hamiltonian of a NumPyro model: its posterior as a ground state, for every imaginary-time solver."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.flatten_util import ravel_pytree
from numpyro.infer.initialization import init_to_uniform

from qdesampler.equation import Hamiltonian
from qdesampler.infer.model.target import Target
from qdesampler.validation import check_key

__all__ = ["ModelHamiltonian", "model_hamiltonian"]


class ModelHamiltonian(NamedTuple):
    """A posterior in unconstrained coordinates, as a Hamiltonian and the way back.

    Attributes:
        hamiltonian: Boltzmann Hamiltonian over flat unconstrained positions, shape `(dim,)`.
        start: a valid flat position, shape `(dim,)`.
        unravel: flat position -> dict of unconstrained sites.
        constrain: flat position -> dict of constrained and deterministic sites.
    """

    hamiltonian: Hamiltonian
    start: jax.Array
    unravel: Callable[[jax.Array], dict[str, Any]]
    constrain: Callable[[jax.Array], dict[str, Any]]


def model_hamiltonian(
    rng_key: jax.Array,
    model: Callable,
    *args: Any,
    diffusion: float = 1.0,
    init_strategy: Callable = init_to_uniform,
    **kwargs: Any,
) -> ModelHamiltonian:
    r"""The Boltzmann Hamiltonian `H = -D lap + D (|grad U|^2 / 4 - lap U / 2)` of a model's posterior.

    `U(x)` is NumPyro's potential energy (minus the log joint density with the Jacobians of its transforms).
    The ground state is then `psi0 = sqrt(p(x | data))` in unconstrained coordinates, with energy 0. A model
    of up to three dimensions can be solved on a grid: `ground_state(found.hamiltonian, SpectralGrid(...))`.

    Args:
        rng_key: key of the search for a valid start.
        model: NumPyro model with continuous latent sites (discrete ones enumerated).
        *args: the model's arguments.
        diffusion: `D > 0`, the unit of imaginary time.
        init_strategy: NumPyro's per-site start.
        **kwargs: the model's keyword arguments.

    Raises:
        TypeError: `rng_key` is not a JAX key.
        ValueError: the model has no continuous latent site, or `diffusion` is not positive.
        RuntimeError: no valid start was found, or a discrete site cannot be enumerated.
    """
    check_key("rng_key", rng_key)
    target = Target(model, None, None, init_strategy=init_strategy, forward_mode=False)
    start = target.start(rng_key, None, args, kwargs)
    flat, unravel = ravel_pytree(start.z)
    if flat.size == 0:
        raise ValueError("the model has no continuous latent site; its posterior is a single point.")
    potential = target.potential(args, kwargs)
    postprocess = target.postprocess(args, kwargs)
    hamiltonian = Hamiltonian.from_log_density(
        lambda x: -potential(unravel(x)), dim=flat.size, diffusion=diffusion
    )
    return ModelHamiltonian(hamiltonian, flat, unravel, lambda x: postprocess(unravel(x)))
