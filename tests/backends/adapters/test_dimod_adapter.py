"""Ocean's samplers as backends and ours as Ocean's: contracts, order, faults, cache, oracle."""

import dimod
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dimod.testing import assert_response_energies, assert_sampler_api

from qdesampler.backends import (
    AnnealingBackend,
    BackendError,
    ExactEnumeration,
    IsingProblem,
    SimulatedAnnealing,
    SimulatedBifurcation,
)
from qdesampler.backends.adapters.dimod_adapter import (
    BackendRetryWarning,
    DimodBackend,
    from_bqm,
    to_bqm,
)
from qdesampler.backends.adapters.dimod_sampler import as_dimod
from qdesampler.backends.adapters.tree_decomposition import TreeDecomposition, ocean_sampler
from qdesampler.backends.exact_enumeration import all_states
from qdesampler.backends.protocol import build_pool

KEY = jax.random.key(0)


def glass(n=5, seed=0):
    rng = np.random.default_rng(seed)
    return IsingProblem.from_dense(rng.normal(size=n), np.triu(rng.normal(size=(n, n)), 1), 0.3)


def annealer(**options):
    sampler = ocean_sampler("SimulatedAnnealingSampler")
    return DimodBackend(sampler, beta_range=[0.1, 1.0], num_sweeps=50, backoff=0.0, **options)


class Device(dimod.Sampler):
    """A device with a will of its own: wraps enumeration, answers by `answer(rows, labels)`."""

    def __init__(self, answer=None, faults=(), secret="token-1234"):
        self.answer, self.faults, self.secret, self.calls = answer, list(faults), secret, []

    @property
    def parameters(self):
        return {"num_reads": ["num_reads_range"]}

    @property
    def properties(self):
        return {"num_reads_range": [1, 8]}

    def sample(self, bqm, **kwargs):
        self.calls.append(kwargs)
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            raise fault(f"refused {self.secret}")
        labels = list(bqm.variables)
        rows = np.resize(dimod.ExactSolver().sample(bqm).record.sample, (kwargs["num_reads"], len(labels)))
        if self.answer:
            return self.answer(rows, labels, bqm)
        return dimod.SampleSet.from_samples_bqm((rows, labels), bqm)


@pytest.mark.parametrize("labels", [None, ["zeta", 7, ("a", 1), "b", "alpha"]], ids=["integers", "labels"])
def test_models_there_and_back(labels):
    problem = glass()
    bqm = to_bqm(problem, labels)
    states = np.asarray(all_states(5))
    rows = (states, list(range(5)) if labels is None else labels)
    np.testing.assert_allclose(bqm.energies(rows), problem.energies(states), atol=1e-5)
    back, names = from_bqm(bqm.change_vartype("BINARY", inplace=False), rows[1])
    assert list(names) == rows[1]
    np.testing.assert_allclose(back.energies(states), problem.energies(states), atol=1e-5)
    with pytest.raises(ValueError, match="labels"):
        to_bqm(problem, ["a", "a", "b", "c", "d"])
    with pytest.raises(ValueError, match="labels"):
        from_bqm(bqm, ["x"] * 5)


@pytest.mark.parametrize("backend", [SimulatedAnnealing(5), SimulatedBifurcation(5), ExactEnumeration()])
@pytest.mark.parametrize("vartype", ["SPIN", "BINARY"])
def test_our_backends_keep_dimods_contract(backend, vartype):
    sampler = as_dimod(backend)
    assert_sampler_api(sampler)
    bqm = dimod.BinaryQuadraticModel({"b": 1.0, "a": -0.5}, {("a", "b"): 2.0}, 0.25, vartype)
    found = sampler.sample(bqm, num_reads=20, seed=3)
    assert len(found) == 20
    assert found.vartype.name == vartype
    assert_response_energies(found, bqm)
    np.testing.assert_array_equal(
        found.record.sample, sampler.sample(bqm, num_reads=20, seed=3).record.sample
    )
    assert_response_energies(
        sampler.sample_qubo({(0, 0): 1.0, (0, 1): -2.0}), dimod.BQM.from_qubo({(0, 0): 1.0, (0, 1): -2.0})
    )
    assert_response_energies(sampler.sample_ising({"x": 1.0}, {}), dimod.BQM.from_ising({"x": 1.0}, {}))
    with sampler:
        pass


