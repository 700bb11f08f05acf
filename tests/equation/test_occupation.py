"""Softmax and Sigmoid as ground states, found by numerical diagonalisation and by imaginary time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from qdesampler.equation import boltzmann_occupation, occupation_hamiltonian, two_level_occupation

ENERGIES = np.array([0.3, -1.0, 0.8, 0.0, 2.0])
RING = np.roll(np.eye(5), 1, axis=1) + np.roll(np.eye(5), -1, axis=1)
BETA = 1.4


def test_softmax_is_the_squared_ground_state(x64):
    h = np.asarray(occupation_hamiltonian(ENERGIES, RING, BETA))
    levels, states = np.linalg.eigh(h)
    expected = np.exp(-BETA * ENERGIES) / np.exp(-BETA * ENERGIES).sum()
    np.testing.assert_allclose(levels[0], 0, atol=1e-13)
    assert levels[1] > 0.1
    np.testing.assert_allclose(states[:, 0] ** 2, expected, rtol=1e-11)
    np.testing.assert_allclose(boltzmann_occupation(ENERGIES, BETA), expected, rtol=1e-12)
    # Without the square, and with the energies on the diagonal as they are, it is another law.
    assert np.abs(np.abs(states[:, 0]) / np.abs(states[:, 0]).sum() - expected).max() > 0.05
    naive = np.linalg.eigh(np.diag(BETA * ENERGIES) - RING)[1][:, 0] ** 2
    assert np.abs(naive - expected).max() > 0.05


def test_imaginary_time_is_the_master_equation_and_ends_in_softmax(x64):
    h = np.asarray(occupation_hamiltonian(ENERGIES, RING, BETA))
    p = np.asarray(boltzmann_occupation(ENERGIES, BETA))
    psi = np.sqrt(p)
    generator = -psi[:, None] * h / psi[None, :]  # dq/dtau = generator q for q = psi v
    np.testing.assert_allclose(generator.sum(axis=0), 0, atol=1e-13)  # conserves probability
    assert np.all(generator[RING > 0] > 0)
    flow = generator * p[None, :]
    np.testing.assert_allclose(flow, flow.T, atol=1e-13)  # detailed balance
    start = np.eye(5)[4]
    np.testing.assert_allclose(scipy.linalg.expm(60 * generator) @ start, p, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(st.floats(-30, 30), st.floats(0, 3))
def test_sigmoid_is_softmax_of_two_levels(gap, beta):
    with jax.enable_x64(True):
        lower = float(two_level_occupation(gap, beta))
        np.testing.assert_allclose(lower, boltzmann_occupation([0.0, gap], beta)[0], rtol=1e-12)
        np.testing.assert_allclose(lower, 1 / (1 + np.exp(-beta * gap)), rtol=1e-12)


def test_limits_batches_and_forbidden_states():
    np.testing.assert_allclose(boltzmann_occupation(ENERGIES, 0.0), 0.2)
    np.testing.assert_allclose(boltzmann_occupation(ENERGIES, 1e4), np.eye(5)[1])
    np.testing.assert_allclose(boltzmann_occupation([0.0, np.inf, 0.0]), [0.5, 0, 0.5])
    assert boltzmann_occupation(np.zeros((3, 4), int)).shape == (3, 4)
    traced = jax.jit(occupation_hamiltonian)(ENERGIES, RING, BETA)
    assert traced.dtype == jnp.float32
    np.testing.assert_allclose(traced @ jnp.sqrt(boltzmann_occupation(ENERGIES, BETA)), 0, atol=1e-6)


BAD = {
    "scalar": (lambda: boltzmann_occupation(1.0), r"shape \(..., states\), got \(\)"),
    "beta": (lambda: boltzmann_occupation(ENERGIES, -1.0), "beta must be non-negative and finite, got -1.0"),
    "beta inf": (lambda: two_level_occupation(1.0, float("inf")), "beta must be non-negative and finite"),
    "shapes": (lambda: occupation_hamiltonian(ENERGIES, np.eye(3)), r"got \(5,\) and \(3, 3\)"),
    "energies": (lambda: occupation_hamiltonian([0.0, np.nan], np.ones((2, 2))), "energies must be finite"),
    "one way": (
        lambda: occupation_hamiltonian([0.0, 1.0], [[0, 1], [2, 0]]),
        "finite, symmetric and not negative",
    ),
    "negative": (
        lambda: occupation_hamiltonian([0.0, 1.0], [[0, -1], [-1, 0]]),
        "symmetric and not negative",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()
