r"""The Gaussian of least energy under `V = zeta`, by imaginary time within the Gaussians.

For `psi = sqrt(N(mu, Sigma))` the energy is

    E(mu, Sigma) = (D/4) tr Sigma^-1 + E_q[zeta],

and the time-dependent variational principle, `d psi/d tau = -(H - E) psi` projected on the family (its
metric is a quarter of Fisher's), gives with `g = E_q[grad zeta]` and `K = E_q[hess zeta]`

    d mu / d tau = -2 Sigma g,          d Sigma / d tau = D I - 2 Sigma K Sigma,

stationary where `g = 0` and `(D/2) Sigma^-2 = K`; on a harmonic oscillator this is the exact evolution. A
step solves the second equation exactly for a constant `K`: with the functions `kappa = sqrt(2 D K)`, `T =
tanh(kappa tau) / kappa` and `S = 1 / cosh(kappa tau)` of that matrix,

    Sigma' = D T + S (Sigma^-1 + 2 K T)^-1 S,

and the first implicitly, `mu' = mu - (Sigma'^-1 / (2 tau) + K+)^-1 g`: stable for any `tau`, which grows
while the energy falls and is reduced where it would rise. (Each step is a Taylor expansion of the objective
of order 2.)

References:
    Kramer and Saraceno, "Geometry of the Time-Dependent Variational Principle in Quantum Mechanics" (1981).
    Weinstein, Proc. Natl. Acad. Sci. 20 (1934) 529: some level lies within the root of the variance of `E_L`.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.numerics.evaluator import Evaluator
from qdesampler.numerics.metric import (
    Metric,
    dense_matrix,
    identity_metric,
    to_position,
    to_whitened_gradient,
)
from qdesampler.numerics.second_derivatives import product_with_hessian, score_jacobian
from qdesampler.solvers.gaussian.boltzmann import GaussianSettings, check_bounded
from qdesampler.solvers.gaussian.descents import Descent
from qdesampler.solvers.gaussian.step import canonical
from qdesampler.solvers.gaussian.wavefunction import GaussianWavefunction, kinetic_energy, precision_factor
from qdesampler.solvers.protocol import NoGroundStateError

__all__ = ["solve_objective"]

_NODES = {1: 64, 2: 24, 3: 12}  # Gauss-Hermite nodes an axis
_FEWEST_NODES = 128  # random nodes, at least
_STEPS_A_ROUND = 10  # steps of imaginary time for each of the `rounds`
_MOST_WIDTH = 1e8  # width beyond which the state runs away; its fourth power is finite in float32
_WIDEST_START = 4.0  # largest variance of the harmonic state at the start
_LONGEST = 1e6  # longest step, in units of the relaxation time


class _Averages(NamedTuple):
    """Under `q`: energy, whitened gradient `L^T g`, and `K` (its diagonal for a diagonal trial)."""

    energy: jax.Array
    gradient: jax.Array
    curvature: jax.Array


def _nodes(dim: int, key: jax.Array, count: int) -> tuple[jax.Array, jax.Array, bool]:
    """Nodes of a standard Gaussian, their weights, and whether they are a deterministic rule."""
    dtype = jnp.result_type(float)
    if dim in _NODES:
        points, weights = np.polynomial.hermite_e.hermegauss(_NODES[dim])
        weights = weights / weights.sum()
        rows = np.array(list(itertools.product(points, repeat=dim)))
        products = np.array([np.prod(row) for row in itertools.product(weights, repeat=dim)])
        kept = products > 1e-18 * products.max()
        return jnp.asarray(rows[kept], dtype), jnp.asarray(products[kept] / products[kept].sum(), dtype), True
    half = jax.random.normal(key, (-(-max(count, _FEWEST_NODES) // 2), dim), dtype)
    rows = jnp.concatenate([half, -half])
    return rows, jnp.full((rows.shape[0],), 1 / rows.shape[0], dtype), False


def _hessian(function, x: jax.Array, diagonal: bool) -> jax.Array:
    if not diagonal:
        return score_jacobian(jax.grad(function), x)[0]
    product, _ = product_with_hessian(jax.grad(function), x)
    return jax.lax.map(lambda direction: direction @ product(direction), jnp.eye(x.size, dtype=x.dtype))


@functools.partial(jax.jit, static_argnames=("diagonal",))
def _average(hamiltonian: Hamiltonian, psi: GaussianWavefunction, nodes, weights, diagonal: bool):
    """Averages over fixed nodes; the energy takes its quadratic part in closed form."""
    metric, zeta = psi.metric, hamiltonian.function

    def one(y):
        x = psi.centre + to_position(metric, y)
        value, gradient = jax.value_and_grad(zeta)(x)
        return value, to_whitened_gradient(metric, gradient), _hessian(zeta, x, diagonal)

    values, gradients, curvatures = jax.vmap(one)(nodes)
    gradient, curvature = weights @ gradients, jnp.tensordot(weights, curvatures, 1)
    bent = _whitened_curvature(metric, curvature)
    # Without its quadratic part zeta has little variance; that part's expectation is half the trace.
    quadratic = nodes @ gradient + 0.5 * jnp.sum((nodes @ bent) * nodes, 1)
    potential = weights @ (values - quadratic) + 0.5 * jnp.trace(bent)
    return _Averages(potential + kinetic_energy(hamiltonian, metric), gradient, curvature)


def _whitened_curvature(metric: Metric, curvature: jax.Array) -> jax.Array:
    """`L^T K L`, shape `(dim, dim)`."""
    if curvature.ndim == 1:
        return jnp.diag(curvature * metric.scale**2)
    half = jax.vmap(lambda row: to_whitened_gradient(metric, row))(curvature)
    return jax.vmap(lambda column: to_whitened_gradient(metric, column), in_axes=1, out_axes=1)(half)


def _inverse_factor(metric: Metric) -> jax.Array:
    """`L^-T`, shape `(dim, dim)`."""
    eye = jnp.eye(metric.scale.size, dtype=metric.scale.dtype)
    return jax.vmap(lambda v: precision_factor(metric, v), in_axes=1, out_axes=1)(eye)


@jax.jit
def _imbalance(hamiltonian: Hamiltonian, psi: GaussianWavefunction, averages: _Averages) -> jax.Array:
    """Deviations from stationarity: the shift in widths, and half of `(2/D) Sigma K Sigma - I`."""
    metric, unit = psi.metric, 2 / hamiltonian.diffusion
    shift = unit * to_whitened_gradient(metric, to_position(metric, averages.gradient))
    if averages.curvature.ndim == 1:
        virial = unit * averages.curvature * metric.scale**4 - 1
    else:
        covariance = dense_matrix(metric)
        virial = unit * covariance @ averages.curvature @ covariance - jnp.eye(metric.scale.size)
    return jnp.concatenate([shift, 0.5 * virial.reshape(-1)])


@jax.jit
def _evolve(hamiltonian: Hamiltonian, psi: GaussianWavefunction, averages: _Averages, tau: jax.Array):
    """One step of imaginary time; `tau` is reduced if a negative curvature widens the state too fast."""
    diffusion, metric = hamiltonian.diffusion, psi.metric
    diagonal = averages.curvature.ndim == 1
    if diagonal:
        curvature, vectors = averages.curvature, None
    else:
        curvature, vectors = jnp.linalg.eigh(averages.curvature)
    widest = jnp.max(metric.scale) ** 2 * jnp.max(metric.stretch, initial=1.0) ** 2
    bend = jnp.maximum(-jnp.min(curvature), 0)
    rate = jnp.sqrt(2 * diffusion * jnp.abs(curvature))
    # Below this limit tan(rate tau) <= 2 rate tau, and the width doubles at most.
    limit = jnp.minimum(
        1 / jnp.sqrt(2 * diffusion * jnp.maximum(bend, jnp.finfo(bend.dtype).tiny)),
        1 / jnp.maximum(8 * bend * widest, jnp.finfo(bend.dtype).tiny),
    )
    tau = jnp.where(bend > 0, jnp.minimum(tau, limit), tau)
    safe = jnp.where(rate * tau > 1e-4, rate, 1)
    curved = jnp.where(curvature > 0, jnp.tanh(safe * tau), jnp.tan(jnp.minimum(safe * tau, 1.0))) / safe
    spread = jnp.where(rate * tau > 1e-4, curved, tau)
    if vectors is None:
        variance = metric.scale**2
        variance = (variance + diffusion * spread) / (1 + 2 * curvature * spread * variance)
        new = metric._replace(scale=jnp.sqrt(variance))
        gradient = averages.gradient / metric.scale
        push = gradient / (1 / (2 * tau * variance) + jnp.maximum(curvature, 0))
        return GaussianWavefunction(psi.centre - push, new), tau
    damp = jnp.sqrt(jnp.maximum(1 - 2 * diffusion * curvature * spread**2, 0))
    inverse = vectors.T @ _inverse_factor(metric)
    middle = jnp.linalg.inv(inverse @ inverse.T + jnp.diag(2 * curvature * spread))
    covariance = jnp.diag(diffusion * spread) + damp[:, None] * middle * damp
    covariance = 0.5 * (covariance + covariance.T)
    gradient = vectors.T @ precision_factor(metric, averages.gradient)
    stiff = jnp.linalg.inv(covariance) / (2 * tau) + jnp.diag(jnp.maximum(curvature, 0))
    centre = psi.centre - vectors @ jnp.linalg.solve(stiff, gradient)
    level, frame = jnp.linalg.eigh(covariance)
    return GaussianWavefunction(centre, canonical(vectors @ frame * jnp.sqrt(level))), tau


@functools.partial(jax.jit, static_argnames=("diagonal",))
def _harmonic(hamiltonian: Hamiltonian, end: jax.Array, blank: Metric, diagonal: bool):
    """The ground state of the parabola at a point, and its energy."""
    curvature, vectors = _hessian(hamiltonian.function, end, diagonal), None
    if not diagonal:
        curvature, vectors = jnp.linalg.eigh(curvature)
    up = jnp.maximum(curvature, 0)
    energy = hamiltonian.function(end) + 0.5 * jnp.sum(jnp.sqrt(2 * hamiltonian.diffusion * up))
    stiff = jnp.maximum(up, 0.5 * hamiltonian.diffusion / _WIDEST_START**2)
    width = (0.5 * hamiltonian.diffusion / stiff) ** 0.25
    metric = blank._replace(scale=width) if vectors is None else canonical(vectors * width)
    return energy, GaussianWavefunction(end, metric)


@jax.jit
def _local_energies(hamiltonian: Hamiltonian, psi: GaussianWavefunction, nodes: jax.Array):
    """`E_L = zeta - D (lap log psi + |grad log psi|^2)` at nodes, shape `(n,)`."""
    inverse = _inverse_factor(psi.metric)

    def one(y):
        slope = 0.5 * precision_factor(psi.metric, y)
        value = hamiltonian.function(psi.centre + to_position(psi.metric, y))
        return value + hamiltonian.diffusion * (0.5 * jnp.sum(inverse**2) - slope @ slope)

    return jax.vmap(one)(nodes)


def solve_objective(
    hamiltonian: Hamiltonian,
    evaluate: Evaluator,
    descents: list[Descent],
    key: jax.Array,
    settings: GaussianSettings,
) -> tuple[GaussianWavefunction, dict[str, Any]]:
    """The Gaussian of least energy, and its energy, error and diagnostics.

    Raises:
        NoGroundStateError: the state spreads without bound, or the objective is not finite where it lives.
    """
    dim, diagonal = hamiltonian.dim, settings.rank == 0
    blank = identity_metric(dim, settings.rank)
    ends = jnp.asarray(np.stack([descent.position for descent in descents]), jnp.result_type(float))
    harmonic = [_harmonic(hamiltonian, end, blank, diagonal) for end in ends]
    psi = min(harmonic, key=lambda pair: float(jnp.nan_to_num(pair[0], nan=jnp.inf)))[1]
    key_search, key_last = jax.random.split(key)
    nodes, weights, exact = _nodes(dim, key_search, settings.candidates)
    averages, evaluations = None, evaluate.num_evals + len(harmonic) * (1 + dim)
    for _ in range(settings.rounds):
        averages = _average(hamiltonian, psi, nodes, weights, diagonal)
        evaluations += nodes.shape[0] * (1 + dim)
        if _finite(averages):
            break
        psi = GaussianWavefunction(psi.centre, psi.metric._replace(scale=psi.metric.scale / 2))
    if averages is None or not _finite(averages):
        raise NoGroundStateError(
            "the objective or its derivatives are not finite under the trial state, however narrow; give a "
            "start in whose neighbourhood it is finite."
        )
    tau = jnp.mean(psi.metric.scale**2) / hamiltonian.diffusion
    force, rounds = np.asarray(_imbalance(hamiltonian, psi, averages)), 0
    rounding = 32 * float(jnp.finfo(nodes.dtype).eps)
    while rounds < _STEPS_A_ROUND * settings.rounds and np.linalg.norm(force) > settings.tolerance:
        rounds += 1
        new, used = _evolve(hamiltonian, psi, averages, tau)
        check = _average(hamiltonian, new, nodes, weights, diagonal)
        evaluations += nodes.shape[0] * (1 + dim)
        left = np.asarray(_imbalance(hamiltonian, new, check))
        slack = rounding * (abs(float(averages.energy)) + float(kinetic_energy(hamiltonian, psi.metric)))
        # With random nodes the gradient of the energy is inexact: a step towards balance is accepted too.
        lower = float(check.energy) <= float(averages.energy) + slack
        if not (_finite(check) and np.all(np.isfinite(left))):
            tau = used / 4
        elif lower or np.linalg.norm(left) < np.linalg.norm(force):
            longest = _LONGEST * jnp.max(new.metric.scale**2) / hamiltonian.diffusion
            # A force of the opposite direction means that the step went too far.
            tau = used / 4 if left @ force < 0 else jnp.minimum(4 * used, longest)
            psi, averages, force = new, check, left
            check_bounded(psi, _MOST_WIDTH)
        else:
            tau = used / 4
    imbalance = float(np.linalg.norm(force))
    if not exact:
        nodes, weights, _ = _nodes(dim, key_last, 4 * settings.candidates)
        averages = _average(hamiltonian, psi, nodes, weights, diagonal)
        evaluations += nodes.shape[0] * (1 + dim)
    local = _local_energies(hamiltonian, psi, nodes)
    evaluations += nodes.shape[0]
    mean = weights @ local
    spread = jnp.sqrt(jnp.maximum(weights @ (local - mean) ** 2, 0))
    sampling = 0.0 if exact else spread / np.sqrt(nodes.shape[0])
    return psi, {
        "energy": averages.energy,
        "energy_spread": spread,
        "energy_error": spread + sampling + rounding * jnp.abs(averages.energy),
        "imbalance": imbalance,
        "evaluations": evaluations,
        "rounds": rounds,
        "converged": imbalance <= settings.tolerance,
    }


def _finite(averages: _Averages) -> bool:
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in averages)
