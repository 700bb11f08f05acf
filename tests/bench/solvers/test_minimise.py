"""The command that compares `anneal` with SciPy's dual annealing and basin hopping."""

import re

import pytest

from qdesampler.bench.solvers import minimise
from qdesampler.bench.solvers.minimise import OBJECTIVES, main, success_rates


def test_rates_are_shares_of_the_runs_and_budgets_are_kept():
    rates = success_rates(OBJECTIVES["ackley"], 5000, 2)
    assert rates["anneal"][0] == 1.0
    assert 4500 < rates["anneal"][1] <= 5200  # descents take what they need
    assert 0 <= rates["dual annealing"][0] <= 1
    assert rates["dual annealing"][1] <= 5200  # a local search that has begun is finished
    assert rates["basin hopping"][1] == 5000


@pytest.mark.parametrize("names", [("ackley",), pytest.param(tuple(OBJECTIVES), marks=pytest.mark.slow)])
def test_the_command_prints_a_row_for_each_objective(capsys, monkeypatch, names):
    monkeypatch.setattr(minimise, "OBJECTIVES", {name: OBJECTIVES[name] for name in names})
    assert main(["--evaluations", "1000", "--seeds", "1"]) == 0
    rows = re.findall(r"^\| (\S.*), \d+-d \| 1,000 \| \d+% ", capsys.readouterr().out, re.MULTILINE)
    assert rows == list(names)


def test_a_budget_that_is_too_small_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--evaluations", "10"])
    assert "expected integers of at least 1000" in capsys.readouterr().err
