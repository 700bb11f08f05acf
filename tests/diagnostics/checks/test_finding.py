"""Every finding on draws made to cause it, and none on good ones."""

import re
from html import escape

import arviz as az
import numpy as np
import pytest

from qdesampler.diagnostics import Diagnosis, Finding, diagnose, verdict

RNG = np.random.default_rng(0)
GOOD = RNG.normal(size=(4, 500))


def made(posterior, **stats):
    groups = {"posterior": posterior, **({"sample_stats": stats} if stats else {})}
    return az.from_dict(groups)


def codes(posterior, **stats):
    return [finding.code for finding in diagnose(made(posterior, **stats))]


def changed(values, where, new):
    values = values.copy()
    values[where] = new
    return values


def test_nothing_speaks_against_good_draws():
    corner = np.zeros((4, 500, 2))
    corner[..., 0], corner[..., 1] = 1.0, GOOD  # one entry never changes, as in a Cholesky factor
    findings = diagnose(made({"x": GOOD, "factor": corner}, diverging=np.zeros((4, 500), bool)))
    assert findings == []
    assert verdict(findings) == "Good: nothing speaks against these draws."


@pytest.mark.parametrize(
    ("values", "code", "words"),
    [
        (changed(GOOD, (2, 7), np.inf), "non_finite", r"x \(1 draws\) is NaN or infinite"),
        (changed(GOOD, 1, 0.3), "stuck", "Chain 1 never moved"),
        (
            GOOD + np.array([[0], [0], [0], [0.5]]),
            "r_hat",
            r"above 1.01 for x \(1.0\d\d\): the chains",
        ),
        (np.cumsum(GOOD, 1), "ess", r"below 400 for x \(\d+\)"),
        (np.repeat(GOOD[:, :75], 5, 1), "ess", "below 400 for x"),
        (GOOD[:, :7], "few_draws", "7 draws in a chain say nothing"),
    ],
    ids=["inf", "stuck", "shifted", "walk", "sticky", "few"],
)
def test_bad_draws(values, code, words):
    found = {finding.code: str(finding) for finding in diagnose(made({"x": values}))}
    assert code in found
    assert re.search(words, found[code]), found[code]


def test_divergences_are_counted():
    diverging = changed(np.zeros((4, 500), bool), (0, slice(3)), True)
    (finding,) = diagnose(made({"x": GOOD}, diverging=diverging))
    assert finding.code == "divergences"
    assert finding.message.startswith("3 of 2000 draws diverged")


def test_a_latent_site_that_never_changes():
    run = made({"x": GOOD, "a": np.ones((4, 500)), "b": np.ones((4, 500))})
    run["posterior"]["a"].attrs["site_kind"] = "latent"
    run["posterior"]["b"].attrs["site_kind"] = "deterministic"
    (finding,) = diagnose(run)
    assert finding.code == "constant"
    assert finding.message.startswith("a has one value")


def test_a_nan_does_not_hide_the_rest():
    found = codes({"x": changed(GOOD, (0, 0), np.nan), "walk": np.cumsum(GOOD, 1)})
    assert found == ["non_finite", "r_hat", "ess"]


def test_the_least_ess_grows_with_the_chains():
    eight = RNG.normal(size=(8, 90))  # 720 independent draws: enough for 4 chains, not for 8
    assert codes({"x": eight}) == ["ess"]
    assert codes({"x": eight.reshape(4, 180)}) == []


def test_one_chain_is_compared_with_itself():
    (first, *_) = diagnose(made({"x": np.linspace(0, 1, 2000)[None] + 0.01 * GOOD.reshape(1, -1)}))
    assert first.code == "r_hat"
    assert "two halves of the only chain" in first.message


def test_many_bad_scalars_are_counted_not_listed():
    walks = np.cumsum(RNG.normal(size=(4, 500, 30)), 1)
    finding = next(f for f in diagnose(made({"x": walks})) if f.code == "r_hat")
    assert "of 30 scalars, worst x[" in finding.message
    assert finding.message.count("x[") == 3


