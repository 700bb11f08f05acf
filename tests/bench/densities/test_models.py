"""The command that samples forms of one posterior in Stan and in PyMC, and Stan's own NUTS."""

import re
from pathlib import Path

import numpy as np
import pytest

from qdesampler.bench.densities.forms import PYMC, STAN, stan_data
from qdesampler.bench.densities.models import Cell, main
from qdesampler.bench.densities.stan_peer import stan_nuts
from qdesampler.bench.harness.record import Settings
from qdesampler.infer import load_model

MODELS = Path(__file__).parents[3] / "models"


def test_a_cell_charges_the_warm_up_once():
    cell = Cell(of_warmup=1000, of_draws=3000, ess=600.0, error=1.26)
    assert cell.total == 3000
    assert str(cell) == "3,000 (1,000); 1.3"


def test_forms_are_those_of_models_with_reference_values():
    assert set(PYMC) == set(STAN)
    assert all(load_model(MODELS / name).reference for name in STAN)
    data = stan_data(load_model(MODELS / "arK").data)
    assert np.shape(data["lags"]) == (data["n"], data["k"])


class Fit(dict):
    """As PyStan lays out draws: the last axis has the chains of every iteration side by side."""


class Model:
    param_names, dims = ("mu", "beta"), ((), (2, 3))

    def sample(self, num_chains, num_warmup, num_samples, save_warmup):
        assert save_warmup
        count = num_warmup + num_samples
        marks = 10 * np.arange(count)[:, None] + np.arange(num_chains)  # iteration and chain
        beta = marks.ravel() + 1000 * np.arange(6).reshape(2, 3, 1)
        steps = np.where(np.arange(count) < num_warmup, 7, 3)[:, None] * np.ones(num_chains)
        return Fit(mu=marks.reshape(1, -1), beta=beta, n_leapfrog__=steps.reshape(1, -1))


def test_draws_and_steps_of_stan_are_told_apart_from_its_warm_up():
    run = stan_nuts(Model(), Settings(chains=2, warmup=5, draws=4))
    assert (run.of_warmup, run.of_draws) == (2 * 5 * 7, 2 * 4 * 3)
    assert run.draws["mu"].tolist() == [[50, 60, 70, 80], [51, 61, 71, 81]]
    assert run.draws["beta"].shape == (2, 4, 2, 3)
    assert run.draws["beta"][1, 2, 1, 0] == 3071


@pytest.mark.slow
def test_both_forms_and_stan_s_nuts_agree_with_the_numpyro_form(capsys):
    pytest.importorskip("stan")
    pytest.importorskip("pymc")
    assert main([str(MODELS / "newcomb_light"), "--methods", "qde-stan,qde-pymc,qde-values,stan"]) == 0
    row = capsys.readouterr().out.splitlines()[2]
    cells = re.findall(r"([\d,]+) \(([\d,]+)\); (\d\.\d)", row)
    assert len(cells) == 4
    assert all(float(error) < 4 for _, _, error in cells)
    totals = [float(total.replace(",", "")) for total, _, _ in cells]
    assert totals[0] < totals[3] / 5
    assert totals[1] < totals[2] < totals[3]


def test_models_without_forms_are_refused(capsys):
    with pytest.raises(SystemExit):
        main([str(MODELS / "mesquite")])
    assert "no forms of mesquite; there are eight_schools" in capsys.readouterr().err
