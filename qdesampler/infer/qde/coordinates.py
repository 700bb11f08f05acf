"""The flat coordinates that chains move in, and the way from the user's sites to them and back.

Without location-scale sites these are the raveled unconstrained sites `z`; with them, the sites re-centred
with the centredness `c` (`qdesampler.infer.model.centering`). The state of a chain holds only `z`, its energy
and its gradient: all that a user sees is in the coordinates of the model as written.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from qdesampler.infer.model.centering import Centering
from qdesampler.infer.model.evaluation import value_and_gradient
from qdesampler.kernels.mcmc.trajectory import TrajectoryState
from qdesampler.numerics.types import ValueAndScore

__all__ = ["MoveCoordinates"]

_PARENT_WIDTH = 1.6  # least width of proposals of scales, in units of the trial's, while it is solved for
_BULK = 2.0  # standard deviations of a standardised site within which descents start


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
        model_args: Sequence,
        model_kwargs: dict | None,
        *,
        forward_mode: bool,
    ):
        self._potential = potential
        self._forward_mode = forward_mode
        self.unravel = ravel_pytree(prototype)[1]
        self.centering = centering
        self._arguments = jax.tree.flatten((tuple(model_args), model_kwargs or {}))

    @property
    def can_recentre(self) -> bool:
        """Whether any site can be re-centred."""
        return self.centering is not None

    @property
    def dynamic(self) -> list[jax.Array]:
        """The model's traced arguments, for functions that must not close over tracers."""
        return [leaf for leaf in self._arguments[0] if isinstance(leaf, Tracer)]

    def _model_arguments(self, dynamic: list[jax.Array] | None = None) -> tuple:
        leaves, tree = self._arguments
        if dynamic is not None:
            rest = iter(dynamic)
            leaves = [next(rest) if isinstance(leaf, Tracer) else leaf for leaf in leaves]
        return jax.tree.unflatten(tree, leaves)

    def start_centredness(self, prototype: Any) -> jax.Array:
        """All re-centred sites are fully standardised at first, so that descents meet no funnel."""
        flat = ravel_pytree(prototype)[0]
        if self.centering is None:
            return jnp.ones_like(flat)
        return jnp.where(self.centering.mask(prototype), 0, jnp.ones_like(flat))

    def descent_starts(self, positions: jax.Array) -> jax.Array | None:
        """Starts inside the bulk of standardised sites, shape `(chains, dim)`; None without such sites."""
        if self.centering is None:
            return None
        marked = self.centering.mask(self.unravel(positions[0]))
        return jnp.where(marked, jnp.clip(positions, -_BULK, _BULK), positions)

    def proposal_widths(self, prototype: Any) -> jax.Array:
        """Least width of each coordinate's proposals during the solve: scales of sites have long tails."""
        flat = ravel_pytree(prototype)[0]
        if self.centering is None:
            return jnp.ones_like(flat)
        parents = self.centering.mask(prototype, self.centering.parents)
        return jnp.where(parents, _PARENT_WIDTH, jnp.ones_like(flat))

    def value_and_score(self, centredness: jax.Array) -> ValueAndScore:
        """`y -> (log p(y), grad log p(y))` in the coordinates of the moves."""

        def potential(y):
            if self.centering is None:
                return self._potential(self.unravel(y))
            args, kwargs = self._model_arguments()
            z, change = self.centering.to_sites(args, kwargs, y, centredness, self.unravel)
            return self._potential(self.unravel(z)) - change

        evaluate = value_and_gradient(potential, forward_mode=self._forward_mode)

        def negated(y):
            energy, gradient = evaluate(y)
            return -energy, -gradient

        return negated

    def inside(self, z: Any, energy: jax.Array, gradient: Any, centredness: jax.Array) -> TrajectoryState:
        """The point of the moves at a position of the model with its energy and gradient."""
        flat, score = ravel_pytree(z)[0], -ravel_pytree(gradient)[0]
        if self.centering is None:
            return TrajectoryState(flat, -energy, score)
        centering, (args, kwargs) = self.centering, self._model_arguments()
        y, change, _, _ = centering.from_sites(args, kwargs, flat, centredness, self.unravel)
        _, pull = jax.vjp(lambda y: centering.to_sites(args, kwargs, y, centredness, self.unravel), y)
        return TrajectoryState(y, -energy + change, pull((score, jnp.ones_like(change)))[0])

    def outside(self, state: TrajectoryState, centredness: jax.Array) -> tuple[Any, jax.Array, Any]:
        """The inverse of `inside`: `(z, U(z), grad U(z))`."""
        if self.centering is None:
            return self.unravel(state.position), -state.log_density, self.unravel(-state.score)
        centering, (args, kwargs) = self.centering, self._model_arguments()
        z, change = centering.to_sites(args, kwargs, state.position, centredness, self.unravel)

        def back(z):
            y, change, _, _ = centering.from_sites(args, kwargs, z, centredness, self.unravel)
            return y, change

        _, pull = jax.vjp(back, z)
        score = pull((state.score, -jnp.ones_like(change)))[0]
        return self.unravel(z), -(state.log_density - change), self.unravel(-score)

    def recentre(
        self,
        dynamic: list[jax.Array],
        centredness: jax.Array,
        draws: jax.Array,
        scores: jax.Array,
        weights: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """New centredness from weighted points, and the points and scores in the new coordinates.

        Args:
            dynamic: `self.dynamic`.
            centredness: the one in use, shape `(dim,)`.
            draws: points in the coordinates in use, shape `(n, dim)`.
            scores: their scores, same shape.
            weights: shape `(n,)`.
        """
        if self.centering is None:
            return centredness, draws, scores
        centering, (args, kwargs) = self.centering, self._model_arguments(dynamic)
        new = centering.recentre(args, kwargs, self.unravel, centredness, draws, scores, weights)

        def follow(point, score):
            z, _ = centering.to_sites(args, kwargs, point, centredness, self.unravel)
            y = centering.from_sites(args, kwargs, z, new, self.unravel)[0]

            def back(y):
                z, gained = centering.to_sites(args, kwargs, y, new, self.unravel)
                old, lost, _, _ = centering.from_sites(args, kwargs, z, centredness, self.unravel)
                return old, gained - lost

            _, pull = jax.vjp(back, y)
            return y, pull((score, jnp.ones((), y.dtype)))[0]

        return new, *jax.vmap(follow)(draws, scores)
