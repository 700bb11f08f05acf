"""Names, shapes and supports of a density's parameters, and the way to unconstrained space and back.

The function of the user sees constrained values, one column for each scalar; the sampler moves in
unconstrained space. The bijections between them and their Jacobians are NumPyro's, evaluated in float64. With
`x = t(u)` the log density of `u` is `log p(t(u)) + log |dt/du|`, and its score is
`J^T grad log p + grad log |dt/du|`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints

__all__ = ["Parameter", "Space", "space_of", "space_of_bounds"]

NAMED = (
    "real",
    "positive",
    "unit_interval",
    "simplex",
    "ordered_vector",
    "positive_ordered_vector",
    "corr_cholesky",
    "corr_matrix",
    "lower_cholesky",
    "positive_definite",
)
_NAME = re.compile(r"[^\W\d][\w.]*")
_SMALLEST_BATCH = 4  # rows; batches are padded to powers of two, so that few programs are compiled


@dataclass(frozen=True)
class Parameter:
    """One row of the table of parameters.

    Args:
        support: "real", "positive", "unit_interval", "simplex", "ordered_vector", "positive_ordered_vector",
            "corr_cholesky", "corr_matrix", "lower_cholesky" or "positive_definite"; a pair `(lower, upper)`,
            either of which may be None or infinite; or a constraint of `numpyro.distributions.constraints`.
        shape: of the constrained values; a number stands for a vector.
        dims: names of the axes in the tree; a word stands for one axis.
    """

    support: Any = "real"
    shape: int | tuple[int, ...] = ()
    dims: str | tuple[str, ...] = ()


class _Piece(NamedTuple):
    """Columns with one bijection: `inner` in unconstrained space, `outer` in the user's."""

    name: str
    labels: tuple[str, ...]
    support: Any  # what makes the constraint; arrays of JAX are made when it is used
    shape: tuple[int, ...]
    inner: np.ndarray
    outer: np.ndarray


class Variable(NamedTuple):
    """A named part of the user's columns."""

    name: str
    shape: tuple[int, ...]
    columns: slice
    dims: tuple[str, ...]


def _constraint(support: Any) -> Any:
    if isinstance(support, str):
        return getattr(constraints, support)
    if isinstance(support, tuple):
        lower, upper = support
        if lower is None:
            return constraints.less_than(jnp.asarray(upper))
        if upper is None:
            return constraints.greater_than(jnp.asarray(lower))
        return constraints.interval(jnp.asarray(lower), jnp.asarray(upper))
    return support


