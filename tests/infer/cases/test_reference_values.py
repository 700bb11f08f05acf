import numpy as np
import pytest

from qdesampler.infer import compare_with_reference, flatten_draws, validate_reference


def normal_entry(mean, sd, ess=1e4):
    """Exact moments of N(mean, sd), with the Monte Carlo errors of ``ess`` independent draws."""
    mean_sq, sd_sq = mean**2 + sd**2, np.sqrt(2 * sd**4 + 4 * mean**2 * sd**2)
    return {
        "mean": mean,
        "sd": sd,
        "mean_sq": mean_sq,
        "sd_sq": sd_sq,
        "ess": ess,
        "mcse": sd / np.sqrt(ess),
        "mcse_sq": sd_sq / np.sqrt(ess),
    }


def reference_of(**entries):
    return {"source": "exact moments", "parameters": entries}


def test_names_count_from_one_and_follow_row_major_order():
    samples = {"tau": np.zeros((2, 3)), "L": np.arange(2 * 3 * 4).reshape(2, 3, 2, 2)}
    flat = flatten_draws(samples)
    assert list(flat) == ["tau", "L[1,1]", "L[1,2]", "L[2,1]", "L[2,2]"]
    np.testing.assert_array_equal(flat["L[2,1]"], samples["L"][:, :, 1, 0])


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_right_draws_pass_and_wrong_ones_fail(correlation):
    generator = np.random.default_rng(3)
    noise = generator.normal(size=(4, 4000, 3))
    draws = noise.copy()
    for t in range(1, draws.shape[1]):  # a stationary AR(1), N(0, 1) at every t
        draws[:, t] = correlation * draws[:, t - 1] + np.sqrt(1 - correlation**2) * noise[:, t]
    location, scale = np.array([0.0, 3.0, -1.0]), np.array([1.0, 0.5, 10.0])
    entries = {f"x[{i + 1}]": normal_entry(location[i], scale[i]) for i in range(3)}
    right = compare_with_reference({"x": location + scale * draws, "other": draws}, reference_of(**entries))
    assert right.names == ("x[1]", "x[2]", "x[3]")
    assert right.largest_error < 4.0
    iid = 16000 * (1 - correlation) / (1 + correlation)
    assert 0.7 * iid < right.ess[0] < 1.3 * iid
    wrong_mean = compare_with_reference({"x": location + scale * (draws + 0.2)}, reference_of(**entries))
    assert wrong_mean.error[0] > 4.0
    np.testing.assert_allclose(wrong_mean.bias - right.bias, 0.2)
    wrong_spread = compare_with_reference(
        {"x": scale * draws * 1.3}, reference_of(**{"x[1]": entries["x[1]"]})
    )
    assert abs(wrong_spread.error[0]) < 4.0 < wrong_spread.error_sq[0]


def test_errors_are_standard_normal_over_replications():
    generator = np.random.default_rng(0)
    errors = []
    for _ in range(300):
        entry = normal_entry(1.0, 2.0, ess=400)
        entry["mean"] += generator.normal() * entry["mcse"]
        draws = 1.0 + 2.0 * generator.normal(size=(4, 100))
        errors.append(compare_with_reference({"x": draws}, reference_of(x=entry)).error[0])
    assert 0.9 < np.std(errors) < 1.15  # sd of a sample sd of 300: 0.041


def test_chains_that_disagree_or_drift_have_few_effective_draws():
    draws = np.random.default_rng(1).normal(size=(4, 1000))
    apart = draws + np.array([[0.0], [0.0], [0.0], [5.0]])
    drifting = draws + np.linspace(0, 5, 1000)
    for bad in (apart, drifting):
        assert compare_with_reference({"x": bad}, reference_of(x=normal_entry(0.0, 1.0))).smallest_ess < 60


def test_antithetic_chains_are_bounded():
    signs = np.where(np.arange(1000) % 2, 1.0, -1.0)
    draws = signs + 0.001 * np.random.default_rng(1).normal(size=(4, 1000))
    comparison = compare_with_reference({"x": draws}, reference_of(x=normal_entry(0.0, 1.0)))
    assert comparison.ess[0] <= 4000 * np.log10(4000)


def test_table_has_a_line_for_each_parameter():
    draws = np.random.default_rng(0).normal(size=(2, 100, 2))
    entry = normal_entry(0.0, 1.0)
    text = str(compare_with_reference({"b": draws}, reference_of(**{"b[2]": entry, "b[1]": entry})))
    assert [line.split()[0] for line in text.splitlines()] == ["parameter", "b[2]", "b[1]"]


class TestBadInput:
    def test_missing_parameter(self):
        with pytest.raises(ValueError, match=r"lack tau of the reference; they have x\[1\], x\[2\]"):
            compare_with_reference({"x": np.zeros((2, 9, 2))}, reference_of(tau=normal_entry(0.0, 1.0)))

    def test_draws_without_chains(self):
        with pytest.raises(ValueError, match=r"site x has shape \(100,\).*group_by_chain"):
            flatten_draws({"x": np.zeros(100)})

    def test_draws_that_are_not_finite(self):
        with pytest.raises(ValueError, match="site x has 1 draws that are NaN"):
            flatten_draws({"x": np.array([[0.0, np.nan]])})

    def test_constant_and_few_draws(self):
        reference = reference_of(x=normal_entry(0.0, 1.0))
        with pytest.raises(ValueError, match="draws of x have variance 0.0: they never moved"):
            compare_with_reference({"x": np.ones((2, 100))}, reference)
        with pytest.raises(ValueError, match="x has 7 draws a chain, expected at least 8"):
            compare_with_reference({"x": np.ones((2, 7))}, reference)

    @pytest.mark.parametrize(
        ("reference", "text"),
        [
            ([], "expected an object"),
            ({"parameters": {"x": normal_entry(0, 1)}}, "'source' is missing"),
            ({"source": "s", "parameters": {}}, "is empty"),
            (
                {"source": "s", "parameters": {"x": {"mean": 0.0}}},
                "parameter x: sd is None, expected a positive",
            ),
            (reference_of(x={**normal_entry(0, 1), "mean": float("nan")}), "mean is nan, expected a finite"),
            (reference_of(x={**normal_entry(0, 1), "ess": -1.0}), "ess is -1.0, expected a positive"),
            (reference_of(x={**normal_entry(0, 1), "mean": True}), "mean is True"),
        ],
    )
    def test_malformed_reference(self, reference, text):
        with pytest.raises(ValueError, match=text):
            validate_reference(reference)
