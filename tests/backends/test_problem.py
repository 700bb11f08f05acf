"""Ising problems: energies against sums written out, conversions there and back, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdesampler.backends import IsingProblem, bits_to_spins, spins_to_bits
from qdesampler.backends.exact_enumeration import all_bits, all_states
from qdesampler.backends.problem import check_problem, check_states


def random_problem(seed, n, dense=True):
    rng = np.random.default_rng(seed)
    J = np.triu(rng.normal(size=(n, n)), 1) * (rng.random((n, n)) < 0.6)
    problem = IsingProblem.from_dense(rng.normal(size=n), J, 0.7)
    return problem if dense else problem.sparse()


def written_out(problem, state):
    J = np.asarray(problem.dense().J)
    n = len(state)
    pairs = sum(J[i, j] * state[i] * state[j] for i in range(n) for j in range(i + 1, n))
    return float(np.asarray(problem.h) @ state + pairs + float(problem.offset))


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 1000), n=st.just(4), dense=st.booleans())
def test_energies_and_conversions(seed, n, dense):
    problem = random_problem(seed, n, dense)
    states = np.asarray(all_states(n))
    wanted = [written_out(problem, state) for state in states]
    np.testing.assert_allclose(problem.energies(states), wanted, atol=1e-4)
    np.testing.assert_allclose(jax.vmap(problem.energy)(states), wanted, atol=1e-4)
    Q, offset = problem.to_qubo()
    bits = np.asarray(all_bits(n), float)
    np.testing.assert_allclose(np.einsum("ri,ij,rj->r", bits, Q, bits) + offset, wanted, atol=1e-4)
    np.testing.assert_allclose(IsingProblem.from_qubo(Q, offset).energies(states), wanted, atol=1e-4)
    np.testing.assert_array_equal(np.triu(Q), Q)
    np.testing.assert_allclose(problem.dense().sparse().energies(states), wanted, atol=1e-4)


def test_a_full_matrix_is_summed_over_both_triangles():
    J = np.array([[0.0, 1.0], [2.0, 0.0]])
    problem = IsingProblem.from_dense([0.0, 0.0], J)
    assert float(problem.energy([1, 1])) == 3.0
    assert float(problem.energy([1, -1])) == -3.0


def test_an_edge_given_twice_counts_twice():
    problem = IsingProblem.from_edges([0.0, 0.0], [[0, 1], [1, 0]], [1.0, 2.0])
    assert float(problem.energy([1, 1])) == float(problem.dense().energy([1, 1])) == 3.0


def test_bits_and_spins():
    np.testing.assert_array_equal(bits_to_spins([0, 1, 1]), [-1, 1, 1])
    np.testing.assert_array_equal(spins_to_bits(bits_to_spins([0, 1, 1])), [0, 1, 1])
    assert np.asarray(all_bits(3))[5].tolist() == [1, 0, 1]


def test_problems_are_traced_and_differentiated():
    problem = random_problem(3, 4, dense=False)
    state = jnp.array([1, -1, 1, 1])
    slope = jax.jit(jax.grad(lambda h: problem._replace(h=h).energy(state)))(problem.h)
    np.testing.assert_allclose(slope, state)
    batch = jax.vmap(lambda c: problem._replace(J=c * problem.J).energy(state))(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(batch[1], problem.energy(state), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IsingProblem.from_dense([1.0], np.zeros((2, 2))), "h must be"),
        (lambda: IsingProblem.from_dense([1.0, 2.0], np.eye(2)), "diagonal"),
        (lambda: IsingProblem.from_dense([1.0, np.nan], np.zeros((2, 2))), "not finite"),
        (lambda: IsingProblem.from_edges([1.0, 2.0], [[0, 2]], [1.0]), "spins 0 to 1"),
        (lambda: IsingProblem.from_edges([1.0, 2.0], [[1, 1]], [1.0]), "to itself"),
        (lambda: IsingProblem.from_edges([1.0, 2.0], [[0, 1]], [1.0, 2.0]), "one number an edge"),
        (lambda: IsingProblem.from_qubo(np.zeros((2, 3))), "square"),
        (lambda: IsingProblem.from_qubo(np.full((2, 2), np.inf)), "not finite"),
        (lambda: random_problem(0, 3).energies(np.ones((4, 2))), "3 columns"),
        (lambda: check_states("states", np.zeros((2, 3)), 2, 3), "-1 or"),
        (lambda: check_states("states", np.ones((3, 3)), 2, 3), "shape"),
        (
            lambda: check_problem(
                IsingProblem(jnp.zeros(2), jnp.array([[0.0, 1.0], [0.0, 0.0]]), jnp.zeros(()))
            ),
            "symmetric",
        ),
    ],
)
def test_bad_problems_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_something_else_is_refused():
    with pytest.raises(TypeError, match="expected an IsingProblem"):
        check_problem({"h": 1})  # pyright: ignore[reportArgumentType]
