"""Importance weights: tempering, systematic resampling, and the efficiency of an independence proposal."""

import jax
import jax.numpy as jnp

_BISECTIONS = 12  # halvings of the bracket [0, 1] of the tempering power
_NOTHING = -1e30  # nats; stands for the log weight of a proposal without density


def resample(key: jax.Array, weights: jax.Array, count: int) -> jax.Array:
    """Systematic resampling: indices of `count` points by log weights, in random order."""
    key_offset, key_order = jax.random.split(key)
    cumulative = jnp.cumsum(jax.nn.softmax(weights))
    offset = jax.random.uniform(key_offset, (), cumulative.dtype)
    at = (jnp.arange(count) + offset) / count * cumulative[-1]
    chosen = jnp.clip(jnp.searchsorted(cumulative, at), 0, weights.size - 1)
    return jax.random.permutation(key_order, chosen)


def independence_time(log_weights: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Autocorrelation time and acceptance of independence Metropolis with this trial.

    A chain at `x` with weight `w` leaves it at the rate `alpha(w) = E_q min(1, w' / w)`. The time of a
    function that is independent of the weights is `E_p [2 / alpha - 1]`, which is one if every proposal is
    accepted (Liu 1996). A function that grows with the weights takes longer, and so does a tail that no
    proposal has reached. Both expectations are taken over the weighted proposals.

    Args:
        log_weights: `log p - log q` of draws from `q`, up to a constant, shape `(n,)`; `-inf` for a proposal
            without density.
        valid: which entries count, shape `(n,)`, boolean.

    Returns:
        Time (`inf` if no proposal has density) and mean acceptance, scalars.
    """
    usable = valid & (log_weights > -jnp.inf)
    lw = jnp.where(usable, log_weights, -jnp.inf)
    largest = jnp.max(jnp.where(usable, lw, -jnp.inf))
    weight = jnp.where(usable, jnp.exp(lw - jnp.where(jnp.isfinite(largest), largest, 0)), 0)
    ratio = jnp.exp(
        jnp.minimum(jnp.where(usable, lw, _NOTHING)[None, :] - jnp.where(usable, lw, 0)[:, None], 0)
    )
    total = jnp.maximum(jnp.sum(valid), 1)
    rate = jnp.sum(jnp.where(usable[None, :], ratio, 0), 1) / total
    probability = weight / jnp.maximum(jnp.sum(weight), jnp.finfo(lw.dtype).tiny)
    safe = jnp.where(usable, rate, 1)
    time = jnp.sum(probability * (2 / safe - 1))
    some = jnp.any(usable)
    return jnp.where(some, time, jnp.inf), jnp.where(some, jnp.sum(probability * safe), 0)


def tempered_weights(log_weights: jax.Array, valid: jax.Array, target: jax.Array) -> jax.Array:
    """`w^b` with the largest power `b <= 1` that leaves at least `target` effective draws; their mean is one.

    Args:
        log_weights: shape `(n,)`; entries that are not finite get no weight.
        valid: which entries count, shape `(n,)`, boolean.
        target: effective sample size to keep; if fewer entries are valid, all get the same weight.
    """
    usable = valid & jnp.isfinite(log_weights)
    lw = jnp.where(usable, log_weights, -jnp.inf)
    largest = jnp.max(lw)
    lw = jnp.where(usable, lw - jnp.where(jnp.isfinite(largest), largest, 0), 0)

    def weights(power):
        return jnp.where(usable, jnp.exp(power * lw), 0)

    def enough(power):
        w = weights(power)
        return jnp.sum(w) ** 2 >= target * jnp.sum(w**2)

    def halve(_, bounds):
        low, high = bounds
        middle = 0.5 * (low + high)
        good = enough(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    zero, one = jnp.zeros((), lw.dtype), jnp.ones((), lw.dtype)
    low, _ = jax.lax.fori_loop(0, _BISECTIONS, halve, (zero, one))
    w = weights(jnp.where(enough(one), one, low))
    return w * jnp.sum(usable) / jnp.maximum(jnp.sum(w), jnp.finfo(lw.dtype).tiny)
