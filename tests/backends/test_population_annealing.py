"""Population annealing: resampling keeps weighted sums, log Z and its error are right, populations differ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.backends import (
    ExactEnumeration,
    IsingProblem,
    PopulationAnnealing,
    SimulatedAnnealing,
    TreeDecomposition,
    log_partition_estimate,
)
from qdesampler.backends.exact_enumeration import all_states
from qdesampler.backends.population_annealing import resampled
from qdesampler.backends.sweeps import color_graph
from qdesampler.bench.annealers.__main__ import lattice
from qdesampler.kernels.discrete.annealer_moves import annealed_importance_move
from qdesampler.kernels.discrete.outcomes import DiscreteState


def glass(n=8, seed=0):
    rng = np.random.default_rng(seed)
    J = np.triu(rng.normal(size=(n, n)), 1) / np.sqrt(n)
    return IsingProblem.from_dense(0.3 * rng.normal(size=n), J, -0.2)


def test_resampling_keeps_every_weighted_sum_and_forgetting_the_weights_does_not():
    log_weight = jnp.log(jnp.asarray([[0.1, 2.0, 0.7, 0.2], [1.0, 1.0, 3.0, 0.5]]))
    due = jnp.asarray([True, False])
    keys = jax.random.split(jax.random.key(0), 20_000)
    chosen, after = jax.vmap(lambda key: resampled(key, log_weight, due))(keys)
    copies = np.eye(4)[np.asarray(chosen)]

    def sums(weights):
        return np.sum(np.exp(np.asarray(weights, float))[..., None] * copies, 2)

    wanted = np.exp(np.asarray(log_weight, float))
    right = sums(after)
    error = right.std(0) / np.sqrt(len(keys)) + 1e-7
    assert np.all(np.abs(right.mean(0) - wanted) < 4.5 * error)
    np.testing.assert_array_equal(np.asarray(chosen)[:, 1], np.tile(np.arange(4), (len(keys), 1)))
    kept = jnp.take_along_axis(jnp.broadcast_to(log_weight, chosen.shape), chosen, 2)  # the wrong twin
    assert np.max(np.abs(sums(kept).mean(0) - wanted)[0] / error[0]) > 50


@pytest.mark.parametrize("problem", [lattice(2, 4, 0), glass()], ids=["colours", "dense"])
def test_weighted_states_have_the_boltzmann_law_although_populations_are_small(problem):
    beta, reads = 2.0, 20_000
    if problem.edges is not None:
        assert color_graph(8, np.asarray(problem.edges)).max() == 1
    backend = PopulationAnnealing(6, num_populations=5_000)
    samples = backend.sample(problem, key=jax.random.key(1), num_reads=reads, beta=beta)
    plain = SimulatedAnnealing(6).sample(problem, key=jax.random.key(1), num_reads=reads, beta=beta)
    assert np.var(np.asarray(samples.log_weight)) < np.var(np.asarray(plain.log_weight))
    value, error = log_partition_estimate(samples)
    exact = ExactEnumeration().log_partition(problem, beta=beta)
    assert 1e-4 < float(error) < 0.1
    assert abs(float(value - exact)) < 4 * float(error)
    weights = np.exp(np.asarray(samples.log_weight, float) + float(samples.log_scale) - float(exact))
    index = ((np.asarray(samples.states) > 0) @ (1 << np.arange(8)[::-1])).astype(int)
    first = ((index[:, None] == np.arange(256)) * weights[:, None]).reshape(5_000, 4, 256).mean(1)
    law = np.exp(-beta * np.asarray(problem.energies(all_states(8)), float) - float(exact))
    often = law > 3e-3
    deviation = (first.mean(0) - law) / (first.std(0) / np.sqrt(len(first)) + 1e-9)
    assert np.all(np.abs(deviation[often]) < 4.5)


def test_it_runs_inside_jit_with_the_same_error():
    problem = glass()

    def run(key):
        samples = PopulationAnnealing(10).sample(problem, key=key, num_reads=200, beta=1.5)
        return log_partition_estimate(samples)

    inside = jax.jit(run)(jax.random.key(3))
    outside = run(jax.random.key(3))
    np.testing.assert_allclose([float(x) for x in inside], [float(x) for x in outside], rtol=1e-4)


def test_the_move_that_needs_single_weights_is_refused():
    state = DiscreteState(jnp.zeros(8, jnp.int32), jnp.zeros(()))
    with pytest.raises(TypeError, match="reverse_log_weight"):
        annealed_importance_move(
            jax.random.key(0), state, jnp.sum, PopulationAnnealing(5), glass(), num_reads=2
        )


def test_one_population_has_no_error_and_other_settings_are_refused():
    samples = PopulationAnnealing(5).sample(glass(), key=jax.random.key(0), num_reads=7)
    assert np.all(np.asarray(samples.population) == 0)
    with pytest.raises(ValueError, match="two populations"):
        log_partition_estimate(samples)
    for wrong in ({"num_sweeps": 0}, {"num_populations": 0}, {"update": "glauber"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PopulationAnnealing(**wrong)


@pytest.mark.slow
def test_log_z_of_cold_tori_is_better_than_without_resampling_and_its_error_is_honest():
    tree, deviations, squares = TreeDecomposition(), [], {"without": [], "with": []}
    for seed in range(40):
        problem = lattice(8, 8, 100 + seed)
        exact = tree.log_partition(problem, beta=3.0)
        for name, backend in (("without", SimulatedAnnealing(100)), ("with", PopulationAnnealing(100))):
            found = backend.sample(problem, key=jax.random.key(seed), num_reads=2_000, beta=3.0)
            value, error = (float(x) for x in log_partition_estimate(found))
            squares[name].append((value - exact) ** 2)
            if name == "with":
                deviations.append((value - exact) / error)
    assert 0.7 < np.mean(np.square(deviations)) < 1.5
    assert np.sqrt(np.mean(squares["without"]) / np.mean(squares["with"])) > 1.3
