"""QDE: the NumPyro kernel whose target is the ground state of a Hamiltonian, a drop-in for NUTS."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpyro.infer.gibbs import GIBBS_SITES_KWARG
from numpyro.infer.initialization import init_to_uniform

from qdesampler.infer.model.evaluation import is_batched, value_and_gradient
from qdesampler.infer.model.kernel_base import Kwargs, TargetKernel
from qdesampler.infer.model.kernel_reports import TrialReport
from qdesampler.infer.model.memory import Memory, name_of
from qdesampler.infer.model.target import StartingPoint, Target
from qdesampler.infer.qde.coordinates.device import MoveCoordinates
from qdesampler.infer.qde.coordinates.host import HostCoordinates
from qdesampler.infer.qde.facts import solve_facts, trial_report
from qdesampler.infer.qde.host_sampler import HostSampler, is_soon_done
from qdesampler.infer.qde.nuts_arguments import (
    block_rank,
    check_nuts_arguments,
    correlated_blocks,
    given_covariance,
    initial_metric,
    most_steps,
    position_size,
)
from qdesampler.infer.qde.per_chain import PerChain, PerChainSettings, StepOfChains, start_chains
from qdesampler.infer.qde.prepared import Prepared, WarmupSettings
from qdesampler.infer.qde.site_blocks import site_blocks
from qdesampler.infer.qde.starts import find_starts, known_rows
from qdesampler.infer.qde.state import Frozen, QDEState
from qdesampler.infer.qde.transitions import adapted, chosen_start, first_state, frozen, next_state, still
from qdesampler.infer.qde.warmup import prepare, unadapted
from qdesampler.kernels.adaptation.walk import START_LENGTH, LocalSettings
from qdesampler.kernels.mcmc import host_trajectories
from qdesampler.kernels.mcmc.integrators import DYNAMICS, INTEGRATORS
from qdesampler.kernels.mcmc.mixture import When, mixture_step
from qdesampler.kernels.mcmc.trajectory import check_dimension, check_move_settings
from qdesampler.numerics.numpy_metric import HostMetric

__all__ = ["QDE"]


class QDE(TargetKernel):
    r"""Exact sampling of a posterior as the squared ground state of its Hamiltonian.

    With `U = -log p` the Boltzmann Hamiltonian `H = -D lap + D (|grad U|^2 / 4 - lap U / 2)` has the ground
    state `psi0 = sqrt(p)`; the drift of its imaginary time, `2 D grad log psi0 = -D grad U`, is the force of
    local moves. `init` is an imaginary-time solve: descents (`D -> 0`), then closed-form steps of a Gaussian
    trial that lower its energy, the Fisher divergence. The solve runs on the host, in NumPy, and asks the
    device for batches of log densities and scores. It does not depend on the number of chains. Every
    iteration makes one of two exact moves: an independence Metropolis move from the trial, or a trajectory of
    random length in coordinates in which the trial is a standard normal. How often each is made follows from
    the measured acceptance of the trial. If it is low, the kernel is a local sampler with an adapted metric,
    step size and length. Location-scale sites whose scale is another site are partially non-centred inside
    the kernel; states and draws are those of the model as written. Nothing adapts after the warm-up.

    The first iterations of the warm-up move the chains away from their starts; the others make no
    evaluations. Keyword arguments of NUTS have the same meaning here as there. Inside NumPyro's
    `Gibbs`, and where the model's arguments are traced, it makes only local moves, adapted as in NUTS.

    Args:
        model: NumPyro model. Exactly one of `model`, `potential_fn`, `ground_state` is given.
        potential_fn: `z -> U(z)`, scalar, over any pytree; `init_params` is then required in `run`.
        ground_state: a solved `GroundState`; the target is its `psi0^2`, the draws are the site "x".
        kinetic_fn: must be None: the kinetic energy belongs to `dynamics`.
        step_size: first step size, in units of the metric.
        inverse_mass_matrix: first metric, a covariance: `(dim,)`, `(dim, dim)` in raveled order, or blocks
            keyed by tuples of site names.
        adapt_step_size: adapt the step size in warm-up; likewise `adapt_mass_matrix` the metric.
        dense_mass: None chooses identity, diagonal or correlated (dense up to 128 dimensions, low-rank
            beyond) by what each gains; False: diagonal; True: dense; tuples of site names: these blocks.
        target_accept_prob: acceptance of end points that the step size aims at; 0.9 here corresponds to about
            0.8 in NUTS, which averages over the whole trajectory.
        trajectory_length: mean length in units of the metric (HMC's); None: the warm-up searches for it, or
            uses a quarter period.
        max_tree_depth: at most `2**depth - 1` steps a trajectory; a pair gives warm-up and sampling.
        init_strategy: where the sites of a model start; a strategy of NumPyro, such as `init_to_sample()`.
        find_heuristic_step_size: begin each adaptation of the step size by doubling or halving it.
        forward_mode_differentiation: compute gradients in forward mode.
        regularize_mass_matrix: keep the metric away from zero while there are few draws.
        dynamics: "canonical" or "isokinetic" (microcanonical; at least 2 dimensions).
        integrator: "leapfrog" (one gradient a step) or "mn2" (two).
        solve: False omits the solve, global moves and re-centring. The solve needs `adapt_mass_matrix`,
            `adapt_step_size` and at least 40 iterations of warm-up.

    Raises:
        ValueError: for none or several sources, an unknown name, or a non-positive number.
    """

    one_chain_prepares = True  # `init` leaves the same things in the kernel for one chain and for many
    init_on_host = True  # the driver calls `init` with concrete values

    def __init__(
        self,
        model: Callable | None = None,
        potential_fn: Callable | None = None,
        kinetic_fn: None = None,
        step_size: float = 1.0,
        inverse_mass_matrix: Any = None,
        adapt_step_size: bool = True,
        adapt_mass_matrix: bool = True,
        dense_mass: bool | list[tuple[str, ...]] | None = None,
        target_accept_prob: float = 0.9,
        trajectory_length: float | None = None,
        max_tree_depth: int | tuple[int, int] = 10,
        init_strategy: Callable = init_to_uniform,
        find_heuristic_step_size: bool = False,
        forward_mode_differentiation: bool = False,
        regularize_mass_matrix: bool = True,
        *,
        ground_state: Any = None,
        dynamics: str = "canonical",
        integrator: str = "leapfrog",
        solve: bool = True,
    ):
        check_move_settings(
            step_size=step_size, length=trajectory_length, dynamics=dynamics, integrator=integrator
        )
        if not isinstance(solve, bool):
            raise ValueError(f"solve is {solve!r}; expected True or False.")
        check_nuts_arguments(kinetic_fn, target_accept_prob)
        self._target = Target(
            model,
            potential_fn,
            ground_state,
            init_strategy=init_strategy,
            forward_mode=forward_mode_differentiation,
        )
        self._step_size = step_size
        self._inverse_mass_matrix = inverse_mass_matrix
        self._adapt_step_size = adapt_step_size
        self._adapt_mass_matrix = adapt_mass_matrix
        self._dense_mass = dense_mass
        self._target_accept_prob = target_accept_prob
        self._trajectory_length = trajectory_length
        self._max_steps = most_steps(max_tree_depth)
        self._find_heuristic_step_size = find_heuristic_step_size
        self._regularize_mass_matrix = regularize_mass_matrix
        self._dynamics = dynamics
        self._integrator = integrator
        self._solve = solve
        self._num_warmup = 0
        self._memory = Memory[Prepared, HostCoordinates]()

    def __getstate__(self) -> dict[str, Any]:
        """State for copies and pickles, without the results of warm-ups."""
        return {**self.__dict__, "_memory": Memory[Prepared, HostCoordinates]()}

    # ---- NumPyro's contract --------------------------------------------------------------------------------

    def init(
        self,
        rng_key: jax.Array,
        num_warmup: int,
        init_params: Any = None,
        model_args: Sequence[Any] = (),
        model_kwargs: Kwargs = None,
    ) -> QDEState:
        """The state before the first iteration; a batch of keys gives a batch of vectorized chains.

        Raises:
            ValueError: a bad `init_params`, `inverse_mass_matrix` or `dense_mass`, or a dimension without
                this dynamics.
            RuntimeError: no valid start, or discrete sites that cannot be enumerated.
        """
        batched = is_batched(rng_key)
        split = jax.vmap(jax.random.split, out_axes=1) if batched else jax.random.split
        rng_key, key_start = split(rng_key)
        self._num_warmup = num_warmup
        known = self._is_known(model_args, model_kwargs)
        adapting = num_warmup > 0 and (self._adapt_step_size or self._adapt_mass_matrix)
        spent, prepared, prototype, start = 0, None, None, None
        if known and adapting and init_params is None and self._target.starts_anywhere:
            prototype = self._target.prototype(model_args, model_kwargs)
        if prototype is None:
            start = self._target.start(key_start, init_params, model_args, model_kwargs)
            prototype = jax.tree.map(lambda x: x[0], start.z) if batched else start.z
        dim = position_size(prototype)
        check_dimension(self._dynamics, dim)
        if dim > 0 and known:
            # While `init` is traced the warm-up has to be evaluated all the same.
            traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((rng_key, init_params)))
            with jax.ensure_compile_time_eval() if traced else nullcontext():
                prepared, spent = self._warm_up(prototype, start, num_warmup, model_args, model_kwargs)
        if start is None and (prepared is None or not len(prepared.starts)):
            start = self._target.start(key_start, init_params, model_args, model_kwargs)
        if prepared is None:
            adapt = self._start_per_chain(key_start, start, prototype, num_warmup)
        else:
            adapt = frozen(prepared, num_warmup)
            if init_params is None and self._target.starts_anywhere and len(prepared.starts):
                evals = 0 if start is None else start.num_evals
                start = chosen_start(prepared, key_start, prototype, evals, batched=batched)
        assert start is not None
        sites = site_blocks(self._dense_mass, self._inverse_mass_matrix, prototype)
        return first_state(rng_key, start, adapt, sites, spent, batched=batched)

    def sample(self, state: QDEState, model_args: Sequence[Any], model_kwargs: Kwargs) -> QDEState:
        """One iteration of every chain of `state`."""
        batched, shared = is_batched(state.rng_key), state.adapt_state.shared
        prototype = jax.tree.map(lambda x: x[0], state.z) if batched else state.z
        split = jax.vmap(jax.random.split, out_axes=1) if batched else jax.random.split
        rng_key, key_move = split(state.rng_key)
        iteration = state.i[0] if batched else state.i
        if position_size(prototype) == 0:
            return still(state, rng_key, iteration < self._num_warmup)
        is_frozen = isinstance(shared, Frozen)
        coordinates = self._coordinates(prototype, model_args, model_kwargs, may_recentre=is_frozen)
        if not is_frozen:
            return self._per_chain(state, rng_key, key_move, shared, coordinates, batched=batched)
        warming = iteration < shared.num_warmup
        warm_steps = self._max_steps[0] != self._max_steps[1]
        chosen = {"centredness": shared.centredness, "law": shared.law}
        inside, outside = partial(coordinates.inside, **chosen), partial(coordinates.outside, **chosen)
        inside = jax.vmap(inside) if batched else inside
        there, info = mixture_step(
            key_move,
            inside(state.z, state.potential_energy, state.z_grad),
            coordinates.value_and_score(**chosen),
            shared.mixture,
            DYNAMICS[self._dynamics],
            INTEGRATORS[self._integrator],
            When(
                jnp.where(warming, *self._max_steps) if warm_steps else self._max_steps[1],
                active=~warming | (iteration < shared.burn_in),
                forget=warming & (iteration == 0),
            ),
        )
        outside = jax.vmap(outside) if batched else outside
        return next_state(state, rng_key, outside(there), info, warming, shared.num_warmup)

    def _per_chain(self, state, rng_key, key_move, shared, coordinates, *, batched: bool) -> QDEState:
        """One iteration of chains that adapt by themselves."""
        step = StepOfChains(
            coordinates,
            self._num_warmup,
            self._per_chain_settings(coordinates.prototype),
            DYNAMICS[self._dynamics],
            INTEGRATORS[self._integrator],
        )
        own = (key_move, state.i, state.z, state.potential_energy, state.z_grad, shared)
        sites, adapt, info = (jax.vmap(step) if batched else step)(*own)
        state = next_state(state, rng_key, sites, info, state.i < shared.num_warmup, shared.num_warmup)
        return adapted(state, adapt)

    def get_diagnostics_str(self, state: QDEState) -> str:
        """One line for the progress bar of a single chain."""
        return (
            f"{state.num_evals} evaluations, step size {state.adapt_state.step_size:.2e}, "
            f"acc. prob={state.mean_accept_prob:.2f}"
        )

    def facts(self, last_state: QDEState) -> dict[str, str | int | float]:
        """The result of the solve; see `qdesampler.infer.qde.facts.solve_facts`."""
        return solve_facts(last_state)

    def trial_report(self, last_state: QDEState) -> TrialReport | None:
        """The trial of global moves; None if chains adapted separately."""
        return trial_report(last_state)

    def refresh(self, state: QDEState, model_args: Sequence[Any], model_kwargs: Kwargs) -> QDEState:
        """The same position, its energy and gradient recomputed for these arguments (one evaluation)."""
        if not jax.tree.leaves(state.z):
            return state
        evaluate = value_and_gradient(
            self._target.potential(model_args, model_kwargs), forward_mode=self._target.forward_mode
        )
        energy, gradient = (jax.vmap(evaluate) if is_batched(state.rng_key) else evaluate)(state.z)
        return state._replace(potential_energy=energy, z_grad=gradient, pending_evals=state.pending_evals + 1)

    def _is_known(self, model_args: Sequence[Any], model_kwargs: Kwargs) -> bool:
        """Whether the target has values before a chain moves: not inside Gibbs, nor with traced arguments."""
        if GIBBS_SITES_KWARG in (model_kwargs or {}):
            return False
        settings = (self._step_size, self._target_accept_prob, self._trajectory_length)
        leaves = jax.tree.leaves((tuple(model_args), model_kwargs or {}, settings))
        return not any(isinstance(leaf, Tracer) for leaf in leaves)

    # ---- warm-up -------------------------------------------------------------------------------------------

    def _warm_up(
        self,
        prototype: Any,
        start: StartingPoint | None,
        num_warmup: int,
        model_args: Sequence[Any],
        model_kwargs: Kwargs,
    ) -> tuple[Prepared | None, int]:
        """The warm-up on the host and its evaluations; the number is 0 if a former result serves again.

        It also runs while `init` is traced. It is None if the target closes over a traced value.
        """
        settings = self._warmup_settings(prototype, num_warmup)
        metric = initial_metric(self._inverse_mass_matrix, prototype, settings.local.directions)
        first = HostMetric(*(np.asarray(part, float) for part in metric))
        if num_warmup == 0 or not (self._adapt_step_size or self._adapt_mass_matrix):
            return unadapted(first, settings), 0
        rows = None if self._target.starts_anywhere else known_rows(start)
        target = name_of(prototype, model_args, model_kwargs)
        name = (target, num_warmup, None if rows is None else rows.tobytes())

        def make():
            host = self._host_coordinates(prototype, model_args, model_kwargs)
            starts = find_starts(host, rows, near=settings.may_solve)
            return prepare(host, starts, first, settings, self._report_warmup)

        try:
            return self._memory.prepared(name, make)
        except jax.errors.TracerArrayConversionError:
            return None, 0

    def _host_coordinates(self, prototype, model_args, model_kwargs) -> HostCoordinates:
        """Batches of evaluations on the host."""

        def make():
            zeros = jax.tree.map(lambda leaf: np.zeros(jnp.shape(leaf), leaf.dtype), prototype)
            coordinates = self._coordinates(zeros, model_args, model_kwargs, may_recentre=True)
            return HostCoordinates(coordinates, zeros, self._target.standard_widths)

        return self._memory.evaluations(name_of(prototype, model_args, model_kwargs), make).restart()

    def host_sampler(
        self, state: QDEState, iterations: int, model_args: Sequence[Any], model_kwargs: Kwargs
    ) -> HostSampler | None:
        """Iterations on the host, where that is sooner done than compiling; None where it is not.

        Args:
            state: of the chains.
            iterations: of the whole run, warm-up included; 0: they are wanted whatever their number.
            model_args: the model's arguments.
            model_kwargs: its keyword arguments.
        """
        integrator = INTEGRATORS[self._integrator]
        if iterations and not is_soon_done(state, iterations, integrator.stages):
            return None
        prototype = jax.tree.map(lambda x: x[0], state.z) if np.ndim(state.potential_energy) else state.z
        return HostSampler(
            self._host_coordinates(prototype, model_args, model_kwargs),
            prototype,
            host_trajectories.DYNAMICS[self._dynamics],
            integrator,
            self._max_steps,
        )

    def _coordinates(self, prototype, model_args, model_kwargs, *, may_recentre: bool) -> MoveCoordinates:
        """The coordinates of the moves for these arguments, made anew so that they are never stale."""
        solving = may_recentre and self._solve and self._adapt_mass_matrix and self._adapt_step_size
        return MoveCoordinates(
            self._target.potential(model_args, model_kwargs),
            prototype,
            self._target.centering(model_kwargs) if solving else None,
            model_args,
            model_kwargs,
            forward_mode=self._target.forward_mode,
        )

    def _warmup_settings(self, prototype: Any, num_warmup: int) -> WarmupSettings:
        """What is adapted, for positions like `prototype` (one chain)."""
        blocks, forced = correlated_blocks(self._dense_mass, self._inverse_mass_matrix, prototype)
        local = LocalSettings(
            step_size=self._step_size,
            length=self._trajectory_length,
            target_accept_prob=self._target_accept_prob,
            most_steps=self._max_steps[0],
            adapt_step_size=self._adapt_step_size,
            adapt_metric=self._adapt_mass_matrix,
            search_step_size=self._find_heuristic_step_size,
            regularize=self._regularize_mass_matrix,
            blocks=blocks,
            rank=block_rank(self._inverse_mass_matrix, prototype, forced=forced),
            force_blocks=forced,
            dynamics=host_trajectories.DYNAMICS[self._dynamics],
            integrator=INTEGRATORS[self._integrator],
        )
        solve = self._solve and self._adapt_mass_matrix and self._adapt_step_size
        return WarmupSettings(num_warmup, solve, local)

    def _per_chain_settings(self, prototype: Any) -> PerChainSettings:
        blocks, forced = correlated_blocks(self._dense_mass, self._inverse_mass_matrix, prototype)
        return PerChainSettings(
            self._adapt_step_size,
            self._adapt_mass_matrix,
            forced and bool(blocks),
            self._target_accept_prob,
            self._regularize_mass_matrix,
            self._max_steps[0],
        )

    def _start_per_chain(self, key, start, prototype, num_warmup: int) -> PerChain:
        settings = self._per_chain_settings(prototype)
        matrix = given_covariance(self._inverse_mass_matrix, prototype, dense=settings.dense)
        length = START_LENGTH if self._trajectory_length is None else self._trajectory_length
        return start_chains(key, start, num_warmup, settings, self._step_size, length, matrix)
