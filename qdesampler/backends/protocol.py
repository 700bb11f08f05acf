"""The protocol of an annealer, `AnnealingBackend`: its results, and what is known about their law.

An annealer's output law is in general unknown, so a kernel may not use its draws as if they were Boltzmann's.
`Capabilities.law` says what is guaranteed; a move states which laws it accepts and refuses the others.
"""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol, Self, cast, get_args, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qdesampler.backends.checks import check_call, refuse
from qdesampler.backends.precision import in_enough_precision
from qdesampler.backends.problem import IsingProblem, check_states, spins_to_bits, uniform_states

__all__ = [
    "AnnealingBackend",
    "BackendError",
    "Capabilities",
    "CheckedBackend",
    "Law",
    "LocalBackend",
    "SampleCall",
    "Samples",
    "build_pool",
]

Law = Literal["unknown", "symmetric", "reversible", "weighted", "density"]


class BackendError(RuntimeError):
    """A backend failed to return the requested reads."""


class Samples(NamedTuple):
    """The reads of one call; a pytree.

    Attributes:
        states: int8, -1 and +1, shape `(num_reads, n)`, in read order, column `i` is variable `i`.
        energies: `E` of every state by our own sum, shape `(num_reads,)`; in double precision, of NumPy,
            unless JAX traces the call.
        log_weight: with law "weighted", `log w` with `E[w g(s)] = sum_s exp(-beta (E(s) - offset)) g(s)`,
            shape `(num_reads,)`; else None.
        log_prob: with law "density", the log probability of every state, shape `(num_reads,)`; else None.
        log_scale: with `log_weight`, what the constant of the problem adds to it, `-beta offset`; else None.
        population: with `log_weight`, the number of each read's population, `0, ..., P - 1`, shape
            `(num_reads,)`, where only reads of different populations are independent; None if all are.
    """

    states: jax.Array
    energies: jax.Array | np.ndarray
    log_weight: jax.Array | np.ndarray | None = None
    log_prob: jax.Array | np.ndarray | None = None
    log_scale: jax.Array | np.ndarray | None = None
    population: jax.Array | np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """What a backend can do, and what is known of its draws; hashable.

    Attributes:
        law: "unknown": nothing; "symmetric": from an initial state `s` it draws `s'` with `K(s, s') = K(s',
            s)`; "reversible": `K` is reversible with respect to `exp(-beta E)`; "weighted": `log_weight`
            makes the draws properly weighted for `exp(-beta E)`, on average over the
            reads; "density": `log_prob` is the exact log probability.
        jittable: `sample` may be called under `jit`, `vmap` and `scan`.
        remote: a call leaves this machine: fill a pool, never call within a chain.
        seeded: the same key gives the same draws.
        initial_states: takes `initial_states`.
        schedule: takes `schedule`.
        beta: takes `beta`; a device without it has a temperature of its own, unknown.
        max_num_reads: most reads of one call to the device; None if there is no limit.
        max_variables: largest problem; None if there is no limit.
        topology: the graph of a structured device, or None.
    """

    law: Law
    jittable: bool
    remote: bool = False
    seeded: bool = True
    initial_states: bool = False
    schedule: bool = False
    beta: bool = True
    max_num_reads: int | None = None
    max_variables: int | None = None
    topology: Any = None

    def __post_init__(self) -> None:
        if self.law not in get_args(Law):
            raise ValueError(f"law must be one of {', '.join(get_args(Law))}, got {self.law!r}.")


@runtime_checkable
class AnnealingBackend(Protocol):
    """An annealer. Local ones are pure functions of (problem, key) and may be traced; hosts fill pools."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do and what is known of its draws."""
        ...

    @property
    def properties(self) -> Mapping[str, Any]:
        """Facts about the device, for reports."""
        ...

    def sample(
        self,
        problem: IsingProblem,
        *,
        key: jax.Array,
        num_reads: int = 1,
        beta: ArrayLike = 1.0,
        schedule: Any = None,
        initial_states: ArrayLike | None = None,
    ) -> Samples:
        """Return `num_reads` states of `problem`."""
        ...

    def close(self) -> None:
        """Release what the backend holds."""
        ...


class SampleCall(NamedTuple):
    """The arguments of one call of `sample`, checked.

    Attributes:
        problem: what to sample, `n` variables; its constant is 0 here.
        key: JAX key.
        num_reads: number of states to return.
        beta: inverse temperature, shape `()`, in the problem's dtype.
        schedule: as it was given; None for the backend's own.
        initial_states: int8, -1 and +1, shape `(num_reads, n)`; None if no states were given.
    """

    problem: IsingProblem
    key: jax.Array
    num_reads: int
    beta: jax.Array | np.ndarray
    schedule: Any
    initial_states: jax.Array | None

    def first_states(self) -> tuple[jax.Array, jax.Array]:
        """The initial states, or uniform random ones if none were given, and a key for what follows."""
        key_start, key_run = jax.random.split(self.key)
        if self.initial_states is not None:
            return self.initial_states, key_run
        return uniform_states(key_start, self.num_reads, self.problem.num_variables), key_run


