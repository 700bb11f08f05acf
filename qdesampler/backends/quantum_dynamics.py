r"""Quantum dynamics of up to twelve spins, exactly simulated: quench, reverse anneal, imaginary time.

* **quench** and **reverse anneal**: a bit string goes in, evolves under a real Hamiltonian whose drive reads
  the same backwards, and is measured. Then `U = U'`, so `|<s'|U|s>|^2` is symmetric, and accepting with
  `min(1, pi(s') / pi(s))` is exact: quantum-enhanced Markov chain Monte Carlo (Layden et al. 2023).
* **imaginary time**: the quantum dynamic equation after Wick's rotation, on bits: the transverse field is the
  kinetic term. `e^{-tau H}` leads to the ground state of `H = beta E(Z) - Gamma sum_i X_i`; reads are drawn
  from its square, whose probabilities are known.

References:
    Layden et al., "Quantum-enhanced Markov chain Monte Carlo", Nature 619 (2023) 282.
    Wang and Maimaitiniyazi, "Quantum dynamics of machine learning", arXiv:2407.19890 (2024).
"""

import dataclasses
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qdesampler.backends.checks import annealing_table, check_call, refuse
from qdesampler.backends.exact_enumeration import all_states
from qdesampler.backends.precision import in_enough_precision
from qdesampler.backends.problem import IsingProblem
from qdesampler.backends.protocol import BackendError, Capabilities, LocalBackend, SampleCall, Samples
from qdesampler.backends.state_vector import evolve_real_time, relax_imaginary_time
from qdesampler.equation.schedule import Schedule
from qdesampler.validation import as_positive_int, as_positive_scalar, is_traced

__all__ = ["QuantumDynamics", "TransverseGroundState"]

_LARGEST = 12  # spins: 4,096 amplitudes
# Residual of a converged ground state at most, in units of the transverse field, in single and in double
# precision: amplitudes are then wrong by at most this, divided by the gap in these units.
_LARGEST_RESIDUAL = (0.01, 3e-4)
_DIGITS = 3e-6  # rounding of the energies, in these units, above which imaginary time needs double precision
Mode = Literal["quench", "reverse_anneal", "imaginary_time"]


class TransverseGroundState(NamedTuple):
    """The ground state of `beta E(Z) - Gamma sum X`; a pytree.

    Attributes:
        energy: the lowest eigenvalue.
        log_prob: log of the squared amplitudes, in the order of `all_bits`, shape `(2^n,)`.
        residual: `|H psi - energy psi|`.
        imaginary_time: how long it took from the uniform state.
    """

    energy: jax.Array | np.ndarray
    log_prob: jax.Array | np.ndarray
    residual: jax.Array | np.ndarray
    imaginary_time: jax.Array | np.ndarray


