"""Cluster sweeps against single spins at a small size: averages by enumeration, and the table."""

import numpy as np
import pytest

from qdesampler.backends import ExactEnumeration
from qdesampler.backends.exact_enumeration import all_states
from qdesampler.bench.annealers.clusters import CRITICAL, METHODS, ferromagnet, main, measure


@pytest.mark.parametrize("name", METHODS)
def test_the_magnetisation_of_a_small_torus_is_the_exact_one(name):
    problem, states = ferromagnet(3), np.asarray(all_states(9))
    law = np.exp(np.asarray(ExactEnumeration().log_prob(problem, states, beta=CRITICAL)))
    found = measure(problem, METHODS[name], CRITICAL, 500, 8, 0)
    assert found.error < 0.03
    assert abs(found.mean - law @ states.mean(1) ** 2) < 4 * found.error
    assert 1 < found.sweeps < 20
    assert found.seconds > 0


def test_the_command_prints_a_row_a_method(capsys):
    # the torus, chains and sweeps of the test above, whose programs are compiled already
    assert main(["--sides", "3", "--glass", "2", "--chains", "8", "--sweeps", "500", "--single", "500"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| torus", "| glass"))]
    assert [row.split("|")[2].strip() for row in rows] == 2 * list(METHODS)
