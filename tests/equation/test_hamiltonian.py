"""The Hamiltonian: the Boltzmann identity by finite differences, local energies, estimates, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.equation import Hamiltonian, Hydrogen, gradient_and_laplacian
from qdesampler.equation.laplacian import unrolled_gradient_and_laplacian

PRECISION = np.array([[2.0, -0.9, 0.3], [-0.9, 1.5, 0.4], [0.3, 0.4, 1.0]])
FEATURES = np.array([[1.0, 0.5, -1.2], [1.0, -1.0, 0.3], [1.0, 2.0, 0.8], [1.0, 0.1, -0.4], [1.0, -0.7, 1.9]])
LABELS = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
DIFFUSION = 0.7


def gaussian(x):
    return -x @ jnp.asarray(PRECISION) @ x / 2


def student_t(x):
    return -(5.0 + 2.0) / 2 * jnp.log1p((x[0] ** 2 + (x[1] - 0.5 * x[0]) ** 2) / 5.0)


def logistic_regression(x):
    logits = jnp.asarray(FEATURES) @ x
    return jnp.sum(jnp.asarray(LABELS) * logits - jnp.logaddexp(0, logits)) - x @ x / 8


def banana(x):
    return -(x[0] ** 2) / 2 - 2 * (x[1] - 0.4 * x[0] ** 2) ** 2


def mixture(x):
    far = x - jnp.array([1.5, -1.0])
    return jnp.logaddexp(jnp.log(0.3) - x @ x / 2, jnp.log(0.7) - 1.2 * far @ far)


TARGETS = {
    "gaussian": (gaussian, 3),
    "student_t": (student_t, 2),
    "logistic_regression": (logistic_regression, 3),
    "banana": (banana, 2),
    "mixture": (mixture, 2),
}


def points(dim, count=12):
    return 1.2 * np.random.default_rng(0).standard_normal((count, dim))


@pytest.mark.parametrize("name", TARGETS)
def test_sqrt_p_has_local_energy_zero_by_finite_differences(name, numeric, x64):
    """(H psi) / psi of psi = sqrt(p): V by automatic differentiation, the Laplacian of psi by differences."""
    log_p, dim = TARGETS[name]
    h = Hamiltonian.from_log_density(log_p, dim=dim, diffusion=DIFFUSION)
    x = points(dim)
    psi = jax.jit(jax.vmap(lambda y: jnp.exp(log_p(y) / 2)))
    kinetic = -DIFFUSION * numeric.laplacian(psi, x) / np.asarray(psi(x))
    potential, gradient, laplacian = jax.jit(
        jax.vmap(lambda y: (h.potential(y), *gradient_and_laplacian(log_p, y)))
    )(x)

    def residual(values):
        return np.abs((kinetic + np.asarray(values)) / (1 + np.abs(values))).max()

    assert residual(potential) < 1e-8
    square = np.sum(np.asarray(gradient) ** 2, axis=1)  # the Laplacian is that of log p = -U
    for wrong in (
        DIFFUSION * (square / 4 - laplacian / 2),  # sign
        DIFFUSION * (square / 4 + laplacian),  # factor
        DIFFUSION * (square / 2 + laplacian / 2),  # factor of the drift term
        square / 4 + laplacian / 2,  # D forgotten
    ):
        assert residual(wrong) > 1e-2


@pytest.mark.parametrize("kind", ["boltzmann", "objective"])
def test_local_energy_and_apply_match_finite_differences_of_a_trial_state(kind, numeric, x64):
    make = Hamiltonian.from_log_density if kind == "boltzmann" else Hamiltonian.from_objective
    h = make(banana, dim=2, diffusion=DIFFUSION)

    def log_psi(x):
        return -0.3 * x @ x + 0.2 * jnp.sin(x[0] * x[1])

    @jax.jit
    @jax.vmap
    def ours(x):
        return h.potential(x), h.local_energy(log_psi, x), h.apply(lambda y: jnp.exp(log_psi(y)), x)

    x = points(2)
    psi = jax.jit(jax.vmap(lambda y: jnp.exp(log_psi(y))))
    potential, local, applied = ours(x)
    expected = -DIFFUSION * numeric.laplacian(psi, x) + np.asarray(potential) * np.asarray(psi(x))
    np.testing.assert_allclose(local, expected / psi(x), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(applied, expected, rtol=1e-8, atol=1e-8)


def test_harmonic_ground_state_has_the_same_local_energy_everywhere(x64):
    h = Hamiltonian.from_objective(lambda x: x @ x / 2, dim=4, diffusion=0.5)

    @jax.jit
    @jax.vmap
    def local(x):
        return h.local_energy(lambda y: -y @ y / 2, x), h.local_energy(lambda y: -0.9 * y @ y / 2, x)

    right, wrong = local(points(4, 50))
    np.testing.assert_allclose(right, 2.0, rtol=1e-12)
    assert np.ptp(wrong) > 0.1


def test_exact_hydrogen_has_local_energy_minus_one_half_everywhere(x64):
    h = Hydrogen().hamiltonian()
    local = jax.jit(jax.vmap(lambda x: h.local_energy(lambda y: -jnp.linalg.norm(y), x)))(points(3, 50))
    np.testing.assert_allclose(local, -0.5, rtol=1e-10)


@pytest.mark.parametrize("dim", [1, 32, 33])
def test_laplacian_is_the_trace_of_the_hessian_in_any_dimension(dim, x64):
    def f(x):
        return jnp.sum(jnp.sin(x) * jnp.roll(x, 1)) + jnp.log1p(x @ x)

    @jax.jit
    def both(x):
        return gradient_and_laplacian(f, x), (jax.grad(f)(x), jnp.trace(jax.hessian(f)(x)))

    ours, theirs = both(points(dim, 1)[0])
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-12)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-11, atol=1e-11)


class TestEstimates:
    """Hutchinson's estimate: no bias, the stated variance, none where the Hessian is diagonal."""

    draws = 4000

    def check(self, estimate, truth, variance):
        keys = jax.random.split(jax.random.key(3), self.draws)
        values, truth = jax.jit(lambda: (jax.vmap(estimate)(keys), truth()))()
        values, error = np.asarray(values), np.sqrt(variance / self.draws)
        assert abs(values.mean() - truth) < 5 * error
        # In three dimensions a form in signs never exceeds sqrt(3) deviations, so its kurtosis is at most 3
        # and the relative error of its variance sqrt(2 / draws) = 0.022.
        assert abs(values.var() / variance - 1) < 5 * np.sqrt(2 / self.draws)

    @pytest.mark.parametrize("num_probes", [1, 5])
    def test_potential(self, num_probes, x64):
        h = Hamiltonian.from_log_density(gaussian, dim=3, diffusion=DIFFUSION)
        x = points(3, 1)[0]
        off_diagonal = np.sum(PRECISION**2) - np.sum(np.diag(PRECISION) ** 2)
        self.check(
            lambda key: h.estimate_potential(x, key=key, num_probes=num_probes),
            lambda: h.potential(x),
            DIFFUSION**2 / (2 * num_probes) * off_diagonal,
        )

    @pytest.mark.parametrize("kind", ["boltzmann", "objective"])
    def test_local_energy(self, kind, x64):
        matrix = np.array([[0.5, 0.2, 0.0], [0.2, 0.4, -0.3], [0.0, -0.3, 0.6]])
        make = Hamiltonian.from_log_density if kind == "boltzmann" else Hamiltonian.from_objective
        h = make(gaussian, dim=3, diffusion=DIFFUSION)
        x = points(3, 1)[0]

        def log_psi(y):
            return -y @ jnp.asarray(matrix) @ y / 2

        ratio = matrix - PRECISION / 2 if kind == "boltzmann" else matrix
        off_diagonal = np.sum(ratio**2) - np.sum(np.diag(ratio) ** 2)
        self.check(
            lambda key: h.estimate_local_energy(log_psi, x, key=key, num_probes=3),
            lambda: h.local_energy(log_psi, x),
            2 * DIFFUSION**2 / 3 * off_diagonal,
        )

    def test_exact_at_the_ground_state_and_for_a_diagonal_hessian(self, x64):
        h = Hamiltonian.from_log_density(banana, dim=2, diffusion=DIFFUSION)
        separable = Hamiltonian.from_log_density(lambda y: -jnp.sum(y**4), dim=2)

        @jax.jit
        def values(x, key):
            at_ground_state = h.estimate_local_energy(lambda y: banana(y) / 2, x, key=key)
            elsewhere = h.estimate_local_energy(lambda y: 0.4 * banana(y), x, key=key)
            exact = h.local_energy(lambda y: 0.4 * banana(y), x)
            return (
                at_ground_state,
                elsewhere - exact,
                separable.estimate_potential(x, key=key),
                separable.potential(x),
            )

        at_ground_state, error_elsewhere, estimate, exact = values(points(2, 1)[0], jax.random.key(0))
        np.testing.assert_allclose(at_ground_state, 0, atol=1e-12)
        assert abs(error_elsewhere) > 1e-3
        np.testing.assert_allclose(estimate, exact, rtol=1e-12)

    def test_typed_and_legacy_keys_agree(self):
        h = Hamiltonian.from_log_density(banana, dim=2)
        estimate = jax.jit(lambda key: h.estimate_potential(jnp.array([0.3, -0.2]), key=key, num_probes=2))
        assert estimate(jax.random.key(5)) == estimate(jax.random.PRNGKey(5))


