r"""Combinatorial problems as binary quadratic models with penalties, and what their optimum is worth.

    E(x) = objective(x) + penalty |violations of x|^2,          x in {0, 1}^n.

* **colouring**: `v` vertices in three colours; each colour has a price; two neighbours of one colour are a
  violation, and so is a vertex of several colours or none; exact by integer programming (`scipy.optimize`).
* **bisection** (maximum cut into equal halves): the cut edges' weights count; a difference of the halves is a
  violation. All edges join two hidden halves, so that the best cut has them all.
* **knapsack**: items of integer value and weight, with bits for the unused capacity; exact by dynamic
  programming.
* **assignment**: of `m` jobs to `m` people; exact by the Hungarian method (`scipy.optimize`).

Objectives differ by about one between good solutions, whatever the penalty: precision has to keep that.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import LinearConstraint, linear_sum_assignment, milp

__all__ = ["PROBLEMS", "PenaltyProblem", "penalty_problem"]


class PenaltyProblem(NamedTuple):
    """`E(x) = x' Q x + offset`, `x in {0, 1}^n`.

    Attributes:
        Q: upper triangular, shape `(n, n)`, double precision.
        offset: a constant; with it `E` of a feasible `x` is its objective.
        best: the lowest objective of a feasible `x`.
        feasible: of bits `(r, n)`, whether each row violates nothing, shape `(r,)`.
    """

    Q: np.ndarray
    offset: float
    best: float
    feasible: Callable[[np.ndarray], np.ndarray]

    def energies(self, bits: np.ndarray) -> np.ndarray:
        """`E` of rows of bits, in double precision."""
        rows = bits.astype(float)
        return np.einsum("ri,ij,rj->r", rows, self.Q, rows, optimize=True) + self.offset


def _squares(A: np.ndarray, b: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """`penalty |A x - b|^2` as an upper triangular matrix and a constant."""
    full = penalty * (A.T @ A)
    linear = penalty * -2 * (A.T @ b)
    return np.triu(full, 1) * 2 + np.diag(full.diagonal() + linear), float(penalty * b @ b)


def _one_hot(groups: int, size: int) -> np.ndarray:
    return np.kron(np.eye(groups), np.ones(size))


def _coloring(n: int, penalty: float, rng: np.random.Generator) -> PenaltyProblem:
    vertices, colors = n // 3, 3
    hidden = rng.integers(
        colors, size=vertices
    )  # the graph can be coloured: neighbours differ in this colouring
    pairs = np.stack(np.triu_indices(vertices, 1), 1)
    pairs = pairs[hidden[pairs[:, 0]] != hidden[pairs[:, 1]]]
    pairs = pairs[rng.permutation(len(pairs))[: int(1.5 * vertices)]]
    A = _one_hot(vertices, colors)
    Q, offset = _squares(A, np.ones(vertices), penalty)
    for u, v in pairs:
        for color in range(colors):
            Q[3 * min(u, v) + color, 3 * max(u, v) + color] += penalty
    prices = rng.integers(0, 4, size=(vertices, colors)).astype(float).ravel()
    Q += np.diag(prices)
    ends = np.zeros((len(pairs), vertices))
    np.put_along_axis(ends, pairs, 1.0, 1)
    rules = [LinearConstraint(A, 1, 1), LinearConstraint(np.kron(ends, np.eye(colors)), -np.inf, 1)]
    best = milp(prices, integrality=np.ones(len(prices)), bounds=(0, 1), constraints=rules)

    def feasible(bits):
        by_vertex = bits.reshape(len(bits), vertices, colors)
        clash = (by_vertex[:, pairs[:, 0]] * by_vertex[:, pairs[:, 1]]).sum((1, 2))
        return np.all(by_vertex.sum(2) == 1, 1) & (clash == 0)

    return PenaltyProblem(Q, offset, float(round(best.fun)), feasible)


def _bisection(n: int, penalty: float, rng: np.random.Generator) -> PenaltyProblem:
    first = rng.permutation(n) < n // 2
    between = (first[:, None] != first) & (rng.random((n, n)) < min(1.0, 16 / n))
    weights = np.triu(rng.integers(1, 5, size=(n, n)) * between, 1).astype(float)
    Q, offset = _squares(np.ones((1, n)), np.array([n / 2]), penalty)
    # an edge is cut where x_i + x_j - 2 x_i x_j = 1
    Q += 2 * weights - np.diag(weights.sum(0) + weights.sum(1))
    return PenaltyProblem(Q, offset, -float(weights.sum()), lambda bits: bits.sum(1) == n // 2)


def _knapsack(n: int, penalty: float, rng: np.random.Generator) -> PenaltyProblem:
    spare = 5 if n < 100 else 8
    items = n - spare
    weight = rng.integers(1, 8, size=items)
    value = rng.integers(1, 10, size=items)
    slack = np.append(2 ** np.arange(spare - 1), 1)
    capacity = min(int(weight.sum()) // 2, int(slack.sum()) * 4)
    Q, offset = _squares(np.append(weight, slack)[None].astype(float), np.array([float(capacity)]), penalty)
    Q -= np.diag(np.append(value, np.zeros(spare)))
    table = np.zeros(capacity + 1)
    for w, v in zip(weight, value, strict=True):
        table[w:] = np.maximum(table[w:], table[: capacity + 1 - w] + v)
    terms = np.append(weight, slack)
    return PenaltyProblem(Q, offset, -float(table[-1]), lambda bits: bits @ terms == capacity)


def _assignment(n: int, penalty: float, rng: np.random.Generator) -> PenaltyProblem:
    m = int(np.sqrt(n))
    cost = rng.uniform(1, 20, size=(m, m))
    A = np.concatenate([_one_hot(m, m), np.kron(np.ones(m), np.eye(m))])
    Q, offset = _squares(A, np.ones(2 * m), penalty)
    best = float(cost[linear_sum_assignment(cost)].sum())

    def feasible(bits):
        return np.all(bits @ A.T == 1, 1)

    return PenaltyProblem(Q + np.diag(cost.ravel()), offset, best, feasible)


PROBLEMS: dict[str, Callable[[int, float, np.random.Generator], PenaltyProblem]] = {
    "colouring": _coloring,
    "bisection": _bisection,
    "knapsack": _knapsack,
    "assignment": _assignment,
}


def penalty_problem(name: str, n: int, penalty: float, *, seed: int) -> PenaltyProblem:
    """Return a problem of about `n` bits.

    Raises:
        KeyError: no problem of this name.
    """
    return PROBLEMS[name](n, penalty, np.random.default_rng(seed))
