"""The bridge: the Fokker-Planck equation by finite differences, the trial energy by quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.equation import (
    Hamiltonian,
    OrnsteinUhlenbeck,
    drift,
    log_density_of,
    log_ground_state,
    potential_of_ground_state,
    relaxation_rate,
    relaxing_log_density,
    relaxing_log_state,
    score_energy,
)

DIFFUSION = 0.6


def log_p(x):
    """Two wells in two dimensions, not normalised."""
    return -((x[0] ** 2 - 1) ** 2) / 2 - (x[1] - 0.3 * x[0]) ** 2


def log_q(x):
    return -0.4 * x @ x + 0.3 * jnp.sin(x[0] + x[1])


X = np.array([[0.3, -0.5], [1.1, 0.4], [-0.7, 0.2]])


def test_maps_are_inverse_to_each_other(x64):
    @jax.jit
    def pairs(x):
        there_and_back = relaxing_log_density(relaxing_log_state(log_q, log_p), log_p)
        at_rest = relaxing_log_state(log_p, log_p)  # at q = p the relaxing state is the ground state
        left = (
            log_density_of(log_ground_state(log_p))(x),
            there_and_back(x),
            at_rest(x),
            log_ground_state(log_p)(x),
        )
        return left, (log_p(x), log_q(x), log_ground_state(log_p)(x), log_p(x) / 2)

    np.testing.assert_allclose(*pairs(X[0]), rtol=1e-13)


def test_drift_is_langevins_for_the_ground_state(numeric, x64):
    b = jax.jit(drift(log_ground_state(log_p), DIFFUSION))
    for x in X:
        np.testing.assert_allclose(b(x), DIFFUSION * numeric.gradient(log_p, x), atol=1e-9)


def test_ground_state_gives_the_boltzmann_potential_back(x64):
    h = Hamiltonian.from_log_density(log_p, dim=2, diffusion=DIFFUSION)
    back = potential_of_ground_state(log_ground_state(log_p), DIFFUSION)
    forth, back = jax.jit(jax.vmap(lambda x: (h.potential(x), back(x))))(X)
    np.testing.assert_allclose(back, forth, rtol=1e-12)


def test_harmonic_potential_from_its_ground_state(x64):
    potential = potential_of_ground_state(lambda x: -x @ x / 2, 0.5)
    x = jnp.asarray(X)
    # E0 = 1 in two dimensions: the zero of energy is the ground state.
    np.testing.assert_allclose(jax.jit(jax.vmap(potential))(x), jnp.sum(x**2, axis=1) / 2 - 1, rtol=1e-12)


def test_rate_is_the_fokker_planck_equation_and_minus_the_local_energy(numeric, x64):
    h = Hamiltonian.from_log_density(log_p, dim=2, diffusion=DIFFUSION)

    @jax.jit
    @jax.vmap
    def ours(x):
        state = relaxing_log_state(log_q, log_p)
        return relaxation_rate(log_q, log_p, DIFFUSION)(x), h.local_energy(state, x), jnp.exp(log_q(x))

    @jax.jit
    @jax.vmap
    def flux_divergences(
        x,
    ):  # div(grad q) and div(q grad U) need second derivatives: taken by differences below
        return jnp.exp(log_q(x)), jnp.exp(log_q(x)) * jax.grad(log_p)(x)

    rate, local, q = map(np.asarray, ours(X))
    spread = numeric.laplacian(lambda x: np.asarray(flux_divergences(x)[0]), X)
    pull = sum(
        numeric.derivative(lambda t, e=e, i=i: np.asarray(flux_divergences(X + t * e)[1])[:, i], 0.0)
        for i, e in enumerate(np.eye(2))
    )
    expected = DIFFUSION * (spread - pull) / q
    np.testing.assert_allclose(rate, expected, atol=1e-8)
    np.testing.assert_allclose(rate, -local, atol=1e-12)
    assert np.abs(DIFFUSION * (spread + pull) / q - rate).min() > 1e-2  # the sign of the drift matters


def test_rate_of_the_exact_process_is_its_time_derivative(x64):
    process = OrnsteinUhlenbeck([[1.0, 0.5], [0.5, 2.0]], diffusion=DIFFUSION)
    y = jnp.array([1.0, -0.5])

    @jax.jit
    @jax.vmap
    def rates(x):
        def law(x, tau):
            return process.log_transition(x, y, tau)

        ours = relaxation_rate(lambda z: law(z, 0.4), process.log_density, DIFFUSION)(x)
        return (
            ours,
            jax.grad(law, argnums=1)(x, 0.4),
            relaxation_rate(process.log_density, process.log_density, 1.0)(x),
        )

    ours, exact, at_rest = rates(X)
    np.testing.assert_allclose(ours, exact, rtol=1e-10)
    np.testing.assert_allclose(at_rest, 0, atol=1e-12)


def test_trial_energy_is_a_quarter_of_the_fisher_divergence(numeric, x64):
    """<sqrt(q)| H |sqrt(q)> by quadrature, its Laplacian by differences, against three other forms of it."""

    def log_target(x):
        return -((x[0] ** 2 - 1) ** 2) / 2

    def log_trial(x):
        return -((x[0] - 0.2) ** 2) / 1.6 - jnp.log(1.6 * jnp.pi) / 2

    h = Hamiltonian.from_log_density(log_target, dim=1, diffusion=DIFFUSION)
    x, step = numeric.line(-8, 8, 2001)
    psi = jax.jit(jax.vmap(lambda y: jnp.exp(log_trial(y) / 2)))

    @jax.jit
    @jax.vmap
    def parts(y):
        trial = log_ground_state(log_trial)
        return (
            jnp.exp(log_trial(y)),
            h.potential(y),
            h.local_energy(trial, y),
            score_energy(log_trial, log_target, DIFFUSION)(y),
        )

    q, potential, local, score = map(np.asarray, parts(x))
    by_states = (
        np.sum(np.asarray(psi(x)) * (-DIFFUSION * numeric.laplacian(psi, x) + potential * psi(x))) * step
    )
    np.testing.assert_allclose(np.sum(q) * step, 1, rtol=1e-10)
    np.testing.assert_allclose(np.sum(q * score) * step, by_states, rtol=1e-9)
    np.testing.assert_allclose(np.sum(q * local) * step, by_states, rtol=1e-9)
    mean_square = np.mean(
        [(numeric.gradient(log_trial, y) - numeric.gradient(log_target, y)) ** 2 for y in X[:, :1]]
    )
    np.testing.assert_allclose(
        np.mean(jax.vmap(score_energy(log_trial, log_target, DIFFUSION))(jnp.asarray(X[:, :1]))),
        DIFFUSION / 4 * mean_square,
        rtol=1e-8,
    )
    assert by_states > 0.1
    assert np.ptp(score - local) > 1  # equal on average, not point by point


@pytest.mark.parametrize("diffusion", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize(
    "make",
    [
        lambda d: drift(log_p, d),
        lambda d: potential_of_ground_state(log_p, d),
        lambda d: relaxation_rate(log_q, log_p, d),
        lambda d: score_energy(log_q, log_p, d),
    ],
)
def test_bad_diffusion_is_refused(make, diffusion):
    with pytest.raises(ValueError, match="diffusion must be positive and finite"):
        make(diffusion)