class TestTransformations:
    """The Hamiltonian as a JAX value."""

    def test_diffusion_is_traced_and_differentiated(self, x64):
        h = Hamiltonian.from_log_density(banana, dim=2)
        doubled = jax.tree.map(lambda leaf: 2 * leaf, h)
        x = jnp.array([0.3, -0.2])

        @jax.jit
        def values(h, doubled, d):
            def potential(d):
                return h.with_diffusion(d).potential(x)

            return h.potential(x), doubled.potential(x), jax.vmap(potential)(d), jax.grad(potential)(3.0)

        base, twice, batch, slope = values(h, doubled, jnp.array([1.0, 2.0, 0.5]))
        np.testing.assert_allclose(batch, base * jnp.array([1.0, 2.0, 0.5]), rtol=1e-12)
        np.testing.assert_allclose(slope, base, rtol=1e-12)
        np.testing.assert_allclose(twice, 2 * base, rtol=1e-12)
        assert doubled.dim == 2
        assert doubled.log_density is h.log_density is banana

    def test_new_data_in_a_partial_does_not_compile_again(self):
        traces = []

        def log_p(scale, x):
            traces.append(1)
            return -scale * x @ x

        @jax.jit
        def potential(h, x):
            return h.potential(x)

        values, counts = [], []
        for scale in (1.0, 2.0):
            h = Hamiltonian.from_log_density(jax.tree_util.Partial(log_p, jnp.asarray(scale)), dim=2)
            before = len(traces)
            values.append(float(potential(h, jnp.ones(2))))
            counts.append(len(traces) - before)
        # log p = -a |x|^2 has V = a^2 |x|^2 - a dim.
        np.testing.assert_allclose(values, [0.0, 4.0], atol=1e-6)
        assert counts[0] > 0
        assert counts[1] == 0

    def test_float32_in_float32_out(self):
        h = Hamiltonian.from_log_density(logistic_regression, dim=3, diffusion=np.float64(0.7))
        x = jnp.asarray(points(3, 1)[0], jnp.float32)
        potential, local = jax.jit(
            lambda x: (h.potential(x), h.local_energy(lambda y: logistic_regression(y) / 2, x))
        )(x)
        assert potential.dtype == local.dtype == jnp.float32
        np.testing.assert_allclose(local, 0, atol=1e-5)
        assert Hamiltonian.from_objective(lambda x: x @ x, dim=2).potential(jnp.array([1, 2])) == 5.0

    def test_objective_is_the_potential_and_has_no_log_density(self):
        h = Hamiltonian.from_objective(banana, dim=2)
        x = jnp.array([0.3, -0.2])
        assert h.potential(x) == banana(x) == h.estimate_potential(x, key=jax.random.key(0))
        assert h.log_density is None
        assert h.kind == "objective"
        assert repr(h) == "Hamiltonian(kind='objective', dim=2, diffusion=1.0, function=banana)"
        with pytest.raises(AttributeError):
            h.dim = 3


