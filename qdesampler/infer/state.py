"""The state of a QDE chain, with the field names of NumPyro's HMC state."""

from typing import Any, NamedTuple

import jax

from qdesampler.kernels.warmup import Adaptation

__all__ = ["QDEAdaptState", "QDEState"]


class QDEAdaptState(NamedTuple):
    """Adaptation as seen from a state.

    Attributes:
        step_size: whitened units; one for each chain when chains are vectorized.
        trajectory_length: mean length, whitened units; likewise.
        shared: everything else, one for all chains of a batch.
    """

    step_size: jax.Array
    trajectory_length: jax.Array
    shared: Adaptation


class QDEState(NamedTuple):
    """State of a chain, or of vectorized chains.

    Vectorized, every leaf has the chains on its leading axis, but for `adapt_state.shared`: one for all of
    them, it cannot be collected by `extra_fields`.

    Attributes:
        i: iterations done, the same for all chains of a batch.
        z: unconstrained position, the pytree of the model's latent sites.
        z_grad: gradient of the potential energy at `z`.
        potential_energy: `U(z) = -log p(z)` up to a constant.
        energy: potential plus kinetic energy of the kept point.
        num_evals: log-density evaluations spent on this draw, rejected work included.
        warmup_evals: their sum over the warm-up, the start included (as one evaluation: NumPyro's search for
            a valid start does not tell how many points it tried).
        pending_evals: evaluations made outside `sample` (start, `refresh`), charged to the next draw.
        accept_prob: acceptance probability of this draw's trajectory.
        mean_accept_prob: running mean of it, restarted after the warm-up.
        diverging: the trajectory's energy error exceeded 1000, or the chain stands where the density is not
            finite.
        adapt_state: what the warm-up adapts, frozen after it.
        rng_key: JAX key, one for each chain.
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
    adapt_state: QDEAdaptState
    rng_key: jax.Array
