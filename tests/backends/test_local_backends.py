"""Local backends against enumeration: weights, laws, low energies, tracing, keys, refusals."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from qdesampler.backends import (
    AnnealingBackend,
    ExactEnumeration,
    GibbsSurrogate,
    IsingProblem,
    PathIntegralAnnealing,
    PopulationAnnealing,
    ProblemTooLargeError,
    QuantumDynamics,
    SimulatedAnnealing,
    SimulatedBifurcation,
    SwendsenWang,
    log_partition_estimate,
)
from qdesampler.backends.exact_enumeration import all_states
from qdesampler.backends.protocol import Capabilities, LocalBackend, Samples
from qdesampler.backends.sweeps import color_graph, from_blocks, plan_sweeps, sweep_spins, to_blocks
from qdesampler.equation.schedule import Schedule, schedule_table

BACKENDS = {
    "annealing": SimulatedAnnealing(20),
    "heat bath": SimulatedAnnealing(20, update="heat_bath"),
    "populations": PopulationAnnealing(20),
    "path integral": PathIntegralAnnealing(20, 4),
    "bifurcation": SimulatedBifurcation(50),
    "gibbs": GibbsSurrogate(3),
    "clusters": SwendsenWang(3),
    "enumeration": ExactEnumeration(),
    "quench": QuantumDynamics(num_steps=8),
    "reverse anneal": QuantumDynamics("reverse_anneal", num_steps=8),
    "imaginary time": QuantumDynamics("imaginary_time"),
}


def ring(n=6, seed=0):
    """A frustrated ring with fields: two colours."""
    rng = np.random.default_rng(seed)
    edges = np.stack([np.arange(n), (np.arange(n) + 1) % n], 1)
    return IsingProblem.from_edges(0.3 * rng.normal(size=n), edges, rng.normal(size=n), 0.4)


def glass(n=6, seed=0):
    rng = np.random.default_rng(seed)
    J = np.triu(rng.normal(size=(n, n)), 1) / np.sqrt(n)
    return IsingProblem.from_dense(0.3 * rng.normal(size=n), J, -0.2)


def rows(states):
    """The number of each state in the order of `all_states`."""
    return ((np.asarray(states) > 0) @ (1 << np.arange(states.shape[1])[::-1])).astype(int)


def law(problem, beta):
    return np.asarray(jax.nn.softmax(-beta * problem.energies(all_states(problem.num_variables))), float)


def chi_square_p(states, probabilities):
    counts = np.bincount(rows(states), minlength=probabilities.size)
    expected = probabilities * counts.sum()
    rare = expected < 5
    if rare.any():
        counts, expected = (
            np.append(counts[~rare], counts[rare].sum()),
            np.append(expected[~rare], expected[rare].sum()),
        )
    return stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_keeps_the_protocol(name):
    backend, problem = BACKENDS[name], ring()
    assert isinstance(backend, AnnealingBackend)
    assert hash(backend.capabilities) is not None
    draw = partial(backend.sample, problem, num_reads=32, beta=1.5)
    with backend:
        one, same, other = (
            draw(key=jax.random.key(0)),
            draw(key=jax.random.key(0)),
            draw(key=jax.random.key(1)),
        )
    assert one.states.shape == (32, 6)
    assert one.states.dtype == jnp.int8
    np.testing.assert_array_equal(np.abs(one.states), 1)
    np.testing.assert_allclose(one.energies, problem.energies(one.states), rtol=1e-5)
    np.testing.assert_array_equal(one.states, same.states)
    assert np.any(np.asarray(one.states) != np.asarray(other.states))
    assert len(np.unique(rows(one.states))) > 1
    expected = backend.capabilities.law
    assert (one.log_weight is not None) == (expected == "weighted")
    assert (one.log_prob is not None) == (expected == "density")


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("argument", ["schedule", "initial_states"])
def test_every_backend_takes_what_its_capabilities_state_and_refuses_the_rest(name, argument):
    backend, states = BACKENDS[name], np.ones(6, int)
    given = {"schedule": np.ones((3, 2)), "initial_states": states}[argument]
    draw = partial(backend.sample, ring(), key=jax.random.key(0), num_reads=2, **{argument: given})
    if getattr(backend.capabilities, argument):
        assert draw().states.shape == (2, 6)
    else:
        with pytest.raises(ValueError, match=f"takes no {argument}"):
            draw()


def test_a_backend_only_draws_and_its_arguments_are_checked_for_it():
    class Up(LocalBackend):
        capabilities = Capabilities(law="unknown", jittable=True, initial_states=True, max_variables=6)

        def _draw(self, call):
            assert call.initial_states.shape == (3, 6)
            assert call.initial_states.dtype == jnp.int8
            assert call.beta.dtype == call.problem.h.dtype
            return Samples(call.initial_states, call.problem.energies(call.initial_states))

    up, key = Up(), jax.random.key(0)
    reads = up.sample(ring(), key=key, num_reads=3, initial_states=np.ones(6))
    np.testing.assert_array_equal(reads.states, 1)
    with pytest.raises(ProblemTooLargeError, match="Up takes 6 variables at most"):
        up.sample(glass(7), key=key)
    with pytest.raises(ValueError, match="Up takes no schedule"):
        up.sample(ring(), key=key, schedule=np.ones((3, 2)))
    with pytest.raises(ValueError, match="initial_states must be -1 or"):
        up.sample(ring(), key=key, initial_states=np.zeros(6))
    with pytest.raises(TypeError, match="IsingProblem"):
        up.sample(ring().h, key=key)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_works_under_jit_and_vmap_over_problems(name):
    backend, problem = BACKENDS[name], ring()

    @jax.jit
    @jax.vmap
    def batch(scale, key):
        return backend.sample(problem._replace(J=scale * problem.J), key=key, num_reads=32)

    samples = batch(jnp.array([0.5, 1.0]), jax.random.split(jax.random.key(0)))
    assert samples.states.shape == (2, 32, 6)
    # as many reads as in the test of the protocol, so that the program is compiled already
    alone = backend.sample(problem, key=jax.random.split(jax.random.key(0))[1], num_reads=32)
    np.testing.assert_array_equal(samples.states[1], alone.states)


def test_a_problem_whose_edges_are_traced_is_swept_as_a_dense_one():
    problem, key = ring(), jax.random.key(2)
    states = jax.jit(lambda p: SimulatedAnnealing(20).sample(p, key=key, num_reads=4).states)(problem)
    np.testing.assert_array_equal(
        states, SimulatedAnnealing(20).sample(problem.dense(), key=key, num_reads=4).states
    )


@pytest.mark.parametrize("problem", [ring(), glass(), glass(33)], ids=["colours", "dense", "two blocks"])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_sweep_reports_the_change_of_energy(problem, reverse):
    plan = plan_sweeps(problem)
    key_a, key_b = jax.random.split(jax.random.key(0))
    states = 2 * jax.random.bernoulli(key_a, 0.5, (5, problem.num_variables)).astype(jnp.int8) - 1
    spins = to_blocks(plan, states)
    np.testing.assert_array_equal(from_blocks(plan, spins), states)

    def descend(s, field, noise):
        return jnp.where(s * field + 0.1 * noise > 0, -s, s)

    new, change = sweep_spins(plan, spins, jax.random.normal(key_b, spins.shape), descend, reverse=reverse)
    after = from_blocks(plan, new)
    np.testing.assert_allclose(change, problem.energies(after) - problem.energies(states), atol=2e-4)
    assert np.all(np.asarray(change) < 0.5)


def test_colours_separate_neighbours_and_two_suffice_on_a_lattice():
    cells = np.arange(24).reshape(4, 6)
    pairs = [np.stack([cells, np.roll(cells, -1, axis)], -1).reshape(-1, 2) for axis in (0, 1)]
    edges = np.concatenate(pairs)
    colors = color_graph(24, edges)
    assert colors.max() == 1
    assert np.all(colors[edges[:, 0]] != colors[edges[:, 1]])
    star = np.stack([np.zeros(5, int), np.arange(1, 6)], 1)
    colors = color_graph(7, star)
    assert np.all(colors[star[:, 0]] != colors[star[:, 1]])


@pytest.mark.parametrize("update", ["metropolis", "heat_bath"])
@pytest.mark.parametrize("problem", [ring(), glass()], ids=["colours", "dense"])
@pytest.mark.parametrize("last", [1.0, 0.5], ids=["to beta", "half way"])
def test_weighted_draws_give_partition_function_and_averages(update, problem, last):
    backend = SimulatedAnnealing(8, Schedule.linear(0.2, last), update)
    beta, reads = 1.2, 20_000
    samples = backend.sample(problem, key=jax.random.key(3), num_reads=reads, beta=beta)
    value, error = log_partition_estimate(samples)
    exact = ExactEnumeration().log_partition(problem, beta=beta)
    assert 1e-4 < float(error) < 0.03
    assert abs(float(value - exact)) < 4 * float(error)
    weights = np.exp(np.asarray(samples.log_weight, float) + float(samples.log_scale) - float(exact))
    first = (rows(samples.states)[:, None] == np.arange(64)) * weights[:, None]
    deviation = (first.mean(0) - law(problem, beta)) / (first.std(0) / np.sqrt(reads) + 1e-9)
    often = law(problem, beta) > 1e-3
    assert np.all(np.abs(deviation[often]) < 4.5)


@pytest.mark.parametrize("problem", [ring(), glass()], ids=["colours", "dense"])
def test_paths_drawn_backwards_from_exact_states_have_reciprocal_weights(problem):
    backend = SimulatedAnnealing(6, Schedule.linear(0.3, 0.9))
    exact = ExactEnumeration()
    states = exact.sample(problem, key=jax.random.key(0), num_reads=20_000, beta=1.1).states
    log_weight = backend.reverse_log_weight(problem, states, key=jax.random.key(1), beta=1.1)
    log_z = float(exact.log_partition(problem.without_offset(), beta=1.1))
    ratio = np.exp(log_z - np.asarray(log_weight, float))
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(ratio.size)
    # forwards with the same schedule the mean of 1/w is another number: the test has power
    forward = backend.sample(problem, key=jax.random.key(2), num_reads=20_000, beta=1.1).log_weight
    wrong = np.exp(log_z - np.asarray(forward, float))
    assert abs(wrong.mean() - 1) > 6 * wrong.std() / np.sqrt(wrong.size)


def test_given_states_have_no_weight():
    start = np.ones(6, int)
    samples = SimulatedAnnealing(4).sample(ring(), key=jax.random.key(0), num_reads=3, initial_states=start)
    assert samples.log_weight is None


@pytest.mark.parametrize("problem", [ring(), glass()], ids=["colours", "dense"])
def test_exact_draws_and_gibbs_sweeps_have_the_boltzmann_law(problem):
    exact = ExactEnumeration().sample(problem, key=jax.random.key(5), num_reads=20_000, beta=0.8)
    assert chi_square_p(exact.states, law(problem, 0.8)) > 1e-3
    np.testing.assert_allclose(np.exp(exact.log_prob), law(problem, 0.8)[rows(exact.states)], rtol=1e-4)
    moved = GibbsSurrogate(1).sample(
        problem, key=jax.random.key(6), num_reads=20_000, beta=0.8, initial_states=exact.states
    )
    assert chi_square_p(moved.states, law(problem, 0.8)) > 1e-3
    assert chi_square_p(moved.states, law(problem, 1.0)) < 1e-6


@pytest.mark.parametrize("problem", [ring(3, 2), glass(4, 2)], ids=["colours", "dense"])
def test_palindromic_and_cluster_sweeps_are_reversible_and_one_way_sweeps_are_not(problem):
    """Flows between pairs of states from exact starts: symmetric up to noise."""
    n, reads = problem.num_variables, 60_000
    start = ExactEnumeration().sample(problem, key=jax.random.key(0), num_reads=reads, beta=1.0).states

    def asymmetry(states):
        flow = np.zeros((2**n, 2**n))
        np.add.at(flow, (rows(start), rows(states)), 1)
        upper = np.triu_indices(2**n, 1)
        there, back = flow[upper], flow.T[upper]
        busy = there + back > 20
        return stats.chi2.sf(np.sum((there - back)[busy] ** 2 / (there + back)[busy]), busy.sum())

    palindrome = GibbsSurrogate(1).sample(
        problem, key=jax.random.key(1), num_reads=reads, initial_states=start
    )
    assert asymmetry(palindrome.states) > 1e-3
    clusters = SwendsenWang(2).sample(problem, key=jax.random.key(1), num_reads=reads, initial_states=start)
    assert asymmetry(clusters.states) > 1e-3
    one_way = SimulatedAnnealing(1, update="heat_bath").sample(
        problem, key=jax.random.key(1), num_reads=reads, initial_states=start
    )
    assert asymmetry(one_way.states) < 1e-6


@pytest.mark.slow
def test_path_integral_tends_to_boltzmann_as_slices_grow_and_to_classical_without_field():
    problem, beta = ring(), 1.0
    # Gamma = 0: slices locked, world lines move classically
    still = PathIntegralAnnealing(60, 4, transverse_field=Schedule.constant(0.0))
    states = still.sample(
        problem, key=jax.random.key(0), num_reads=4000, beta=beta, initial_states=np.ones(6, int)
    )
    assert chi_square_p(states.states, law(problem, beta)) > 1e-3
    # Gamma > 0: the diagonal of exp(-beta H), by numpy
    field = 0.8
    flips = np.array([[float(bin(i ^ j).count("1") == 1) for j in range(64)] for i in range(64)])
    levels, vectors = np.linalg.eigh(np.diag(problem.energies(all_states(6))) - field * flips)
    diagonal = (vectors**2) @ np.exp(-beta * (levels - levels[0]))
    quantum = PathIntegralAnnealing(60, 16, transverse_field=Schedule.constant(field))
    states = quantum.sample(problem, key=jax.random.key(1), num_reads=4000, beta=beta).states
    assert chi_square_p(states, diagonal / diagonal.sum()) > 1e-3
    assert chi_square_p(states, law(problem, beta)) < 1e-6


@pytest.mark.slow
def test_optimisers_find_the_ground_state():
    problem = glass(12, 4)
    lowest = float(jnp.min(problem.energies(all_states(12))))
    for backend in (
        SimulatedAnnealing(100),
        PathIntegralAnnealing(100),
        SimulatedBifurcation(200),
        SimulatedBifurcation(200, form="ballistic"),
    ):
        samples = backend.sample(problem, key=jax.random.key(0), num_reads=50, beta=5.0)
        assert float(samples.energies.min()) == pytest.approx(lowest, abs=1e-4), backend


def test_one_table_serves_annealers_and_a_single_sweep_is_at_the_target():
    table = schedule_table(3, Schedule.linear(0.1, 1.0), Schedule.linear(2.0, 0.0))
    for name in ("annealing", "path integral", "reverse anneal"):
        found = BACKENDS[name].sample(ring(), key=jax.random.key(0), num_reads=2, schedule=table)
        assert found.states.shape == (2, 6)
    start = ExactEnumeration().sample(ring(), key=jax.random.key(0), num_reads=20_000, beta=1.3).states
    swept = SimulatedAnnealing(1).sample(
        ring(), key=jax.random.key(1), num_reads=20_000, beta=1.3, initial_states=start
    )
    assert chi_square_p(swept.states, law(ring(), 1.3)) > 1e-3


@pytest.mark.parametrize("schedule", [np.ones(3), np.ones((3, 3)), -np.ones((3, 2)), np.full((3, 2), np.nan)])
def test_bad_schedules_are_refused(schedule):
    with pytest.raises(ValueError, match="schedule"):
        SimulatedAnnealing().sample(ring(), key=jax.random.key(0), schedule=schedule)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda k: ExactEnumeration().sample(glass(17), key=k), ProblemTooLargeError, "16 variables at most"),
        (lambda k: QuantumDynamics().sample(glass(13), key=k), ProblemTooLargeError, "12 variables at most"),
        (lambda k: ExactEnumeration().sample(ring(), key=k, schedule=1), ValueError, "takes no schedule"),
        (lambda k: GibbsSurrogate().sample(ring(), key=k, schedule=1), ValueError, "takes no schedule"),
        (lambda k: SimulatedAnnealing().sample(ring(), key=k, beta=-1.0), ValueError, "beta"),
        (lambda k: SimulatedAnnealing().sample(ring(), key=k, beta=np.nan), ValueError, "beta"),
        (lambda k: SimulatedAnnealing().sample(ring(), key=k, num_reads=0), ValueError, "num_reads"),
        (lambda k: SimulatedAnnealing(0), ValueError, "num_sweeps"),
        (lambda k: SwendsenWang(0), ValueError, "num_sweeps"),
        (lambda k: SwendsenWang().sample(ring(), key=k, schedule=1), ValueError, "takes no schedule"),
        (lambda k: SimulatedAnnealing(update="glauber"), ValueError, "update"),  # pyright: ignore
        (lambda k: PathIntegralAnnealing(num_slices=3), ValueError, "even"),
        (lambda k: QuantumDynamics("anneal"), ValueError, "mode"),  # pyright: ignore
        (lambda k: QuantumDynamics(duration=(2.0, 1.0)), ValueError, "duration"),
        (
            lambda k: log_partition_estimate(GibbsSurrogate().sample(ring(), key=k, num_reads=5)),
            ValueError,
            "weighted samples",
        ),
    ],
)
def test_bad_calls_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(jax.random.key(0))
