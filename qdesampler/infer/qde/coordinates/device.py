"""The flat coordinates that chains move in, and the way from the user's sites to them and back.

Without location-scale sites these are the raveled unconstrained sites `z`; with them, the sites re-centred
with the centredness `c` (`qdesampler.infer.model.centering`). Where a second trial is used they are those of
its triangular map as well (`qdesampler.numerics.triangular_map`). The state of a chain holds only `z`, its
energy and its gradient: all that a user sees is in the coordinates of the model as written.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from qdesampler.infer.model.centering import Centering
from qdesampler.infer.model.evaluation import value_and_gradient
from qdesampler.infer.model.raveling import unraveler
from qdesampler.infer.qde.coordinates.maps import (
    CoordinateMap,
    into_map,
    out_of_map,
    value_and_score_in_map,
)
from qdesampler.kernels.mcmc.trajectory import TrajectoryState
from qdesampler.numerics.types import ValueAndScore

__all__ = ["MoveCoordinates"]


class MoveCoordinates:
    """Coordinates of the moves of one target, for one chain.

    Args:
        potential: `z -> U(z)`.
        prototype: position of one chain, a pytree.
        centering: the sites to re-centre, or None.
        model_args: the model's arguments.
        model_kwargs: its keyword arguments.
        forward_mode: whether to differentiate forwards.
    """

    def __init__(
        self,
        potential: Callable,
        prototype: Any,
        centering: Centering | None,
        model_args: Sequence[Any],
        model_kwargs: dict[str, Any] | None,
        *,
        forward_mode: bool,
    ):
        self._potential = potential
        self._forward_mode = forward_mode
        self.prototype = prototype
        self.unravel: Callable[[Any], Any] = unraveler(prototype)
        self.centering = centering
        self.arguments = tuple(model_args), model_kwargs or {}

    def value_and_score(self, centredness: jax.Array, law: CoordinateMap | None = None) -> ValueAndScore:
        """`v -> (log p(v), grad log p(v))` in the coordinates of the moves."""

        def potential(y):
            if self.centering is None:
                return self._potential(self.unravel(y))
            args, kwargs = self.arguments
            z, change = self.centering.to_sites(args, kwargs, y, centredness, self.unravel)
            return self._potential(self.unravel(z)) - change

        evaluate = value_and_gradient(potential, forward_mode=self._forward_mode)

        def negated(y):
            energy, gradient = evaluate(y)
            return -energy, -gradient

        return negated if law is None else lambda v: value_and_score_in_map(law, v, negated)

    def locate(self, y: jax.Array, centredness: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The sites of a point of the moves, with their locations and scales (0 and 1 if not re-centred)."""
        assert self.centering is not None
        args, kwargs = self.arguments
        z, _ = self.centering.to_sites(args, kwargs, y, centredness, self.unravel)
        _, _, loc, scale = self.centering.from_sites(args, kwargs, z, centredness, self.unravel)
        return z, loc, scale

    def inside(
        self,
        z: Any,
        energy: jax.Array,
        gradient: Any,
        centredness: jax.Array,
        law: CoordinateMap | None = None,
    ) -> TrajectoryState:
        """The point of the moves at a position of the model with its energy and gradient."""
        state = self._recentred(z, energy, gradient, centredness)
        if law is None:
            return state
        v, change, score = into_map(law, state.position, state.score)
        return TrajectoryState(v, state.log_density + change, score)

    def _recentred(self, z: Any, energy: jax.Array, gradient: Any, centredness: jax.Array) -> TrajectoryState:
        flat, score = ravel_pytree(z)[0], -ravel_pytree(gradient)[0]
        if self.centering is None:
            return TrajectoryState(flat, -energy, score)
        centering, (args, kwargs) = self.centering, self.arguments
        y, change, _, _ = centering.from_sites(args, kwargs, flat, centredness, self.unravel)
        _, pull = jax.vjp(lambda y: centering.to_sites(args, kwargs, y, centredness, self.unravel), y)
        return TrajectoryState(y, -energy + change, pull((score, jnp.ones_like(change)))[0])

    def outside(
        self, state: TrajectoryState, centredness: jax.Array, law: CoordinateMap | None = None
    ) -> tuple[Any, jax.Array, Any]:
        """The inverse of `inside`: `(z, U(z), grad U(z))`."""
        if law is not None:
            y, change, score = out_of_map(law, state.position, state.score)
            state = TrajectoryState(y, state.log_density - change, score)
        if self.centering is None:
            return self.unravel(state.position), -state.log_density, self.unravel(-state.score)
        centering, (args, kwargs) = self.centering, self.arguments
        z, change = centering.to_sites(args, kwargs, state.position, centredness, self.unravel)

        def back(z):
            y, change, _, _ = centering.from_sites(args, kwargs, z, centredness, self.unravel)
            return y, change

        _, pull = jax.vjp(back, z)
        score = pull((state.score, -jnp.ones_like(change)))[0]
        return self.unravel(z), -(state.log_density - change), self.unravel(-score)
