"""References: normalised, with the right scores, drawn from exactly, and the same on host and device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

from qdesampler.kernels.references import reference as references
from qdesampler.kernels.references.laws import AxisMixtures, has_score, law_score
from qdesampler.numerics.host_trial import host_trial
from qdesampler.numerics.numpy_metric import HostMetric, identity
from qdesampler.numerics.triangular_map import affine_map

AXIS = np.linspace(-12, 12, 401)
GRID = np.stack(np.meshgrid(AXIS, AXIS, indexing="ij"), -1).reshape(-1, 2)
CELL = (AXIS[1] - AXIS[0]) ** 2


def mixture():
    first = references.gaussian_reference(np.array([1.0, -2.0]), np.array([0.7, 1.5]))
    whitener = np.array([[2.0, 0.0], [0.8, 0.6]])
    return references.add_gaussian(first, np.array([-2.0, 1.0]), whitener, 0.3)


def product():
    weights = np.log([[0.2, 0.8], [0.5, 0.5]])
    return AxisMixtures(weights, np.array([[-2.0, 1.0], [-1.0, 3.0]]), np.array([[0.5, 1.0], [0.8, 0.4]]))


def bent():
    """A map that bends the second coordinate and funnels it."""
    factor = np.diag([1.5, 0.8])
    law = affine_map(np.array([0.3, -0.2]), np.array([0, 1]), factor, np.linalg.inv(factor))
    return law._replace(
        log_widths=np.array([0.1, -0.2]),
        shift_terms=np.array([[1, 0, 0]]),
        shift_slopes=np.array([0.4]),
        width_terms=np.array([[1, 0]]),
        width_slopes=np.array([0.5]),
        centredness=np.array([1.0, 0.8]),
        depth=2,
    )


def trial():
    return host_trial(np.array([0.5, -0.5]), HostMetric(np.array([0.9, 0.6]), *identity(2, 0)[1:]), 0.02)


LAWS = {"product": product, "map": bent, "trial": trial}


def with_law(name):
    """The law with a Gaussian beside it."""
    alone = references.of_law(LAWS[name](), 2)
    return references.add_gaussian(alone, np.array([-3.0, 3.0]), np.diag([1.0, 2.0]), 0.25)


REFERENCES = {"mixture": mixture, **{name: lambda name=name: with_law(name) for name in LAWS}}


@pytest.fixture(params=REFERENCES)
def reference(request):
    return REFERENCES[request.param]()


def test_it_is_normalised(reference):
    total = np.sum(np.exp(references.log_density(reference, GRID))) * CELL
    np.testing.assert_allclose(total, 1, atol=2e-3)  # far tails of the trial lie outside of the grid


def test_host_and_device_agree(reference):
    points = GRID[::7001]
    on_device = references.to_device(reference)
    np.testing.assert_allclose(
        references.log_density(on_device, jnp.asarray(points)),
        references.log_density(reference, points),
        rtol=1e-4,
        atol=1e-4,
    )
    if references.scores_are_known(reference):
        there = references.value_and_score(on_device, jnp.asarray(points, jnp.float32))
        for device, host in zip(there, references.value_and_score(reference, points), strict=True):
            np.testing.assert_allclose(device, host, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["mixture", "product", "map"])
def test_scores_are_the_slopes_of_the_log_density(name):
    reference = REFERENCES[name]()
    points = np.random.default_rng(0).normal(size=(20, 2)) * 2
    value, score = references.value_and_score(reference, points)
    np.testing.assert_allclose(value, references.log_density(reference, points), rtol=1e-12)
    for axis in range(2):
        step = 1e-6 * np.eye(2)[axis]
        slope = references.log_density(reference, points + step)
        slope = (slope - references.log_density(reference, points - step)) / 2e-6
        np.testing.assert_allclose(score[:, axis], slope, rtol=1e-5, atol=1e-6)


def marginals(reference):
    """Distribution functions of both coordinates."""
    density = np.exp(references.log_density(reference, GRID)).reshape(len(AXIS), -1)
    for axis in (1, 0):
        law = np.cumsum(density.sum(axis))
        # A cell's mass is spread around its point.
        edges = AXIS + 0.5 * (AXIS[1] - AXIS[0])
        yield lambda x, law=law / law[-1], edges=edges: np.interp(x, edges, law)


def test_draws_of_the_host_have_the_law(reference):
    draws = references.draws(reference, np.random.default_rng(1), 4000)
    for column, law in enumerate(marginals(reference)):
        assert kstest(draws[:, column], law).pvalue > 1e-3


def test_draws_of_the_device_have_the_law(reference):
    on_device = references.to_device(reference)
    size = references.noise_size(on_device)
    noise = jax.random.uniform(jax.random.key(2), (4000, size), minval=-1, maxval=1)
    draws = np.asarray(jax.jit(jax.vmap(lambda row: references.draw(on_device, row)))(noise))
    for column, law in enumerate(marginals(reference)):
        assert kstest(draws[:, column], law).pvalue > 1e-3
    shifted = draws[:, 0] + 0.4
    assert kstest(shifted, next(iter(marginals(reference)))).pvalue < 1e-3


def test_many_dimensions_have_diagonal_whiteners():
    dim = references.DENSE_DIMENSIONS + 1
    reference = references.gaussian_reference(np.zeros(dim), np.full(dim, 2.0))
    assert reference.whiteners.shape == (1, dim)
    value, score = references.value_and_score(reference, np.ones((1, dim)))
    np.testing.assert_allclose(score, -0.25, rtol=1e-12)
    np.testing.assert_allclose(value, -0.125 * dim - dim * np.log(2 * np.sqrt(2 * np.pi)))
    draws = references.draws(reference, np.random.default_rng(0), 400)
    assert abs(np.std(draws) - 2) < 5 * 2 / np.sqrt(2 * draws.size)


def test_a_trial_has_no_score():
    assert not has_score(trial())
    assert not references.scores_are_known(with_law("trial"))
    with pytest.raises(TypeError, match="score of a HostTrial"):
        law_score(trial(), np.zeros((1, 2)))
