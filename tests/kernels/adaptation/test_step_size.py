"""The search of the step size on the host: it ends at the acceptance that is aimed at."""

import numpy as np
import pytest

from qdesampler.kernels.adaptation.step_size import StepSizeSearch

TARGET = 0.8


def acceptance(step_size, scale):
    """The target is met at `scale * sqrt(-log target)`."""
    return float(np.exp(-((step_size / scale) ** 2)))


def run(search, scale, count, noise=0.0):
    rng = np.random.default_rng(0)
    path = []
    for _ in range(count):
        seen = acceptance(search.step_size, scale) + noise * rng.normal()
        search.update(float(np.clip(seen, 0, 1)))
        path.append(search.step_size)
    return np.array(path)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
@pytest.mark.parametrize("double_or_halve", [False, True])
def test_it_converges_to_the_acceptance_that_is_aimed_at(scale, double_or_halve):
    search = StepSizeSearch(1.0, TARGET, double_or_halve=double_or_halve)
    run(search, scale, 300)
    assert search.average == pytest.approx(scale * np.sqrt(-np.log(TARGET)), rel=0.15)


@pytest.mark.parametrize("target", [0.6, 0.9])
def test_it_converges_where_the_acceptance_is_noisy(target):
    """The acceptance of the average is the target within 4.5 standard errors, and a bias of .01."""
    search = StepSizeSearch(0.3, target)
    noise, count = 0.1, 2000
    run(search, 1.0, count, noise)
    assert acceptance(search.average, 1.0) == pytest.approx(target, abs=4.5 * noise / np.sqrt(count) + 0.01)


def test_it_doubles_or_halves_until_the_target_is_crossed():
    path = run(StepSizeSearch(1.0, TARGET, double_or_halve=True), 100.0, 10)
    np.testing.assert_allclose(path[:6], [2, 4, 8, 16, 32, 64])
    assert path[6] != 128
    path = run(StepSizeSearch(1.0, TARGET, double_or_halve=True), 0.05, 8)
    np.testing.assert_allclose(path[:5], [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32])
    assert path[7] != 2.0**-8
    path = run(StepSizeSearch(1.0, TARGET), 100.0, 2)
    assert path[0] > 10  # without the search it averages from the first update on
