r"""Ising problems: the energy that every annealer of this room lowers or samples.

    E(s) = h . s + sum_{i<j} J_ij s_i s_j + offset,      s in {-1, +1}^n,      p(s) ~ exp(-beta E(s)).

The energy is minimised, as in dimod; some devices and papers have the other sign. A bit `x = (s + 1) / 2`
turns it into a quadratic unconstrained binary problem, `E(x) = x' Q x + offset`, and back.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qdesampler.backends.precision import host_numbers, is_staged
from qdesampler.validation import is_traced

__all__ = [
    "IsingProblem",
    "ProblemTooLargeError",
    "bits_to_spins",
    "check_problem",
    "check_states",
    "spins_to_bits",
    "uniform_states",
]


_ENTRIES = 2**22  # products of spins held at once while energies are summed on the host: 32 MB


class ProblemTooLargeError(ValueError):
    """The problem has more variables than the backend takes."""


def bits_to_spins(bits: ArrayLike) -> jax.Array:
    """Return `s = 2 x - 1` as int8, any shape."""
    return (2 * jnp.asarray(bits).astype(jnp.int8) - 1).astype(jnp.int8)


def spins_to_bits(spins: ArrayLike) -> jax.Array:
    """Return `x = (s + 1) / 2` as int8, any shape."""
    return (jnp.asarray(spins) > 0).astype(jnp.int8)


def uniform_states(key: jax.Array, num_states: int, n: int) -> jax.Array:
    """Return states of independent fair spins, -1 and +1, as int8 of shape `(num_states, n)`."""
    return 2 * jax.random.bernoulli(key, 0.5, (num_states, n)).astype(jnp.int8) - 1


class IsingProblem(NamedTuple):
    """Fields and couplings; a pytree of arrays, so that problems may be traced, batched and differentiated.

    `h`, `J` and `offset` may be traced. `edges` decides which spins may move together, and that is worked out
    before tracing: let `jit` and `vmap` close over it (`problem._replace(h=..., J=...)`) where you can.

    The constructors keep what they are given: numbers of the host in double precision, as NumPy arrays, and
    arrays of JAX as they are. Energies of known states are then summed on the host in double precision,
    whatever a device does; while JAX traces, they have its precision.

    Attributes:
        h: fields, shape `(n,)`, in the units of the energy.
        J: couplings, shape `(n, n)`, symmetric with a zero diagonal; or `(m,)`, one for each row of `edges`.
        offset: a constant, shape `()`.
        edges: the pairs `(i, j)` with `i != j` that `J` couples, shape `(m, 2)`, integers; None if dense. A
            pair given twice has the sum of its couplings.
    """

    h: jax.Array | np.ndarray
    J: jax.Array | np.ndarray
    offset: jax.Array | np.ndarray
    edges: jax.Array | np.ndarray | None = None

    @classmethod
    def from_dense(cls, h: ArrayLike, J: ArrayLike, offset: ArrayLike = 0.0) -> "IsingProblem":
        """Return a dense problem from fields `(n,)` and a coupling matrix `(n, n)`.

        The matrix is read as dimod reads it: `s' J s` summed over all `i != j`. An upper triangle holds each
        pair once; a symmetric matrix that counts each pair once belongs into the constructor itself.

        Raises:
            ValueError: shapes differ, a diagonal that is not zero, or numbers that are not finite.
        """
        fields, pairs = host_numbers(h), host_numbers(J)
        if fields.ndim != 1 or pairs.shape != (fields.size, fields.size):
            raise ValueError(f"h must be (n,) and J (n, n), got {fields.shape} and {pairs.shape}.")
        if not is_traced(pairs) and np.any(np.diagonal(np.asarray(pairs)) != 0):
            raise ValueError("J has entries on its diagonal; s_i^2 = 1, so add their sum to offset.")
        return check_problem(IsingProblem(fields, pairs + pairs.T, host_numbers(offset)))

    @classmethod
    def from_edges(
        cls, h: ArrayLike, edges: ArrayLike, J: ArrayLike, offset: ArrayLike = 0.0
    ) -> "IsingProblem":
        """Return a sparse problem from fields `(n,)`, pairs `(m, 2)` and one coupling for each pair, `(m,)`.

        Raises:
            ValueError: shapes differ, a pair is out of range or couples a spin to itself, or numbers that are
                not finite.
        """
        pairs = edges if isinstance(edges, jax.Array) else np.asarray(edges, np.int32).reshape(-1, 2)
        return check_problem(IsingProblem(host_numbers(h), host_numbers(J), host_numbers(offset), pairs))

    @classmethod
    def from_qubo(cls, Q: ArrayLike, offset: ArrayLike = 0.0) -> "IsingProblem":
        """Return the Ising form of `E(x) = x' Q x + offset`, `x in {0, 1}^n`, `Q` any square matrix.

        With `B = Q + Q'` off the diagonal: `J_ij = B_ij / 4`, `h_i = Q_ii / 2 + sum_j B_ij / 4`.

        Raises:
            ValueError: `Q` is not square, or not finite.
        """
        matrix = host_numbers(Q)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"Q must be a square matrix, got shape {matrix.shape}.")
        linear = matrix.diagonal()
        both = (matrix + matrix.T) * (1 - np.eye(len(matrix), dtype=matrix.dtype))
        constant = host_numbers(offset) + linear.sum() / 2 + both.sum() / 8
        return check_problem(IsingProblem(linear / 2 + both.sum(1) / 4, both / 4, constant))

    def to_qubo(self) -> tuple[jax.Array | np.ndarray, jax.Array | np.ndarray]:
        """Return `Q` (upper triangular, `(n, n)`) and `offset` with `E = x' Q x + offset`."""
        J = self.dense().J
        xp = jnp if isinstance(J, jax.Array) or isinstance(self.h, jax.Array) else np
        Q = xp.triu(4 * J, 1) + xp.diag(2 * self.h - 2 * J.sum(1))
        return Q, self.offset - self.h.sum() + J.sum() / 2

    @property
    def num_variables(self) -> int:
        """The number of spins, `n`."""
        return self.h.shape[-1]

    def dense(self) -> "IsingProblem":
        """Return the same problem with a coupling matrix."""
        if self.edges is None:
            return self
        shape = (self.num_variables,) * 2
        if isinstance(self.J, jax.Array) or is_traced(self.edges):
            i, j = jnp.asarray(self.edges).T
            J = jnp.zeros(shape, jax.dtypes.canonicalize_dtype(self.J.dtype)).at[i, j].add(self.J)
        else:
            J = np.zeros(shape)
            np.add.at(J, tuple(np.asarray(self.edges).T), self.J)
        return IsingProblem(self.h, J + J.T, self.offset)

    def sparse(self) -> "IsingProblem":
        """Return the same problem with an edge list: the pairs whose coupling is not zero.

        Raises:
            ValueError: the couplings are traced; which are zero is then not known.
        """
        if self.edges is not None:
            return self
        if is_traced(self.J):
            raise ValueError("sparse() reads the couplings: call it outside of jit, vmap and grad.")
        rows, columns = np.nonzero(np.triu(np.asarray(self.J), 1))
        edges = np.stack([rows, columns], 1).astype(np.int32)
        return IsingProblem(self.h, self.J[rows, columns], self.offset, edges)

    def without_offset(self) -> "IsingProblem":
        """Return the same problem with `offset` 0: no draw depends on it, and sums lose digits to it."""
        return self._replace(offset=np.zeros((), self.h.dtype))

    def energy(self, state: ArrayLike) -> jax.Array | np.ndarray:
        """Return `E(s)` of one state, shape `(n,)`, entries -1 and +1."""
        return self.energies(state)

    def energies(self, states: ArrayLike) -> jax.Array | np.ndarray:
        """Return `E` of every state, shape `(..., n)` to `(...)`; in double precision unless JAX traces.

        Raises:
            ValueError: the last axis is not `n`.
        """
        shape = np.shape(states)
        if shape[-1:] != (self.num_variables,):
            raise ValueError(
                f"states must have {self.num_variables} columns, one a variable, got shape {shape}."
            )
        if not is_staged(self, states):
            rows = np.asarray(states, np.float64).reshape(-1, self.num_variables)
            known = self._replace(
                **{name: np.asarray(getattr(self, name), np.float64) for name in ("h", "J")}
            )
            size = max(_ENTRIES // max(known.J.shape[0], self.num_variables), 1)
            parts = [_sums(np, known, rows[k : k + size]) for k in range(0, len(rows), size)]
            return (np.concatenate([np.zeros(0), *parts]) + np.float64(self.offset)).reshape(shape[:-1])
        dtype = jax.dtypes.canonicalize_dtype(self.h.dtype)
        rows = jnp.asarray(states).reshape(-1, self.num_variables).astype(dtype)
        return (_sums(jnp, self, rows) + self.offset).reshape(shape[:-1])


def _sums(xp: Any, problem: IsingProblem, rows: Any) -> Any:
    """`E - offset` of every row, by NumPy or by JAX."""
    matmul = np.matmul if xp is np else partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    if problem.edges is None:
        return matmul(rows, problem.h) + (matmul(rows, problem.J) * rows).sum(-1) / 2
    i, j = xp.asarray(problem.edges).T
    columns = rows.T
    return matmul(rows, problem.h) + matmul(problem.J, columns[i] * columns[j])


def check_problem(problem: IsingProblem) -> IsingProblem:
    """Return `problem` if it is one; numbers are checked where they are not traced.

    Raises:
        TypeError: not an `IsingProblem`.
        ValueError: shapes that do not belong together, a matrix that is not symmetric with a zero diagonal,
            edges out of range, or a number that is not finite.
    """
    if not isinstance(problem, IsingProblem):
        raise TypeError(
            f"expected an IsingProblem, got {type(problem).__name__}; see IsingProblem.from_dense, "
            "from_edges and from_qubo, and from_bqm for dimod."
        )
    h, J, offset, edges = problem
    n = jnp.shape(h)[-1] if jnp.ndim(h) == 1 else -1
    wanted = (n, n) if edges is None else (jnp.shape(edges)[0],)
    if n < 1 or jnp.shape(J) != wanted or jnp.shape(offset) != ():
        raise ValueError(
            f"h must be (n,) with n >= 1, J (n, n) or one number an edge, offset a scalar; got "
            f"{jnp.shape(h)}, {jnp.shape(J)}"
            f"{'' if edges is None else f' for edges {jnp.shape(edges)}'}, {jnp.shape(offset)}."
        )
    for name, value in (("h", h), ("J", J), ("offset", offset)):
        if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise ValueError(f"{name} must hold floating-point numbers, got {jnp.result_type(value)}.")
        if not is_traced(value) and not np.all(np.isfinite(np.asarray(value))):
            raise ValueError(f"{name} has entries that are not finite; an annealer would return anything.")
    if edges is not None:
        if jnp.shape(edges)[1:] != (2,) or not jnp.issubdtype(jnp.result_type(edges), jnp.integer):
            raise ValueError(f"edges must be integers of shape (m, 2), got {jnp.shape(edges)}.")
        if not is_traced(edges):
            pairs = np.asarray(edges)
            if pairs.size and (pairs.min() < 0 or pairs.max() >= n):
                raise ValueError(f"edges must name spins 0 to {n - 1}, got {pairs.min()} to {pairs.max()}.")
            if np.any(pairs[:, 0] == pairs[:, 1]):
                raise ValueError("an edge couples a spin to itself; s_i^2 = 1, so add it to offset.")
    elif not is_traced(J):
        matrix = np.asarray(J)
        if np.any(np.diagonal(matrix) != 0) or not np.allclose(matrix, matrix.T, rtol=1e-5, atol=1e-6):
            raise ValueError("J must be symmetric with a zero diagonal; IsingProblem.from_dense makes it so.")
    return problem


def check_states(name: str, states: ArrayLike, num_reads: int, n: int) -> jax.Array:
    """Return `states` as int8 of shape `(num_reads, n)`; one state, `(n,)`, is repeated.

    Raises:
        ValueError: another shape, or entries other than -1 and +1.
    """
    given = jnp.asarray(states)
    if given.shape not in ((n,), (num_reads, n)):
        raise ValueError(f"{name} must have shape ({num_reads}, {n}) or ({n},), got {given.shape}.")
    if not is_traced(given) and not np.all(np.abs(np.asarray(given)) == 1):
        raise ValueError(f"{name} must be -1 or +1; bits_to_spins turns 0 and 1 into them.")
    return jnp.broadcast_to(given.astype(jnp.int8), (num_reads, n))
