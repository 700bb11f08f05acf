"""What an annealer is: `AnnealingBackend`, what it returns, and what may be believed about its law.

An annealer's output law is in general unknown, so a kernel may not use its draws as if they were Boltzmann's.
`Capabilities.law` says what is guaranteed; a move states which laws it accepts and refuses the others.
"""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol, Self, get_args, runtime_checkable

import jax
from jax.typing import ArrayLike

from qdesampler.backends.problem import IsingProblem

__all__ = [
    "AnnealingBackend",
    "BackendError",
    "Capabilities",
    "Law",
    "LocalBackend",
    "ProblemTooLargeError",
    "Samples",
]

Law = Literal["unknown", "symmetric", "reversible", "weighted", "density"]


class BackendError(RuntimeError):
    """A backend failed to give the reads that were asked for."""


class ProblemTooLargeError(ValueError):
    """The problem has more variables than the backend takes."""


class Samples(NamedTuple):
    """The reads of one call; a pytree.

    Attributes:
        states: int8, -1 and +1, shape `(num_reads, n)`, in read order, column `i` is variable `i`.
        energies: `E` of every state by our own sum, shape `(num_reads,)`.
        log_weight: with law "weighted", `log w` with `E[w g(s)] = sum_s exp(-beta E(s)) g(s)`, shape
            `(num_reads,)`; else None.
        log_prob: with law "density", the log probability of every state, shape `(num_reads,)`; else None.
    """

    states: jax.Array
    energies: jax.Array
    log_weight: jax.Array | None = None
    log_prob: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """What a backend can do, and what is known of its draws; hashable.

    Attributes:
        law: "unknown": nothing; "symmetric": from an initial state `s` it draws `s'` with `K(s, s') = K(s',
            s)`; "reversible": `K` is reversible with respect to `exp(-beta E)`; "weighted": `log_weight`
            makes the draws properly weighted for `exp(-beta E)`; "density": `log_prob` is the exact log
            probability.
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

    def __post_init__(self):
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


class LocalBackend:
    """What local backends share: nothing to close, nothing to report."""

    @property
    def properties(self) -> Mapping[str, Any]:
        """The settings of the backend."""
        fields = dataclasses.fields(self) if dataclasses.is_dataclass(self) else ()
        return types.MappingProxyType({field.name: getattr(self, field.name) for field in fields})

    def close(self) -> None:
        """Do nothing: a local backend holds nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