class CheckedBackend:
    """A backend whose `sample` checks the call, refuses what its `capabilities` exclude, and then draws.

    A subclass states its `capabilities` and implements `_draw`; a backend on the host also implements
    `_check_ready`.
    """

    def sample(
        self,
        problem: IsingProblem,
        *,
        key: jax.Array,
        num_reads: int = 1,
        beta: ArrayLike = 1.0,
        schedule: Any = None,
        initial_states: ArrayLike | None = None,
    ) -> Samples:
        """Return `num_reads` states of `problem`, with log weights or log probabilities by the law.

        Args:
            problem: what to sample, `n` variables.
            key: JAX key.
            num_reads: number of states.
            beta: inverse temperature; a backend without one ignores it.
            schedule: None for the backend's own; else a table `(T, 2)` or curves
                (`qdesampler.backends.checks.annealing_table`).
            initial_states: -1 and +1, shape `(num_reads, n)`, or `(n,)` for one state that all reads share;
                None for uniform random states where the backend starts from states.

        Raises:
            TypeError: an argument is not of its kind, or JAX traces the call of a backend on the host.
            ValueError: a number is out of range, states or a schedule have another shape, or the backend
                takes no `schedule` or no `initial_states`.
            ProblemTooLargeError: the problem has more variables than the backend takes.
            BackendError: the backend failed, or it is closed.
        """
        self._check_ready(problem, key, beta)
        most = self._stated.max_variables
        checked, reads, scale = check_call(type(self).__name__, problem, num_reads, beta, most, key=key)
        self._refuse(schedule, initial_states)
        states = None
        if initial_states is not None:
            states = check_states("initial_states", initial_states, reads, checked.num_variables)
        call = SampleCall(checked.without_offset(), key, reads, scale, schedule, states)
        samples = self._draw_precisely(call)
        samples = samples._replace(energies=checked.energies(samples.states))
        if samples.log_weight is None:
            return samples
        return samples._replace(log_scale=-scale * checked.offset)

    def _draw_precisely(self, call: SampleCall) -> Samples:
        """Return the states of a checked call; backends of the host draw in double precision as it is."""
        return self._draw(call)

    def _check_ready(self, problem: IsingProblem, key: jax.Array, beta: ArrayLike) -> None:
        """Refuse any call that this backend cannot serve at the moment; a local backend serves all."""

    def _refuse(self, schedule: Any, initial_states: ArrayLike | None) -> None:
        """Refuse the arguments that `capabilities` exclude.

        Raises:
            ValueError: one of them was given.
        """
        taken = self._stated
        refuse(
            type(self).__name__,
            schedule=None if taken.schedule else schedule,
            initial_states=None if taken.initial_states else initial_states,
        )

    def _draw(self, call: SampleCall) -> Samples:
        """Return the states of a checked call; the energies are summed anew."""
        raise NotImplementedError(f"{type(self).__name__} has to implement _draw(call).")

    @property
    def _stated(self) -> Capabilities:
        return cast(AnnealingBackend, self).capabilities

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        cast(AnnealingBackend, self).close()


class LocalBackend(CheckedBackend):
    """What local backends share: the checks of `sample`, nothing to close, their settings as properties."""

    @property
    def properties(self) -> Mapping[str, Any]:
        """The settings of the backend."""
        fields = dataclasses.fields(self) if dataclasses.is_dataclass(self) else ()
        return types.MappingProxyType({field.name: getattr(self, field.name) for field in fields})

    def close(self) -> None:
        """Do nothing: a local backend holds nothing."""

    def _draw_precisely(self, call: SampleCall) -> Samples:
        def draw(problem, beta):
            return self._draw(call._replace(problem=problem, beta=beta))

        others = (call.key, call.schedule, call.initial_states)
        found = in_enough_precision(type(self).__name__, draw, call.problem, call.beta, others)
        return found._replace(states=jnp.asarray(found.states, jnp.int8))


def build_pool(
    backend: AnnealingBackend,
    problem: IsingProblem,
    *,
    key: jax.Array,
    size: int,
    beta: ArrayLike = 1.0,
    schedule: Any = None,
) -> jax.Array:
    """Return `size` reads as bits, int8, shape `(size, n)`, for the mask and coset moves.

    Those moves are exact whatever the law of the reads, provided that the pool does not depend on the chain's
    current state: build it before the run, or between phases of warm-up.

    Raises:
        TypeError: not a backend. What the backend itself raises passes through.
    """
    if not isinstance(backend, AnnealingBackend):
        raise TypeError(f"build_pool takes an annealing backend, got {type(backend).__name__}.")
    return spins_to_bits(
        backend.sample(problem, key=key, num_reads=size, beta=beta, schedule=schedule).states
    )
