"""Laws that every model folder obeys, and reference values that can be had in closed form."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro.infer import Predictive
from numpyro.infer.util import potential_energy
from scipy import integrate, optimize, stats

from qdesampler.infer import flatten_draws, list_models, load_model

MODELS = Path(__file__).parents[2] / "models"
FOLDERS = [path for path in list_models(MODELS) if path.is_dir()]
multivariate_t: Any = stats.multivariate_t  # their stubs know scalars only
multivariate_normal: Any = stats.multivariate_normal
UNNAMED = {  # sampled sites without reference values
    "baseball_bradley_terry": {"z"},
    "eight_schools": {"theta_offset"},
    "funnel": {"x"},
    "horseshoe_regression": {"local", "tau", "z"},
    "icar_lattice": {"z"},
    "nile_local_level": {"z"},
    "rats_lkj": {"factor", "z"},
    "stochastic_volatility": {"z"},
}
OLDER = (
    *("arK", "diamonds", "eight_schools", "eight_schools_centered", "german_credit", "glmm_poisson"),
    *("gp_regression", "hmm_drive", "irt_2pl", "kidiq_interaction", "low_dim_gauss_mix", "mesquite", "mt"),
    *("one_comp_mm_elim_abs", "radon_mn_centered", "wells_interaction"),
)
PROPER = {
    "arK": "y",
    "eight_schools": "y",
    "eight_schools_centered": "y",
    "german_credit": "bad",
    "gp_regression": "y",
}
LICENCES = (
    "BSD licence",
    "CC BY 4.0",
    "public domain",
    "facts of a cited publication",
    "under qdesampler's own licence",
)
OBSERVED = {  # observed sites, where not one
    "diamonds": 3,
    "funnel": 0,
    "ising_denoising": 2,
    "murray_missing": 4,
    "radon_mn_centered": 2,
}

every_model = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def load(folder):
    """The model and its reference, which every folder here has."""
    case = load_model(folder)
    assert case.reference is not None
    return case, case.reference


def at_reference_means(reference) -> dict[str, Any]:
    """The sites' values at the reference means, as arrays."""
    means, shapes = {}, {}
    for name, entry in reference["parameters"].items():
        site, _, index = name.partition("[")
        means.setdefault(site, []).append(entry["mean"])
        shapes[site] = tuple(int(i) for i in index.rstrip("]").split(",") if i)
    return {site: np.reshape(values, shapes[site]) for site, values in means.items()}


def test_the_models_are_there():
    assert len(FOLDERS) >= 30
    page = (MODELS / "README.md").read_text()
    for folder in FOLDERS:
        assert f"[`{folder.name}`]({folder.name})" in page


@every_model
def test_model_runs_and_reference_names_its_sites(folder):
    case, reference = load(folder)
    values = at_reference_means(reference)
    seeded = numpyro.handlers.seed(numpyro.handlers.substitute(case.model, data=values), jax.random.key(0))
    trace = numpyro.handlers.trace(seeded).get_trace(**case.data)
    observed = [name for name, site in trace.items() if site["type"] == "sample" and site["is_observed"]]
    assert len(observed) == OBSERVED.get(case.name, 1)
    shapes = {
        name: np.shape(site["value"])
        for name, site in trace.items()
        if site["type"] == "deterministic" or (site["type"] == "sample" and not site["is_observed"])
    }
    named = {
        name: np.zeros((1, 1, *shape))
        for name, shape in shapes.items()
        if name not in UNNAMED.get(case.name, ())
    }
    assert set(flatten_draws(named)) == set(reference["parameters"])


@pytest.mark.parametrize("name", OLDER)  # of the others in test_zoo.py
def test_potential_and_gradient_are_finite_in_the_default_precision(name):
    case, reference = load(MODELS / name)
    values = {k: jnp.full(np.shape(v), 0.3) for k, v in at_reference_means(reference).items()}
    if case.name == "eight_schools":
        values["theta_offset"] = values.pop("theta")
    if case.name == "hmm_drive":  # a simplex of two has one free number
        values |= {name: values[name][1:] for name in ("theta1", "theta2")}
    energy, gradient = jax.jit(jax.value_and_grad(lambda z: potential_energy(case.model, (), case.data, z)))(
        values
    )
    assert energy.dtype == jnp.result_type(float)
    assert np.isfinite(energy)
    for leaf in jax.tree.leaves(gradient):
        assert np.all(np.isfinite(leaf))
        assert np.any(leaf != 0)


@every_model
def test_readme_states_the_model_its_source_and_licence(folder):
    text = (folder / "README.md").read_text()
    for heading in ("## Statement", "## Data", "## Reference", "## Traps", "## Source and licence"):
        assert heading in text
    source = " ".join(text.split("## Source and licence")[1].split())
    assert any(licence in source for licence in LICENCES)
    if "simulate.py" in source:
        assert (folder / "simulate.py").is_file()
    if "LICENSE-posteriordb" in source:
        assert "BSD 3-Clause License" in (MODELS / "LICENSE-posteriordb").read_text()


@every_model
def test_data_file_holds_what_the_readme_names_and_no_more(folder):
    if not (folder / "data.json").exists():
        return
    section = (folder / "README.md").read_text().split("## Data")[1].split("## ")[0]
    for field in json.loads((folder / "data.json").read_text()):
        assert f"`{field}`" in section


