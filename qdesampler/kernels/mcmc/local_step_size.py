r"""A step size that follows the place, exactly: short where the score is stiff, as in the neck of a funnel.

The step of a trajectory from `x` is drawn as

    log e ~ N(log e0 + m(x), SPREAD^2),        m(x) = -1/2 log(1 + |L^T a(x)|^2 / (SOFT^2 dim)),

`a` the score, `L` the metric's factor: on a Gaussian that the metric whitens `m` is about constant, and where
the score is `k` times as stiff the step is `k` times as short. From the end `x'` the same step would be drawn
with another density, so that the acceptance gains the factor `N(log e; x') / N(log e; x)`: a Gibbs step on
`(x, v, e)`, which leaves `p` invariant (self-tuning by Gibbs: Bou-Rabee, Carpenter and Marsden 2024, "GIST").
No evaluation is needed: the scores at both ends are known.
"""

import jax
import jax.numpy as jnp

from qdesampler.numerics.metric import Metric, to_whitened_gradient

__all__ = ["SPREAD", "log_scale", "step_log_ratio"]

SPREAD = 0.5
SOFT = 2.0  # times the size of a whitened Gaussian's score, from where steps shorten


def log_scale(metric: Metric, score: jax.Array) -> jax.Array:
    """`m(x)` from the score there, shape `(dim,)`; 0 where that is not finite."""
    stiffness = jnp.mean(to_whitened_gradient(metric, score) ** 2) / SOFT**2
    return jnp.where(jnp.isfinite(stiffness), -0.5 * jnp.log1p(stiffness), 0)


def step_log_ratio(log_factor: jax.Array, there: jax.Array, here: jax.Array) -> jax.Array:
    """`log N(log e; x') - log N(log e; x)` for `log_factor = log e - log e0` and `m` at `x'` and `x`."""
    return 0.5 * ((log_factor - here) ** 2 - (log_factor - there) ** 2) / SPREAD**2
