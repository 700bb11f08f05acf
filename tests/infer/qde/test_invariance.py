"""Exact draws stay exact under the kernel as NumPyro runs it; the twin without the kinetic term fails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer import MCMC
from scipy import stats

from qdesampler.infer import QDE
from qdesampler.kernels.mcmc.integrators import DYNAMICS, canonical

CHAINS = 10_000
FAMILY_RATE = 1e-3  # p-value below which a correct kernel is called wrong, Bonferroni over the functionals


def potential(z):
    """A banana: x normal, y normal around (x^2 - 1) / 2."""
    return 0.5 * z["x"] ** 2 + 0.5 * jnp.sum(((z["y"] - 0.5 * (z["x"] ** 2 - 1)) / 0.6) ** 2)


def exact(key):
    x, noise = jax.random.normal(key, (CHAINS,)), jax.random.normal(jax.random.fold_in(key, 1), (CHAINS, 2))
    return {"x": x, "y": 0.5 * (x[:, None] ** 2 - 1) + 0.6 * noise}


def functionals(z):
    x, y = np.asarray(z["x"], float), np.asarray(z["y"], float)
    noise = (y - 0.5 * (x[:, None] ** 2 - 1)) / 0.6
    return [x, y[:, 0], noise[:, 1], x**2 + np.sum(noise**2, 1)]


def smallest_p(dynamics):
    kernel = QDE(potential_fn=potential, step_size=0.6, trajectory_length=1.8, dynamics=dynamics)
    mcmc = MCMC(
        kernel, num_warmup=0, num_samples=3, num_chains=CHAINS, chain_method="vectorized", progress_bar=False
    )
    mcmc.run(jax.random.key(1), init_params=exact(jax.random.key(2)))
    after = functionals(mcmc.last_state.z)
    fresh = functionals(exact(jax.random.key(3)))
    accept = float(mcmc.get_extra_fields()["accept_prob"].mean())
    return min(stats.ks_2samp(a, b).pvalue for a, b in zip(after, fresh, strict=True)) * len(after), accept


@pytest.mark.parametrize("dynamics", ["canonical", "isokinetic"])
def test_exact_draws_stay_exact(dynamics):
    p, accept = smallest_p(dynamics)
    assert p > FAMILY_RATE
    assert 0.3 < accept < 0.97  # power: moves are both accepted and rejected


def test_the_twin_without_the_kinetic_term_is_caught(monkeypatch):
    def kick(velocity, force, h):
        return velocity + h * force, jnp.zeros((), velocity.dtype)

    monkeypatch.setitem(DYNAMICS, "canonical", canonical._replace(kick=kick))
    p, _ = smallest_p("canonical")
    assert p < 1e-6
