"""The density of a ground state as a NumPyro distribution."""

import jax
import numpyro.distributions as dist
from jax.typing import ArrayLike
from numpyro.distributions import constraints

from qdesampler.solvers.protocol import GroundState

__all__ = ["GroundStateDistribution"]


class GroundStateDistribution(dist.Distribution):
    """The law `p(x) = psi(x)^2` of a solved ground state, over vectors of shape `(dim,)`.

        numpyro.sample("x", GroundStateDistribution(gs))

    Draws and density are those of the ground state itself. The support is all of `R^dim`, or the open box of
    a state between hard walls. Draws carry no gradient with respect to the state.

    Args:
        state: the ground state, from `qdesampler.solvers.protocol`.
        validate_args: as for every NumPyro distribution.

    Raises:
        TypeError: `state` is not a `GroundState`.
    """

    arg_constraints = {}
    pytree_data_fields = ("state",)

    def __init__(self, state: GroundState, *, validate_args: bool | None = None):
        if not isinstance(state, GroundState):
            raise TypeError(
                f"state must be a GroundState, got {type(state).__name__}; solve for one with "
                "ground_state(hamiltonian, solver)."
            )
        self.state = state
        super().__init__(event_shape=(state.dim,), validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:
        """False: drawn by rejection, so no gradient goes through a draw."""
        return False

    @property
    def support(self) -> constraints.Constraint:
        """`R^dim`, or the open box between hard walls."""
        box = self.state.support
        if box is None:
            return constraints.real_vector
        return constraints.independent(constraints.interval(*box), 1)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Return independent draws, shape `sample_shape + (dim,)`."""
        return self.state.sample(key, sample_shape)

    def log_prob(self, value: ArrayLike) -> jax.Array:
        """Return `log p`, shape `value.shape[:-1]`, for points along the last axis.

        Raises:
            ValueError: the last axis of `value` is not of length `dim`.
        """
        shape = jax.numpy.shape(value)
        if shape[-1:] != (self.state.dim,):
            raise ValueError(f"value must have shape (..., {self.state.dim}), got {shape}.")
        points = jax.numpy.reshape(value, (-1, self.state.dim))
        return jax.vmap(self.state.log_prob)(points).reshape(shape[:-1])