@pytest.mark.parametrize(("name", "observed"), PROPER.items())
def test_proper_models_predict_from_their_prior(name, observed):
    case = load_model(MODELS / name)
    draws = Predictive(case.model, num_samples=3)(jax.random.key(0), **{**case.data, observed: None})
    assert draws[observed].shape == (3, *np.shape(case.data[observed]))
    for values in draws.values():
        assert np.all(np.isfinite(values))


def test_german_credit_data_are_the_statlog_file():
    data = json.loads((MODELS / "german_credit" / "data.json").read_text())
    predictors = np.array(data["predictors"])
    assert predictors.shape == (1000, 24)
    assert data["credit_class"].count(2) == 300
    assert data["credit_class"].count(1) == 700
    assert list(predictors[0]) == [1, 6, 4, 12, 5, 5, 3, 4, 1, 67, 3, 2, 1, 2, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1]
    assert list(predictors.max(0)[[1, 3, 9]]) == [72, 184, 75]
    scaled = load_model(MODELS / "german_credit").data["X"]
    np.testing.assert_allclose(scaled.std(0), 1.0)


@pytest.mark.parametrize("name", ["eight_schools", "eight_schools_centered"])
def test_eight_schools_evidence_and_tau_by_quadrature(name):
    """Given tau, theta and mu integrate in closed form: y ~ N(0, diag(sigma^2 + tau^2) + 25)."""
    case, reference = load(MODELS / name)
    y, sigma = case.data["y"].astype(float), case.data["sigma"].astype(float)

    def joint(tau):
        covariance = np.diag(sigma**2 + tau**2) + 25.0
        return np.exp(multivariate_normal(cov=covariance).logpdf(y) + 31) * stats.halfcauchy.pdf(tau, 0, 5)

    def moment(power):
        edges = [(0, 5), (5, 20), (20, 100), (100, np.inf)]
        return sum(integrate.quad(lambda t: joint(t) * t**power, *edge, epsrel=1e-10)[0] for edge in edges)

    mass = moment(0)
    tau = reference["parameters"]["tau"]
    assert np.log(mass) - 31 == pytest.approx(reference["log_evidence"]["value"], abs=1e-5)
    assert abs(moment(1) / mass - tau["mean"]) < 4 * tau["mcse"]
    assert abs(moment(2) / mass - tau["mean_sq"]) < 4 * tau["mcse_sq"]


def test_mesquite_reference_is_the_closed_form():
    """Flat priors: beta is Student-t with N - k - 1 degrees of freedom around least squares."""
    case, reference = load(MODELS / "mesquite")
    X, y = case.data["X"], case.data["log_weight"]
    beta, residual, *_ = np.linalg.lstsq(X, y)
    dof = len(y) - X.shape[1] - 1
    deviation = np.sqrt(residual[0] / (dof - 2) * np.diag(np.linalg.inv(X.T @ X)))
    for k in range(7):
        entry = reference["parameters"][f"beta[{k + 1}]"]
        assert abs(entry["mean"] - beta[k]) < 4 * entry["mcse"]
        assert entry["sd"] == pytest.approx(deviation[k], rel=0.04)  # 4 standard errors at an ESS of 10,000


def test_german_credit_reference_by_importance_sampling():
    """Moments and evidence from weighted draws of a Student-t at the mode, in plain NumPy."""
    case, reference = load(MODELS / "german_credit")
    design = np.column_stack([np.ones(1000), case.data["X"]])
    bad, dim = case.data["bad"], 25

    def log_p(b):
        logit = b @ design.T
        prior = -0.5 * np.sum(b * b, -1) - 0.5 * dim * np.log(2 * np.pi)
        return np.sum(bad * logit - np.logaddexp(0, logit), -1) + prior

    def negative_gradient(b):
        return design.T @ (1 / (1 + np.exp(-design @ b)) - bad) + b

    mode = optimize.minimize(lambda b: -log_p(b), np.zeros(dim), jac=negative_gradient).x
    p = 1 / (1 + np.exp(-design @ mode))
    covariance = np.linalg.inv(design.T @ (design * (p * (1 - p))[:, None]) + np.eye(dim))
    proposal = multivariate_t(mode, covariance, df=30, seed=1)
    points = proposal.rvs(8_000)
    log_weight = log_p(points) - proposal.logpdf(points)
    weight = np.exp(log_weight - log_weight.max())
    log_z = np.log(weight.mean()) + log_weight.max()
    ess = weight.sum() ** 2 / np.sum(weight**2)
    assert ess > 4_000
    evidence = reference["log_evidence"]
    assert abs(log_z - evidence["value"]) < 4 * np.hypot(np.sqrt(1 / ess - 1 / 8_000), evidence["mcse"])
    weight /= weight.sum()
    for i, name in enumerate(["alpha", *(f"beta[{k}]" for k in range(1, 25))]):
        entry = reference["parameters"][name]
        assert abs(weight @ points[:, i] - entry["mean"]) < 4 * np.hypot(
            entry["sd"] / np.sqrt(ess), entry["mcse"]
        )
        assert abs(weight @ points[:, i] ** 2 - entry["mean_sq"]) < 4 * np.hypot(
            entry["sd_sq"] / np.sqrt(ess), entry["mcse_sq"]
        )
