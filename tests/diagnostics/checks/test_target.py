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


FAR = jnp.array([[0.0, 0.0], [3000.0, 100.0], [-1000.0, 4000.0], [2000.0, -5000.0]])


def islands(x):
    """Logistic modes whose distance is thousands of their widths."""
    return -jax.nn.logsumexp(-jnp.sum(jax.nn.softplus(x - FAR) + jax.nn.softplus(FAR - x), axis=1))


def two_scales(x):
    """A narrow mode beside a wide one; both have half of the draws."""
    narrow = (x - 40) / 0.01
    return -jnp.logaddexp(-0.5 * jnp.sum(x**2), jnp.sum(narrow - jnp.exp(narrow) + jnp.log(250.0)))


def exact_islands():
    return np.asarray(FAR)[RNG.integers(4, size=SHAPE)] + RNG.logistic(size=(*SHAPE, 2))


def exact_scales():
    narrow = RNG.random(SHAPE) < 0.5
    one, other = np.log(RNG.exponential(size=(*SHAPE, 2))), RNG.normal(size=(*SHAPE, 2))
    return np.where(narrow[..., None], 40 + 0.01 * one, other)


def drawn(potential, width):
    """Draws from a fine grid over a square, which is exact enough to see the slopes at them."""
    axis = np.linspace(-width, width, 1201)
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    energies = np.asarray(jax.jit(jax.vmap(potential))(jnp.asarray(points, jnp.float32)), float)
    law = np.exp(energies.min() - energies)
    return points[RNG.choice(len(points), SHAPE, p=law / law.sum())]


CASES = {
    "eggbox": (eggbox, lambda: drawn(eggbox, 5 * np.pi)),
    "comb": (comb, lambda: drawn(comb, 12.0)),
    "shells": (shells, lambda: drawn(shells, 6.0)),
    "islands": (islands, exact_islands),
    "two scales": (two_scales, exact_scales),
}


@pytest.mark.parametrize("case", CASES)
def test_a_density_that_bends_between_draws_has_a_right_gradient(ended, case):
    potential, draws = CASES[case]
    found = diagnose(ended(potential, draws()))
    assert "gradient" not in {finding.code for finding in found}, str(found)
    assert any(check.name == "Gradient against differences" and check.passed for check in found.checks)


@pytest.mark.parametrize("case", CASES)
def test_its_wrong_twin_has_not(ended, case):
    potential, draws = CASES[case]

    @jax.custom_jvp
    def wrong(x):
        return potential(x)

    @wrong.defjvp
    def _(primals, tangents):
        (x,), (t,) = primals, tangents
        return potential(x), jnp.sum((2 * jax.grad(potential)(x) + 0.5) * t)

    found = diagnose(ended(wrong, draws()))
    assert "gradient" in {finding.code for finding in found}, str(found)