def boom(x):
    raise ZeroDivisionError("inside")


BAD = {
    "dim zero": ({"dim": 0}, ValueError, "dim must be a positive integer, got 0"),
    "dim float": ({"dim": 2.0}, TypeError, "dim must be a positive integer, got 2.0"),
    "dim bool": ({"dim": True}, TypeError, "dim must be a positive integer"),
    "D zero": ({"diffusion": 0.0}, ValueError, "diffusion must be positive and finite, got 0.0"),
    "D negative": ({"diffusion": -1}, ValueError, "diffusion must be positive and finite, got -1.0"),
    "D nan": ({"diffusion": float("nan")}, ValueError, "diffusion must be positive and finite, got nan"),
    "D inf": ({"diffusion": float("inf")}, ValueError, "diffusion must be positive and finite, got inf"),
    "D vector": ({"diffusion": np.ones(2)}, ValueError, r"diffusion must be one number, got shape \(2,\)"),
    "D text": ({"diffusion": "1"}, TypeError, "diffusion must be a real number, got '1'"),
    "D complex": ({"diffusion": np.complex64(1)}, TypeError, "diffusion must be real"),
    "vector": ({"f": lambda x: x**2}, ValueError, r"must return a scalar \(shape \(\)\), got shape \(2,\)"),
    "complex": ({"f": lambda x: 1j * x[0]}, TypeError, "real floating-point number, got dtype complex"),
    "integer": ({"f": lambda x: 0}, TypeError, "real floating-point number, got dtype int"),
    "tuple": ({"f": lambda x: (x[0], x[1])}, TypeError, "must return one real number, got tuple"),
    "none": ({"f": lambda x: None}, TypeError, "must return one real number, got NoneType"),
    "no function": ({"f": 3.0}, TypeError, "must be a function of one point, got 3.0"),
}


