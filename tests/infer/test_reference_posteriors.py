"""QDE against reference values of real posteriors: 4 vectorized chains, 1000 + 1000 iterations."""

from pathlib import Path

import jax
import numpy as np
import pytest
from numpyro.infer import MCMC

from qdesampler.infer import QDE, compare_with_reference, load_model

FOLDER = Path(__file__).parents[2] / "models"
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
# Draws that know little agree with anything. Local moves mix the centred funnel slowly, as under NUTS.
SMALLEST_ESS = {"eight_schools_centered": 20}
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
    assert found.smallest_ess > SMALLEST_ESS.get(name, 400), found
    assert np.abs(found.error).max() < STANDARD_ERRORS, found
    return mcmc


@pytest.mark.parametrize("name", MODELS)
def test_means_in_float32(name):
    mcmc = check(name, 0)
    assert mcmc.last_state.potential_energy.dtype == np.float32


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", [0, 1])
def test_means_in_float64(x64, name, seed):
    mcmc = check(name, seed)
    assert mcmc.last_state.potential_energy.dtype == np.float64
