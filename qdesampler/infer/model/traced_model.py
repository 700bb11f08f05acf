"""A NumPyro model after one trace: its potential and constraints for any arguments."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.handlers import seed, substitute
from numpyro.infer.util import ModelInfo, constrain_fn, unconstrain_fn

from qdesampler.infer.model.arguments import Arguments
from qdesampler.infer.model.centering import find_centering, standard_widths
from qdesampler.infer.model.supports import latent_sites, read_supports

__all__ = ["TracedModel"]


class TracedModel:
    """A model after one trace, of which nothing depends on the values of array arguments.

    Args:
        model: NumPyro model.
        info: what `initialize_model(..., dynamic_args=True)` returned for it.
        model_args: the arguments it was traced with.
        model_kwargs: the keyword arguments.
    """

    def __init__(
        self, model: Callable, info: ModelInfo, model_args: Sequence[Any], model_kwargs: dict[str, Any]
    ):
        self.supports = read_supports(info.model_trace)
        self._model = model
        self._potential = info.potential_fn
        self._postprocess = info.postprocess_fn
        self._arguments = Arguments(model_args, model_kwargs)
        # Values of `numpyro.param` and of modules keep their initial values.
        self._params = {
            name: site["value"]
            for name, site in info.model_trace.items()
            if site["type"] in ("param", "mutable")
        }
        self._latent = {
            name: jax.ShapeDtypeStruct(jnp.shape(site["value"]), jnp.result_type(site["value"]))
            for name, site in latent_sites(info.model_trace).items()
        }
        self.centering = find_centering(model, info.model_trace, model_args, model_kwargs, self._params)

    def potential(self, model_args: Sequence[Any], model_kwargs: dict[str, Any]) -> Callable:
        """`z -> U(z)` for these arguments."""
        return self._potential(*model_args, **model_kwargs)

    def postprocess(self, model_args: Sequence[Any], model_kwargs: dict[str, Any]) -> Callable:
        """`z -> constrained values and deterministic sites`; replays the model if needed."""
        if self.supports.has_deterministic or self._transforms_hold(model_args, model_kwargs):
            return self._postprocess(*model_args, **model_kwargs)
        run = substitute(seed(self._model, jax.random.key(0)), data=self._params)
        return lambda z: constrain_fn(run, model_args, model_kwargs, z)

    def constrain(self, model_args: Sequence[Any], model_kwargs: dict[str, Any]) -> Callable:
        """`z -> constrained values`, by transforms alone if the supports are fixed."""
        if self._transforms_hold(model_args, model_kwargs):
            return self.supports.constrain
        return self.postprocess(model_args, model_kwargs)

    def unconstrain(
        self, values: dict, model_args: Sequence[Any], model_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """`z` for constrained values."""
        if self._transforms_hold(model_args, model_kwargs):
            return self.supports.unconstrain(values)
        return unconstrain_fn(self._model, tuple(model_args), model_kwargs, values)

    def standard_widths(self, model_args: Sequence, model_kwargs: dict) -> dict[str, Any]:
        """Widths of sites with a normal prior around 0 that no other site changes, by name."""
        return standard_widths(self._model, self._latent, model_args, model_kwargs, self._params)

    def _transforms_hold(self, model_args, model_kwargs) -> bool:
        """Whether the supports read from the trace hold for these arguments, at every position."""
        return self.supports.is_static and self._arguments.are(model_args, model_kwargs)
