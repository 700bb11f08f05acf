"""The state of a chain of our kernels, with the field names of NumPyro's HMC state."""

from typing import Any, NamedTuple

import jax

__all__ = ["KernelState", "field"]


def field(state: tuple[Any, ...], key: Any, others: tuple[str, ...] = ()) -> Any:
    """A field by its position. NumPyro asks for names as well, once there is no attribute of that name.

    Args:
        state: a named tuple.
        key: what is asked for.
        others: names that are properties.

    Raises:
        AttributeError: for a name, with a list of the names there are.
    """
    if isinstance(key, str):
        names = ", ".join((*type(state)._fields, *others))  # pyright: ignore[reportAttributeAccessIssue]
        raise AttributeError(f"{key!r} is no field of {type(state).__name__}, which has {names}.")
    return tuple.__getitem__(state, key)


class KernelState[Adapt](NamedTuple):
    """State of a chain, or of vectorized chains.

    With vectorized chains every leaf has the chains on its leading axis, except for those parts of the
    kernel's `adapt_state` that all chains share; `extra_fields` cannot collect these.

    Attributes:
        i: iterations done, the same for all chains of a batch.
        z: unconstrained position, the pytree of the model's latent sites.
        z_grad: gradient of the potential energy at `z`.
        potential_energy: `U(z) = -log p(z)` up to the constant that the target leaves out.
        energy: potential plus kinetic energy of the kept point.
        num_evals: log-density evaluations of this draw, including rejected moves and other rungs.
        warmup_evals: their sum over the warm-up, including the start (as one evaluation, because NumPyro's
            search for a valid start does not report how many points it tried).
        pending_evals: evaluations made outside `sample` (start, particles, `refresh`), charged to the next
            draw.
        accept_prob: acceptance probability of this draw's trajectory.
        mean_accept_prob: running mean of `accept_prob`, restarted after the warm-up.
        diverging: whether the trajectory's energy error exceeded 1000, or the density is not finite at `z`.
        adapt_state: what the warm-up adapts, frozen after it; `step_size` is one of its fields.
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
    adapt_state: Adapt
    rng_key: jax.Array

    def __getitem__(self, key: Any) -> Any:
        """A field by its position."""
        return field(self, key, ("num_steps",))

    @property
    def num_steps(self) -> jax.Array:
        """NUTS's name for its evaluations: `num_evals`."""
        return self.num_evals
