"""Further models: log densities against a second implementation in SciPy, exact references made anew.

The second implementation reads the JSON itself, so that `prepare` is tested with the model. It is written in
constrained parameters; `test_density.py` does the same for the older models.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from numpyro.distributions import biject_to
from numpyro.handlers import seed, trace
from numpyro.infer.util import potential_energy
from scipy import stats
from scipy.special import expit

from qdesampler.infer import load_model

MODELS = Path(__file__).parents[2] / "models"
multinomial: Any = stats.multinomial  # their stubs know scalars only
multivariate_normal: Any = stats.multivariate_normal
weibull: Any = stats.weibull_min


def normal(x, loc, scale):
    return np.sum(stats.norm.logpdf(x, loc, scale))


def table(counts, times):
    return np.repeat(counts, times)


def red_mites(data, x):
    prior = stats.lognorm.logpdf(x["mean"], 1) + stats.lognorm.logpdf(x["concentration"], 1)
    y, k = table(data["mites"], data["leaves"]), x["concentration"]
    return prior + np.sum(stats.nbinom.logpmf(y, k, k / (k + x["mean"])))


def lamb_movements(data, x):
    y = table(data["movements"], data["intervals"])
    law = (1 - x["gate"]) * stats.poisson.pmf(y, x["rate"]) + x["gate"] * (y == 0)
    return stats.expon.logpdf(x["rate"]) + np.sum(np.log(law))


def bioassay(data, x):
    probability = expit(x["alpha"] + x["beta"] * data["log_dose"])
    likelihood = stats.binom.logpmf(data["deaths"], data["animals"], probability)
    return normal(x["alpha"], 0, 2) + normal(x["beta"], 10, 10) + np.sum(likelihood)


def abo_blood_groups(data, x):
    a, b, o = x["allele"]
    groups = [a * a + 2 * a * o, b * b + 2 * b * o, 2 * a * b, o * o]
    return np.log(2) + multinomial.logpmf([data[k] for k in ("A", "B", "AB", "O")], 521, groups)


def leukaemia_survival(data, x):
    prior = normal(x["intercept"], 2, 2) + normal(x["effect"], 0, 2) + stats.lognorm.logpdf(x["shape"], 1)
    law = weibull(x["shape"], 0, np.exp(x["intercept"] + x["effect"] * data["treated"]))
    censored = data["censored"] == 1
    return prior + np.sum(np.where(censored, law.logsf(data["weeks"]), law.logpdf(data["weeks"])))


def newcomb_light(data, x):
    prior = stats.invgamma.logpdf(x["variance"], 3, 0, 200)
    prior += normal(x["mean"], 25, np.sqrt(x["variance"] / 0.1))
    return prior + normal(data["y"], x["mean"], np.sqrt(x["variance"]))


def murray_missing(data, x):
    (s, t), r = x["scale"], x["correlation"]
    points = [*data["pairs"], *zip(data["first_only"], x["missing_second"], strict=True)]
    points += [*zip(x["missing_first"], data["second_only"], strict=True)]
    law = multivariate_normal(np.zeros(2), np.array([[s * s, r * s * t], [r * s * t, t * t]]))
    prior = np.sum(stats.halfnorm.logpdf(x["scale"], 0, 2)) - np.log(2)
    return prior + np.sum(law.logpdf(np.array(points)))


def label_switching(data, x):
    components = 0.5 * stats.norm.pdf(data["y"][:, None], x["mu"], 1)
    return normal(x["mu"], 0, 3) + np.sum(np.log(components.sum(1)))


def sinusoid_period(data, x):
    angle = 2 * np.pi * x["frequency"] * data["time"]
    prior = normal(x["a"], 0, 1) + normal(x["b"], 0, 1) + stats.halfnorm.logpdf(x["sigma"]) - np.log(0.9)
    return prior + normal(data["y"], x["a"] * np.cos(angle) + x["b"] * np.sin(angle), x["sigma"])


def nile_local_level(data, x):
    year = np.arange(100)
    covariance = (
        9 + x["sigma_level"] ** 2 * np.minimum(year[:, None], year) + x["sigma_flow"] ** 2 * np.eye(100)
    )
    prior = stats.halfnorm.logpdf(x["sigma_level"]) + stats.halfnorm.logpdf(x["sigma_flow"], 0, 2)
    prior += normal(x["z"], 0, 1)
    return prior + multivariate_normal(np.full(100, 10), covariance).logpdf(data["flow"] / 100)


def pumps(data, x):
    prior = stats.expon.logpdf(x["alpha"]) + stats.gamma.logpdf(x["beta"], 0.1)
    prior += np.sum(stats.gamma.logpdf(x["rate"], x["alpha"], 0, 1 / x["beta"]))
    return prior + np.sum(stats.poisson.logpmf(data["failures"], x["rate"] * data["hours"]))


def longley(data, x):
    X, y = (stats.zscore(data[name]) for name in ("predictors", "employed"))
    prior = stats.invgamma.logpdf(x["variance"], 2, 0, 0.05)
    prior += normal(x["beta"], 0, 100 * np.sqrt(x["variance"]))
    return prior + normal(y, X @ x["beta"], np.sqrt(x["variance"]))


def horseshoe_regression(data, x):
    prior = stats.invgamma.logpdf(x["variance"], 2) + stats.halfcauchy.logpdf(x["tau"], 0, 0.1)
    prior += np.sum(stats.halfcauchy.logpdf(x["local"])) + normal(x["z"], 0, 1)
    beta = x["tau"] * x["local"] * x["z"]
    return prior + normal(data["y"], data["X"] @ beta, np.sqrt(x["variance"]))


def stochastic_volatility(data, x):
    prior = normal(x["mu"], 0, 2) + stats.beta.logpdf(x["persistence"], 20, 1.5)
    prior += stats.halfnorm.logpdf(x["sigma"], 0, 0.5) + normal(x["z"], 0, 1)
    phi = 2 * x["persistence"] - 1
    h = [x["mu"] + x["sigma"] * x["z"][0] / np.sqrt(1 - phi**2)]
    for z in x["z"][1:]:
        h.append(x["mu"] + phi * (h[-1] - x["mu"]) + x["sigma"] * z)
    return prior + normal(data["y"], 0, np.exp(np.array(h) / 2))


def coal_change_point(data, x):
    prior = np.sum(stats.expon.logpdf([x["early"], x["late"]], 0, 2))
    years = []
    for last in range(1, 112):
        rate = np.where(np.arange(112) < last, x["early"], x["late"])
        years.append(np.sum(stats.poisson.logpmf(data["disasters"], rate)))
    return prior + np.logaddexp.reduce(years) - np.log(111)


STATEMENTS = {
    f.__name__: f
    for f in (
        red_mites,
        lamb_movements,
        bioassay,
        abo_blood_groups,
        leukaemia_survival,
        newcomb_light,
        murray_missing,
        label_switching,
        sinusoid_period,
        nile_local_level,
        pumps,
        longley,
        coal_change_point,
        horseshoe_regression,
        stochastic_volatility,
    )
}

ROUNDING = {"red_mites": 1e-5}  # of JAX's logarithm of the beta function, over 150 leaves


def read(name):
    file = MODELS / name / "data.json"
    data = json.loads(file.read_text()) if file.exists() else {}
    return {k: np.array(v) if isinstance(v, list) else v for k, v in data.items()}


def random_point(case, number):
    """Constrained and unconstrained values of every latent site, and the log determinant between them."""
    generator = np.random.default_rng(number)
    sites = trace(seed(case.model, jax.random.key(number))).get_trace(**case.data)
    constrained, unconstrained, log_det = {}, {}, 0.0
    for name, site in sites.items():
        if site["type"] != "sample" or site["is_observed"]:
            continue
        transform = biject_to(site["fn"].support)
        shape = transform.inverse_shape(np.shape(site["value"]))
        unconstrained[name] = generator.normal(0, 0.7, shape)
        constrained[name] = np.asarray(transform(unconstrained[name]))
        log_det += np.sum(transform.log_abs_det_jacobian(unconstrained[name], constrained[name]))
    return constrained, unconstrained, log_det


@pytest.mark.parametrize("name", STATEMENTS)
def test_log_density_is_the_statements_and_has_a_finite_gradient(name, x64):
    case = load_model(MODELS / name)
    value, point, log_det = random_point(case, 1)
    expected = STATEMENTS[name](read(name), value) + log_det
    found, gradient = jax.jit(jax.value_and_grad(lambda z: -potential_energy(case.model, (), case.data, z)))(
        point
    )
    assert float(found) == pytest.approx(float(expected), rel=1e-10, abs=ROUNDING.get(name, 1e-7))
    # The wrong twin: the statement at another point.
    other = STATEMENTS[name](read(name), random_point(case, 2)[0]) + log_det
    assert abs(float(found) - float(other)) > 1e-3
    for leaf in jax.tree.leaves(gradient):
        assert np.all(np.isfinite(leaf))
        assert np.any(leaf != 0)


@pytest.fixture(scope="module")
def make_exact():
    spec = importlib.util.spec_from_file_location("make_exact_script", MODELS / "make_exact.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_made_anew(make_exact, name):
    reference = load_model(MODELS / name).reference
    assert reference is not None
    made = make_exact.exact_reference(MODELS / name)
    assert set(made["parameters"]) == set(reference["parameters"])
    for parameter, entry in reference["parameters"].items():
        for key in ("mean", "sd", "mean_sq", "sd_sq"):
            scale = entry["sd"] if key in ("mean", "sd") else entry["sd_sq"]
            assert abs(made["parameters"][parameter][key] - entry[key]) < 1e-6 * scale
    assert ("log_evidence" in made) == ("log_evidence" in reference)  # a network has no evidence
    if "log_evidence" in made:
        assert made["log_evidence"]["value"] == pytest.approx(reference["log_evidence"]["value"], abs=1e-6)


EXACT = sorted(folder.parent.name for folder in MODELS.glob("*/exact.py"))


@pytest.mark.parametrize("name", ["coal_change_point", "longley", "newcomb_light"])
def test_exact_references_are_what_the_script_makes(make_exact, name):
    check_made_anew(make_exact, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_all_exact_references_are_what_the_script_makes(make_exact, name):
    check_made_anew(make_exact, name)


def test_newcomb_reference_is_the_textbooks():
    """Normal and inverse gamma: 0.1 + n, 3 + n/2, 200 + S/2 + 0.1 n (mean y - 25)^2 / (2 (0.1 + n))."""
    y = read("newcomb_light")["y"]
    n, mean = len(y), y.mean()
    rate = 200 + 0.5 * np.sum((y - mean) ** 2) + 0.1 * n * (mean - 25) ** 2 / (2 * (0.1 + n))
    law = stats.invgamma(3 + n / 2, 0, rate)
    center = (2.5 + n * mean) / (n + 0.1)
    student = stats.t(6 + n, center, np.sqrt(rate / (3 + n / 2) / (n + 0.1)))
    reference = load_model(MODELS / "newcomb_light").reference
    assert reference is not None
    for name, expected in (("variance", law), ("mean", student)):
        entry = reference["parameters"][name]
        assert entry["mean"] == pytest.approx(expected.mean(), rel=1e-8)
        assert entry["sd"] == pytest.approx(expected.std(), rel=1e-8)


def test_a_grid_too_narrow_or_too_coarse_is_refused(make_exact, tmp_path):
    text = (MODELS / "newcomb_light" / "exact.py").read_text()
    (tmp_path / "data.json").write_text((MODELS / "newcomb_light" / "data.json").read_text())
    for grid, fault in (("(4.5, 4.9, 400)", "edge"), ("(3.3, 6.5, 9)", "more points")):
        (tmp_path / "exact.py").write_text(text.replace("(3.3, 6.5, 400)", grid))
        with pytest.raises(ValueError, match=fault):
            make_exact.exact_reference(tmp_path)
