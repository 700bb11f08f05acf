r"""Surrogates fitted to positions of a chain: least squares to values, pseudo-likelihood to positions alone.

**Least squares.** `f2` minimises `sum_r w_r (f(x_r) - f2(x_r))^2 + ridge |coefficients|^2` with weights
`w_r = exp(alpha (f(x_r) - max f))`, normalised: `f2` must be accurate near the maximum, and low far
below it.

**Pseudo-likelihood.** `f2` maximises the sum over sites of `log P(x_i | the other sites)` under
`exp(f2)`, averaged over positions (Besag 1975). It fits the law of the positions and does not use `f`;
it takes no evaluations and scales to hundreds of bits.

References:
    Besag, "Statistical analysis of non-lattice data", The Statistician 24 (1975) 179.
"""

import jax
import jax.numpy as jnp

from qdesampler.backends.encoding import StateEncoding
from qdesampler.backends.surrogate import Surrogate, quadratic_problem
from qdesampler.validation import as_positive_int

__all__ = ["MOST_FEATURES", "least_squares_surrogate", "pseudo_likelihood_surrogate"]

MOST_FEATURES = 4000  # coefficients of a least-squares fit, whose cost is their cube


def least_squares_surrogate(
    positions: jax.Array,
    values: jax.Array,
    encoding: StateEncoding,
    *,
    alpha: float = 0.3,
    ridge: float = 1e-4,
    floor: float = 50.0,
) -> Surrogate:
    """Fit `f2` to values of the log density; no evaluations.

    Args:
        positions: shape `(R, n)`; a repeated position counts each time.
        values: `f` of each, shape `(R,)`; NaN and infinite ones are left out.
        encoding: the sites.
        alpha: how much the high values weigh, at least 0.
        ridge: relative to the total weight, positive.
        floor: values lower than the highest minus `floor` are replaced by that.

    Raises:
        ValueError: shapes that do not fit, numbers out of range, or more than 4000 coefficients.
    """
    first, second = encoding.pairs
    count = 1 + encoding.num_bits + first.size
    if positions.ndim != 2 or positions.shape[1] != encoding.num_sites or values.shape != positions.shape[:1]:
        raise ValueError(
            f"positions must be (R, {encoding.num_sites}) with one value each, got {positions.shape} and "
            f"{values.shape}."
        )
    if not alpha >= 0 or not ridge > 0:
        raise ValueError(f"alpha must be at least 0 and ridge positive, got {alpha} and {ridge}.")
    if count > MOST_FEATURES:
        raise ValueError(
            f"a quadratic on {encoding.num_bits} bits has {count} coefficients, too many for least squares "
            f"({MOST_FEATURES}); use pseudo_likelihood_surrogate."
        )
    bits = encoding.encode(positions).astype(values.dtype)
    features = jnp.concatenate([jnp.ones_like(bits[:, :1]), bits, bits[:, first] * bits[:, second]], 1)
    known = jnp.isfinite(values)
    top = jnp.max(jnp.where(known, values, -jnp.inf))
    heights = jnp.where(known, jnp.maximum(values - top, -floor), 0.0)
    weights = jnp.where(known, jnp.exp(alpha * heights), 0.0)
    weights = weights / weights.sum()
    penalty = jnp.full(count, ridge, values.dtype).at[0].set(0.0)
    normal = features.T @ (weights[:, None] * features) + jnp.diag(penalty)
    found = jnp.linalg.solve(normal, features.T @ (weights * heights))
    pair = jnp.zeros((encoding.num_bits,) * 2, values.dtype)
    pair = pair.at[first, second].set(found[encoding.num_bits + 1 :])
    linear = found[1 : encoding.num_bits + 1]
    return Surrogate(quadratic_problem(encoding, found[0] + top, linear, pair + pair.T), 0)


def pseudo_likelihood_surrogate(
    positions: jax.Array, encoding: StateEncoding, *, ridge: float = 0.01, num_steps: int = 200
) -> Surrogate:
    """Fit a pairwise law to positions as if they were drawn from it; no evaluations, no constant.

    Accelerated gradient ascent (Nesterov) with the step that the curvature allows.

    Args:
        positions: shape `(R, n)`.
        encoding: the sites.
        ridge: of the coefficients, positive; keeps them finite where a site never changes.
        num_steps: of the ascent.

    Raises:
        TypeError: `num_steps` is not an integer.
        ValueError: shapes that do not fit, or `ridge` not positive.
    """
    num_steps = as_positive_int("num_steps", num_steps)
    if positions.ndim != 2 or positions.shape[1] != encoding.num_sites or positions.shape[0] < 1:
        raise ValueError(f"positions must be (R, {encoding.num_sites}), got {positions.shape}.")
    if not ridge > 0:
        raise ValueError(f"ridge must be positive, got {ridge}.")
    bits = encoding.encode(positions).astype(jnp.result_type(float))
    apart = jnp.asarray(encoding.site[:, None] != encoding.site, bits.dtype)

    def loss(parameters):
        linear, pair = parameters
        pair = (pair + pair.T) / 2 * apart
        logits = linear + bits @ pair
        # log of 1 + sum over the states of a site, one for each of its bits' sites
        total = jnp.zeros((bits.shape[0], encoding.num_sites)).at[:, encoding.site].add(jnp.exp(logits))
        fit = jnp.mean(jnp.sum(bits * logits, 1) - jnp.sum(jnp.log1p(total), 1))
        return ridge * (jnp.sum(linear**2) + jnp.sum(pair**2)) / 2 - fit

    curvature = 0.5 * (1 + jnp.max(jnp.linalg.eigvalsh(bits.T @ bits / bits.shape[0]))) + ridge
    start = (jnp.zeros(encoding.num_bits), jnp.zeros((encoding.num_bits,) * 2))

    def step(carry, k):
        here, ahead = carry
        new = jax.tree.map(lambda p, g: p - g / curvature, ahead, jax.grad(loss)(ahead))
        ahead = jax.tree.map(lambda a, b: a + k / (k + 3) * (a - b), new, here)
        return (new, ahead), None

    (found, _), _ = jax.lax.scan(step, (start, start), jnp.arange(num_steps, dtype=bits.dtype))
    linear, pair = found
    return Surrogate(quadratic_problem(encoding, 0.0, linear, (pair + pair.T) / 2 * apart), 0)