def test_initial_states_pass_through_dimods_face():
    bqm = dimod.BinaryQuadraticModel({"b": 0.0, "a": 0.0}, {}, "BINARY")
    table = np.zeros((1, 2))  # at beta = 0 heat bath draws anew; a Metropolis sweep flips every spin
    found = as_dimod(SimulatedAnnealing()).sample(bqm, schedule=table, initial_states={"a": 1, "b": 0})
    assert dict(found.first.sample) == {"a": 0, "b": 1}


def test_a_sampler_is_a_backend():
    problem = glass()
    with annealer(max_num_reads=7) as backend:
        assert isinstance(backend, AnnealingBackend)
        assert backend.capabilities.law == "unknown"
        samples = backend.sample(problem, key=KEY, num_reads=20)
        again = backend.sample(problem, key=KEY, num_reads=20)
        other = backend.submit(problem, key=jax.random.key(1), num_reads=20).result()
        assert [record["reads"] for record in backend.records[:3]] == [7, 7, 6]
        assert "timing" in backend.records[0]
        assert build_pool(backend, problem, key=KEY, size=4).shape == (4, 5)
    np.testing.assert_allclose(samples.energies, problem.energies(samples.states))
    np.testing.assert_array_equal(samples.states, again.states)
    assert np.any(np.asarray(samples.states) != np.asarray(other.states))
    assert len(np.unique(samples.states, axis=0)) > 1
    with pytest.raises(BackendError, match="closed"):
        backend.sample(problem, key=KEY)


def test_the_device_sees_beta_times_the_energy():
    """At constant temperature one and beta, the annealer's law is Boltzmann's at beta."""
    backend = DimodBackend(ocean_sampler("SimulatedAnnealingSampler"), beta_range=[1.0, 1.0], num_sweeps=100)
    problem = glass()
    found = backend.sample(problem, key=KEY, num_reads=4000, beta=0.5)
    weights = np.asarray(jax.nn.softmax(-0.5 * problem.energies(all_states(5))))
    energies = np.asarray(problem.energies(all_states(5)))
    mean = weights @ energies
    error = np.sqrt(weights @ (energies - mean) ** 2 / 4000)
    assert abs(float(found.energies.mean()) - mean) < 5 * error


def test_columns_follow_labels_and_histograms_are_expanded_and_shuffled():
    def histogram(rows, labels, bqm):
        turned = labels[::-1]
        best = np.array([[1] * len(labels), [-1] * len(labels), [1] + [-1] * (len(labels) - 1)])
        return dimod.SampleSet.from_samples_bqm((best, turned), bqm, num_occurrences=[3, 3, 2])

    labels = ["e", "d", "c", "b", "a"]
    backend = DimodBackend(Device(histogram), labels=labels)
    states = np.asarray(backend.sample(glass(), key=KEY, num_reads=8).states)
    assert sorted(map(tuple, states)) == sorted([(1,) * 5] * 3 + [(-1,) * 5] * 3 + [(-1, -1, -1, -1, 1)] * 2)
    few = [
        int(np.asarray(backend.sample(glass(), key=jax.random.key(k), num_reads=1).states).sum())
        for k in range(20)
    ]
    assert len(set(few)) > 1  # not always the first, lowest row


def test_faults_are_retried_and_reported_without_secrets():
    device = Device(faults=[OSError, RuntimeError])
    backend = DimodBackend(device, backoff=0.0)
    with pytest.warns(BackendRetryWarning, match="OSError"):
        samples = backend.sample(glass(), key=KEY, num_reads=10)
    assert samples.states.shape == (10, 5)
    assert [call["num_reads"] for call in device.calls] == [8, 8, 8, 2]
    broken = DimodBackend(Device(faults=[OSError] * 9), backoff=0.0, num_retries=2)
    with pytest.warns(BackendRetryWarning), pytest.raises(BackendError, match="failed 3 times") as info:
        broken.sample(glass(), key=KEY)
    assert "token-1234" not in str(info.value)
    assert info.value.__cause__ is None
    assert info.value.__suppress_context__


