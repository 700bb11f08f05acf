r"""A quadratic surrogate from differences of the log density: the log odds that sweeps of Gibbs sampling see.

Each update of a sweep evaluates `f` with one site in two states, the other sites given. For a quadratic `f2`
this difference is linear in the bits `u` of the other sites,

    f(x_i = c) - f(x_i = a) = b_ic - b_ia + sum_j (Q_ic,j - Q_ia,j) u_j,

so `b` and the symmetric `Q` follow from least squares, each difference `d` with the weight `p (1 - p) +` a
little, `p = 1 / (1 + exp(-d))`: what is certain need not be known well. The values of all differences are
used, where a fit of the law of the positions would use only which of two states was drawn. This is ratio
matching (Hyvarinen 2007) with the ratios known.

References:
    Hyvarinen, "Some extensions of score matching", Comput. Statist. Data Anal. 51 (2007) 2499.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.backends.encoding import StateEncoding
from qdesampler.backends.surrogate import Surrogate, quadratic_problem

__all__ = ["Differences", "log_odds_surrogate"]

_CERTAIN = 12.0  # log odds beyond which a difference is cut: such a change is not made in a run
_LEAST_WEIGHT = 0.02  # of a difference, against 0.25 of an even one
_RIDGE = 1.0  # of Q; positions in which a pair never varies then say nothing about it
_EVEN = 1e-3  # ridge of b, so that what was never seen is even
_ITERATIONS = 100  # of conjugate gradients; not tuned
MOST_ENTRIES = 20_000_000  # of bits held for a fit: 80 MB in single precision


class Differences(NamedTuple):
    """Differences of a log density for changes of one site; a pytree. Row `b` holds changes by bit `b`.

    Bit `b` of an encoding with `N` bits stands for a site and a shift of its state (`StateEncoding.site` and
    `state`); `R` changes were seen for each.

    Attributes:
        positions: before each change, shape `(N, R, n)`.
        new: the other state of the bit's site, shape `(N, R)`.
        values: `f` after the change minus `f` before, shape `(N, R)`; infinite or NaN where `f` is.
    """

    positions: jax.Array
    new: jax.Array
    values: jax.Array


def log_odds_surrogate(differences: Differences, encoding: StateEncoding) -> Surrogate:
    """Fit `f2` to differences of the log density by conjugate gradients; no evaluations, no constant.

    Args:
        differences: of which at most 20 million bits are used, evenly.
        encoding: the sites.
    """
    stride = -(-differences.values.size * encoding.num_bits // MOST_ENTRIES)
    positions, new, values = (part[:, ::stride] for part in differences)
    dtype, sizes = jnp.result_type(float), np.asarray(encoding.num_states)
    states = np.arange(1, int(sizes.max()))
    # the bits of the site of each bit, by state: the bit number N stands for none
    first = (np.cumsum(sizes - 1) - sizes + 1)[encoding.site]
    own = np.where(states < sizes[encoding.site][:, None], first[:, None] + states - 1, encoding.num_bits)
    old = jnp.take_along_axis(positions, jnp.asarray(encoding.site)[:, None, None], 2)
    turned = jnp.asarray(new[..., None] == states, dtype) - jnp.asarray(old == states, dtype)
    known = ~jnp.isnan(values)
    values = jnp.clip(jnp.where(known, values, 0.0), -_CERTAIN, _CERTAIN).astype(dtype)
    share = jax.nn.sigmoid(values)
    weights = jnp.where(known, share * (1 - share) + _LEAST_WEIGHT, 0.0)
    u = encoding.encode(positions).astype(dtype)
    mean = jnp.mean(u, (0, 1))
    u = u - mean
    apart = jnp.asarray(encoding.site[:, None] != encoding.site, dtype)

    def rows_of(table):
        return jnp.concatenate([table, jnp.zeros_like(table[:1])])[own]

    def summed(rows):  # the transpose of `rows_of`
        return jnp.zeros((encoding.num_bits + 1, *rows.shape[2:]), dtype).at[own].add(rows)[:-1]

    def predict(linear, pair):
        return jnp.sum(turned * (rows_of(linear)[:, None] + jnp.matmul(u, rows_of(pair).mT)), -1)

    def collect(residual):  # the transpose of `predict` on symmetric matrices
        change = turned * residual[..., None]
        pair = summed(jnp.matmul(change.mT, u))
        return summed(jnp.sum(change, 1)), (pair + pair.T) / 2 * apart

    def normal(parameters):
        linear, pair = collect(weights * predict(*parameters))
        return linear + _EVEN * parameters[0], pair + _RIDGE * parameters[1]

    target = collect(weights * values)
    solve: Any = jax.scipy.sparse.linalg.cg
    (linear, pair), _ = solve(normal, target, maxiter=_ITERATIONS)
    return Surrogate(quadratic_problem(encoding, 0.0, linear - pair @ mean, pair), 0)
