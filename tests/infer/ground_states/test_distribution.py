"""A ground state as a NumPyro distribution: in models, in NUTS, under jit and vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro.diagnostics import effective_sample_size
from numpyro.distributions import constraints
from numpyro.infer import MCMC, NUTS, Predictive

from qdesampler.equation import Hamiltonian
from qdesampler.infer import GroundStateDistribution
from qdesampler.solvers import SpectralGrid, ground_state


@pytest.fixture(scope="module")
def double_well():
    hamiltonian = Hamiltonian.from_objective(
        lambda x: (x[0] ** 2 - 1) ** 2 + x[0] * x[1] + x[1] ** 2, dim=2, diffusion=0.5
    )
    return ground_state(hamiltonian, SpectralGrid(bounds=((-4.0, 4.0), (-5.0, 5.0)), points=(40, 36)))


def _grid_moments(state):
    x, y = np.linspace(-4, 4, 161), np.linspace(-5, 5, 161)
    points = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
    weights = np.exp(jax.jit(jax.vmap(state.log_prob))(jnp.asarray(points)))
    weights *= (x[1] - x[0]) * (y[1] - y[0])
    np.testing.assert_allclose(weights.sum(), 1, atol=1e-4)
    mean = weights @ points
    return mean, weights @ (points - mean) ** 2


def _assert_moments(draws, chains, state, errors=4):
    """Means and variances within standard errors from the effective sample size, which must be enough."""
    mean, variance = _grid_moments(state)
    for i in range(2):
        for values, expected in ((draws[:, i], mean[i]), ((draws[:, i] - mean[i]) ** 2, variance[i])):
            size = effective_sample_size(np.asarray(values).reshape(chains, -1))
            assert size > 200
            assert abs(values.mean() - expected) < errors * values.std() / np.sqrt(size)


def test_log_prob_and_draws_are_those_of_the_state(double_well):
    law = GroundStateDistribution(double_well, validate_args=True)
    assert (law.batch_shape, law.event_shape, law.event_dim) == ((), (2,), 1)
    assert law.support is constraints.real_vector
    assert not law.has_rsample
    points = jnp.array([[[0.3, -0.2], [1.0, 0.5]]])
    np.testing.assert_allclose(law.log_prob(points)[0, 1], double_well.log_prob(points[0, 1]), rtol=1e-6)
    assert law.log_prob(points).shape == (1, 2)
    draws = law.sample(jax.random.key(0), (3, 5))
    assert draws.shape == (3, 5, 2)
    assert np.all(draws == double_well.sample(jax.random.key(0), (3, 5)))


def test_it_crosses_jit_and_vmap(double_well):
    law = GroundStateDistribution(double_well)
    points = jnp.array([[0.3, -0.2], [1.0, 0.5]])
    through = jax.jit(lambda d, x: d.log_prob(x))(law, points)
    np.testing.assert_allclose(through, law.log_prob(points), rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(law.log_prob)(points), law.log_prob(points), rtol=1e-6)
    draws = jax.vmap(law.sample)(jax.random.split(jax.random.key(0), 4))
    assert draws.shape == (4, 2)


def test_in_a_model_predictive_draws_from_it(double_well):
    def model():
        numpyro.sample("x", GroundStateDistribution(double_well))

    draws = Predictive(model, num_samples=4000)(jax.random.key(1))["x"]
    _assert_moments(draws, 4, double_well)


@pytest.mark.slow
def test_nuts_recovers_the_moments_of_the_grid(double_well):
    def model():
        numpyro.sample("x", GroundStateDistribution(double_well))

    mcmc = MCMC(
        NUTS(model),
        num_warmup=300,
        num_samples=700,
        num_chains=8,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(2))
    assert int(mcmc.get_extra_fields()["diverging"].sum()) == 0
    _assert_moments(mcmc.get_samples()["x"], 8, double_well)


def test_nuts_on_its_potential_stays_in_the_tails_it_starts_in(double_well):
    kernel = NUTS(potential_fn=lambda z: -double_well.log_prob(z))
    mcmc = MCMC(kernel, num_warmup=200, num_samples=400, progress_bar=False)
    mcmc.run(jax.random.key(3), init_params=jnp.array([9.0, -9.0]))  # beyond the walls
    draws = mcmc.get_samples()
    mean, variance = _grid_moments(double_well)
    assert np.all(np.isfinite(draws))
    assert np.all(np.abs(draws - mean) < 6 * np.sqrt(variance))


def test_hard_walls_bound_the_support():
    hamiltonian = Hamiltonian.from_objective(lambda x: 0.0 * x[0], dim=1)
    state = ground_state(hamiltonian, SpectralGrid(bounds=(1.0, 3.0), points=16, boundary="hard"))
    law = GroundStateDistribution(state)
    inside = law.support(jnp.array([[2.0], [3.5]]))
    assert inside.tolist() == [True, False]

    def model():
        numpyro.sample("x", GroundStateDistribution(state))

    mcmc = MCMC(NUTS(model), num_warmup=200, num_samples=600, progress_bar=False)
    mcmc.run(jax.random.key(4))
    draws = np.asarray(mcmc.get_samples()["x"])
    assert draws.min() > 1
    assert draws.max() < 3
    size = effective_sample_size(draws[:, 0][None])
    assert size > 100
    assert abs(draws.mean() - 2) < 4 * draws.std() / np.sqrt(size)


def test_bad_input_is_refused(double_well):
    with pytest.raises(TypeError, match="state must be a GroundState, got float"):
        GroundStateDistribution(0.5)
    with pytest.raises(ValueError, match=r"value must have shape \(\.\.\., 2\), got \(3,\)"):
        GroundStateDistribution(double_well).log_prob(jnp.zeros(3))
