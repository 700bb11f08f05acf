"""The models with their continuous parts are those of the collapsed problems."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.util import log_density

from qdesampler.bench.annealers.gradients import change_points_with_levels, mixture_summed, mixture_with_means
from qdesampler.bench.targets.discrete_large import change_points


@pytest.mark.slow
def test_levels_integrate_out(x64):
    """The log density is quadratic in the levels: its integral over them, against the collapsed model."""
    collapsed, full = change_points(0).model, change_points_with_levels(0)
    integrals, values = [], []
    for row in (np.random.default_rng(0).random((3, 199)) < 0.05).astype(int):
        z = jnp.asarray(row)

        def f(level, z=z):
            return log_density(full, (), {}, {"z": z, "level": level})[0]

        zero = jnp.zeros(200)
        H = -jax.hessian(f)(zero)
        g = jax.grad(f)(zero)
        integrals.append(f(zero) + g @ jnp.linalg.solve(H, g) / 2 - jnp.linalg.slogdet(H)[1] / 2)
        values.append(log_density(collapsed, (), {}, {"z": jnp.asarray(row)})[0])
    wrong = np.asarray(integrals) - np.asarray(values)
    np.testing.assert_allclose(wrong - wrong[0], 0, atol=1e-6)
    assert np.ptp(values) > 1


@pytest.mark.slow
def test_labels_sum_out(x64):
    """Given means and weights labels are independent: changing one has the odds of its shares."""
    sites = {
        "means": jnp.asarray(np.random.default_rng(1).normal(size=(4, 2))),
        "weights": jnp.arange(1, 5) / 10,
    }
    z = jnp.asarray(np.random.default_rng(2).integers(4, size=500))
    full = mixture_with_means(0)
    values = [log_density(full, (), {}, {**sites, "z": z.at[7].set(c)})[0] for c in range(4)]
    _, trace = log_density(mixture_summed(0), (), {}, sites)
    np.testing.assert_allclose(jax.nn.softmax(jnp.stack(values)), trace["shares"]["value"][7], atol=1e-9)
