"""The sliced Wasserstein distance: closed forms, what it does not see, and what it refuses."""

import numpy as np
import pytest

from qdesampler.diagnostics import sliced_wasserstein

DRAWS = np.random.default_rng(1).normal(size=(4000, 3))


def test_a_shift_is_its_length_over_the_root_of_the_dimension():
    shift = np.array([3.0, -1.0, 2.0])
    found = sliced_wasserstein(DRAWS, DRAWS + shift, num_directions=4000)
    assert found == pytest.approx(np.linalg.norm(shift) / np.sqrt(3), rel=0.03)


def test_a_scale_is_its_difference_in_one_dimension_and_sets_may_differ_in_size():
    x = DRAWS[:, :1]
    assert sliced_wasserstein(x, 2 * x) == pytest.approx(np.sqrt(np.mean(x**2)), rel=1e-6)
    assert sliced_wasserstein(x, x[np.argsort(x[:, 0])][::2]) < 0.03
    assert sliced_wasserstein([[0.0], [1.0]], [[0.0]]) == pytest.approx(np.sqrt(0.5))


def test_one_law_is_near_and_another_of_the_same_moments_is_not():
    half, other = DRAWS[:2000], DRAWS[2000:]
    floor = sliced_wasserstein(half, other)
    assert 0 < floor < 0.1
    assert sliced_wasserstein(half[::-1], half) == 0
    assert sliced_wasserstein(half, np.sign(other)) > 5 * floor


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (DRAWS, DRAWS[:, :2]),
        (DRAWS[:0], DRAWS),
        (DRAWS[:, 0], DRAWS[:, 0]),
        (np.full((2, 3), np.nan), DRAWS),
    ],
)
def test_what_is_no_pair_of_sets_is_refused(x, y):
    with pytest.raises(ValueError, match="draws must"):
        sliced_wasserstein(x, y)