@pytest.mark.parametrize("constructor", ["from_log_density", "from_objective"])
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(constructor, case):
    arguments, error, message = BAD[case]
    arguments = {"f": banana, "dim": 2, "diffusion": 1.0, **arguments}
    with pytest.raises(error, match=message):
        getattr(Hamiltonian, constructor)(arguments.pop("f"), **arguments)


def test_errors_inside_the_function_keep_their_type_and_say_where():
    with pytest.raises(ZeroDivisionError, match="inside") as caught:
        Hamiltonian.from_objective(boom, dim=2)
    assert "zeta was traced at one point of shape (2,)" in "\n".join(caught.value.__notes__)


def test_points_and_probes_are_checked():
    h = Hamiltonian.from_log_density(banana, dim=2)
    for call in (h.potential, lambda x: h.local_energy(banana, x), lambda x: h.apply(banana, x)):
        with pytest.raises(ValueError, match=r"one point of shape \(2,\), got \(5, 2\); batch with jax.vmap"):
            call(jnp.zeros((5, 2)))
    with pytest.raises(ValueError, match="num_probes must be a positive integer, got 0"):
        h.estimate_potential(jnp.zeros(2), key=jax.random.key(0), num_probes=0)
    with pytest.raises(ValueError, match="kind must be 'boltzmann' or 'objective', got 'gibbs'"):
        Hamiltonian(banana, 2, 1.0, "gibbs")
    with pytest.raises(ValueError, match="diffusion must be positive"):
        h.with_diffusion(-1.0)


def test_the_unrolled_laplacian_is_the_other(x64):
    x = jnp.array([0.3, -1.2, 0.8])
    for known, found in zip(
        gradient_and_laplacian(logistic_regression, x),
        unrolled_gradient_and_laplacian(logistic_regression, x),
        strict=True,
    ):
        np.testing.assert_allclose(found, known, rtol=1e-12)
