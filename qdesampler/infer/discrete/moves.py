"""The moves of `AnnealerGibbs` by name: what one draw of a chain does, and what it costs."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.backends import (
    AnnealingBackend,
    ExactEnumeration,
    GibbsSurrogate,
    ProblemTooLargeError,
    QuantumDynamics,
    SimulatedAnnealing,
    bits_to_spins,
    spins_to_bits,
)
from qdesampler.backends.encoding import StateEncoding
from qdesampler.infer.discrete.state import AnnealerAdaptState, EvaluationCounts
from qdesampler.kernels.discrete.annealer_moves import (
    annealed_importance_move,
    independence_move,
    independence_outcomes,
    surrogate_move,
    symmetric_move,
)
from qdesampler.kernels.discrete.categorical import imaginary_time_states_move
from qdesampler.kernels.discrete.guided import Guide, guided_move
from qdesampler.kernels.discrete.informed import imaginary_time_move
from qdesampler.kernels.discrete.masks import (
    check_local_share,
    check_orbit,
    coset_evals,
    coset_move,
    mask_move,
)
from qdesampler.kernels.discrete.outcomes import DiscreteInfo, DiscreteState, LogDensity, choose, require_law
from qdesampler.kernels.discrete.permutations import permutation_move
from qdesampler.kernels.discrete.scan import are_labels, relabel_move, scan_move
from qdesampler.validation import as_positive_int, as_positive_scalar

__all__ = [
    "LAW_OF_MOVE",
    "DrawInfo",
    "MoveSettings",
    "check_encoding",
    "check_settings",
    "default_backend",
    "default_order",
    "draw_moves",
]

POOL_MOVES = (
    "scan",
    "mask",
    "coset",
    "permutation",
    "fitted",
)  # need a pool of reads, of any law, before the run
BIT_MOVES = ("surrogate", "symmetric", "independence", "annealed", "fitted")  # act on bits, not on states
_DRAWS_OF_SWEEP = 10  # of "scan", in a sweep of evaluations; not tuned
_LEAST_STEPS = 4  # of a draw of "scan", so that the surrogate has one of them
# of ten moves of "scan", where a surrogate was fitted; with three of ten errors are larger by 0 to 25 % on
# change points and by 3 to 5 % on networks
_GUIDED = (1, 2, 4, 5, 7, 8, 9)
LAW_OF_MOVE = {
    "scan": "mask",
    "mask": "mask",
    "coset": "coset",
    "permutation": "mask",
    "fitted": "mask",
    "independence": "independence",
    "surrogate": "surrogate",
    "symmetric": "symmetric",
    "annealed": "annealed_importance",
    "local": "local",
}


@dataclasses.dataclass(frozen=True, eq=False)
class MoveSettings:
    """The arguments of `AnnealerGibbs` that shape its moves, described there."""

    move: str
    backend: AnnealingBackend
    num_steps: int | None
    num_masks: int
    taylor_order: int
    tau: float | None
    local_share: float
    num_reads: int
    beta: float
    schedule: Any

    @property
    def needs_problem(self) -> bool:
        """Whether draws use a surrogate; a pool needs its surrogate only while it is filled."""
        return self.move in ("surrogate", "symmetric", "independence", "annealed") or (
            self.taylor_order == 2 and self.move not in ("permutation", "scan")
        )

    @property
    def needs_pool(self) -> bool:
        """Whether reads are taken before the run."""
        return self.move in POOL_MOVES

    @property
    def is_informed_only(self) -> bool:
        """Whether single sites move, each by the density of its own change: hard zeros may stop them all."""
        return self.move == "local" and self.taylor_order == 1

    def local_evals(self, encoding: StateEncoding) -> int:
        """Evaluations of one local move."""
        if self.move == "permutation":
            return 0
        if self.move == "scan":
            return int(has_labels(encoding))
        if self.taylor_order != 1:
            return 1
        return 2 * (encoding.num_sites if encoding.is_binary else sum(encoding.num_states)) + 1

    def step_evals(self, encoding: StateEncoding) -> int:
        """Evaluations of one collective move."""
        if self.move == "coset":
            return coset_evals(self.num_masks, encoding_states(encoding))
        return {
            "permutation": 2**self.num_masks - 1,
            "annealed": self.num_reads,
            "local": self.local_evals(encoding),
        }.get(self.move, 1)

    def steps(self, encoding: StateEncoding, exact: bool = False) -> int:
        """Collective moves of a draw: by default it costs about as much as a sweep of Gibbs sampling.

        "scan" forgets a position in much less than a sweep, with an exact surrogate in one proposal.
        """
        if self.num_steps is not None:
            return max(self.num_steps, 2) if self.move == "scan" else self.num_steps
        if self.move == "scan":
            return 2 if exact else max(_LEAST_STEPS, encoding.num_bits // _DRAWS_OF_SWEEP)
        local = self.local_evals(encoding) if self.taylor_order != 1 and self.move != "local" else 0
        return max(1, round((encoding.num_bits - local) / self.step_evals(encoding)))


class DrawInfo(NamedTuple):
    """What happened in one draw."""

    accept_prob: jax.Array
    num_invalid: jax.Array
    counts: EvaluationCounts


def default_backend(move: str) -> AnnealingBackend:
    """The backend of a move if none is given."""
    laws = {"surrogate": GibbsSurrogate, "symmetric": QuantumDynamics, "independence": ExactEnumeration}
    return laws.get(move, SimulatedAnnealing)()


def default_order(move: str, pool: Any) -> int:
    """The Taylor order of the local step: 2 if a surrogate is fitted anyway, else one without it."""
    if move == "local":
        return 1
    return 0 if move in POOL_MOVES and pool is not None else 2


def check_settings(settings: MoveSettings) -> None:
    """Refuse settings that are wrong for every model.

    Raises:
        TypeError: the backend's law is not one that the move takes, or a count is not an integer.
        ValueError: an unknown move, or a number out of range.
    """
    if settings.move not in LAW_OF_MOVE:
        raise ValueError(f"no move {settings.move!r}; there are {', '.join(LAW_OF_MOVE)}.")
    inside = not settings.needs_pool and settings.move != "local"
    require_law(LAW_OF_MOVE[settings.move], settings.backend, jittable=inside)
    for name in ("num_masks", "num_reads"):
        as_positive_int(name, getattr(settings, name))
    if settings.num_steps is not None:
        as_positive_int("num_steps", settings.num_steps)
    if settings.taylor_order not in (0, 1, 2):
        raise ValueError(f"taylor_order must be 0, 1 or 2, got {settings.taylor_order!r}.")
    as_positive_scalar("beta", settings.beta)
    if settings.tau is not None:
        as_positive_scalar("tau", settings.tau)
    check_local_share(settings.local_share)


def check_encoding(settings: MoveSettings, encoding: StateEncoding) -> None:
    """Refuse a model that the move or the backend cannot hold.

    Raises:
        ProblemTooLargeError: more bits than the backend takes.
        ValueError: an orbit of too many states.
    """
    most = settings.backend.capabilities.max_variables
    if settings.move != "local" and most is not None and encoding.num_bits > most:
        raise ProblemTooLargeError(
            f"the discrete sites of the model take {encoding.num_bits} bits, "
            f"{type(settings.backend).__name__} takes {most} variables; use another backend or move, or "
            "split the sites over several blocks of Gibbs."
        )
    if settings.move == "coset":
        check_orbit(settings.num_masks, encoding_states(encoding))


def encoding_states(encoding: StateEncoding) -> int | tuple[int, ...]:
    """The numbers of states: a single number if all sites have the same."""
    sizes = tuple(int(q) for q in encoding.num_states)
    return sizes[0] if len(set(sizes)) == 1 else sizes


def has_labels(encoding: StateEncoding) -> bool:
    """Whether states may be exchanged everywhere; see `are_labels`."""
    return are_labels(tuple(int(q) for q in encoding.num_states))


def draw_moves(
    key: jax.Array,
    state: DiscreteState,
    log_density: LogDensity,
    settings: MoveSettings,
    encoding: StateEncoding,
    adapt: AnnealerAdaptState,
) -> tuple[DiscreteState, DrawInfo]:
    """Make the collective moves of one draw and one local move; one chain."""
    key_moves, key_local = jax.random.split(key)
    exact = settings.move == "scan" and adapt.problem is not None and adapt.tau is None
    steps = settings.steps(encoding, exact)
    on_bits = settings.move in BIT_MOVES
    here, evaluate = _as_bits(state, log_density, encoding) if on_bits else (state, log_density)
    prepared, extra = _prepare(key_moves, here, settings, adapt, steps)

    def step(carry, now):
        state, memory = carry
        key, own, index = now
        if settings.move == "scan":
            state, info = _scan(key, state, evaluate, encoding, adapt, index)
        else:
            state, memory, info = _collective(key, state, evaluate, settings, encoding, adapt, memory, own)
        return (state, memory), info

    keys = jax.random.split(jax.random.fold_in(key_moves, 1), steps)
    (here, _), infos = jax.lax.scan(step, (here, prepared[0]), (keys, prepared[1], np.arange(steps)))
    if on_bits:
        here = DiscreteState(encoding.decode(here.position).astype(state.position.dtype), here.log_density)
    counts = EvaluationCounts(steps * settings.step_evals(encoding), *extra)
    invalid = jnp.sum(infos.num_invalid)
    if settings.move not in ("local", "permutation") and (settings.move != "scan" or has_labels(encoding)):
        local = _relabel if settings.move == "scan" else _local
        here, info = local(key_local, here, log_density, settings, encoding, adapt)
        invalid = invalid + info.num_invalid
        counts = counts + EvaluationCounts(settings.local_evals(encoding))
    return here, DrawInfo(jnp.mean(infos.accept_prob), invalid, counts)


def _as_bits(state: DiscreteState, log_density: LogDensity, encoding: StateEncoding):
    """The same chain on bits: a position where two bits of a site are on has density 0."""

    def on_bits(bits: jax.Array) -> jax.Array:
        value = log_density(encoding.decode(bits))
        return value if encoding.is_binary else jnp.where(encoding.is_position(bits), value, -jnp.inf)

    return DiscreteState(encoding.encode(state.position), state.log_density), on_bits


def _prepare(key, state, settings, adapt, steps):
    """What is drawn for all moves of a draw at once: `((memory, one part per step), (reads, calls))`."""
    if settings.move == "independence":
        backend: Any = settings.backend
        samples = backend.sample(adapt.problem, key=key, num_reads=steps, beta=settings.beta)
        here = bits_to_spins(state.position)[None]
        log_q = backend.log_prob(adapt.problem, here, beta=settings.beta)[0]
        return (log_q, (spins_to_bits(samples.states), samples.log_prob)), (steps, 1)
    reads = {"surrogate": 1, "symmetric": 1, "annealed": settings.num_reads}.get(settings.move, 0)
    return (None, None), (steps * reads, steps if reads else 0)


def _collective(key, state, log_density, settings, encoding, adapt, memory, own):
    """One collective move: the next state, the memory of the next step, and the move's info."""
    states = encoding_states(encoding)
    backend, problem = settings.backend, adapt.problem
    if settings.move == "independence":
        proposal, log_q = own
        outcomes = independence_outcomes(state, log_density, proposal, log_q, memory)
        new, info = choose(key, outcomes, 1)
        here = jnp.all(new.position == outcomes.positions[0])
        return new, jnp.where(here, memory, log_q), info
    if settings.move == "mask":
        local = settings.local_share
        new, info = mask_move(key, state, log_density, adapt.pool, local_share=local, num_states=states)
    elif settings.move == "coset":
        masks = settings.num_masks
        new, info = coset_move(key, state, log_density, adapt.pool, num_masks=masks, num_states=states)
    elif settings.move == "permutation":
        new, info = permutation_move(
            key,
            state,
            log_density,
            adapt.pool,
            num_masks=settings.num_masks,
            local_share=settings.local_share,
        )
    elif settings.move == "fitted":
        new, info = independence_move(key, state, log_density, adapt.density)
    elif settings.move == "surrogate":
        new, info = surrogate_move(key, state, log_density, backend, problem, beta=settings.beta)
    elif settings.move == "symmetric":
        new, info = symmetric_move(key, state, log_density, backend, problem)
    elif settings.move == "annealed":
        new, info = annealed_importance_move(
            key,
            state,
            log_density,
            backend,
            problem,
            beta=settings.beta,
            schedule=settings.schedule,
            num_reads=settings.num_reads,
        )
    else:
        new, info = _local(key, state, log_density, settings, encoding, adapt)
    return new, memory, info


