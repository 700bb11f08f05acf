"""QDE against reference values of real posteriors: 4 vectorized chains, 1000 + 1000 iterations."""

from pathlib import Path

import jax
import numpy as np
import pytest

from qdesampler import MCMC
from qdesampler.infer import QDE, compare_with_reference, load_model

FOLDER = Path(__file__).parents[3] / "models"
MODELS = [
    "arK",
    "eight_schools",
    "eight_schools_centered",
    "german_credit",
    "kidiq_interaction",
    "low_dim_gauss_mix",
    "mesquite",
    "wells_interaction",
]
LATER_MODELS = [
    "diamonds",
    "glmm_poisson",
    "gp_regression",
    "hmm_drive",
    "irt_2pl",
    "mt",
    "one_comp_mm_elim_abs",
    "radon_mn_centered",
]
# Draws that know little agree with anything.
SMALLEST_ESS = 400
# Parameters judged, where not all can be: the tail of K_m is so long that its second moment is infinite, and
# V_m follows it.
JUDGED = {"one_comp_mm_elim_abs": ("k_a", "sigma")}
STANDARD_ERRORS = 4.0


def check(name, seed):
    case = load_model(FOLDER / name)
    assert case.reference is not None
    mcmc = MCMC(
        QDE(case.model),
        num_warmup=1000,
        num_samples=1000,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(seed), **case.data)
    found = compare_with_reference(mcmc.get_samples(group_by_chain=True), case.reference)
    judged = np.isin(found.names, JUDGED[name]) if name in JUDGED else np.ones(len(found.names), bool)
    assert judged.any()
    assert found.ess[judged].min() > SMALLEST_ESS, found
    assert np.abs(found.error[judged]).max() < STANDARD_ERRORS, found
    return mcmc


# Regular posteriors like those of `tests/models/test_zoo_sampling.py`, two of which are fast too.
FAST_MODEL = "wells_interaction"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == FAST_MODEL else [pytest.mark.slow]) for name in MODELS]
)
def test_means_in_float32(name):
    mcmc = check(name, 0)
    assert mcmc.last_state.potential_energy.dtype == np.float32


@pytest.mark.slow
@pytest.mark.parametrize("name", LATER_MODELS)
def test_means_of_later_models(name):
    check(name, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", [0, 1])
def test_means_in_float64(x64, name, seed):
    mcmc = check(name, seed)
    assert mcmc.last_state.potential_energy.dtype == np.float64
