r"""A density on bits fitted to a pool: a mixture of products of Bernoullis about its reads.

    q(x) = sum_k w_k prod_i p_ki^{x_i} (1 - p_ki)^{1 - x_i},      p_ki in [floor, 1 - floor],

with one component of `p = 1/2` that expectation-maximisation never removes, so that `q > 0` everywhere.
The device's law stays unknown; proposals are drawn from `q`, whose probabilities are known.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.validation import as_positive_int

__all__ = ["BernoulliMixture", "fit_bernoulli_mixture"]


class BernoulliMixture(NamedTuple):
    """A mixture of products of Bernoullis; a pytree.

    Attributes:
        log_weights: shape `(K,)`, normalised.
        logits: log odds of a one, shape `(K, n)`.
    """

    log_weights: jax.Array
    logits: jax.Array

    def log_prob(self, position: jax.Array) -> jax.Array:
        """Return `log q` of one position, shape `(n,)` to `()`."""
        signs = 2 * position.astype(self.logits.dtype) - 1
        return jax.nn.logsumexp(self.log_weights + jnp.sum(jax.nn.log_sigmoid(signs * self.logits), -1))

    def sample(self, key: jax.Array) -> jax.Array:
        """Return one draw, int8, shape `(n,)`."""
        key_component, key_bits = jax.random.split(key)
        component = jax.random.categorical(key_component, self.log_weights)
        return jax.random.bernoulli(key_bits, jax.nn.sigmoid(self.logits[component])).astype(jnp.int8)


def fit_bernoulli_mixture(
    pool: jax.Array,
    *,
    key: jax.Array,
    num_components: int = 8,
    num_steps: int = 20,
    floor: float = 0.02,
    uniform_weight: float = 0.1,
) -> BernoulliMixture:
    """Fit a mixture to the rows of a pool by expectation-maximisation, from rows drawn at random.

    Args:
        pool: bits, shape `(R, n)`.
        key: JAX key.
        num_components: besides the uniform one.
        num_steps: of expectation-maximisation.
        floor: least probability of either value of a bit.
        uniform_weight: weight of the uniform component.

    Raises:
        TypeError: a count that is not an integer.
        ValueError: a pool of another shape, or numbers out of range.
    """
    num_components, num_steps = (
        as_positive_int("num_components", num_components),
        as_positive_int("num_steps", num_steps),
    )
    if jnp.ndim(pool) != 2 or pool.shape[0] < 1:
        raise ValueError(f"a pool must hold reads as rows, (R, n) with R >= 1, got {jnp.shape(pool)}.")
    if not 0 < floor < 0.5 or not 0 < uniform_weight < 1:
        raise ValueError(
            f"floor must be in (0, 1/2) and uniform_weight in (0, 1), got {floor} and {uniform_weight}."
        )
    bits = pool.astype(jnp.result_type(float))
    chosen = jax.random.choice(key, bits.shape[0], (num_components,), replace=num_components > bits.shape[0])
    start = jnp.clip(bits[chosen], 0.25, 0.75)
    weight = (1 - uniform_weight) / num_components

    def step(carry, _):
        weights, p = carry
        fit = bits @ jnp.log(p).T + (1 - bits) @ jnp.log1p(-p).T + jnp.log(weights)
        belongs = jax.nn.softmax(fit, -1)
        mass = belongs.sum(0)
        p = jnp.clip((belongs.T @ bits + 0.5) / (mass[:, None] + 1), floor, 1 - floor)
        weights = (mass + 1e-3) / jnp.sum(mass + 1e-3) * (1 - uniform_weight)
        return (weights, p), None

    (weights, p), _ = jax.lax.scan(step, (jnp.full(num_components, weight), start), length=num_steps)
    logits = jnp.concatenate([jnp.log(p) - jnp.log1p(-p), jnp.zeros((1, bits.shape[1]), p.dtype)])
    return BernoulliMixture(jnp.log(jnp.append(weights, uniform_weight)), logits)
