"""Penalties and constants: draws, weights and log Z against double precision; warnings; refused models."""

import warnings

import dimod
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from qdesampler.backends import (
    BackendError,
    DimodBackend,
    ExactEnumeration,
    GibbsSurrogate,
    IsingProblem,
    PathIntegralAnnealing,
    PrecisionWarning,
    QuantumDynamics,
    SimulatedAnnealing,
    SimulatedBifurcation,
    TreeDecomposition,
    from_bqm,
    log_partition_estimate,
    to_bqm,
)
from qdesampler.backends.exact_enumeration import all_bits, all_states
from qdesampler.backends.precision import energy_rounding

KEY = jax.random.key(0)
VALUES = np.array([3.1, 4.4, 1.9, 4.3, 2.4, 2.8])


def one_hot(penalty, offset=0.0):
    """Exactly one of six bits, of values `VALUES`; the penalty's constant included."""
    n = VALUES.size
    Q = penalty * (np.ones((n, n)) - 2 * np.eye(n)) - np.diag(VALUES)
    return IsingProblem.from_qubo(Q, penalty + offset)


def exact(problem):
    bits = np.asarray(all_bits(VALUES.size), float)
    Q, offset = (np.asarray(part, float) for part in problem.to_qubo())
    energies = np.einsum("ri,ij,rj->r", bits, Q, bits)
    weights = np.exp(energies.min() - energies)
    return weights / weights.sum(), logsumexp(-energies) - offset


CASES = {"penalty": (1e6, 0.0), "penalty and constant": (1e7, -3e8), "constant": (10.0, 1e8)}


@pytest.mark.parametrize("case", CASES)
def test_known_laws_stay_known_under_penalties_and_constants(case):
    problem = one_hot(*CASES[case])
    law, log_z = exact(problem)
    for backend in (ExactEnumeration(), TreeDecomposition()):
        samples = backend.sample(problem, key=KEY, num_reads=4000)
        rows = (np.asarray(samples.states) > 0) @ (1 << np.arange(5, -1, -1))
        counts = np.bincount(rows, minlength=64) / 4000
        assert np.all(np.abs(counts - law) < 4.5 * np.sqrt(law / 4000) + 1e-3)
        np.testing.assert_allclose(np.exp(samples.log_prob), law[rows], rtol=1e-5)
        np.testing.assert_allclose(samples.energies, to_bqm(problem).energies(samples.states), atol=1e-6)
        assert abs(float(backend.log_partition(problem)) - log_z) < 1e-6
        log_law = backend.log_prob(problem, all_states(6))
        assert abs(logsumexp(log_law)) < 1e-6


def test_a_constant_changes_no_draw_and_no_weight():
    """In single precision 1e8 would leave nothing of the energies: they are off by up to 8."""
    plain, shifted = one_hot(10.0), one_hot(10.0, 1e8)
    for backend in (
        SimulatedAnnealing(30),
        PathIntegralAnnealing(5),
        GibbsSurrogate(2),
        SimulatedBifurcation(20),
        QuantumDynamics(num_steps=8),
        QuantumDynamics("imaginary_time", num_steps=4000),
    ):
        one, other = (backend.sample(each, key=KEY, num_reads=50) for each in (plain, shifted))
        np.testing.assert_array_equal(one.states, other.states)
        np.testing.assert_allclose(other.energies - 1e8, one.energies, atol=1e-6)
        if one.log_weight is not None:
            np.testing.assert_array_equal(one.log_weight, other.log_weight)
            first, second = log_partition_estimate(one), log_partition_estimate(other)
            assert abs(second[0] + 1e8 - first[0]) < 1e-6


def test_annealing_under_a_penalty_that_single_precision_cannot_hold():
    problem = one_hot(1e6)
    law, log_z = exact(problem)
    samples = SimulatedAnnealing(100).sample(problem, key=KEY, num_reads=4000)
    value, error = log_partition_estimate(samples)
    assert error < 0.2
    assert abs(value - log_z) < 3 * error
    weights = np.exp(samples.log_weight - np.max(samples.log_weight))
    marginals = weights @ (np.asarray(samples.states) > 0) / weights.sum()
    assert np.max(np.abs(marginals - law @ np.asarray(all_bits(6)))) < 0.06
    assert samples.log_weight.dtype == np.float64
    # The wrong twin: the same call in single precision says that it is wrong, and is.
    with pytest.warns(PrecisionWarning, match="float32"):
        rounded = jax.jit(lambda key: SimulatedAnnealing(100).sample(problem, key=key, num_reads=4000))(KEY)
    weights = np.exp(np.asarray(rounded.log_weight, float) - np.max(rounded.log_weight))
    states = np.asarray(rounded.states) > 0
    assert np.max(np.abs(weights @ states / weights.sum() - law @ np.asarray(all_bits(6)))) > 0.06


def test_imaginary_time_under_a_penalty_converges_or_refuses():
    with pytest.raises(BackendError, match="converge"):
        QuantumDynamics("imaginary_time", num_steps=4).ground_state(one_hot(1e6))
    found = QuantumDynamics("imaginary_time", num_steps=4000).ground_state(one_hot(30.0, 1e8))
    flips = np.array([[float((i ^ j).bit_count() == 1) for j in range(64)] for i in range(64)])
    levels, vectors = np.linalg.eigh(np.diag(one_hot(30.0).energies(all_states(6))) - flips)
    np.testing.assert_allclose(found.energy - 1e8, levels[0], atol=1e-3)
    np.testing.assert_allclose(np.exp(found.log_prob), vectors[:, 0] ** 2, atol=3e-3)


