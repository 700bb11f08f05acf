"""The maps that coordinates of moves may have on top of the sites: one set of functions for both kinds."""

from collections.abc import Callable
from typing import Any

from qdesampler.numerics import laplace_map, triangular_map
from qdesampler.numerics.laplace_map import LaplaceMap
from qdesampler.numerics.triangular_map import TriangularMap

__all__ = [
    "CoordinateMap",
    "into_map",
    "out_of_map",
    "push_forward",
    "to_map",
    "value_and_score_in_map",
]

CoordinateMap = TriangularMap | LaplaceMap


def push_forward(law: CoordinateMap, v: Any) -> tuple[Any, Any]:
    """Sites at `v`, and `log |dx/dv|` but for a constant."""
    return _of(law).push_forward(law, v)


def to_map(law: CoordinateMap, x: Any) -> tuple[Any, Any]:
    """The inverse of `push_forward`."""
    return _of(law).to_map(law, x)


def into_map(law: CoordinateMap, x: Any, score: Any) -> tuple[Any, Any, Any]:
    """`v` at sites, `log |dx/dv|` but for a constant, and the score of `v` from that of the sites."""
    return _of(law).into_map(law, x, score)


def out_of_map(law: CoordinateMap, v: Any, score: Any) -> tuple[Any, Any, Any]:
    """The inverse of `into_map`: sites, the same logarithm, and their score."""
    return _of(law).out_of_map(law, v, score)


def value_and_score_in_map(law: CoordinateMap, v: Any, evaluate: Callable) -> tuple[Any, Any]:
    """Log density and score in `v`, from those of the sites."""
    return _of(law).value_and_score_in_map(law, v, evaluate)


def _of(law: CoordinateMap) -> Any:
    return laplace_map if isinstance(law, LaplaceMap) else triangular_map
