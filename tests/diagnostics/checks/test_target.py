"""The gradient against finite differences: bends of the density are no fault of it, wrong slopes are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.diagnostics.checks.diagnose import diagnose

RNG = np.random.default_rng(0)
SHAPE = (4, 500)


def eggbox(x):
    """Many modes in a box; differences of draws reach from one to another."""
    return -((2 + jnp.cos(x[0] / 2) * jnp.cos(x[1] / 2)) ** 5)


def comb(x):
    """Narrow teeth under a wide normal density."""
    return 0.5 * jnp.sum((x / 10) ** 2) - 20 * jnp.sum(jnp.cos(2 * jnp.pi * x))


def shells(x):
    """Two rings."""
    radii = jnp.stack([jnp.hypot(x[0] - 3.5, x[1]), jnp.hypot(x[0] + 3.5, x[1])])
    return -jax.nn.logsumexp(-0.5 * ((radii - 2) / 0.1) ** 2)


def drawn(potential, width):
    """Draws from a fine grid over a square, which is exact enough to see the slopes at them."""
    axis = np.linspace(-width, width, 1201)
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    energies = np.asarray(jax.jit(jax.vmap(potential))(jnp.asarray(points, jnp.float32)), float)
    law = np.exp(energies.min() - energies)
    return points[RNG.choice(len(points), SHAPE, p=law / law.sum())]


CASES = {"eggbox": (eggbox, 5 * np.pi), "comb": (comb, 12.0), "shells": (shells, 6.0)}


@pytest.mark.parametrize("case", CASES)
def test_a_density_that_bends_between_draws_has_a_right_gradient(ended, case):
    potential, width = CASES[case]
    found = diagnose(ended(potential, drawn(potential, width)))
    assert "gradient" not in {finding.code for finding in found}, str(found)
    assert any(check.name == "Gradient against differences" and check.passed for check in found.checks)


@pytest.mark.parametrize("case", CASES)
def test_its_wrong_twin_has_not(ended, case):
    potential, width = CASES[case]

    @jax.custom_jvp
    def wrong(x):
        return potential(x)

    @wrong.defjvp
    def _(primals, tangents):
        (x,), (t,) = primals, tangents
        return potential(x), jnp.sum((2 * jax.grad(potential)(x) + 0.5) * t)

    found = diagnose(ended(wrong, drawn(potential, width)))
    assert "gradient" in {finding.code for finding in found}, str(found)
