"""NumPyro's NUTS finds the reference values of every model, so that the models are known to be right."""

import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import numpyro
import pytest
from numpyro.infer import MCMC, NUTS
from numpyro.infer.reparam import LocScaleReparam

from qdesampler.infer import compare_with_reference, list_models, load_model, validate_reference

MODELS = Path(__file__).parents[2] / "models"
# Models with an exact.py have references that no run of NUTS has to confirm; it would miss modes of some.
FOLDERS = [path for path in list_models(MODELS) if path.is_dir() and not (path / "exact.py").exists()]
# NUTS is slow or biased in these funnels; the posterior is what is tested.
CENTRED = {"eight_schools_centered": "theta", "glmm_poisson": "eps", "radon_mn_centered": "alpha"}
DIAGONAL = {"irt_2pl"}  # 144 x 144 numbers of a dense metric are more than 1,000 iterations can learn
SMALLEST_ESS = {"irt_2pl": 400, "horseshoe_regression": 400}  # a metric to learn; Cauchy tails
INFINITE_SQUARES = {"one_comp_mm_elim_abs": {"K_m", "V_m"}}  # of which no Monte Carlo error is known


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_nuts_agrees_with_the_reference(folder, x64):
    case = load_model(folder)
    model = case.model
    if case.name in CENTRED:
        model = numpyro.handlers.reparam(model, config={CENTRED[case.name]: LocScaleReparam(0)})
    kernel = NUTS(model, dense_mass=case.name not in DIAGONAL, target_accept_prob=0.9)
    mcmc = MCMC(
        kernel, num_warmup=1000, num_samples=2000, num_chains=4, chain_method="vectorized", progress_bar=False
    )
    mcmc.run(jax.random.key(1), **case.data)
    assert case.reference is not None
    draws = mcmc.get_samples(group_by_chain=True)
    for name in INFINITE_SQUARES.get(case.name, ()):
        del draws[name], case.reference["parameters"][name]
    comparison = compare_with_reference(draws, case.reference)
    print(f"\n{case.name}: {comparison.largest_error:.2f} standard errors, ESS {comparison.smallest_ess:.0f}")
    print(comparison)
    assert comparison.smallest_ess > SMALLEST_ESS.get(case.name, 1000)
    assert comparison.largest_error < 4.0


@pytest.fixture(scope="module")
def make_reference():
    # ArviZ is slow to import: hence these few are with the slow tests.
    spec = importlib.util.spec_from_file_location("make_reference_script", MODELS / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_make_reference_does_not_replace_a_file_unasked(make_reference, capsys):
    assert make_reference.main([str(MODELS / "eight_schools")]) == 1
    assert "--force replaces it" in capsys.readouterr().err


@pytest.mark.slow
def test_make_reference_statistics_are_those_of_the_draws(make_reference):
    draws = np.random.default_rng(0).normal(2.0, 3.0, (4, 2500))
    entry, rhat = make_reference.statistics(draws)
    assert rhat < 1.01
    assert entry["mean"] == pytest.approx(draws.mean(), rel=1e-7)
    assert entry["sd_sq"] == pytest.approx(np.std(draws**2, ddof=1), rel=1e-7)
    assert entry["mcse"] == pytest.approx(3.0 / np.sqrt(entry["ess"]), rel=0.1)
    assert 8_000 < entry["ess"] < 12_000


@pytest.mark.slow
def test_make_reference_writes_a_reference_that_agrees(make_reference, tmp_path):
    out = tmp_path / "reference.json"
    before = jax.config.jax_enable_x64
    try:
        options = ["--draws", "250", "--min-ess", "500", "--seed", "3", "--out", str(out)]
        assert make_reference.main([str(MODELS / "eight_schools"), *options]) == 0
    finally:
        jax.config.update("jax_enable_x64", before)
    made = json.loads(out.read_text())
    validate_reference(made)
    known = load_model(MODELS / "eight_schools").reference
    assert known is not None
    for name, entry in known["parameters"].items():
        assert abs(made["parameters"][name]["mean"] - entry["mean"]) < 5 * made["parameters"][name]["mcse"]
    assert made["log_evidence"]["value"] == pytest.approx(-31.311347, abs=5 * made["log_evidence"]["mcse"])