@dataclasses.dataclass(frozen=True)
class QuantumDynamics(LocalBackend):
    """A closed quantum system of `n <= 12` spins as a sampler.

    Real time uses the normalised Hamiltonian `scale a E(Z) + Gamma sum X` with
    `a = (n / (sum h_i^2 + sum_{i<j} J_ij^2))^(1/2)`, which makes the two terms equally large, so that scales,
    fields and times are pure numbers.

    In real time `sample` ignores `beta`; reads start at `initial_states`, uniform random ones if none are
    given. A `schedule` is the first half of the drive, which then runs through it backwards: the whole
    drive is symmetric in time whatever is given. In imaginary time `beta` multiplies `E`, and there are no
    `schedule` and no `initial_states`; a state that has not converged in `num_steps` raises `BackendError`,
    and under `jit` its `log_prob` is NaN.

    Attributes:
        mode: "quench": constant `scale = 1 - g`, `Gamma = g`; "reverse_anneal": `Gamma` rises from 0 to `g`
            and falls again while `scale = 1 - Gamma`; "imaginary_time".
        num_steps: steps of the splitting in real time; in imaginary time the most Krylov steps.
        mixing: `g` is drawn uniformly between these for every read; independent of where the read starts.
        duration: the time is drawn uniformly between these for every read.
        transverse_field: `Gamma` of the imaginary time.
    """

    mode: Mode = "quench"
    num_steps: int = 64
    mixing: tuple[float, float] = (0.25, 0.6)
    duration: tuple[float, float] = (2.0, 20.0)
    transverse_field: float = 1.0

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {self.mode!r}.")
        as_positive_int("num_steps", self.num_steps)
        as_positive_scalar("transverse_field", self.transverse_field)
        for name, most in (("mixing", 1.0), ("duration", jnp.inf)):
            low, high = getattr(self, name)
            if not 0 < low <= high or high > most:
                raise ValueError(f"{name} must be two numbers, 0 < low <= high, got {(low, high)}.")

    @property
    def capabilities(self) -> Capabilities:
        """Symmetric proposals in real time; independent draws with known probability in imaginary time."""
        if self.mode == "imaginary_time":
            return Capabilities(law="density", jittable=True, max_variables=_LARGEST)
        return Capabilities(
            law="symmetric",
            jittable=True,
            initial_states=True,
            schedule=True,
            beta=False,
            max_variables=_LARGEST,
        )

    def _refuse(self, schedule: Any, initial_states: ArrayLike | None) -> None:
        if self.mode == "imaginary_time":
            refuse("imaginary time", schedule=schedule, initial_states=initial_states)

    def _draw(self, call: SampleCall) -> Samples:
        if self.mode == "imaginary_time":
            log_prob = jnp.asarray(self.ground_state(call.problem, beta=call.beta).log_prob)
            states, chosen = _draw(log_prob, call.key, call.num_reads)
            return Samples(states, call.problem.energies(states), None, chosen)
        start, key_run = call.first_states()
        states = _measure(call.problem, self._table(call.schedule), key_run, start, self)
        return Samples(states, call.problem.energies(states))

    def transition_matrix(self, problem: IsingProblem, *, key: jax.Array, schedule: Any = None) -> jax.Array:
        """Return `Q[s, s'] = |<s'|U|s>|^2` for one drive drawn by `key`, shape `(2^n, 2^n)`.

        Raises:
            ValueError: the mode is imaginary time, which is not a transition.
            ProblemTooLargeError: more than 12 variables.
        """
        if self.mode == "imaginary_time":
            raise ValueError("imaginary time draws independent states; see ground_state.")
        problem, _, beta = check_call("QuantumDynamics", problem, 1, 1.0, _LARGEST)

        def run(problem, beta):
            del beta  # real time has no temperature
            return _transition_matrix(problem, self._table(schedule), key, self)

        problem = problem.without_offset()
        return in_enough_precision("QuantumDynamics", run, problem, beta, (key, schedule))

    def ground_state(self, problem: IsingProblem, *, beta: ArrayLike = 1.0) -> TransverseGroundState:
        """Return the ground state of `beta E(Z) - Gamma sum X` by imaginary time.

        Raises:
            ProblemTooLargeError: more than 12 variables.
            BackendError: not converged in `num_steps` Krylov steps. Under `jit` the numbers are then NaN.
        """
        problem, _, beta = check_call("QuantumDynamics", problem, 1, beta, _LARGEST)

        def run(problem, beta):
            tolerance = 1e-10 if jnp.result_type(problem.h) == jnp.float64 else 3e-5
            return _relax(problem, beta, self.transverse_field, self.num_steps, tolerance)

        bare = problem.without_offset()
        digits = _DIGITS * self.transverse_field
        found, converged = in_enough_precision("QuantumDynamics", run, bare, beta, resolution=digits)
        if not is_traced(converged) and not bool(converged):
            raise BackendError(
                f"imaginary time did not converge in {self.num_steps} Krylov steps: residual "
                f"{float(found.residual):.2g}; raise num_steps or the transverse field."
            )
        if not is_traced(converged):
            return found._replace(energy=np.float64(found.energy) + beta * problem.offset)
        found = found._replace(energy=found.energy + beta * problem.offset)
        return jax.tree.map(lambda value: jnp.where(converged, value, jnp.nan), found)

    def log_prob(self, problem: IsingProblem, states: ArrayLike, *, beta: ArrayLike = 1.0) -> jax.Array:
        """Return the log probability of states in imaginary time, -1 and +1, shape `(..., n)`.

        Raises:
            ValueError: the mode is another one, whose probabilities depend on where a read starts.
        """
        if self.mode != "imaginary_time":
            raise ValueError("only imaginary time has a law of its own; see transition_matrix.")
        return self.ground_state(problem, beta=beta).log_prob[_row(jnp.asarray(states))]

    def _table(self, schedule: Any) -> jax.Array | None:
        if schedule is None:
            return None
        half = -(-self.num_steps // 2)
        return annealing_table(schedule, half, Schedule.constant(1.0), Schedule.constant(1.0))


def _energies(problem: IsingProblem) -> jax.Array:
    """`E` of all states; a constant, which is only a phase, has been taken off."""
    return jnp.asarray(problem.energies(all_states(problem.num_variables)))


def _drive(problem: IsingProblem, table: jax.Array | None, key: jax.Array, settings: QuantumDynamics):
    """Phases and angles of one drive, symmetric under reversal to the last bit."""
    dtype = problem.h.dtype
    key_mixing, key_duration = jax.random.split(key)
    g = jax.random.uniform(key_mixing, (), dtype, *settings.mixing)
    time = jax.random.uniform(key_duration, (), dtype, *settings.duration)
    if table is not None:
        scale, field = table.astype(dtype).T
    else:
        half = -(-settings.num_steps // 2)
        field = jnp.full(half, g)
        if settings.mode == "reverse_anneal":
            field = g * (jnp.arange(half, dtype=dtype) + 0.5) / half
        scale = 1 - field
    scale, field = jnp.concatenate([scale, scale[::-1]]), jnp.concatenate([field, field[::-1]])
    couplings = problem.J**2
    size = jnp.sum(problem.h**2) + (jnp.sum(couplings) / 2 if problem.edges is None else jnp.sum(couplings))
    a = jnp.sqrt(problem.num_variables / jnp.where(size > 0, size, 1.0))
    step = time / scale.size
    return a * scale * step, field * step


def _complex(dtype: Any) -> Any:
    return jnp.complex128 if dtype == jnp.float64 else jnp.complex64


@partial(jax.jit, static_argnums=4)
def _measure(problem, table, key, start, settings: QuantumDynamics):
    n, dtype = problem.num_variables, jnp.result_type(problem.h)
    energies = _energies(problem)
    rows = _row(start)

    def one(key, row):
        key_drive, key_read = jax.random.split(key)
        psi = jnp.zeros(2**n, _complex(dtype)).at[row].set(1)
        psi = evolve_real_time(psi, energies, *_drive(problem, table, key_drive, settings))
        return _pick(jnp.abs(psi) ** 2, jax.random.uniform(key_read, (), dtype))

    return all_states(n)[jax.vmap(one)(jax.random.split(key, start.shape[0]), rows)]


def _row(states: jax.Array) -> jax.Array:
    """The index of each state in the order of `all_states`."""
    powers = 1 << jnp.arange(states.shape[-1] - 1, -1, -1, dtype=jnp.int32)
    return (states > 0).astype(jnp.int32) @ powers


def _pick(weights: jax.Array, uniform: jax.Array) -> jax.Array:
    """An index with probability proportional to `weights`."""
    total = jnp.cumsum(weights)
    return jnp.searchsorted(total, total[-1] * (1 - uniform))


@partial(jax.jit, static_argnums=3)
def _transition_matrix(problem, table, key, settings: QuantumDynamics):
    energies = _energies(problem)
    drive = _drive(problem, table, key, settings)
    basis = jnp.eye(energies.size, dtype=_complex(problem.h.dtype))
    return jnp.abs(jax.vmap(lambda psi: evolve_real_time(psi, energies, *drive))(basis)) ** 2


@partial(jax.jit, static_argnums=(3, 4))
def _relax(problem, beta, transverse_field, num_steps: int, tolerance: float):
    energies = beta * _energies(problem)
    scale = jnp.max(jnp.abs(energies)) + transverse_field * problem.num_variables
    # Relative to the largest energy alone, a state under a large penalty would count as converged at once.
    most = jnp.minimum(
        tolerance, _LARGEST_RESIDUAL[int(scale.dtype == jnp.float64)] * transverse_field / scale
    )
    energy, psi, residual, passed = relax_imaginary_time(energies, transverse_field, num_steps, most)
    log_prob = jax.nn.log_softmax(2 * jnp.log(psi))
    return TransverseGroundState(energy, log_prob, residual, passed), residual <= most * scale


@partial(jax.jit, static_argnums=2)
def _draw(log_prob: jax.Array, key: jax.Array, num_reads: int):
    uniforms = jax.random.uniform(key, (num_reads,), log_prob.dtype)
    rows = jax.vmap(lambda u: _pick(jnp.exp(log_prob), u))(uniforms)
    return all_states(log_prob.size.bit_length() - 1)[rows], log_prob[rows]
