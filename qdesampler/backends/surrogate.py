r"""A log density on discrete sites as an Ising problem: what of it is linear and quadratic.

Any `f` on positions has a quadratic part about an anchor. With `u` the bits of a position
(`qdesampler.backends.encoding`),

    f2(u) = f0 + sum_a b_a u_a + sum_{a<b} Q_ab u_a u_b,          E = -f2,

so that `exp(-E)` is close to `pi ~ exp(f)` where `f2` is close to `f`. Four ways to `f2`:

* `finite_difference_surrogate`: all changes of one and two sites at an anchor. Works for any code; equal to
  `f` within two changes of the anchor, everywhere if `f` is quadratic.
* `taylor_surrogate`: gradient and Hessian of the continuous extension at an anchor, `x_i^2 = x_i` folding the
  diagonal into the linear part. Wrong without notice if the extension differs from `f` (indexing, `where`,
  comparisons); `extension_error` measures that.
* `least_squares_surrogate`: fitted to values of `f`, weighted towards the high ones.
* `pseudo_likelihood_surrogate` (`qdesampler.backends.surrogate_fit`): fitted to positions, as a law.

A surrogate is in general not the target: moves correct for it, or use only its reads. `third_difference`
tests whether the target is quadratic, so that both agree.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qdesampler.backends.encoding import StateEncoding
from qdesampler.backends.problem import IsingProblem, bits_to_spins
from qdesampler.numerics.second_derivatives import product_with_hessian
from qdesampler.validation import is_traced

__all__ = [
    "Surrogate",
    "extension_error",
    "finite_difference_surrogate",
    "quadratic_problem",
    "taylor_surrogate",
    "third_difference",
]

LogDensity = Callable[[jax.Array], jax.Array]
_BATCH = 4096  # positions evaluated at once


class Surrogate(NamedTuple):
    """An Ising problem on the bits of positions, and the evaluations that it took.

    Attributes:
        problem: `-E = f2` on bits that stand for a position.
        num_evals: evaluations of the log density, a gradient or a Hessian-vector product one each.
    """

    problem: IsingProblem
    num_evals: int

    def log_density(self, encoding: StateEncoding, position: jax.Array) -> jax.Array | np.ndarray:
        """Return `f2` of positions, shape `(..., n)` to `(...)`."""
        return -self.problem.energies(bits_to_spins(encoding.encode(position)))


def evaluate_all(log_density: LogDensity, positions: jax.Array) -> jax.Array:
    """Return `f` of every row, in batches."""
    return jax.lax.map(log_density, positions, batch_size=min(_BATCH, positions.shape[0]))


def quadratic_problem(
    encoding: StateEncoding, constant: ArrayLike, linear: jax.Array, pair: jax.Array
) -> IsingProblem:
    """Return the Ising problem of `f2 = constant + linear . u + sum_{a<b} pair_ab u_a u_b`.

    Two bits of one site get a penalty so large that switching one of them off always lowers the energy.

    Args:
        encoding: the code.
        constant: shape `()`.
        linear: shape `(N,)`.
        pair: shape `(N, N)`, symmetric; its entries within a site are not read.
    """
    same = encoding.site[:, None] == encoding.site
    pair = jnp.where(same, 0.0, pair)
    if not encoding.is_binary:
        gain = jnp.maximum(linear + jnp.maximum(pair, 0.0).sum(1), 0.0)
        penalty = jnp.minimum(gain[:, None], gain) + 2.0
        pair = jnp.where(same & ~np.eye(encoding.num_bits, dtype=bool), -penalty, pair)
    return IsingProblem.from_qubo(-jnp.diag(linear) - jnp.triu(pair, 1), -jnp.asarray(constant, pair.dtype))


def _recentred(
    encoding: StateEncoding, anchor: jax.Array, constant: jax.Array, linear: jax.Array, pair: jax.Array
) -> IsingProblem:
    """`f2` from bits relative to `anchor` (`(i, c)`: site `i` at `anchor_i + c mod q_i`) to plain bits."""
    sizes = np.asarray(encoding.num_states)
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    anchor = anchor.astype(jnp.int32)
    # tables over all states, 0 at the anchor's; then state 0 written as 1 - sum of the others
    column = first[encoding.site] + jnp.mod(anchor[encoding.site] + encoding.state, sizes[encoding.site])
    total = int(sizes.sum())
    table = jnp.zeros(total, linear.dtype).at[column].set(linear)
    pairs = jnp.zeros((total, total), pair.dtype).at[column[:, None], column].set(pair)
    states, zeros = first[encoding.site] + encoding.state, first[encoding.site]
    base = pairs[:, first].sum(1)
    linear = table[states] - table[zeros] + base[states] - base[zeros]
    pair = (
        pairs[states][:, states] - pairs[states][:, zeros] - pairs[zeros][:, states] + pairs[zeros][:, zeros]
    )
    constant = constant + table[first].sum() + base[first].sum() / 2
    return quadratic_problem(encoding, constant, linear, pair)


def finite_difference_surrogate(
    log_density: LogDensity, anchor: jax.Array, encoding: StateEncoding, *, floor: float = 50.0
) -> Surrogate:
    """Return `f2` from all changes of one and of two sites at `anchor`; `1 + N + N (N - 1) / 2` evaluations.

    Fewer than that for sites of several states, whose own states exclude one another.

    Args:
        log_density: `f` of one position, shape `(n,)`.
        anchor: a position with a finite density.
        encoding: the sites.
        floor: values below `f(anchor) - floor`, and those that are NaN or infinite, are taken as that.

    Raises:
        ValueError: the density at the anchor is not finite.
    """
    first, second = encoding.pairs
    sizes, n = np.asarray(encoding.num_states), encoding.num_sites
    one = np.zeros((encoding.num_bits, n), np.int32)
    one[np.arange(encoding.num_bits), encoding.site] = encoding.state
    shifts = np.concatenate([np.zeros((1, n), np.int32), one, one[first] + one[second]])
    positions = jnp.mod(anchor.astype(jnp.int32) + shifts, sizes).astype(anchor.dtype)
    values = evaluate_all(log_density, positions)
    _require_finite(values[0], anchor)
    differences = values - values[0]
    differences = jnp.where(jnp.isfinite(differences), jnp.maximum(differences, -floor), -floor)
    singles, doubles = differences[1 : encoding.num_bits + 1], differences[encoding.num_bits + 1 :]
    pair = jnp.zeros((encoding.num_bits,) * 2, values.dtype)
    pair = pair.at[first, second].set(doubles - singles[first] - singles[second])
    problem = _recentred(encoding, anchor, values[0], singles, pair + pair.T)
    return Surrogate(problem, len(shifts))


def taylor_surrogate(log_density: LogDensity, anchor: jax.Array, encoding: StateEncoding) -> Surrogate:
    """Return `f2` from the gradient and the Hessian at `anchor`; `n + 1` evaluations, two states a site.

    Args:
        log_density: `f` of real numbers too, shape `(n,)`.
        anchor: bits with a finite density.
        encoding: the sites.

    Raises:
        ValueError: a site has more than two states, or the density at the anchor is not finite.
    """
    value, linear, hessian = _expansion(log_density, anchor, encoding)
    flip = 1 - 2 * anchor.astype(linear.dtype)
    pair = hessian * flip[:, None] * flip
    problem = _recentred(encoding, anchor, value, linear, pair - jnp.diag(jnp.diagonal(pair)))
    return Surrogate(problem, encoding.num_sites + 1)


def _expansion(log_density, anchor, encoding):
    if not encoding.is_binary:
        raise ValueError(
            "the Taylor surrogate needs sites of two states: states have no order to differentiate along; "
            "use finite differences."
        )
    point = anchor.astype(jnp.result_type(float))
    value, gradient = jax.value_and_grad(log_density)(point)
    _require_finite(value, anchor)
    product, _ = product_with_hessian(jax.grad(log_density), point)
    hessian = jax.lax.map(product, jnp.eye(point.size, dtype=point.dtype), batch_size=min(64, point.size))
    linear = gradient * (1 - 2 * point) + jnp.diagonal(hessian) / 2
    return value, linear, (hessian + hessian.T) / 2


def extension_error(
    log_density: LogDensity, anchor: jax.Array, encoding: StateEncoding, *, key: jax.Array, num_flips: int = 8
) -> jax.Array:
    """Return how far the continuous extension is from the truth for flips of one bit, relative, shape `()`.

    The largest `|g_i (1 - 2 x_i) + H_ii / 2 - d_i|` over `num_flips` random bits, divided by the largest
    `|d_i|`. 0 for a quadratic; 1 where the extension is constant. With a value above 1/2, or NaN, use
    finite differences. `n + 1 + num_flips` evaluations.
    """
    value, linear, _ = _expansion(log_density, anchor, encoding)
    sites = jax.random.permutation(key, anchor.size)[: min(num_flips, anchor.size)]
    flipped = anchor ^ jax.nn.one_hot(sites, anchor.size, dtype=anchor.dtype)
    truth = evaluate_all(log_density, flipped) - value
    scale = jnp.maximum(jnp.max(jnp.abs(truth)), jnp.finfo(truth.dtype).tiny)
    return jnp.max(jnp.abs(linear[sites] - truth)) / scale


def third_difference(
    log_density: LogDensity, position: jax.Array, encoding: StateEncoding, *, key: jax.Array, trials: int = 16
) -> jax.Array:
    r"""Return the largest third difference of `f`, in units of its rounding; `8 trials` evaluations.

    Three random groups of sites are each moved or not, to random other states; the alternating sum of the
    eight values is 0 for every quadratic `f`, and for one that is not quadratic it is not 0 for some choice
    of groups; a single term of three sites is met with probability 2/9 by each trial.
    Values of order 1 are rounding; `f` may be called quadratic below about 100.
    """
    sizes, n = np.asarray(encoding.num_states), encoding.num_sites
    corners = np.array([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)])
    signs = 1 - 2 * (corners.sum(1) % 2)

    def trial(key):
        key_group, key_shift = jax.random.split(key)
        group = jax.random.randint(key_group, (n,), 0, 3)
        moved = jnp.asarray(corners)[:, group]
        shift = jax.random.randint(key_shift, (n,), 1, jnp.asarray(sizes))
        rows = jnp.mod(position.astype(jnp.int32) + moved * shift, sizes).astype(position.dtype)
        values = evaluate_all(log_density, rows)
        scale = jnp.finfo(values.dtype).eps * (1 + jnp.max(jnp.abs(values)))
        return jnp.abs(jnp.sum(signs * values)) / scale

    found = jax.lax.map(trial, jax.random.split(key, trials))
    return jnp.where(jnp.all(jnp.isfinite(found)), jnp.max(found), jnp.inf)


def _require_finite(value: jax.Array, anchor: jax.Array) -> None:
    if not is_traced(value) and not np.isfinite(value):
        raise ValueError(
            f"the log density at the anchor {np.asarray(anchor).tolist()} is {float(value)}; a surrogate "
            "expands about a position with a finite density."
        )
