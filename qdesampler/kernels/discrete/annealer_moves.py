r"""Moves on bits that run a local backend inside the chain, one for each law of its draws.

* **surrogate** ("reversible"): `y ~ K(x, .)` with `K` reversible with respect to `q ~ exp(-beta E)`; accept
  with `min(1, pi(y) q(x) / (pi(x) q(y)))` (Liu 2001, section 9.4.3). With the Ising problem a quadratic
  expansion of `f` this is the imaginary-time step of Taylor order 2.
* **symmetric** ("symmetric"): quantum-enhanced proposals; accept with `min(1, pi(y) / pi(x))` (Layden et al.
  2023).
* **independence** ("density"): `y ~ q`; accept with `min(1, pi(y) q(x) / (pi(x) q(y)))` (Tierney 1994).
* **annealed importance** ("weighted"): the current state gets a path drawn backwards; `K` fresh paths are run
  forwards; one of the `K + 1` ends is chosen with probability proportional to

      w_k exp(beta E(x_k)) pi(x_k).

  Given `x ~ pi` the backward path makes (path, x) an exact draw of the extended target (Neal 2001), and
  choosing among independent proposals by weight leaves that invariant (Andrieu, Lee, Vihola 2018).

The Ising problem, `beta` and the schedule must not depend on the current position. A law that a move
does not accept is refused (`qdesampler.kernels.discrete.outcomes.require_law`).

References:
    Liu, "Monte Carlo Strategies in Scientific Computing" (2001).
    Layden et al., "Quantum-enhanced Markov chain Monte Carlo", Nature 619 (2023) 282.
    Tierney, "Markov chains for exploring posterior distributions", Ann. Statist. 22 (1994) 1701.
    Neal, "Annealed importance sampling", Statistics and Computing 11 (2001) 125.
    Andrieu, Lee, Vihola, "Uniform ergodicity of the iterated conditional SMC", Bernoulli 24 (2018) 842.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from qdesampler.backends.problem import IsingProblem, bits_to_spins, spins_to_bits
from qdesampler.backends.protocol import AnnealingBackend
from qdesampler.backends.simulated_annealing import SimulatedAnnealing
from qdesampler.kernels.discrete.outcomes import (
    DiscreteInfo,
    DiscreteState,
    LogDensity,
    Outcomes,
    choose,
    finite_or_low,
    is_invalid,
    metropolis_outcomes,
    require_law,
)

__all__ = [
    "TractableDensity",
    "annealed_importance_move",
    "independence_move",
    "independence_outcomes",
    "surrogate_move",
    "surrogate_outcomes",
    "symmetric_move",
    "weighted_outcomes",
]


class TractableDensity(Protocol):
    """A law on bits that can be drawn from and evaluated, positive everywhere and frozen."""

    def sample(self, key: jax.Array) -> jax.Array:
        """Return one draw, shape `(n,)`."""
        ...

    def log_prob(self, position: jax.Array) -> jax.Array:
        """Return the log probability of one position."""
        ...


def surrogate_outcomes(
    state: DiscreteState,
    log_density: LogDensity,
    proposal: jax.Array,
    problem: IsingProblem,
    beta: ArrayLike = 1.0,
) -> Outcomes:
    """Accept a draw of a transition reversible with respect to `exp(-beta E)`."""
    energies = problem.energies(bits_to_spins(jnp.stack([state.position, proposal])))
    return metropolis_outcomes(state, proposal, log_density(proposal), beta * (energies[1] - energies[0]))


def surrogate_move(
    key: jax.Array,
    state: DiscreteState,
    log_density: LogDensity,
    backend: AnnealingBackend,
    problem: IsingProblem,
    *,
    beta: ArrayLike = 1.0,
) -> tuple[DiscreteState, DiscreteInfo]:
    """Let a reversible backend move the bits on a surrogate, then accept or refuse; one evaluation.

    Raises:
        TypeError: the backend's law is not "reversible", or it cannot run inside a chain.
    """
    require_law("surrogate", backend)
    key_draw, key_choose = jax.random.split(key)
    proposal = _moved(key_draw, state, backend, problem, beta)
    return choose(key_choose, surrogate_outcomes(state, log_density, proposal, problem, beta), 1)


def symmetric_move(
    key: jax.Array,
    state: DiscreteState,
    log_density: LogDensity,
    backend: AnnealingBackend,
    problem: IsingProblem,
) -> tuple[DiscreteState, DiscreteInfo]:
    """Propose by a symmetric backend, such as a quench of `QuantumDynamics`; one evaluation.

    Raises:
        TypeError: the backend's law is not "symmetric", or it cannot run inside a chain.
    """
    require_law("symmetric", backend)
    key_draw, key_choose = jax.random.split(key)
    proposal = _moved(key_draw, state, backend, problem, 1.0)
    return choose(key_choose, metropolis_outcomes(state, proposal, log_density(proposal)), 1)


def _moved(key, state, backend, problem, beta):
    start = bits_to_spins(state.position)[None]
    return spins_to_bits(backend.sample(problem, key=key, beta=beta, initial_states=start).states[0])


def independence_outcomes(
    state: DiscreteState,
    log_density: LogDensity,
    proposal: jax.Array,
    log_q: jax.Array,
    log_q_here: jax.Array,
) -> Outcomes:
    """Accept an independent draw of `q`, whose log probabilities there and here are given."""
    return metropolis_outcomes(state, proposal, log_density(proposal), log_q_here - log_q)


def independence_move(
    key: jax.Array,
    state: DiscreteState,
    log_density: LogDensity,
    density: TractableDensity | AnnealingBackend,
    problem: IsingProblem | None = None,
    *,
    beta: ArrayLike = 1.0,
) -> tuple[DiscreteState, DiscreteInfo]:
    """Propose from a density that is known: a fitted one, or a backend of law "density"; one evaluation.

    Mix it with local moves: where `q` is too narrow, a chain outside of it accepts hardly any proposal.

    Args:
        key: JAX key.
        state: where the chain is, bits.
        log_density: `f` of one position.
        density: something like `BernoulliMixture`, or a backend with `log_prob`, such as `ExactEnumeration`.
        problem: what the backend samples; None for a fitted density.
        beta: as in the backend's `sample`.

    Raises:
        TypeError: the backend's law is not "density", it cannot run inside a chain, or no problem is given.
    """
    key_draw, key_choose = jax.random.split(key)
    if isinstance(density, AnnealingBackend):
        require_law("independence", density)
        if problem is None:
            raise TypeError("a backend needs the Ising problem that it samples.")
        states = density.sample(problem, key=key_draw, beta=beta).states
        proposal = spins_to_bits(states[0])
        both = bits_to_spins(jnp.stack([proposal, state.position.astype(proposal.dtype)]))
        evaluate: Any = getattr(density, "log_prob", None)
        if evaluate is None:
            raise TypeError(f"{type(density).__name__} has no log_prob to evaluate the current state with.")
        log_q, log_q_here = evaluate(problem, both, beta=beta)
    else:
        proposal = density.sample(key_draw)
        log_q, log_q_here = density.log_prob(proposal), density.log_prob(state.position)
    return choose(key_choose, independence_outcomes(state, log_density, proposal, log_q, log_q_here), 1)


def weighted_outcomes(
    state: DiscreteState, positions: jax.Array, log_density: jax.Array, log_weights: jax.Array
) -> Outcomes:
    """Choose among the current state and fresh draws in proportion to weight times `pi`.

    Args:
        state: where the chain is.
        positions: fresh draws, shape `(K, n)`.
        log_density: `f` of each, shape `(K,)`.
        log_weights: of the current state first, then of the draws, shape `(K + 1,)`: log weights for the
            counting measure, `E[w g(x)] = sum_x g(x)`.
    """
    positions = jnp.concatenate([state.position[None], positions.astype(state.position.dtype)])
    values = jnp.concatenate([state.log_density[None], finite_or_low(log_density)])
    invalid = jnp.sum(is_invalid(log_density))
    total = values + log_weights
    stay = jnp.where(jnp.arange(total.size) == 0, 0.0, -jnp.inf)
    total = jnp.where(jnp.all(total == -jnp.inf), stay, total)
    return Outcomes(positions, values, jax.nn.log_softmax(total), invalid)


def annealed_importance_move(
    key: jax.Array,
    state: DiscreteState,
    log_density: LogDensity,
    backend: SimulatedAnnealing,
    problem: IsingProblem,
    *,
    beta: ArrayLike = 1.0,
    schedule: Any = None,
    num_reads: int = 4,
) -> tuple[DiscreteState, DiscreteInfo]:
    """Choose among the current state and `num_reads` fresh annealed ones; `num_reads` evaluations.

    Raises:
        TypeError: the backend's law is not "weighted", it cannot run inside a chain, or it cannot run a path
            backwards (`reverse_log_weight`).
    """
    require_law("annealed_importance", backend)
    if not hasattr(backend, "reverse_log_weight"):
        raise TypeError(
            f"{type(backend).__name__} has no reverse_log_weight: the current state's weight is needed."
        )
    key_back, key_draw, key_choose = jax.random.split(key, 3)
    here = bits_to_spins(state.position)[None]
    problem = problem.without_offset()
    back = backend.reverse_log_weight(problem, here, key=key_back, beta=beta, schedule=schedule)
    samples = backend.sample(problem, key=key_draw, num_reads=num_reads, beta=beta, schedule=schedule)
    positions = spins_to_bits(samples.states).astype(state.position.dtype)
    weights: Any = samples.log_weight
    log_weights = jnp.concatenate([back + beta * problem.energies(here), weights + beta * samples.energies])
    outcomes = weighted_outcomes(state, positions, jax.vmap(log_density)(positions), log_weights)
    return choose(key_choose, outcomes, num_reads)
