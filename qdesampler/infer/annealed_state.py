"""The state of an AnnealedQDE chain, with the field names of NumPyro's HMC state."""

from typing import Any, NamedTuple

import jax

from qdesampler.kernels.ladder import Ladder

__all__ = ["AnnealedAdaptState", "AnnealedState"]


class AnnealedAdaptState(NamedTuple):
    """What the warm-up adapts.

    Attributes:
        step_size: on the rung of the target, whitened units.
        ladder: all rungs, their replicas and the sums kept.
    """

    step_size: jax.Array
    ladder: Ladder


class AnnealedState(NamedTuple):
    """State of a chain, or of vectorized chains (every leaf then has the chains on its leading axis).

    Attributes:
        i: iterations done.
        z: unconstrained position of the replica on the rung of the posterior.
        z_grad: gradient of the potential energy there.
        potential_energy: `U(z) = -log p(z)`.
        energy: potential plus kinetic energy at the end of the last trajectory on that rung.
        num_evals: log-density evaluations of all rungs spent on this draw.
        warmup_evals: their sum over the warm-up, walkers and start included.
        pending_evals: evaluations made outside `sample`, charged to the next draw.
        accept_prob: acceptance of the trajectory on the rung of the posterior.
        mean_accept_prob: running mean of it, restarted after the warm-up.
        diverging: that trajectory's energy error exceeded 1000, or the density is not finite where it stands.
        adapt_state: ladder and step size, frozen after the warm-up but for replicas and sums.
        rng_key: JAX key.
    """

    i: jax.Array
    z: Any
    z_grad: Any
    potential_energy: jax.Array
    energy: jax.Array
    num_evals: jax.Array
    warmup_evals: jax.Array
    pending_evals: jax.Array
    accept_prob: jax.Array
    mean_accept_prob: jax.Array
    diverging: jax.Array
    adapt_state: AnnealedAdaptState
    rng_key: jax.Array
