"""AnnealerGibbs: the NumPyro kernel for discrete latent sites that stays exact with any annealer."""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpyro.handlers import seed, substitute, trace
from numpyro.infer.gibbs import conditioned
from numpyro.infer.mcmc import MCMCKernel

from qdesampler.backends import AnnealingBackend, IsingProblem
from qdesampler.backends.encoding import StateEncoding
from qdesampler.infer.discrete.facts import backend_facts
from qdesampler.infer.discrete.moves import (
    MoveSettings,
    check_encoding,
    check_settings,
    default_backend,
    default_order,
    draw_moves,
)
from qdesampler.infer.discrete.reach import warn_of_islands
from qdesampler.infer.discrete.sites import TracedSites, trace_sites
from qdesampler.infer.discrete.start import find_start, where_explored
from qdesampler.infer.discrete.state import AnnealerState, EvaluationCounts
from qdesampler.infer.discrete.surrogate import SURROGATES, Learned, learn
from qdesampler.infer.model.evaluation import is_batched
from qdesampler.kernels.discrete.outcomes import DiscreteState, LogDensity, finite_or_low
from qdesampler.validation import as_positive_int, is_traced

__all__ = ["AnnealerGibbs"]

MOST_COSET = 16  # bits up to which move="auto" is "coset": discrete_large.md, 16 against 17 to 56