class Space:
    """The user's columns and unconstrained space.

    Attributes:
        variables: the parameters, in the order of their columns.
        columns: number of columns that the user's function takes.
        dim: number of unconstrained coordinates.
        labels: names of these.
    """

    def __init__(self, variables: Sequence[Variable], pieces: Sequence[_Piece]):
        self.variables: tuple[Variable, ...] = tuple(variables)
        self.columns: int = sum(piece.outer.size for piece in pieces)
        self.dim: int = sum(piece.inner.size for piece in pieces)
        self._pieces = tuple(pieces)
        self._plain = all(piece.support == "real" for piece in pieces if isinstance(piece.support, str))
        self._plain = self._plain and all(isinstance(piece.support, str) for piece in pieces)
        labels = [""] * self.dim
        for piece in pieces:
            for label, column in zip(piece.labels, piece.inner, strict=True):
                labels[column] = label
        self.labels: tuple[str, ...] = tuple(labels)
        self._forward = jax.jit(jax.vmap(self._one))
        self._backward = jax.jit(jax.vmap(self._pull_one))

    def _one(self, u):
        x, change, valid = jnp.zeros(self.columns, u.dtype), 0.0, True
        for piece in self._pieces:
            constraint = _constraint(piece.support)
            bijection: Any = biject_to(constraint)
            part = u[piece.inner].reshape(bijection.inverse_shape(piece.shape))
            value = bijection(part)
            x = x.at[piece.outer].set(value.ravel())
            change += jnp.sum(bijection.log_abs_det_jacobian(part, value))
            valid &= jnp.all(constraint(value)) & jnp.all(jnp.isfinite(value))
        return x, change, valid & jnp.isfinite(change)

    def _pull_one(self, u, score):
        _, pull = jax.vjp(lambda u: self._one(u)[:2], u)
        return pull((score, jnp.ones_like(u[0])))[0]

    def constrain(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The user's values, shape `(n, columns)`, `log |dx/du|` and whether it is all finite, `(n,)`."""
        if self._plain:
            return points, np.zeros(len(points)), np.all(np.isfinite(points), 1)
        return self._batched(self._forward, points)

    def pull_back(self, points: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Scores in unconstrained space, shape `(n, dim)`, from those of the user's columns."""
        return scores if self._plain else self._batched(self._backward, points, scores)

    def unconstrain(self, values: np.ndarray) -> np.ndarray:
        """Unconstrained points of the user's values, shape `(n, columns)`.

        Raises:
            ValueError: a value is outside its support.
        """
        points = np.zeros((len(values), self.dim))
        with jax.enable_x64(True):
            for piece in self._pieces:
                constraint = _constraint(piece.support)
                rows = jnp.asarray(values[:, piece.outer].reshape(-1, *piece.shape))
                if not np.all(constraint(rows)):
                    raise ValueError(f"A value of {piece.name} is not in its support {piece.support!r}.")
                inner: Any = biject_to(constraint).inv(rows)  # pyright: ignore[reportOptionalCall]
                points[:, piece.inner] = np.asarray(inner).reshape(len(values), -1)
        if not np.all(np.isfinite(points)):
            raise ValueError("A value lies on the edge of its support: give one inside.")
        return points

    def named(self, points: np.ndarray) -> dict[str, np.ndarray]:
        """The user's values by name, each `(n, *shape)`, at unconstrained points `(n, dim)`."""
        values = self.constrain(points)[0]
        return {
            part.name: values[:, part.columns].reshape(len(values), *part.shape) for part in self.variables
        }

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the axes of those parameters that have names for them."""
        return {part.name: part.dims for part in self.variables if part.dims}

    @staticmethod
    def _batched(program, *rows: np.ndarray) -> Any:
        count = len(rows[0])
        size = max(_SMALLEST_BATCH, 1 << max(count - 1, 0).bit_length())
        padded = [np.concatenate([part, np.ones((size - count, part.shape[1]))]) for part in rows]
        with jax.enable_x64(True):
            made = program(*padded)
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:count], made)


def space_of(table: Mapping[str, Any]) -> Space:
    """The space of a table `{name: Parameter, or support of a scalar}`.

    Raises:
        ValueError: the table is empty, or a name, support, shape or name of an axis cannot be used.
    """
    if not isinstance(table, Mapping) or not table:
        raise ValueError(
            f"parameters is {table!r}; expected a table such as {{'mu': 'real', 'sigma': 'positive'}}."
        )
    variables, pieces, outer, inner = [], [], 0, 0
    for name, row in table.items():
        row = row if isinstance(row, Parameter) else Parameter(row)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a parameter; expected a word such as 'sigma'.")
        shape = (row.shape,) if isinstance(row.shape, int) else tuple(row.shape)
        if not all(isinstance(size, int) and size > 0 for size in shape):
            raise ValueError(f"The shape of {name} is {row.shape!r}; expected positive integers.")
        dims = (row.dims,) if isinstance(row.dims, str) else tuple(row.dims)
        if dims and len(dims) != len(shape):
            raise ValueError(f"{name} has {len(shape)} axes and {len(dims)} names for them: {dims}.")
        size = int(np.prod(shape, dtype=int))
        variables.append(Variable(name, shape, slice(outer, outer + size), dims))
        made = _pieces_of(name, row.support, shape, outer, inner)
        pieces += made
        outer, inner = outer + size, inner + sum(piece.inner.size for piece in made)
    return Space(variables, pieces)


def space_of_bounds(lower: np.ndarray, upper: np.ndarray) -> Space:
    """The space of one vector `x` with bounds, shapes `(dim,)`, infinite where there is none."""
    pieces = _pieces_of("x", (lower, upper), (len(lower),), 0, 0)
    return Space([Variable("x", (len(lower),), slice(0, len(lower)), ())], pieces)


def _pieces_of(name: str, support: Any, shape: tuple[int, ...], outer: int, inner: int) -> list[_Piece]:
    size = int(np.prod(shape, dtype=int))
    columns = np.arange(outer, outer + size)
    if isinstance(support, tuple | list) and len(support) == 2:
        return _bounded(name, support, shape, columns, inner)
    if isinstance(support, str) and support not in NAMED:
        raise ValueError(
            f"The support of {name} is {support!r}; expected one of {', '.join(NAMED)}, a pair (lower, "
            "upper) or a constraint of NumPyro."
        )
    try:
        with jax.enable_x64(True):
            constraint = _constraint(support)
            bijection: Any = biject_to(constraint)
            inside = int(np.prod(bijection.inverse_shape(shape), dtype=int))
    except Exception as error:  # NumPyro raises several kinds
        raise ValueError(
            f"The support of {name}, {support!r}, cannot have the shape {shape}: {error}"
        ) from error
    labels = _labels(name, shape if inside == size else (inside,))
    return [_Piece(name, labels, support, shape, np.arange(inner, inner + inside), columns)]


def _labels(name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the entries of an array."""
    return tuple(f"{name}[{', '.join(map(str, index))}]" if index else name for index in np.ndindex(shape))


def _bounded(
    name: str, support: Any, shape: tuple[Any, ...], columns: np.ndarray, inner: int
) -> list[_Piece]:
    """One piece for the coordinates with the same kinds of bounds."""
    ends = []
    for given, without in zip(support, (-np.inf, np.inf), strict=True):
        try:
            end = np.asarray(without if given is None else given, float)
            ends.append(np.broadcast_to(end, shape).ravel())
        except (TypeError, ValueError) as error:
            raise ValueError(f"A bound of {name} is {given!r}; expected a number, or {shape}.") from error
    lower, upper = ends
    if not np.all(lower < upper):
        raise ValueError(
            f"The bounds of {name} are {support!r}: each lower one must be below the upper, and not NaN."
        )
    labels = np.array(_labels(name, shape))
    kinds = np.isfinite(lower) * 2 + np.isfinite(upper)
    pieces = []
    for kind in np.unique(kinds):
        index = np.flatnonzero(kinds == kind)
        low, high = (ends[index] for ends in (lower, upper))
        bounds = {0: "real", 1: (None, high), 2: (low, None), 3: (low, high)}[int(kind)]
        pieces.append(
            _Piece(name, tuple(labels[index]), bounds, (index.size,), inner + index, columns[index])
        )
    return pieces
