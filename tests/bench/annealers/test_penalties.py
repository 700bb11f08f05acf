"""Penalty problems: their optima by enumeration, and the energies that are reported for their states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.backends import IsingProblem, annealing_range, to_bqm
from qdesampler.backends.exact_enumeration import all_bits
from qdesampler.bench.annealers.penalties import main, penalty_row
from qdesampler.bench.targets.penalties import PROBLEMS, penalty_problem


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_lowest_energy_is_feasible_and_as_good_as_stated(name):
    problem = penalty_problem(name, 12, 1e3, seed=1)
    bits = np.asarray(all_bits(len(problem.Q)))
    energies, feasible = problem.energies(bits), problem.feasible(bits)
    assert 0 < feasible.sum() < len(bits)
    assert feasible[np.argmin(energies)]
    assert energies[feasible].min() < energies[~feasible].min()
    assert np.all(np.abs(energies[feasible]) < 1e3)
    assert energies[feasible].min() == pytest.approx(problem.best, abs=1e-9)


@pytest.mark.parametrize("penalty", [10.0, 1e6])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_range_of_temperatures_is_that_of_dwave_samplers(name, penalty):
    module = pytest.importorskip("dwave.samplers.sa.sampler")
    problem = penalty_problem(name, 20, penalty, seed=0)
    ising = IsingProblem.from_qubo(problem.Q, problem.offset)
    bqm = to_bqm(ising)
    wanted = module._default_ising_beta_range(dict(bqm.spin.linear), dict(bqm.spin.quadratic))
    np.testing.assert_allclose(annealing_range(ising), wanted, rtol=1e-9)
    np.testing.assert_allclose(annealing_range(ising.sparse()), wanted, rtol=1e-9)


def test_a_problem_without_terms_has_no_range_and_a_traced_one_is_refused():
    nothing = IsingProblem.from_dense(np.zeros(3), np.zeros((3, 3)))
    with pytest.raises(ValueError, match="zero"):
        annealing_range(nothing)
    with pytest.raises(TypeError, match="outside of jit"):
        jax.jit(lambda h: annealing_range(nothing._replace(h=h)))(jnp.ones(3))


def test_energies_are_right_at_a_penalty_of_a_million_and_optima_are_found():
    row = penalty_row("colouring", 18, 1e6, sweeps=200, reads=100, seed=0)
    assert row["off"] < 1e-7
    assert 0 < row["found"]["ours"].mean() < 1
    assert 0 < row["found"]["ours, own range"].mean() < 1
    assert row["above"]["ours"].min() >= -1e-6
    assert (
        main(
            [
                "--problems",
                "assignment",
                "--sizes",
                "16",
                "--penalties",
                "10",
                "--sweeps",
                "5",
                "--reads",
                "5",
            ]
        )
        == 0
    )
