"""NumPyro's NUTS with its log-density evaluations counted."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from numpyro.infer import NUTS
from numpyro.infer.mcmc import MCMCKernel


class CountedState(NamedTuple):
    """State of `CountedNUTS`.

    Attributes:
        z: unconstrained position.
        diverging: whether this draw's trajectory diverged.
        num_evals: gradients spent on this draw.
        warmup_evals: gradients spent in the warm-up so far, the start included.
        iteration: draws so far, warm-up included.
        nuts: NUTS's own state.
    """

    z: Any
    diverging: jax.Array
    num_evals: jax.Array
    warmup_evals: jax.Array
    iteration: jax.Array
    nuts: Any


class CountedNUTS(MCMCKernel):
    """NumPyro's NUTS with evaluation counts: the same draws from the same key, and the warm-up's gradients.

    A draw costs `num_steps` gradients. The start is charged one gradient a chain; NumPyro does not report how
    often it retried a start, so the count is a lower bound there. NUTS itself is unchanged. Its state resets
    the iteration number after the warm-up, which is why the number is kept here.

    Args:
        model: NumPyro model.
        **settings: keyword arguments of `numpyro.infer.NUTS`.
    """

    def __init__(self, model: Callable, **settings: Any):
        self._nuts = NUTS(model, **settings)
        self._num_warmup = 0
        self._sample_fn = None

    @property
    def sample_field(self) -> str:
        """The field of the draws."""
        return "z"

    @property
    def default_fields(self) -> tuple[str, ...]:
        """The fields that NumPyro collects by default."""
        return ("z", "diverging", "num_evals")

    @property
    def model(self) -> Callable | None:
        """The NumPyro model."""
        return self._nuts.model

    def init(
        self,
        rng_key: jax.Array,
        num_warmup: int,
        init_params: Any = None,
        model_args: tuple[Any, ...] = (),
        model_kwargs: dict[str, Any] | None = None,
    ) -> CountedState:
        """NUTS's start, charged with one evaluation a chain."""
        nuts = self._nuts.init(rng_key, num_warmup, init_params, model_args, model_kwargs or {})
        self._num_warmup = num_warmup
        self._sample_fn = self._nuts.sample
        none = jnp.zeros_like(nuts.num_steps)
        return CountedState(nuts.z, nuts.diverging, none, none + 1, none, nuts)

    def sample(
        self, state: CountedState, model_args: tuple, model_kwargs: dict[str, Any] | None
    ) -> CountedState:
        """One draw of NUTS."""
        nuts = self._nuts.sample(state.nuts, model_args, model_kwargs)
        spent = jnp.where(state.iteration < self._num_warmup, nuts.num_steps, 0)
        return CountedState(
            nuts.z, nuts.diverging, nuts.num_steps, state.warmup_evals + spent, state.iteration + 1, nuts
        )

    def postprocess_fn(self, model_args: tuple[Any, ...], model_kwargs: dict[str, Any]) -> Callable:
        """Constrained values and deterministic sites."""
        return self._nuts.postprocess_fn(model_args, model_kwargs)
