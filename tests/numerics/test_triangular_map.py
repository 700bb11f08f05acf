"""The triangular map: its inverse, its volume, its scores, on the host and on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.numerics import triangular_map
from qdesampler.numerics.triangular_map import (
    TriangularMap,
    affine_map,
    bounded,
    from_map,
    pull_back,
    push_forward,
    to_device,
    to_map,
)

DIM = 4


def example():
    """A map of four coordinates in another order, with every kind of term, known after three passes."""
    rng = np.random.default_rng(0)
    factor = np.tril(rng.normal(size=(DIM, DIM)), -1) + np.diag([2.0, 0.5, 1.0, 3.0])
    return TriangularMap(
        centre=rng.normal(size=DIM),
        order=np.array([2, 0, 3, 1]),
        factor=factor,
        inverse=np.linalg.inv(factor),
        shifts=rng.normal(size=DIM),
        log_widths=0.3 * rng.normal(size=DIM),
        shift_terms=np.array([[1, 0, 0], [2, 1, DIM], [3, 1, 0], [3, 2, 2]]),
        shift_slopes=np.array([0.4, -0.7, 0.3, 0.2]),
        width_terms=np.array([[1, 0], [3, 0], [3, 1]]),
        width_slopes=np.array([0.5, -0.3, 0.2]),
        prior_terms=np.array([[1, 0], [3, 2]]),
        prior_slopes=np.array([-0.4, 0.6]),
        centredness=np.array([1.0, 0.3, 1.0, 0.7]),
        data_shifts=np.array([0.0, 0.8, 0.0, -0.5]),
        depth=4,
    )


def points(count=5):
    return np.random.default_rng(1).normal(size=(count, DIM))


def log_density(x):
    """Of a target with correlated coordinates; rows."""
    return -0.5 * np.sum(x**2, -1) - 0.1 * x[..., 0] ** 2 * x[..., 1] ** 2


def score_of(x):
    score = -x.copy()
    score[..., 0] -= 0.2 * x[..., 0] * x[..., 1] ** 2
    score[..., 1] -= 0.2 * x[..., 0] ** 2 * x[..., 1]
    return score


def test_the_inverse_gives_the_point_and_the_same_volume():
    law, v = example(), points()
    x, change = push_forward(law, v)
    back, same = to_map(law, x)
    np.testing.assert_allclose(back, v, atol=1e-12)
    np.testing.assert_allclose(same, change, atol=1e-12)


def test_one_pass_too_few_leaves_a_coordinate_unknown():
    law, v = example(), points()
    x, _ = push_forward(law._replace(depth=3), v)
    assert np.max(np.abs(to_map(law, x)[0] - v)) > 0.01


def test_the_volume_is_the_determinant_of_the_derivative():
    law, v = example(), points(1)
    step = 1e-6 * np.eye(DIM)
    derivative = (push_forward(law, v + step)[0] - push_forward(law, v - step)[0]) / 2e-6
    exact = np.log(np.abs(np.linalg.det(derivative)))
    found = push_forward(law, v)[1][0] + np.sum(np.log(np.diag(law.factor)))
    assert found == pytest.approx(exact, abs=1e-8)


def score_by_differences(law, v):
    def value(v):
        x, change = push_forward(law, v)
        return log_density(x) + change

    step = 1e-6 * np.eye(DIM)
    return np.stack([(value(v + row) - value(v - row)) / 2e-6 for row in step], -1)


def test_scores_are_pulled_back_and_returned():
    law, v = example(), points()
    x, _ = push_forward(law, v)
    pulled = pull_back(law, v, score_of(x))
    np.testing.assert_allclose(pulled, score_by_differences(law, v), atol=1e-6)
    np.testing.assert_allclose(from_map(law, v, pulled), score_of(x), atol=1e-10)


def test_a_score_without_the_volume_is_another(monkeypatch):
    """The twin that forgets that the volume changes from place to place."""
    law, v = example(), points()
    x, _ = push_forward(law, v)
    whole = triangular_map._adjoint

    def forgetful(law, w, v_widths, adjoint):
        return whole(law, w, v_widths, adjoint) - whole(law, w, v_widths * 0, adjoint * 0)

    monkeypatch.setattr(triangular_map, "_adjoint", forgetful)
    assert np.max(np.abs(pull_back(law, v, score_of(x)) - score_by_differences(law, v))) > 0.01


@pytest.mark.usefixtures("x64")
def test_the_device_computes_the_same():
    law, v = example(), points()
    x, change = push_forward(law, v)
    pulled = pull_back(law, v, score_of(x))
    device = to_device(law)
    for row, point in enumerate(v):
        found, volume = push_forward(device, jnp.asarray(point))
        np.testing.assert_allclose(found, x[row], atol=1e-12)
        assert float(volume) == pytest.approx(change[row], abs=1e-12)
        np.testing.assert_allclose(to_map(device, found)[0], point, atol=1e-12)
        there = pull_back(device, jnp.asarray(point), jnp.asarray(score_of(x[row])))
        np.testing.assert_allclose(there, pulled[row], atol=1e-10)
        np.testing.assert_allclose(from_map(device, jnp.asarray(point), there), score_of(x[row]), atol=1e-10)


def test_no_terms_are_an_affine_map():
    full = example()
    law = affine_map(full.centre, full.order, full.factor, full.inverse)
    law = law._replace(shifts=full.shifts, log_widths=full.log_widths)
    v = points()
    x, change = push_forward(law, v)
    w = law.shifts + np.exp(law.log_widths) * v
    np.testing.assert_allclose((x - law.centre)[:, law.order], w @ law.factor.T, atol=1e-12)
    np.testing.assert_allclose(change, np.sum(law.log_widths))
    np.testing.assert_allclose(jax.jit(push_forward)(to_device(law), jnp.asarray(v[0]))[0], x[0], rtol=1e-4)


def test_log_widths_are_bounded():
    far = bounded(np.array([-1e6, 0.0, 1e-4, 1e6]))
    np.testing.assert_allclose(far, [-6, 0, 1e-4, 6], rtol=1e-6)
