"""The comparison of annealing with and without resampling: truths are exact, and the table is made."""

import numpy as np

from qdesampler.backends import ExactEnumeration
from qdesampler.backends.exact_enumeration import all_states
from qdesampler.bench.annealers.populations import cubic, ferromagnet_in_fields, main, truth


def test_magnetisations_are_those_of_enumeration_and_cubes_have_twelve_edges():
    problem = cubic(2, 0)
    assert np.shape(problem.edges) == (12, 2)
    means, log_z = truth(problem, 0.8)
    law = np.exp(-0.8 * np.asarray(problem.energies(all_states(8)), float) - log_z)
    assert abs(log_z - float(ExactEnumeration().log_partition(problem, beta=0.8))) < 1e-4
    np.testing.assert_allclose(means, law @ np.asarray(all_states(8), float), atol=1e-6)
    assert np.all(np.asarray(ferromagnet_in_fields(3, 0, 0.1).J) == -1)


def test_the_command_prints_a_line_for_each_kind(capsys):
    line = [
        "--problems",
        "cube of 4, beta 1",
        "--instances",
        "1",
        "--keys",
        "2",
        "--sweeps",
        "10",
        "--flips",
        "2000",
    ]
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert "SimulatedAnnealing, 10 x 200" in printed
    assert "PopulationAnnealing, 10 x 200" in printed
