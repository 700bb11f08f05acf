"""A basketball drive: a hidden Markov model of speed and distance with two states, summed out."""

import math

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import lax
from numpyro.distributions import constraints

LOCATION = (0.0, 3.0)
# P(0 < x_1 < x_2) for x_1 ~ N(0, 1) and x_2 ~ N(3, 1), by quadrature
MASS = 0.483196180874588


class OrderedRates(dist.Distribution):
    """``x_1 ~ N(0, 1)`` and ``x_2 ~ N(3, 1)`` given that ``0 < x_1 < x_2``."""

    def __init__(self, *, validate_args=None):
        super().__init__(event_shape=(2,), validate_args=validate_args)

    @property
    def support(self):
        """Positive vectors in increasing order."""
        return constraints.positive_ordered_vector

    def sample(self, key: jax.Array, sample_shape=()):
        """Draw by rejection, shape ``sample_shape + (2,)``."""

        def outside(x):
            return ~((x[..., 0] > 0) & (x[..., 1] > x[..., 0]))

        def redraw(state):
            key, x = state
            key, key_noise = jax.random.split(key)
            proposal = jnp.array(LOCATION) + jax.random.normal(key_noise, x.shape)
            return key, jnp.where(outside(x)[..., None], proposal, x)

        start = (key, jnp.zeros(self.shape(sample_shape)))
        return lax.while_loop(lambda state: jnp.any(outside(state[1])), redraw, start)[1]

    def log_prob(self, value):
        """Log density of ``value``, shape ``(..., 2)``; its order is the support's business."""
        return dist.Normal(jnp.array(LOCATION), 1.0).log_prob(value).sum(-1) - math.log(MASS)


def log_sum_over_paths(initial, transition, log_emission):
    """Log of the sum over all state paths of ``initial prod transition prod emission``.

    The forward recursion ``f_t[j] = sum_k f_(t-1)[k] transition[k, j] emission_t[j]``, scaled in every step
    by its largest entry, whose logarithm is kept.

    Args:
        initial: probabilities of the first state, shape ``(states,)``.
        transition: ``transition[k, j]`` is the probability of j after k, shape ``(states, states)``.
        log_emission: log densities of the observations, shape ``(times, states)``.
    """
    largest = jnp.max(log_emission, axis=1, keepdims=True)
    emission = jnp.exp(log_emission - largest)

    def step(forward, emission_now):
        forward = jnp.sum(forward[:, None] * transition, axis=0) * emission_now
        scale = lax.stop_gradient(jnp.max(forward))  # it cancels: no gradient is needed
        return forward / scale, scale

    last, scales = lax.scan(step, initial * emission[0], emission[1:])
    return jnp.sum(largest) + jnp.sum(jnp.log(scales)) + jnp.log(jnp.sum(last))


def model(alpha, u, v):
    """Inverse speed and distance to the hoop, exponential with rates that depend on the hidden state.

    Args:
        alpha: parameters of the Dirichlet prior of each row of the transition matrix, shape ``(2, 2)``.
        u: inverse speed, shape ``(times,)``.
        v: distance to the hoop, shape ``(times,)``.
    """
    theta1 = numpyro.sample("theta1", dist.Dirichlet(alpha[0]))
    theta2 = numpyro.sample("theta2", dist.Dirichlet(alpha[1]))
    phi = numpyro.sample("phi", OrderedRates())
    rate = numpyro.sample("lambda", OrderedRates())
    log_emission = jnp.log(phi * rate) - phi * u[:, None] - rate * v[:, None]
    numpyro.factor("u_v", log_sum_over_paths(jnp.full(2, 0.5), jnp.stack([theta1, theta2]), log_emission))