class AnnealerGibbs(MCMCKernel):
    r"""Exact sampling of discrete latent sites with moves that any annealer may feed.

    The law of an annealer's reads is unknown, so they are never accepted as if it were known. A quadratic
    surrogate of the log density is fitted, the backend samples it, and the reads enter through moves that
    leave the posterior invariant whatever the reads are: as differences of reads, as a fitted density that
    proposals are drawn from, with weights, or through a transition known to be reversible or symmetric. A
    draw makes several such moves and one local step of imaginary time.

    | move | proposal | the backend's law |
    | --- | --- | --- |
    | "scan" | by a fitted surrogate; uncertain sites, pairs that exchange, labels that change places | any |
    | "coset" | Gibbs over all combinations of `num_masks` differences of reads | any |
    | "mask" | one difference of two reads, or one site | any |
    | "permutation" | Gibbs over exchanges of sites; keeps counts | any |
    | "fitted" | a Bernoulli mixture fitted to the reads | any |
    | "independence" | the backend's own draws | "density" |
    | "surrogate" | the backend's transition on the surrogate | "reversible" |
    | "symmetric" | the backend's transition, such as a quantum quench | "symmetric" |
    | "annealed" | the best of annealed paths by weight | "weighted" |
    | "local" | the local step alone | none is used |

    The surrogate and the pool are made in `init` and frozen; `renew_pools` makes them again between warm-up
    and run. They do not depend on the state of any draw that is kept, so every draw is exact. By itself the
    kernel takes models whose latent sites are all discrete; for others it is a block of NumPyro's `Gibbs`:

        Gibbs([(AnnealerGibbs(model), ["gamma"]), (QDE(model), None)])

    Sites must have finitely many values, consecutive integers. `num_evals` counts every evaluation of the log
    density; those of the surrogate are added to the first draw, divided among vectorized chains.

    Args:
        model: NumPyro model.
        backend: an annealer; None for one that suits the move, in general `SimulatedAnnealing()`.
        move: see the table. "auto": "scan" above 16 bits where no backend and no pool is given, else "coset".
        surrogate: "auto", "finite_differences", "taylor", "least_squares", "pseudo_likelihood", or an
            `IsingProblem` on the bits of a position (`qdesampler.backends.encoding.StateEncoding`).
        pool: reads to use instead of the backend's: positions `(R, n)`, entries `0, ..., q - 1` in the order
            of the sorted site names; or a dictionary of values, `(R, *site shape)` each.
        pool_size: reads to take for a pool.
        num_steps: collective moves of a draw; None: a draw costs about as much as a sweep of Gibbs sampling,
            for "scan" a tenth of that, or two evaluations where the log density is quadratic; "scan" makes
            at least two, one of them by the surrogate.
        num_masks: `K` of "coset" (`q^K - 1` evaluations) and "permutation" (`2^K - 1`).
        taylor_order: of the local step: 0 free flips (1 evaluation), 1 informed by all neighbours (`2 n +
            1`), 2 by the surrogate (1). None: 2 where a surrogate is made anyway; else 0, for "local" 1.
        tau: imaginary time of the local step; None: about one change a step for order 0, 0.2 for order 1.
        local_share: of single-site moves in "mask" and "permutation".
        num_reads: annealed paths of each "annealed" move, one evaluation each.
        beta: inverse temperature passed to the backend; 1 is that of the posterior.
        schedule: passed to the backend for pools and annealed paths.

    Raises:
        TypeError: the backend's law is not one that the move takes, with the reason; or it cannot run inside
            a chain where the move needs that.
        ValueError: an unknown move or surrogate, or a number out of range.
    """

    init_on_host = True  # a backend may run on the host: `init` cannot be compiled whole

    def __init__(
        self,
        model: Callable,
        *,
        backend: AnnealingBackend | None = None,
        move: str = "auto",
        surrogate: str | IsingProblem = "auto",
        pool: ArrayLike | Mapping[str, ArrayLike] | None = None,
        pool_size: int = 256,
        num_steps: int | None = None,
        num_masks: int = 2,
        taylor_order: int | None = None,
        tau: float | None = None,
        local_share: float = 0.5,
        num_reads: int = 4,
        beta: float = 1.0,
        schedule: Any = None,
    ):
        if not callable(model):
            raise ValueError(f"model must be a NumPyro model, got {type(model).__name__}.")
        # "coset" is better at 16 bits, "scan" at 17 and more (bench/results/discrete_large.md)
        self._by_size = move == "auto" and backend is None and pool is None
        move = "coset" if move == "auto" else move
        self._settings = MoveSettings(
            move,
            default_backend(move) if backend is None else backend,
            num_steps,
            num_masks,
            default_order(move, pool) if taylor_order is None else taylor_order,
            tau,
            local_share,
            num_reads,
            beta,
            schedule,
        )
        check_settings(self._settings)
        if isinstance(surrogate, str) and surrogate not in SURROGATES:
            raise ValueError(f"surrogate must be one of {SURROGATES} or an IsingProblem, got {surrogate!r}.")
        self._surrogate = surrogate
        self._pool = pool
        self._pool_size = as_positive_int("pool_size", pool_size)
        self._model = model
        self._traced: TracedSites | None = None  # set by `init`
        self._edges: np.ndarray | None = None  # of the surrogate, if it has few couplings; set by `init`

    @property
    def sample_field(self) -> str:
        """The field of the state that holds the draw."""
        return "z"

    @property
    def default_fields(self) -> tuple[str, ...]:
        """The fields that `MCMC` collects by default."""
        return ("z", "potential_energy", "accept_prob", "num_evals", "num_reads", "num_invalid")

    @property
    def model(self) -> Callable:
        """The NumPyro model."""
        return self._model

    @property
    def _sample_fn(self) -> Callable | None:
        """NumPyro reads this name: None means that `init` has to run before `sample` can."""
        return self.sample if self._traced is not None else None

    def init(
        self,
        rng_key: jax.Array,
        num_warmup: int,
        init_params: Mapping[str, ArrayLike] | None = None,
        model_args: Sequence[Any] = (),
        model_kwargs: dict[str, Any] | None = None,
    ) -> AnnealerState:
        """The state before the first iteration; a batch of keys gives a batch of vectorized chains.

        Raises:
            ValueError: sites that this kernel does not take, or values of `init_params` outside a support.
            ProblemTooLargeError: more bits than the backend takes.
            RuntimeError: no start with a finite density was found in 100 draws from the prior.
            TypeError: a backend on the host while the start is traced.
        """
        model_args, kwargs = _arguments(model_args, model_kwargs)
        batched = is_batched(rng_key)
        split = partial(jax.random.split, num=3)
        rng_key, key_start, key_fit = (jax.vmap(split, out_axes=1) if batched else split)(rng_key)
        one_key = key_start[0] if batched else key_start
        self._traced = trace_sites(self.model, one_key, model_args, kwargs)
        sites = self._traced.sites
        check_encoding(self._moves, self._encoding)
        z, energy, tries = find_start(
            self.model,
            sites,
            self._traced.potential(model_args, kwargs),
            key_start,
            init_params,
            model_args,
            kwargs,
        )
        log_density = self._log_density(model_args, kwargs)
        rows = z if batched else jax.tree.map(lambda leaf: leaf[None], z)
        starts = jax.vmap(sites.position)(rows)
        learned = self._adapt(log_density, starts, key_fit[0] if batched else key_fit)
        adapt, counts = learned.adapt, learned.counts
        if init_params is None:
            z, energy = where_explored(learned, sites, z, energy, batched)
        if self._moves.is_informed_only and not is_traced(starts):
            tries = tries + warn_of_islands(log_density, starts[0], self._encoding)
        chains = starts.shape[0]

        def each(value, dtype: Any = int):
            return jnp.full((chains,) if batched else (), value, jnp.result_type(dtype))

        shared = jax.tree.map(lambda total: _divided(total, chains, batched), counts)
        return AnnealerState(
            i=each(0),
            z=z,
            potential_energy=energy,
            num_evals=each(0),
            num_reads=each(0),
            num_calls=each(0),
            num_invalid=each(0),
            warmup_evals=each(0),
            pending=shared._replace(evals=shared.evals + tries),
            accept_prob=each(0, float),
            mean_accept_prob=each(0, float),
            adapt_state=adapt,
            num_warmup=each(num_warmup),
            rng_key=rng_key,
        )

    def sample(
        self, state: AnnealerState, model_args: Sequence[Any], model_kwargs: dict[str, Any] | None
    ) -> AnnealerState:
        """One iteration of every chain of `state`."""
        sites, settings, encoding = self._ready.sites, self._moves, self._encoding
        log_density = self._log_density(model_args, model_kwargs)
        adapt = state.adapt_state
        if adapt.problem is not None and adapt.problem.J.ndim == 1:
            adapt = adapt._replace(problem=adapt.problem._replace(edges=self._edges))

        def move(rng_key, z, energy):
            rng_key, key_move = jax.random.split(rng_key)
            here = DiscreteState(sites.position(z), finite_or_low(-energy))
            new, info = draw_moves(key_move, here, log_density, settings, encoding, adapt)
            return rng_key, sites.values(new.position), -new.log_density, info

        move = jax.vmap(move) if is_batched(state.rng_key) else move
        rng_key, z, energy, info = move(state.rng_key, state.z, state.potential_energy)
        counts = EvaluationCounts(
            *(jnp.asarray(now) + before for now, before in zip(info.counts, state.pending, strict=True))
        )
        warming = state.i < state.num_warmup
        counted = state.i + 1 - jnp.where(warming, 0, state.num_warmup)
        count = jnp.result_type(int)
        return state._replace(
            i=state.i + 1,
            z=z,
            potential_energy=energy,
            num_evals=counts.evals.astype(count),
            num_reads=counts.reads.astype(count),
            num_calls=counts.calls.astype(count),
            num_invalid=info.num_invalid.astype(count),
            warmup_evals=(state.warmup_evals + jnp.where(warming, counts.evals, 0)).astype(count),
            pending=jax.tree.map(jnp.zeros_like, state.pending),
            accept_prob=info.accept_prob.astype(state.accept_prob.dtype),
            mean_accept_prob=state.mean_accept_prob + (info.accept_prob - state.mean_accept_prob) / counted,
            rng_key=rng_key,
        )

    def get_diagnostics_str(self, state: AnnealerState) -> str:
        """One line for the progress bar of a single chain."""
        return (
            f"{self._moves.move}: {state.num_evals} evaluations, {state.num_reads} reads, "
            f"moved={state.mean_accept_prob:.2f}"
        )

    def postprocess_fn(self, model_args: Sequence[Any], model_kwargs: dict[str, Any] | None) -> Callable:
        """`z -> values and deterministic sites`; the latter by a run of the model."""
        model_args, kwargs = _arguments(model_args, model_kwargs)

        def replay(z):
            run = substitute(seed(conditioned(self.model), jax.random.key(0)), data=z)
            found = trace(run).get_trace(*model_args, **kwargs)
            return {**z, **{n: site["value"] for n, site in found.items() if site["type"] == "deterministic"}}

        return replay

    def facts(self, last_state: AnnealerState) -> dict[str, str | int | float]:
        """Facts about a run for diagnostics: the annealer and the diversity of its pool."""
        if self._settings.move == "local":
            return {}
        return backend_facts(self._settings.backend if self._pool is None else None, last_state)

    def refresh(
        self, state: AnnealerState, model_args: Sequence[Any], model_kwargs: dict[str, Any] | None
    ) -> AnnealerState:
        """The same position, its energy recomputed for these arguments (one evaluation)."""
        potential = self.get_potential_fn(model_args, model_kwargs)
        energy = (jax.vmap(potential) if is_batched(state.rng_key) else potential)(state.z)
        pending = state.pending._replace(evals=state.pending.evals + 1)
        return state._replace(potential_energy=energy.astype(state.potential_energy.dtype), pending=pending)

    def get_potential_fn(
        self, model_args: Sequence[Any] = (), model_kwargs: dict[str, Any] | None = None
    ) -> Callable:
        """The potential energy of the sites' values for these arguments.

        Raises:
            RuntimeError: before `init`.
        """
        return self._ready.potential(model_args, model_kwargs)

    def get_constrain_fn(
        self, model_args: Sequence[Any] = (), model_kwargs: dict[str, Any] | None = None
    ) -> Callable:
        """The identity: discrete values are not transformed."""
        return lambda z: z

    def wrap_model(self, wrapper: Callable) -> Self:
        """A copy of this kernel bound to `wrapper(model)`, to be initialised anew."""
        kernel = copy.copy(self)
        kernel._model = wrapper(self._model)
        kernel._traced = kernel._edges = None
        return kernel

    def renew(
        self,
        state: AnnealerState,
        model_args: Sequence[Any] = (),
        model_kwargs: dict[str, Any] | None = None,
        *,
        key: jax.Array,
    ) -> AnnealerState:
        """`state` with a new surrogate and a new pool, fitted from where its chains are.

        Do not call it between draws that are kept: moves are exact because their pool and surrogate do not
        depend on the chain.
        """
        batched = is_batched(state.rng_key)
        rows = state.z if batched else jax.tree.map(lambda leaf: leaf[None], state.z)
        starts = jax.vmap(self._ready.sites.position)(rows)
        adapt, counts, *_ = self._adapt(self._log_density(model_args, model_kwargs), starts, key)
        shared = jax.tree.map(lambda total: _divided(total, starts.shape[0], batched), counts)
        return state._replace(adapt_state=adapt, pending=state.pending + shared)

    @property
    def _ready(self) -> TracedSites:
        if self._traced is None:
            raise RuntimeError("AnnealerGibbs has to be initialised first; run `init`.")
        return self._traced

    @property
    def _encoding(self) -> StateEncoding:
        states = self._ready.sites.num_states
        if not states:
            raise ValueError(
                "no discrete site of the model has two values or more: there is nothing to move."
            )
        return StateEncoding(states)

    @property
    def _moves(self) -> MoveSettings:
        """The settings, with the move that "auto" stands for on these sites."""
        if self._by_size and self._encoding.num_bits > MOST_COSET:
            return dataclasses.replace(self._settings, move="scan")
        return self._settings

    def _log_density(self, model_args, model_kwargs) -> LogDensity:
        return self._ready.sites.log_density(self.get_potential_fn(model_args, model_kwargs))

    def _adapt(self, log_density, starts, key) -> Learned:
        pool = self._pool
        if isinstance(pool, Mapping):
            pool = self._ready.sites.positions(pool)
        learned = learn(
            self._moves, self._surrogate, pool, self._pool_size, log_density, starts, self._encoding, key
        )
        adapt = learned.adapt
        if adapt.problem is None or adapt.problem.edges is None:
            return learned
        # The edges shape compiled programs, so they stay with the kernel; other edges later become a matrix.
        edges = np.asarray(adapt.problem.edges)
        self._edges = edges if self._edges is None else self._edges
        same = np.array_equal(self._edges, edges)
        problem = adapt.problem if same else adapt.problem.dense()
        return learned._replace(adapt=adapt._replace(problem=problem._replace(edges=None)))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_traced": None, "_edges": None}


def _arguments(model_args: Sequence[Any], model_kwargs: dict[str, Any] | None) -> tuple[tuple, dict]:
    return tuple(model_args), {} if model_kwargs is None else dict(model_kwargs)


def _divided(total: int, chains: int, batched: bool) -> jax.Array:
    """A count divided among chains: whole numbers that sum to it."""
    parts = total // chains + (np.arange(chains) < total % chains)
    return jnp.asarray(parts if batched else parts[0], jnp.result_type(int))
