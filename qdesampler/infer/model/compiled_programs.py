"""Compiled programs of a kernel's start, kept for later chains and runs with the same arguments."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from qdesampler.infer.model.fingerprint import data_lines

__all__ = ["CompiledPrograms"]

# Arguments of these types are compared by value.
_HASHABLE_TYPES = (bool, int, float, complex, str, np.generic, np.ndarray, jax.Array)


class CompiledPrograms:
    """Programs for the last arguments: a start takes seconds to run and far longer to compile.

    The arguments of the model are constants of a program. Arrays are compared by their numbers, so that an
    array edited in place gets a new program. Nothing is kept if an argument is traced or of another type.
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
        """The program `name` for these arguments, made if it does not exist yet.

        Args:
            name: all that the program depends on besides the arguments.
            make: returns the program; called at once or not at all.
            model_args: positional arguments of the model.
            model_kwargs: its keyword arguments.
            inputs: arguments of the program; if they are traced, nothing is kept.
        """
        arguments, structure = jax.tree.flatten((tuple(model_args), model_kwargs))
        traced = any(isinstance(leaf, Tracer) for leaf in (*arguments, *jax.tree.leaves(inputs)))
        if traced or not all(isinstance(leaf, _HASHABLE_TYPES) for leaf in arguments):
            return make()
        described = (structure, tuple(data_lines(model_args, model_kwargs).items()))
        if described != self._described:
            self._described, self._programs = described, {}
        if name not in self._programs:
            self._programs[name] = make()
        return self._programs[name]