def test_missing_reads_are_asked_for_again():
    def half(rows, labels, bqm):
        return dimod.SampleSet.from_samples_bqm((rows[: (len(rows) + 1) // 2], labels), bqm)

    with pytest.warns(BackendRetryWarning, match="of 8 reads"):
        samples = DimodBackend(Device(half), backoff=0.0).sample(glass(), key=KEY, num_reads=8)
    assert samples.states.shape == (8, 5)


def test_bad_answers_and_bad_calls_are_refused():
    def renamed(rows, labels, bqm):
        return dimod.SampleSet.from_samples((rows, [f"v{label}" for label in labels]), "SPIN", energy=0)

    with pytest.raises(BackendError, match="variables that are not"):
        DimodBackend(Device(renamed)).sample(glass(), key=KEY)
    with pytest.raises(TypeError, match="dimod.Sampler"):
        DimodBackend(object())
    with pytest.raises(TypeError, match="annealing backend"):
        as_dimod(object())  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="no initial states"):
        DimodBackend(Device()).sample(glass(), key=KEY, initial_states=np.ones(5))
    with pytest.raises(ValueError, match="no schedule"):
        annealer().sample(glass(), key=KEY, schedule=np.ones((2, 2)))
    with pytest.raises(TypeError, match="cannot be traced"):
        jax.jit(lambda key: annealer().sample(glass(), key=key).states)(KEY)
    with pytest.raises(ValueError, match="dwave-samplers has no"):
        ocean_sampler("NoSuchSampler")
    with pytest.raises(TypeError, match="takes an annealing backend"):
        build_pool(Device(), glass(), key=KEY, size=2)  # pyright: ignore[reportArgumentType]


def test_reads_are_cached_by_problem_and_arguments(tmp_path):
    device = Device()
    backend = DimodBackend(device, cache_directory=tmp_path)
    first = backend.sample(glass(), key=KEY, num_reads=4)
    np.testing.assert_array_equal(backend.sample(glass(), key=KEY, num_reads=4).states, first.states)
    assert len(device.calls) == 1
    for other in ({"problem": glass(seed=1)}, {"key": jax.random.key(1)}, {"num_reads": 5}, {"beta": 2.0}):
        call = {"problem": glass(), "key": KEY, "num_reads": 4, "beta": 1.0} | other
        backend.sample(**call)
    assert len(device.calls) == 5


def test_initial_states_reach_the_sampler():
    """With no sweep made, the annealer returns where it started."""
    start = np.array([[1, -1, 1, 1, -1], [-1, -1, 1, -1, 1]])
    backend = DimodBackend(
        ocean_sampler("SimulatedAnnealingSampler"), num_sweeps=0, beta_range=[1.0, 1.0], labels=list("vwxyz")
    )
    states = np.asarray(backend.sample(glass(), key=KEY, num_reads=2, initial_states=start).states)
    assert sorted(map(tuple, states)) == sorted(map(tuple, start))


def test_tree_decomposition_is_exact():
    problem, beta = glass(8), 0.7
    exact = ExactEnumeration()
    with TreeDecomposition() as tree:
        assert tree.log_partition(problem, beta=beta) == pytest.approx(
            float(exact.log_partition(problem, beta=beta)), abs=1e-4
        )
        samples = tree.sample(problem, key=KEY, num_reads=4000, beta=beta)
        np.testing.assert_allclose(
            samples.log_prob, tree.log_prob(problem, samples.states, beta=beta), atol=1e-4
        )
        reference = exact.sample(problem, key=KEY, num_reads=4000, beta=beta)
        spread = float(jnp.std(reference.energies)) / 4000**0.5
        assert abs(float(samples.energies.mean() - reference.energies.mean())) < 5 * spread * 2**0.5
        np.testing.assert_array_equal(
            tree.sample(problem, key=KEY, num_reads=5).states,
            tree.sample(problem, key=KEY, num_reads=5).states,
        )
    with pytest.raises(BackendError, match="closed"):
        tree.sample(problem, key=KEY)
    with pytest.raises(ValueError, match="takes no schedule"):
        TreeDecomposition().sample(problem, key=KEY, schedule=1)