def test_the_verdict_counts():
    one = Finding("stuck", "m", "a")
    assert verdict([one]) == "Do not rely on these draws yet: one thing speaks against them."
    assert verdict([one, one]) == "Do not rely on these draws yet: 2 things speak against them."
    short = (
        Finding("ess", "m", "a"),
        Finding("r_hat", "m", "a"),
        Finding("divergences", "m", "a", grave=False),
    )
    assert verdict(short) == "Not enough draws yet: nothing else speaks against them."
    assert verdict([*short, one]).startswith("Do not rely on these draws yet: 3 things")
    assert not Diagnosis(short).good
    assert str(one) == "m a"


def test_causes_come_before_consequences():
    codes = ["ess", "r_hat", "thinning", "divergences", "funnel", "gradient", "sandwich"]
    found = Diagnosis(Finding(code, "m", "a", grave=code != "thinning") for code in codes)
    expected = ["gradient", "funnel", "divergences", "r_hat", "sandwich", "ess", "thinning"]
    assert [finding.code for finding in found] == expected


@pytest.mark.parametrize(("count", "grave"), [(1, False), (2, False), (3, True)])
def test_a_single_divergence_is_a_remark(count, grave):
    rng = np.random.default_rng(0)
    diverging = np.zeros((4, 500), bool)
    diverging.flat[:count] = True
    run = az.from_dict(
        {"posterior": {"x": rng.normal(size=(4, 500))}, "sample_stats": {"diverging": diverging}}
    )
    run.attrs["kernel"] = "NUTS"
    (finding,) = diagnose(run)
    assert (finding.code, finding.grave) == ("divergences", grave)
    assert "`NUTS(model, target_accept_prob=0.95)`" in finding.advice


def asked_samples(finding):
    return int(finding.advice.partition("num_samples=")[2].partition("`")[0])


def test_too_few_draws_name_how_many_would_do():
    rng = np.random.default_rng(0)
    run = az.from_dict({"posterior": {"slow": rng.normal(size=(4, 80)), "also": rng.normal(size=(4, 80))}})
    found = diagnose(run)
    assert found.verdict.startswith("Not enough draws yet")
    (finding,) = (finding for finding in found if finding.code == "ess")
    asked = asked_samples(finding)
    enough = az.from_dict({"posterior": {"slow": rng.normal(size=(4, asked))}})
    assert 90 <= asked <= 200
    assert diagnose(enough).good
    assert "parametrisation of" in finding.advice
    run.attrs["thinning"] = 5  # `num_samples` counts iterations, of which every fifth is kept
    (finding,) = (finding for finding in diagnose(run) if finding.code == "ess")
    assert 4.5 * asked < asked_samples(finding) <= 5 * asked  # apart from rounding


@pytest.mark.parametrize(
    ("seed", "words"), [(1, "`mcmc.run(jax.random.key(2), ...)`"), (None, "another key")]
)
def test_chains_that_never_moved_get_another_key(seed, words):
    run = made({"x": changed(GOOD, 1, 0.3)})
    run.attrs |= {} if seed is None else {"seed": seed}
    (finding,) = (finding for finding in diagnose(run) if finding.code == "stuck")
    assert words in finding.advice


def test_the_shared_run_moves(tree):
    rows = {check.name: check for check in diagnose(tree).checks}
    for name, value in (
        ("Draws", "all finite"),
        ("Chains that never moved", "none"),
        ("Parameters that never changed", "none"),
        ("Divergences", "0 of 1000"),
    ):
        assert rows[name].value == value
        assert rows[name].passed


def test_a_notebook_shows_the_verdict_the_findings_and_the_checks():
    found = diagnose(made({"<x>": np.repeat(np.arange(4.0), 500).reshape(4, 500) + 0.1 * GOOD}))
    page = found._repr_html_()
    assert found.verdict in page
    assert page.count("<li>") == len(found) > 0
    assert page.count("<tr>") == len(found.checks) + 1
    for finding in found:
        assert escape(finding.message) in page
    for check in found.checks:
        assert f">{escape(check.name)}</td>" in page
        assert f">{escape(check.value)}</td>" in page
    assert "<x>" not in page
    assert "&lt;x&gt;" in page
    empty = Diagnosis()._repr_html_()
    assert "Good: nothing speaks against these draws." in empty
    assert "<ul>" not in empty
    assert "<table>" not in empty
