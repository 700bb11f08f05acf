"""Closed forms: one law for all systems, spectra against a numerical Hamiltonian, kernels by quadrature."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.equation import (
    Box,
    Hamiltonian,
    HarmonicOscillator,
    Hydrogen,
    Morse,
    OrnsteinUhlenbeck,
    log_heat_kernel,
)

MATRIX = [[2.0, 0.7], [0.7, 1.0]]
SYSTEMS = {
    "harmonic": HarmonicOscillator(1.3, 0.8),
    "harmonic 2d": HarmonicOscillator(MATRIX, 0.8),
    "ornstein-uhlenbeck": OrnsteinUhlenbeck(1.7, 0.6),
    "ornstein-uhlenbeck 2d": OrnsteinUhlenbeck(MATRIX, 0.6),
    "morse": Morse(12.0, 0.9, 0.7),
    "box": Box(-1.0, 2.0, 0.7),
    "hydrogen": Hydrogen(1.4, 0.8),
}
# Where the ground state lives, for quadrature on a line: lower, upper.
RANGES = {"harmonic": (-9, 9), "ornstein-uhlenbeck": (-12, 12), "morse": (-2.5, 14), "box": (-1, 2)}


def inside(system, count=20):
    rng = np.random.default_rng(2)
    return rng.uniform(-0.9, 1.9, (count, system.dim)) + 0.05


@pytest.mark.parametrize("name", SYSTEMS)
def test_ground_state_has_the_ground_energy_at_every_point(name, x64):
    system = SYSTEMS[name]

    @jax.jit
    def local(h, x):  # the diffusion coefficient is a leaf of h: one program for both below
        return jax.vmap(lambda x: h.local_energy(system.log_ground_state, x))(x)

    h = system.hamiltonian()
    np.testing.assert_allclose(local(h, inside(system)), system.energies(1)[0], rtol=1e-9, atol=1e-11)
    wrong = local(h.with_diffusion(1.1 * h.diffusion), inside(system))
    assert np.abs(wrong - system.energies(1)[0]).max() > 1e-2


@pytest.mark.parametrize("name", RANGES)
def test_ground_states_on_the_line_are_normalised(name, numeric, x64):
    x, step = numeric.line(*RANGES[name], 4001)
    psi = np.exp(jax.jit(jax.vmap(SYSTEMS[name].log_ground_state))(x))
    np.testing.assert_allclose(np.sum(psi**2) * step, 1, rtol=1e-9)


def test_ground_states_in_two_and_three_dimensions_are_normalised(x64):
    axis = np.linspace(-11, 11, 221)
    plane = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    for name in ("harmonic 2d", "ornstein-uhlenbeck 2d"):
        psi = np.exp(jax.jit(jax.vmap(SYSTEMS[name].log_ground_state))(plane))
        np.testing.assert_allclose(np.sum(psi**2) * (axis[1] - axis[0]) ** 2, 1, rtol=1e-9)
    radius = np.linspace(1e-9, 40, 40001)
    points = radius[:, None] * np.array([0.6, 0.0, 0.8])
    density = np.exp(2 * jax.jit(jax.vmap(SYSTEMS["hydrogen"].log_ground_state))(points))
    np.testing.assert_allclose(np.trapezoid(4 * np.pi * radius**2 * density, radius), 1, rtol=1e-6)


def sinc_energies(system, lower, upper, points, count):
    """Lowest energies on a uniform grid in the basis of sinc functions (Colbert and Miller 1992)."""
    nodes, step = np.linspace(lower, upper, points, retstep=True)
    apart = np.subtract.outer(np.arange(points), np.arange(points)).astype(float)
    np.fill_diagonal(apart, 1)
    kinetic = 2 * (-1.0) ** apart / apart**2
    np.fill_diagonal(kinetic, math.pi**2 / 3)
    potential = np.asarray(jax.jit(jax.vmap(system.potential))(nodes[:, None]))
    return np.linalg.eigvalsh(float(system.diffusion) * kinetic / step**2 + np.diag(potential))[:count]


@pytest.mark.parametrize("name", ["harmonic", "ornstein-uhlenbeck", "morse"])
def test_spectra_match_a_numerical_hamiltonian(name, x64):
    count = {"morse": 4}.get(name, 6)
    lower, upper = RANGES[name]
    numerical = sinc_energies(SYSTEMS[name], lower, upper, 160, count)
    np.testing.assert_allclose(SYSTEMS[name].energies(count), numerical, atol=1e-7)


def test_textbook_spectra(x64):
    np.testing.assert_allclose(HarmonicOscillator(1.0).energies(4), [0.5, 1.5, 2.5, 3.5])
    # Frequencies 1 and 2: the levels of two modes, with their degeneracies.
    np.testing.assert_allclose(HarmonicOscillator([4.0, 1.0]).energies(6), [1.5, 2.5, 3.5, 3.5, 4.5, 4.5])
    np.testing.assert_allclose(
        OrnsteinUhlenbeck(2.25, 0.7).energies(4), 0.7 / 2.25 * np.arange(4), atol=1e-15
    )
    np.testing.assert_allclose(OrnsteinUhlenbeck([1.0, 4.0]).energies(6), [0, 0.25, 0.5, 0.75, 1, 1])
    np.testing.assert_allclose(Box(0, math.pi, 1.0).energies(3), [1, 4, 9])
    np.testing.assert_allclose(Hydrogen().energies(6), [-1 / 2, *[-1 / 8] * 4, -1 / 18])


def test_eigenstates_of_any_sign_solve_the_equation(x64):
    """H psi = E psi for excited states, exactly where a local energy would divide by zero at the nodes."""
    oscillator, box = SYSTEMS["harmonic 2d"], SYSTEMS["box"]
    first, second = oscillator.frequencies()

    @jax.jit
    @jax.vmap
    def two_modes(x):
        def psi(y):
            return oscillator.state((1, 2), y)

        return psi(x), oscillator.hamiltonian().apply(psi, x)

    psi, applied = two_modes(inside(oscillator))
    assert np.min(psi) < 0 < np.max(psi)
    np.testing.assert_allclose(applied, (1.5 * first + 2.5 * second) * psi, atol=1e-12)

    @jax.jit
    @jax.vmap
    def wave(x):
        return box.state(3, x), box.hamiltonian().apply(lambda y: box.state(3, y), x)

    psi, applied = wave(inside(box))
    np.testing.assert_allclose(applied, box.energies(4)[3] * psi, atol=1e-10)


def test_eigenstates_are_orthonormal(numeric, x64):
    x, step = numeric.line(-9, 9, 2001)
    oscillator = SYSTEMS["harmonic"]
    states = jax.jit(jax.vmap(lambda y: jnp.stack([oscillator.state((n,), y) for n in range(4)])))(x)
    np.testing.assert_allclose(states.T @ states * step, np.eye(4), atol=1e-10)
    ground = np.exp(jax.vmap(oscillator.log_ground_state)(x))
    np.testing.assert_allclose(states[:, 0], ground, atol=1e-12)


@pytest.mark.parametrize("name", ["harmonic", "ornstein-uhlenbeck"])
def test_kernels_compose_and_solve_the_equation(name, numeric, x64):
    system = SYSTEMS[name]
    nodes, step = numeric.line(-12, 12, 2001)
    x, y = np.array([0.8]), np.array([-0.4])
    kernel = jax.jit(jax.vmap(lambda x, y, tau: jnp.exp(system.log_kernel(x, y, tau)), (0, None, None)))

    def at(x, tau):
        return np.asarray(kernel(x[None], y, tau))[0]

    composed = np.sum(np.asarray(kernel(nodes, y, 0.3)) * np.asarray(kernel(nodes, x, 0.5))) * step
    np.testing.assert_allclose(composed, at(x, 0.8), rtol=1e-9)
    rate = numeric.derivative(lambda tau: at(x, tau), 0.8)
    applied = -system.diffusion * numeric.laplacian(lambda z: np.asarray(kernel(z[None], y, 0.8))[0], x)
    applied = applied + system.potential(x) * at(x, 0.8)
    np.testing.assert_allclose(rate, -applied, rtol=1e-7)
    # Long after, only the ground state is left: K = psi0(x) psi0(y) exp(-E0 tau).
    left = system.log_ground_state(x) + system.log_ground_state(y) - system.energies(1)[0] * 300.0
    np.testing.assert_allclose(system.log_kernel(x, y, 300.0), left, rtol=1e-10)


def test_ornstein_uhlenbeck_is_a_harmonic_oscillator_seen_from_its_ground_state(x64):
    process = SYSTEMS["ornstein-uhlenbeck 2d"]
    d = process.diffusion
    inverse = np.linalg.inv(MATRIX)
    oscillator = HarmonicOscillator(d / 2 * inverse @ inverse, d)
    shift = oscillator.energies(1)[0]
    x, y = jnp.array([0.3, -0.8]), jnp.array([1.0, 0.2])
    automatic = Hamiltonian.from_log_density(process.log_density, dim=2, diffusion=d)

    @jax.jit
    def both():
        ours = process.potential(x), process.log_kernel(x, y, 0.7), process.potential(x)
        theirs = (
            oscillator.potential(x) - shift,
            oscillator.log_kernel(x, y, 0.7) + 0.7 * shift,
            automatic.potential(x),
        )
        return ours, theirs

    np.testing.assert_allclose(*both(), rtol=1e-10)
    np.testing.assert_allclose(process.energies(5), oscillator.energies(5) - shift, atol=1e-12)


def test_transition_density_has_the_stated_moments(numeric, x64):
    process = OrnsteinUhlenbeck(1.7, 0.6)
    x, step = numeric.line(-14, 14, 2001)
    y, tau = np.array([2.0]), 0.9
    density = np.exp(jax.jit(jax.vmap(lambda z: process.log_transition(z, y, tau)))(x)) * step
    decay = math.exp(-0.6 * tau / 1.7)
    np.testing.assert_allclose(density.sum(), 1, rtol=1e-10)
    np.testing.assert_allclose(density @ x[:, 0], 2 * decay, rtol=1e-10)
    np.testing.assert_allclose(density @ x[:, 0] ** 2, 1.7 * (1 - decay**2) + (2 * decay) ** 2, rtol=1e-10)


def test_heat_kernel_moments(numeric, x64):
    x, step = numeric.line(-12, 12, 2001)
    density = np.exp(jax.jit(jax.vmap(lambda z: log_heat_kernel(z, jnp.array([0.5]), 0.4, 0.7)))(x)) * step
    np.testing.assert_allclose(density.sum(), 1, rtol=1e-10)
    np.testing.assert_allclose(density @ x[:, 0], 0.5, rtol=1e-10)
    np.testing.assert_allclose(density @ (x[:, 0] - 0.5) ** 2, 2 * 0.7 * 0.4, rtol=1e-10)
    plane = log_heat_kernel(jnp.array([0.3, 1.0]), jnp.zeros(2), 0.4, 0.7)
    parts = [log_heat_kernel(jnp.array([v]), jnp.zeros(1), 0.4, 0.7) for v in (0.3, 1.0)]
    np.testing.assert_allclose(plane, sum(parts), rtol=1e-12)


def test_box_ends_at_its_walls():
    box = SYSTEMS["box"]
    for wall in (-1.0, 2.0, 3.0):
        assert box.log_ground_state(jnp.array([wall])) == -jnp.inf
        assert box.potential(jnp.array([wall])) == jnp.inf
        assert box.state(1, jnp.array([wall])) == 0


def test_float32_in_float32_out():
    points = {name: jnp.asarray(inside(system)[0], jnp.float32) for name, system in SYSTEMS.items()}
    values = jax.jit(
        lambda points: {
            name: (system.potential(points[name]), system.log_ground_state(points[name]), system.energies(3))
            for name, system in SYSTEMS.items()
        }
    )(points)
    for name, parts in values.items():
        assert all(part.dtype == jnp.float32 and np.all(np.isfinite(part)) for part in parts), name


BAD = {
    "stiffness not symmetric": (lambda: HarmonicOscillator([[1.0, 0.5], [0.0, 1.0]]), "finite and symmetric"),
    "stiffness not positive": (
        lambda: HarmonicOscillator([1.0, -1.0]),
        "positive definite, got a smallest eigenvalue",
    ),
    "stiffness not square": (
        lambda: HarmonicOscillator(np.ones((2, 3))),
        r"square matrix, got shape \(2, 3\)",
    ),
    "covariance nan": (lambda: OrnsteinUhlenbeck(float("nan")), "covariance must be finite and symmetric"),
    "diffusion": (lambda: HarmonicOscillator(1.0, 0.0), "diffusion must be positive and finite"),
    "no bound state": (lambda: Morse(0.1, 1.0, 1.0), "holds no bound state: .* must exceed 1/2, got 0.316"),
    "too many levels": (lambda: SYSTEMS["morse"].energies(50), "holds 5 bound states, got count = 50"),
    "walls": (lambda: Box(1.0, 1.0), "lower < upper, got 1.0 and 1.0"),
    "charge": (lambda: Hydrogen(-1.0), "charge must be positive and finite"),
    "count": (lambda: Hydrogen().energies(0), "count must be a positive integer, got 0"),
    "quantum numbers": (
        lambda: HarmonicOscillator(1.0).state((1, 0), jnp.zeros(1)),
        "must hold 1 quantum numbers",
    ),
    "negative state": (lambda: Box().state(-1, jnp.zeros(1)), "count the states from 0 on, got -1"),
    "point": (lambda: Hydrogen().potential(jnp.zeros(2)), r"x must be one point of shape \(3,\), got \(2,\)"),
    "time": (
        lambda: HarmonicOscillator(1.0).log_kernel(jnp.zeros(1), jnp.zeros(1), -1.0),
        "tau must be positive",
    ),
    "heat points": (
        lambda: log_heat_kernel(jnp.zeros(2), jnp.zeros(3), 1.0, 1.0),
        r"shape \(3,\), got \(2,\)",
    ),
    "heat batch": (lambda: log_heat_kernel(jnp.zeros(2), jnp.zeros((3, 2)), 1.0, 1.0), "batch with jax.vmap"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()
