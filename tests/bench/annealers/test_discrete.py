"""The command that measures kernels on discrete latents: its model, its measures, its table."""

import re

import numpy as np
import pytest
from scipy.stats import multivariate_t

from qdesampler.bench.annealers.discrete import METHODS, Trajectories, errors, evaluations_to_reach, main
from qdesampler.bench.targets.discrete import enumerated_inclusion, log_marginal, spike_and_slab_data


def test_the_collapsed_density_is_a_student_t():
    """`y | gamma ~ t_2(0, 1 + slab^2 X_gamma X_gamma')` for `sigma^2 ~ InverseGamma(1, 1)`."""
    data = spike_and_slab_data(6, seed=0, rows=9)._replace(slab=1.7)
    rng = np.random.default_rng(0)
    found, exact = [], []
    for gamma in rng.integers(2, size=(5, 6)):
        x = data.x * gamma
        shape = np.eye(9) + 1.7**2 * x @ x.T
        exact.append(multivariate_t(np.zeros(9), shape, df=2).logpdf(data.y))
        found.append(float(log_marginal(gamma, data)))
    np.testing.assert_allclose(np.diff(found), np.diff(exact), atol=1e-3)


def test_inclusion_probabilities_are_those_of_the_enumeration():
    data = spike_and_slab_data(4, seed=1)
    bits = np.array(list(np.ndindex((2,) * 4)))
    value = np.array([float(log_marginal(g, data)) for g in bits]) + bits.sum(1) * np.log(0.1 / 0.9)
    law = np.exp(value - value.max())
    np.testing.assert_allclose(enumerated_inclusion(data), law @ bits / law.sum(), atol=1e-4)


def test_errors_are_of_the_draws_that_the_budget_pays_for():
    draws = np.zeros((2, 100, 1))
    draws[:, 50:] = 1.0
    found = Trajectories(draws, 30 + np.tile(np.arange(1, 101), (2, 1)))
    at = errors(found, np.array([0.0]), [35, 80, 130])
    assert np.isnan(at[0])
    np.testing.assert_allclose(at[1:], [0.0, 50 / 90])
    assert evaluations_to_reach(found, np.array([0.5]), 0.1) > 100
    assert evaluations_to_reach(found, np.array([2.0]), 0.1) == np.inf


def test_bad_options_are_refused(capsys):
    for options, match in (
        (["--budgets", "10"], "at least 500"),
        (["--predictors", "17"], "2 to 16 predictors"),
        (["--chains", "1"], "two chains"),
    ):
        with pytest.raises(SystemExit):
            main(options)
        assert match in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_prints_a_line_for_each_method(capsys, monkeypatch):
    for name in list(METHODS)[4:-1]:  # a reference each, and one of ours
        monkeypatch.delitem(METHODS, name)
    assert main(["--seeds", "1", "--chains", "4", "--budgets", "8000", "--longer", "1"]) == 0
    text = capsys.readouterr().out
    rows = re.findall(r"^\| ([^|]+) \| (\S+) \| (\S+) \| [^|]+ \|$", text, re.MULTILINE)
    assert [row[0] for row in rows if row[1] != "8,000" and row[0] != "---"] == list(METHODS)
    gain = {row[0]: row[2] for row in rows}
    assert float(gain["AnnealerGibbs independence, ExactEnumeration"]) > 1.5
