"""QDE, AnnealedQDE and AnnealerGibbs against the reference values of the models of `test_zoo.py`.

Four vectorized chains of 1,000 + 1,000 iterations in float32; errors in combined standard errors of draws and
reference, and an effective sample size that says the draws know something.
"""

from pathlib import Path

import jax
import numpy as np
import pytest

from qdesampler import MCMC
from qdesampler.diagnostics import diagnose
from qdesampler.infer import QDE, AnnealedQDE, AnnealerGibbs, compare_with_reference, load_model, log_evidence

MODELS = Path(__file__).parents[2] / "models"
STANDARD_ERRORS = 4.0
SMALLEST_ESS = 400
FAST = ("coal_change_point",)
REGULAR = (
    *("baseball_bradley_terry", "cheese_ordinal", "clicks_subsampled", "flu_sir", "funnel", "icar_lattice"),
    *("horseshoe_regression", "nile_local_level", "rats_lkj", "seeds_glmm", "stackloss_robust"),
    *("abo_blood_groups", "bioassay", "lamb_movements", "leukaemia_survival", "murray_missing", "pumps"),
    *("red_mites", "newcomb_light"),
)
DISCRETE = ("ising_denoising", "spike_and_slab")
MODES = ("label_switching", "sinusoid_period")


def sample(kernel, case, seed=0, warmup=1000, draws=1000):
    mcmc = MCMC(
        kernel,
        num_warmup=warmup,
        num_samples=draws,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(seed), **case.data)
    return mcmc


def compare(mcmc, case):
    assert case.reference is not None
    return compare_with_reference(mcmc.get_samples(group_by_chain=True), case.reference)


def check(found, smallest_ess=SMALLEST_ESS):
    print(f"\n{np.abs(found.error).max():.2f} standard errors, ESS {found.ess.min():.0f}")
    assert found.ess.min() > smallest_ess, found
    assert np.abs(found.error).max() < STANDARD_ERRORS, found


@pytest.mark.parametrize("name", FAST)
def test_qde_finds_the_reference(name):
    case = load_model(MODELS / name)
    check(compare(sample(QDE(case.model), case, warmup=300), case))


@pytest.mark.slow
@pytest.mark.parametrize("name", REGULAR)
def test_qde_finds_the_reference_slow(name):
    case = load_model(MODELS / name)
    check(compare(sample(QDE(case.model), case), case))


@pytest.mark.slow
def test_stochastic_volatility_with_more_draws():
    """Its level `mu` has a long tail where the persistence is near 1: 1,000 draws a chain know too little."""
    case = load_model(MODELS / "stochastic_volatility")
    check(compare(sample(QDE(case.model), case, draws=5000), case))


@pytest.mark.slow
def test_longley_in_float64(x64):
    """In float32 its condition number costs draws: see the readme."""
    case = load_model(MODELS / "longley")
    check(compare(sample(QDE(case.model), case), case))


@pytest.mark.slow
@pytest.mark.parametrize("name", DISCRETE)
def test_annealer_gibbs_finds_the_enumerated_posterior(name):
    case = load_model(MODELS / name)
    check(compare(sample(AnnealerGibbs(case.model), case), case))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODES)
def test_annealed_qde_finds_all_modes_and_the_evidence(name):
    case = load_model(MODELS / name)
    mcmc = sample(AnnealedQDE(case.model), case)
    check(compare(mcmc, case))
    assert "modes" not in {finding.code for finding in diagnose(mcmc)}
    assert case.reference is not None
    value, error = log_evidence(mcmc)
    assert error < 0.1
    assert abs(value - case.reference["log_evidence"]["value"]) < STANDARD_ERRORS * error


@pytest.mark.slow
def test_qde_keeps_one_of_two_far_modes():
    """What the readme of `label_switching` says: many effective draws, a wrong mean; `diagnose` tells."""
    case = load_model(MODELS / "label_switching")
    mcmc = sample(QDE(case.model), case)
    found = compare(mcmc, case)
    assert found.ess.min() > SMALLEST_ESS
    assert np.abs(found.error).max() > 50
    told = [finding.message for finding in diagnose(mcmc) if finding.code == "modes"]
    assert any(message.startswith("Swapping the components 0 and 1 of mu") for message in told), told
