"""One program for batches of any size: values, counts, precision, one compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.numerics.evaluator import Evaluator


def log_density(x):
    return -jnp.sum(x**4) + jnp.sum(jnp.sin(x))


def exact(points):
    return -np.sum(points**4, 1) + np.sum(np.sin(points), 1), -4 * points**3 + np.cos(points)


@pytest.mark.parametrize("count", [1, 4, 5, 64, 5001])
@pytest.mark.parametrize("dim", [1, 7, 300])
def test_values_and_scores_of_any_number_of_points(count, dim):
    points = np.random.default_rng(0).normal(size=(count, dim))
    evaluate = Evaluator(jax.value_and_grad(log_density), dim)
    values, scores = evaluate(points)
    right_values, right_scores = exact(points.astype(np.float32).astype(float))
    assert values.dtype == scores.dtype == np.float64
    np.testing.assert_allclose(values, right_values, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(scores, right_scores, rtol=1e-4, atol=1e-4)
    assert evaluate.num_evals == count


def test_batches_of_all_sizes_share_one_compilation():
    traced = []

    def counted(x):
        traced.append(1)
        return log_density(x)

    evaluate = Evaluator(jax.value_and_grad(counted), 3)
    for count in (1, 3, 4, 17, 400):
        evaluate(np.ones((count, 3)))
    assert len(traced) == 1
    assert evaluate.num_evals == 425


def test_what_is_not_finite_comes_back_as_it_is_and_spoils_no_neighbour():
    evaluate = Evaluator(jax.value_and_grad(lambda x: jnp.sum(jnp.log(x))), 2)
    values, scores = evaluate(np.array([[1.0, 1.0], [-1.0, 1.0], [2.0, 1.0], [0.0, 1.0], [1.0, 3.0]]))
    np.testing.assert_array_equal(np.isfinite(values), [True, False, True, False, True])
    np.testing.assert_allclose(scores[[0, 2, 4]], [[1, 1], [0.5, 1], [1, 1 / 3]], rtol=1e-6)


def test_a_callback_that_takes_one_point_at_a_time_gets_one():
    asked = []

    def by_numpy(x):
        asked.append(x.shape)
        return np.sum(x, dtype=x.dtype)

    def value_and_score(x):
        value = jax.pure_callback(by_numpy, jax.ShapeDtypeStruct((), x.dtype), x)
        return value, jnp.ones_like(x)

    values, _ = Evaluator(value_and_score, 3)(np.arange(15.0).reshape(5, 3))
    np.testing.assert_array_equal(values, [3, 12, 21, 30, 39])
    assert set(asked) == {(3,)}


@pytest.mark.usefixtures("x64")
def test_double_precision_follows_the_setting():
    points = np.random.default_rng(1).normal(size=(5, 2))
    values, _ = Evaluator(jax.value_and_grad(log_density), 2)(points)
    np.testing.assert_allclose(values, exact(points)[0], rtol=1e-14)


def test_a_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3,\); expected \(n, 2\)"):
        Evaluator(jax.value_and_grad(log_density), 2)(np.ones(3))
