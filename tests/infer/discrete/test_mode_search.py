"""The search for modes with an annealer: finds what is there, says what it is, refuses what it cannot do."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS

from qdesampler.backends import GibbsSurrogate, SimulatedBifurcation
from qdesampler.backends.protocol import CheckedBackend
from qdesampler.infer import find_modes

KEY = jax.random.key(0)


def corners():
    """Wells at `x_i = +-1 + tilt`, all combinations: eight modes, the lowest at (-1, -1, -1)."""
    x = numpyro.sample("x", dist.Normal(0, 3).expand([3]).to_event(1))
    numpyro.factor("wells", -8 * jnp.sum((x**2 - 1) ** 2) - jnp.sum(x) / 2)
    numpyro.deterministic("size", jnp.sum(x**2))


@pytest.mark.parametrize(
    "backend",
    [pytest.param(None, marks=pytest.mark.slow), SimulatedBifurcation()],
    ids=["annealing", "bifurcation"],
)
def test_wells_are_found_with_their_masses(backend, monkeypatch):
    sample, boxes = CheckedBackend.sample, []

    def counted(self, problem, **call):
        samples = sample(self, problem, **call)
        boxes.append(len(samples.states))
        return samples

    monkeypatch.setattr(CheckedBackend, "sample", counted)
    found = find_modes(corners, key=KEY, backend=backend, num_starts=12, num_rounds=6, num_reads=16)
    x = found.z["x"]
    assert len(x) >= 3
    np.testing.assert_allclose(np.abs(x), 1, atol=0.1)
    assert len({tuple(row) for row in np.sign(x)}) == len(x)  # each well once
    np.testing.assert_allclose(x[0], -1, atol=0.1)  # the one of most mass first
    assert np.all(np.diff(found.log_masses) <= 1e-4)
    # by hand: log p and curvature of a well
    log_p = (
        -8 * np.sum((x**2 - 1) ** 2, 1)
        - x.sum(1) / 2
        - np.sum(x**2, 1) / 18
        - 3 * np.log(3 * np.sqrt(2 * np.pi))
    )
    np.testing.assert_allclose(found.log_densities, log_p, atol=1e-3)
    volume = 1.5 * np.log(2 * np.pi) - np.sum(np.log(96 * x**2 - 32 + 1 / 9), 1) / 2
    np.testing.assert_allclose(found.log_masses, log_p + volume, atol=1e-2)
    np.testing.assert_allclose(found.sites["size"], np.sum(x**2, 1), rtol=1e-5)
    assert found.num_reads == sum(boxes) == 16 * len(boxes)
    assert 12 <= len(boxes) <= 12 * 6
    # each read is evaluated once; each anchor takes a gradient and three products with the Hessian
    assert found.num_evals >= found.num_reads + 4 * 12


@pytest.mark.slow
def test_modes_are_starts_for_chains():
    found = find_modes(corners, key=KEY, backend=GibbsSurrogate(4), num_starts=4, num_rounds=4)
    starts = found.init_params(4)
    mcmc = MCMC(
        NUTS(corners, max_tree_depth=1),
        num_warmup=0,
        num_samples=2,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(KEY, init_params=starts)
    assert mcmc.get_samples(group_by_chain=True)["x"].shape == (4, 2, 3)
    assert found.init_params(1)["x"].shape == (3,)
    with pytest.raises(ValueError, match="num_chains"):
        found.init_params(0)


def test_a_potential_is_searched_too_and_evaluations_are_counted():
    calls = []

    def counted(x):
        calls.append(1)
        return np.float32(0)

    def potential(z):
        shape = jax.ShapeDtypeStruct((), np.float32)
        zero = jax.lax.stop_gradient(
            jax.pure_callback(counted, shape, jax.lax.stop_gradient(z), vmap_method="sequential")
        )
        return jnp.sum((z - 1) ** 2) * 2 + zero

    found = find_modes(
        potential_fn=potential, key=KEY, init_params=jnp.zeros(2), num_starts=2, num_rounds=3, num_reads=4
    )
    np.testing.assert_allclose(found.z, [[1, 1]], atol=1e-3)
    # one call for value, gradient and Hessian, where two products with the Hessian are charged besides
    assert len(calls) <= found.num_evals + 4


def test_bad_calls_are_refused():
    with pytest.raises(TypeError, match="annealing backend"):
        find_modes(corners, key=KEY, backend=object())
    with pytest.raises(ValueError, match="num_bits"):
        find_modes(corners, key=KEY, num_bits=0)
    with pytest.raises(ValueError, match="scale"):
        find_modes(corners, key=KEY, scale=-1.0)
    with pytest.raises(RuntimeError, match="ran away"):
        find_modes(potential_fn=lambda z: -jnp.sum(z), key=KEY, init_params=jnp.zeros(2), num_starts=1)