def _scan(key, state, log_density, encoding, adapt, index):
    """One move of "scan": by the surrogate at fixed places of a draw, else a shift or an exchange.

    All chains are at the same place, so none pays for a path that another one takes.
    """

    def shift(key, state):
        return scan_move(key, state, log_density, adapt.density, encoding.num_states)

    if adapt.problem is None:
        return shift(key, state)
    guide = Guide(adapt.problem, adapt.tau, adapt.pairs)

    def far(key, state):
        return guided_move(key, state, log_density, guide, encoding)

    places = np.isin(np.arange(10), _GUIDED)
    return jax.lax.cond(jnp.asarray(places)[index % 10], far, shift, key, state)


def _relabel(key, state, log_density, settings, encoding, adapt):
    """Exchange two states everywhere: labels of exchangeable components change places at no other move."""
    del settings, adapt
    return relabel_move(key, state, log_density, encoding.num_states[0])


def _local(
    key: jax.Array,
    state: DiscreteState,
    log_density: LogDensity,
    settings: MoveSettings,
    encoding: StateEncoding,
    adapt: AnnealerAdaptState,
) -> tuple[DiscreteState, DiscreteInfo]:
    """One step of imaginary time: of order 0, 1, or 2 by a pair of sweeps of the surrogate."""
    order, problem = settings.taylor_order, adapt.problem
    if order == 2 and problem is not None:
        bits, on_bits = _as_bits(state, log_density, encoding)
        bits, info = surrogate_move(key, bits, on_bits, GibbsSurrogate(1), problem)
        position = encoding.decode(bits.position).astype(state.position.dtype)
        return DiscreteState(position, bits.log_density), info
    tau = settings.tau
    if tau is None:  # order 0 changes about one site
        tau = 0.2 if order else float(np.arctanh(min(0.5, 1 / encoding.num_bits)))
    move: Callable = imaginary_time_move
    if encoding.is_binary:
        new, info = move(key, state, log_density, tau=tau, taylor_order=order)
    else:
        move = imaginary_time_states_move
        new, info = move(key, state, log_density, encoding.num_states, tau=tau, taylor_order=order)
    return new, info
