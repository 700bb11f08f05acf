"""Compiled programs of a kernel's start, kept for the chains and runs that follow with the same arguments."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
from jax.core import Tracer
from numpyro.infer.gibbs import GIBBS_SITES_KWARG

from qdesampler.infer.arguments import Arguments

__all__ = ["KeptPrograms"]


class KeptPrograms:
    """A start takes seconds to run and far longer to compile: programs of the last arguments are kept.

    A program has the arguments of the model inside, so that none is kept where these are traced, or where
    a Gibbs block conditions on other values at each call.
    """

    def __init__(self):
        self._arguments: Arguments | None = None
        self._programs: dict[Hashable, Callable] = {}

    def get(
        self,
        name: Hashable,
        make: Callable[[], Callable],
        model_args: Sequence,
        model_kwargs: dict,
        inputs: Any = None,
    ) -> Callable:
        """The program `name`, made where there is none for these arguments.

        Args:
            name: all that the program depends on besides the arguments.
            make: its maker; called at once or not at all.
            model_args: positional arguments of the model.
            model_kwargs: its keyword arguments.
            inputs: of the call to come; where they are traced nothing is kept.
        """
        leaves = jax.tree.leaves((tuple(model_args), model_kwargs, inputs))
        if GIBBS_SITES_KWARG in model_kwargs or any(isinstance(leaf, Tracer) for leaf in leaves):
            return make()
        if self._arguments is None or not self._arguments.are(model_args, model_kwargs):
            self._arguments, self._programs = Arguments(model_args, model_kwargs), {}
        if name not in self._programs:
            self._programs[name] = make()
        return self._programs[name]
