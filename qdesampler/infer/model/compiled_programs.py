"""Compiled programs of a kernel's start, kept for the chains and runs that follow with the same arguments."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from qdesampler.infer.model.fingerprint import data_lines

__all__ = ["KeptPrograms"]

_TOLD = (bool, int, float, complex, str, np.generic, np.ndarray, jax.Array)  # apart by what they hold


class KeptPrograms:
    """A start takes seconds to run and far longer to compile: programs of the last arguments are kept.

    A program has the arguments of the model inside. Arrays are told apart by their numbers, so that one
    edited in place is another one; nothing is kept where arguments are traced, or objects of other kinds.
    """

    def __init__(self):
        self._described: Hashable = None
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
        arguments, structure = jax.tree.flatten((tuple(model_args), model_kwargs))
        traced = any(isinstance(leaf, Tracer) for leaf in (*arguments, *jax.tree.leaves(inputs)))
        if traced or not all(isinstance(leaf, _TOLD) for leaf in arguments):
            return make()
        described = (structure, tuple(data_lines(model_args, model_kwargs).items()))
        if described != self._described:
            self._described, self._programs = described, {}
        if name not in self._programs:
            self._programs[name] = make()
        return self._programs[name]
