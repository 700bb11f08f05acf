"""What a kernel keeps on the host: results of warm-ups, and the program of the last target.

They are known by the contents of the model's arguments, so that chains that run one after another, and runs
on equal data, share them.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from qdesampler.infer.model.fingerprint import data_lines

__all__ = ["Memory", "name_of"]

_MOST_PREPARED = 4  # results of warm-ups that a kernel keeps


class _Counted(Protocol):
    """A result that knows the evaluations it took."""

    @property
    def num_evals(self) -> int:
        """Evaluations."""
        ...


def name_of(
    prototype: Any, model_args: Sequence[Any], model_kwargs: dict[str, Any] | None
) -> tuple[Any, ...]:
    """A name of a target by the contents of its arguments, the shapes of its sites, and their precision."""
    lines = tuple(data_lines(tuple(model_args), model_kwargs or {}).items())
    shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves(prototype))
    return lines, shapes, jax.config.jax_enable_x64


class Memory[Result: _Counted, Evaluations]:
    """Results of the last few warm-ups, and the evaluations of the last target."""

    def __init__(self):
        """Begin empty."""
        self._prepared: OrderedDict[Hashable, Result] = OrderedDict()
        self._target: tuple[Hashable, Evaluations] | None = None

    def prepared(self, name: Hashable, make: Callable[[], Result]) -> tuple[Result, int]:
        """The result of a warm-up, and its evaluations: none if a former one serves again."""
        if name in self._prepared:
            self._prepared.move_to_end(name)
            return self._prepared[name], 0
        result = make()
        while len(self._prepared) >= _MOST_PREPARED:
            self._prepared.popitem(last=False)
        self._prepared[name] = result
        return result, result.num_evals

    def evaluations(self, name: Hashable, make: Callable[[], Evaluations]) -> Evaluations:
        """Evaluations of a target, with the program compiled for it; only the last target is kept."""
        if self._target is None or self._target[0] != name:
            self._target = name, make()
        return self._target[1]