def test_models_go_there_and_back_with_all_digits():
    bits = [dimod.Binary(i) for i in range(6)]
    bqm = (
        -dimod.quicksum(v * x for v, x in zip(VALUES, bits, strict=True))
        + 1e8 * (dimod.quicksum(bits) - 1) ** 2
    )
    back = to_bqm(*from_bqm(bqm)).change_vartype("BINARY", inplace=False)
    allowed = [{i: int(i == k) for i in range(6)} for k in range(6)]
    np.testing.assert_allclose(back.energies(allowed), -VALUES, atol=1e-5)


def test_rounding_is_an_upper_bound_and_zero_where_sums_are_exact():
    rng = np.random.default_rng(0)
    problem = IsingProblem.from_dense(1e5 * rng.normal(size=8), np.triu(1e5 * rng.normal(size=(8, 8)), 1))
    states = all_states(8)
    with jax.enable_x64(False):
        single = np.asarray(
            jax.jit(lambda h, J: problem._replace(h=h, J=J).energies(states))(problem.h, problem.J)
        )
    error = np.max(np.abs(single - problem.energies(states)))
    assert 0 < error < energy_rounding(problem.h, problem.J, np.float32) < 1000 * error
    whole = 1e5 * np.round(np.asarray(problem.J) / 1e5)
    assert energy_rounding(np.zeros(8), whole, np.float32) == 0
    assert energy_rounding(np.full(8, 1e-3), whole, np.float32) > 0
    assert energy_rounding(np.array([1e39]), np.zeros((1, 1)), np.float32) > 0


def test_no_warning_where_nothing_is_lost():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for problem in (one_hot(10.0, 1e12), one_hot(1e6)):
            SimulatedAnnealing(2).sample(problem, key=KEY)
        jax.jit(lambda key: SimulatedAnnealing(2).sample(one_hot(10.0, 1e12), key=key).states)(KEY)
    with pytest.warns(PrecisionWarning, match="float64"):
        SimulatedAnnealing(2).sample(IsingProblem.from_dense([1e17, 3.1], np.zeros((2, 2))), key=KEY)


def test_a_device_whose_range_is_too_small_for_the_penalty_is_named(machine, embedding):
    from dwave.system import FixedEmbeddingComposite

    backend = DimodBackend(FixedEmbeddingComposite(machine, embedding), labels=["zeta", "b", "alpha", "d"])
    rng = np.random.default_rng(3)
    J = np.triu(rng.normal(size=(4, 4)), 1)
    with pytest.warns(PrecisionWarning, match="fit its range"):
        backend.sample(IsingProblem.from_dense(rng.normal(size=4), 100 * J), key=KEY, num_reads=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PrecisionWarning)
        backend.sample(IsingProblem.from_dense(rng.normal(size=4), J), key=KEY, num_reads=2)


def quadratic_model():
    model = dimod.QuadraticModel()
    model.add_variables_from("BINARY", "ij")
    model.add_quadratic("i", "j", -1.0)
    return model


def discrete_model():
    model = dimod.DiscreteQuadraticModel()
    model.add_variable(3, label="c")
    return model


@pytest.mark.parametrize(
    ("given", "name", "advice", "convert"),
    [
        ({(0, 1): -1.0}, "dict", "from_qubo", dimod.BinaryQuadraticModel.from_qubo),
        (np.eye(3), "ndarray", "IsingProblem.from_qubo", lambda Q: to_bqm(IsingProblem.from_qubo(Q))),
        (
            quadratic_model(),
            "QuadraticModel",
            "qm.linear, qm.quadratic, qm.offset",
            lambda qm: dimod.BinaryQuadraticModel(qm.linear, qm.quadratic, qm.offset, "BINARY"),
        ),
        (
            dimod.ConstrainedQuadraticModel.from_quadratic_model(quadratic_model()),
            "ConstrainedQuadraticModel",
            "cqm_to_bqm",
            lambda cqm: dimod.cqm_to_bqm(cqm, lagrange_multiplier=10.0)[0],
        ),
        (
            discrete_model(),
            "DiscreteQuadraticModel",
            "from_discrete_quadratic_model",
            lambda dqm: dimod.cqm_to_bqm(
                dimod.ConstrainedQuadraticModel.from_discrete_quadratic_model(dqm), lagrange_multiplier=10.0
            )[0],
        ),
        (
            dimod.BinaryPolynomial({(0, 1, 2): -1.0}, "BINARY"),
            "BinaryPolynomial",
            "make_quadratic",
            lambda poly: dimod.make_quadratic(poly, 10.0, poly.vartype),
        ),
        (IsingProblem.from_dense([1.0], [[0.0]]), "IsingProblem", "already", to_bqm),
        (3, "int", "to_bqm", lambda _: dimod.BinaryQuadraticModel({0: 1.0}, {}, 0.0, "SPIN")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_models_are_refused_with_a_conversion_that_works(given, name, advice, convert):
    with pytest.raises(TypeError, match=f"got {name}.") as error:
        from_bqm(given)
    assert advice in str(error.value)
    problem, labels = from_bqm(convert(given))
    assert problem.num_variables == len(labels) >= 1


def test_energies_under_jit_are_of_the_device_and_outside_of_the_host():
    problem = one_hot(10.0)
    states = all_states(6)
    assert problem.energies(states).dtype == np.float64
    assert isinstance(problem.energies(states), np.ndarray)
    inside = jax.jit(lambda s: problem.energies(s))(states)
    np.testing.assert_allclose(inside, problem.energies(states), rtol=1e-5)
    assert inside.dtype == jnp.result_type(float)
