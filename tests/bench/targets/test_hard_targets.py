"""The hard targets: their moments in closed form, their sizes, and data that must not change."""

import numpy as np
import pytest
from numpyro.infer.util import log_density

from qdesampler.bench.harness.unconstrained import unconstrained_target
from qdesampler.bench.targets import hard as hard_targets
from qdesampler.bench.targets.hard import HARD_TARGETS, JUDGED_SITES, cauchy, data_digest, funnel, rosenbrock
from qdesampler.infer import compare_with_reference, validate_reference

DIMENSIONS = {
    "banana": 2,
    "rotated-gaussian-100-1e3": 100,
    "rosenbrock-36": 36,
    "brownian-32": 32,
    "german-credit-sparse-51": 51,
    "item-response-501": 501,
    "stochastic-volatility-2429": 2429,
    "funnel-20": 20,
    "bare-funnel-20": 20,
    "garch-4": 4,
    "gp-counts-13": 13,
    "cauchy-100": 100,
}
DIGESTS = {
    "brownian-32": "6b8ba999b0b191bf",
    "german-credit-sparse-51": "d0de36c239681d1e",
    "item-response-501": "3178371c5c19ae70",
    "stochastic-volatility-2429": "f882255cde47afa3",
    "garch-4": "75aa9b18568475a7",
    "gp-counts-13": "e1388663dc684685",
}


@pytest.mark.parametrize("name", HARD_TARGETS)
def test_each_has_its_size_a_start_and_a_truth_or_data(name):
    case = HARD_TARGETS[name]()
    assert case.name == name
    target = unconstrained_target(case, 0, 1)
    assert target.dim == DIMENSIONS[name]
    assert np.abs(target.starts).max() <= 2  # where NumPyro found density and gradient finite
    if case.reference is None:
        assert data_digest(case.data) == DIGESTS[name]
    else:
        assert case.data == {}
        validate_reference(case.reference)


def test_the_digest_sees_a_changed_number():
    data = {"y": np.array([1.0, 2.0]), "n": np.array([3])}
    assert data_digest(data) == data_digest({"n": np.array([3]), "y": np.array([1.0, 2.0])})
    assert data_digest(data) != data_digest({**data, "y": np.array([1.0, 2.0001])})
    assert data_digest(data) != data_digest({**data, "y": np.array([[1.0], [2.0]])})


def exact_draws(name, rng, size):
    if name == "rosenbrock":
        x = 1 + rng.standard_normal((*size, 18))
        return {"x": x, "y": x**2 + 0.1**0.5 * rng.standard_normal(x.shape)}
    if name == "funnel":
        return {"theta": 3 * rng.standard_normal(size), "standard": rng.standard_normal((*size, 19))}
    return {"u": np.arctan(rng.standard_cauchy((*size, 100))) / np.pi}


@pytest.mark.parametrize(("build", "site"), [(rosenbrock, "y"), (funnel, "theta"), (cauchy, "u")])
def test_closed_forms_against_exact_draws(build, site):
    draws = exact_draws(build.__name__, np.random.default_rng(1), (4, 20_000))
    reference = build().reference
    assert compare_with_reference(draws, reference).largest_error < 4.5
    wrong = {**draws, site: 1.05 * draws[site]}
    assert compare_with_reference(wrong, reference).largest_error > 6


def test_densities_at_a_point():
    point = {"x": np.full(18, 0.5), "y": np.full(18, 0.1)}
    expected = 18 * (-0.5 * 0.25 - 0.5 * 0.15**2 / 0.1 - np.log(2 * np.pi) - 0.5 * np.log(0.1))
    np.testing.assert_allclose(log_density(rosenbrock().model, (), {}, point)[0], expected, rtol=1e-5)
    point = {"theta": 2.0, "x": np.full(19, 1.5)}
    leaf = -0.5 * 1.5**2 / np.exp(2.0) - 1.0 - 0.5 * np.log(2 * np.pi)
    root = -0.5 * 4 / 9 - np.log(3) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(log_density(funnel().model, (), {}, point)[0], root + 19 * leaf, rtol=1e-5)


def test_the_walk_is_not_seen_in_the_middle():
    case = HARD_TARGETS["brownian-32"]()
    assert case.data["observed"].sum() == 20
    point = {"innovation_noise_scale": 0.1, "observation_noise_scale": 0.2, "x": np.zeros(30)}
    moved = case.data["y"].copy()
    moved[15] += 5.0
    before, after = (
        float(log_density(case.model, (), {**case.data, "y": y}, point)[0]) for y in (case.data["y"], moved)
    )
    assert before == after
    moved[5] += 5.0
    assert float(log_density(case.model, (), {**case.data, "y": moved}, point)[0]) < before - 10


def test_judged_sites_are_in_the_references():
    for name, sites in JUDGED_SITES.items():
        parameters = HARD_TARGETS[name]().reference["parameters"]
        assert {parameter.split("[")[0] for parameter in parameters} == set(sites)


def test_a_missing_checkout_is_explained(monkeypatch, tmp_path):
    monkeypatch.setattr(hard_targets, "GERMAN_CREDIT", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="use a checkout"):
        hard_targets.sparse_german_credit()
