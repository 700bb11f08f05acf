"""QDE: the NumPyro kernel whose target is the ground state of a Hamiltonian, a drop-in for NUTS."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from numpyro.infer.gibbs import GIBBS_SITES_KWARG
from numpyro.infer.initialization import init_to_uniform

from qdesampler.infer.model.evaluation import is_batched, value_and_gradient
from qdesampler.infer.model.kernel_base import TargetKernel
from qdesampler.infer.model.kernel_reports import TrialReport
from qdesampler.infer.model.target import Target
from qdesampler.infer.qde.coordinates import MoveCoordinates
from qdesampler.infer.qde.facts import solve_facts, trial_report
from qdesampler.infer.qde.nuts_arguments import (
    block_rank,
    check_nuts_arguments,
    correlated_blocks,
    initial_metric,
    most_steps,
    position_size,
)
from qdesampler.infer.qde.state import QDEAdaptState, QDEState
from qdesampler.kernels.adaptation.state import (
    Adaptation,
    AdaptationSettings,
    StartCoordinates,
    start_adaptation,
)
from qdesampler.kernels.adaptation.step import StepSettings, qde_step
from qdesampler.kernels.adaptation.trajectory_length import LENGTH_GRID, START_INDEX
from qdesampler.kernels.mcmc.integrators import DYNAMICS, INTEGRATORS
from qdesampler.kernels.mcmc.mixture import MixtureInfo
from qdesampler.kernels.mcmc.trajectory import check_dimension, check_move_settings

__all__ = ["QDE"]


class QDE(TargetKernel):
    r"""Exact sampling of a posterior as the squared ground state of its Hamiltonian.

    With `U = -log p` the Boltzmann Hamiltonian `H = -D lap + D (|grad U|^2 / 4 - lap U / 2)` has the ground
    state `psi0 = sqrt(p)`; the drift of its imaginary time, `2 D grad log psi0 = -D grad U`, is the force of
    local moves. Warm-up is an imaginary-time solve: descents (`D -> 0`), then closed-form steps of a Gaussian
    trial down its energy, the Fisher divergence. With `chain_method="vectorized"` all chains solve together.
    The draws come from a frozen mixture of two exact moves: independence Metropolis from the trial, and
    trajectories of random length in the coordinates that the trial whitens. The measured acceptance of the
    trial sets their proportions; if it is low, the kernel is a local sampler with an adapted metric, step
    size and length. Location-scale sites whose scale is another site are partially non-centred inside the
    kernel; states and draws are those of the model as written.

    If the solve ends early, the remaining iterations of the warm-up make no evaluations. The kernel is a
    drop-in for NUTS, whose keyword arguments have the same meaning here. Inside NumPyro's `Gibbs` it makes
    only local moves.

    Args:
        model: NumPyro model. Exactly one of `model`, `potential_fn`, `ground_state` is given.
        potential_fn: `z -> U(z)`, scalar, over any pytree; `init_params` is then required in `run`.
        ground_state: a solved `GroundState`; the target is its `psi0^2`, the draws are the site "x".
        kinetic_fn: must be None: the kinetic energy belongs to `dynamics`.
        step_size: first step size, in units of the metric.
        inverse_mass_matrix: first metric, a covariance: `(dim,)`, `(dim, dim)` in raveled order, or blocks
            keyed by tuples of site names.
        adapt_step_size: adapt the step size in warm-up; likewise `adapt_mass_matrix` the metric.
        dense_mass: None lets the gain test choose identity, diagonal or correlated (dense up to 128
            dimensions, low-rank beyond); False: diagonal; True: dense; tuples of site names: these blocks.
        target_accept_prob: acceptance of end points that the step size aims at; 0.9 here corresponds to about
            0.8 in NUTS, which averages over the whole trajectory.
        trajectory_length: mean length in units of the metric (HMC's); None: the warm-up searches for it, or
            uses a quarter period.
        max_tree_depth: at most `2**depth - 1` steps a trajectory; a pair gives warm-up and sampling.
        init_strategy: NumPyro's per-site start for models.
        find_heuristic_step_size: double or halve the step size first, at every restart of its adaptation.
        forward_mode_differentiation: differentiate forwards.
        regularize_mass_matrix: floor the metric while draws are few.
        dynamics: "canonical" or "isokinetic" (microcanonical; at least 2 dimensions).
        integrator: "leapfrog" (one gradient a step) or "mn2" (two).
        solve: False omits the solve, global moves and re-centring. The solve needs `adapt_mass_matrix`,
            `adapt_step_size` and at least 40 iterations of warm-up.

    Raises:
        ValueError: for none or several sources, an unknown name, or a non-positive number.
    """

    one_chain_prepares = True  # `init` leaves the same things in the kernel for one chain and for many

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

    # ---- NumPyro's contract --------------------------------------------------------------------------------

    def init(
        self,
        rng_key: jax.Array,
        num_warmup: int,
        init_params: Any = None,
        model_args: Sequence = (),
        model_kwargs: dict | None = None,
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
        start = self._target.start(key_start, init_params, model_args, model_kwargs)
        prototype = jax.tree.map(lambda x: x[0], start.z) if batched else start.z
        check_dimension(self._dynamics, position_size(prototype))
        chains = rng_key.shape[0] if batched else 1
        settings = self._adaptation_settings(prototype, model_kwargs)
        coordinates = self._coordinates(settings, prototype, model_args, model_kwargs)
        metric = initial_metric(self._inverse_mass_matrix, prototype, settings.rank)

        def begin(metric, *start):
            rows = start if batched else jax.tree.map(lambda leaf: leaf[None], start)
            centredness = coordinates.start_centredness(prototype)
            inside = jax.vmap(
                lambda z, energy, gradient: coordinates.inside(z, energy, gradient, centredness)
            )
            first = inside(*rows)
            length = self._trajectory_length
            return start_adaptation(
                settings,
                metric,
                first,
                num_warmup,
                StartCoordinates(
                    centredness,
                    coordinates.proposal_widths(prototype),
                    coordinates.descent_starts(first.position),
                ),
                step_size=self._step_size,
                target_accept_prob=self._target_accept_prob,
                length=LENGTH_GRID[START_INDEX] if length is None else length,
            )

        # Compiled as one program: one operation after another would take seconds.
        shared = jax.jit(begin)(metric, start.z, start.potential_energy, start.gradient)

        def each(value, dtype=float):
            return jnp.full((chains,) if batched else (), value, jnp.result_type(dtype))

        energy = start.potential_energy
        return QDEState(
            i=each(0, int),
            z=start.z,
            z_grad=start.gradient,
            potential_energy=energy,
            energy=energy,
            num_evals=each(0, int),
            warmup_evals=each(0, int),
            pending_evals=each(start.num_evals, int),
            accept_prob=each(0),
            mean_accept_prob=each(0),
            diverging=~jnp.isfinite(energy),
            adapt_state=QDEAdaptState(each(shared.step_size), each(shared.length), shared),
            rng_key=rng_key,
        )

    def sample(self, state: QDEState, model_args: Sequence, model_kwargs: dict | None) -> QDEState:
        """One iteration of every chain of `state`."""
        batched = is_batched(state.rng_key)
        split = partial(jax.random.split, num=3)
        rng_key, key_move, key_steps = (jax.vmap(split, out_axes=1) if batched else split)(state.rng_key)
        prototype = jax.tree.map(lambda x: x[0], state.z) if batched else state.z
        shared = state.adapt_state.shared
        iteration = state.i[0] if batched else state.i
        if ravel_pytree(prototype)[0].size == 0:
            return self._still(state, rng_key, iteration < shared.num_warmup)

        settings = self._adaptation_settings(prototype, model_kwargs)
        coordinates = self._coordinates(settings, prototype, model_args, model_kwargs)
        inside = partial(coordinates.inside, centredness=shared.centredness)
        outside = partial(coordinates.outside, centredness=shared.centredness)
        here = (jax.vmap(inside) if batched else inside)(state.z, state.potential_energy, state.z_grad)
        there, adaptation, info = qde_step(
            key_steps[0] if batched else key_steps,
            key_move,
            here,
            shared,
            iteration,
            coordinates.value_and_score(shared.centredness),
            StepSettings(settings, DYNAMICS[self._dynamics], INTEGRATORS[self._integrator]),
            coordinates if settings.solve and coordinates.can_recentre else None,
        )
        sites = (jax.vmap(outside) if batched else outside)(there)
        return self._next_state(state, rng_key, iteration, sites, adaptation, info)

    def _still(self, state: QDEState, rng_key: jax.Array, warming: jax.Array) -> QDEState:
        """The next state of a target without coordinates."""
        certain = jnp.ones_like(state.accept_prob)
        return state._replace(
            i=state.i + 1,
            num_evals=state.pending_evals,
            warmup_evals=state.warmup_evals + jnp.where(warming, state.pending_evals, 0),
            pending_evals=jnp.zeros_like(state.pending_evals),
            accept_prob=certain,
            mean_accept_prob=certain,
            rng_key=rng_key,
        )

    def _next_state(
        self,
        state: QDEState,
        rng_key: jax.Array,
        iteration: jax.Array,
        sites: tuple[Any, jax.Array, Any],
        shared: Adaptation,
        info: MixtureInfo,
    ) -> QDEState:
        """The state after an iteration, from `(z, U(z), grad U(z))` and what happened."""
        z, energy, z_grad = sites
        warming = iteration < shared.num_warmup
        evals = info.num_evals + state.pending_evals
        counted = iteration + 1 - jnp.where(warming, 0, shared.num_warmup)
        like = jnp.ones_like(state.accept_prob)
        return QDEState(
            i=state.i + 1,
            z=z,
            z_grad=z_grad,
            potential_energy=energy,
            energy=info.energy,
            num_evals=evals,
            warmup_evals=state.warmup_evals + jnp.where(warming, evals, 0),
            pending_evals=jnp.zeros_like(state.pending_evals),
            accept_prob=info.accept_prob,
            mean_accept_prob=state.mean_accept_prob + (info.accept_prob - state.mean_accept_prob) / counted,
            diverging=info.diverging | ~jnp.isfinite(energy),
            adapt_state=QDEAdaptState(shared.step_size * like, shared.length * like, shared),
            rng_key=rng_key,
        )

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

    def refresh(self, state: QDEState, model_args: Sequence, model_kwargs: dict | None) -> QDEState:
        """The same position, its energy and gradient recomputed for these arguments (one evaluation)."""
        if not jax.tree.leaves(state.z):
            return state
        evaluate = value_and_gradient(
            self._target.potential(model_args, model_kwargs), forward_mode=self._target.forward_mode
        )
        energy, gradient = (jax.vmap(evaluate) if is_batched(state.rng_key) else evaluate)(state.z)
        return state._replace(potential_energy=energy, z_grad=gradient, pending_evals=state.pending_evals + 1)

    def _coordinates(self, settings, prototype, model_args, model_kwargs) -> MoveCoordinates:
        """The coordinates of the moves for these arguments, made anew so that they are never stale."""
        return MoveCoordinates(
            self._target.potential(model_args, model_kwargs),
            prototype,
            self._target.centering(model_kwargs) if settings.solve else None,
            model_args,
            model_kwargs,
            forward_mode=self._target.forward_mode,
        )

    def _adaptation_settings(self, prototype: Any, model_kwargs: dict | None) -> AdaptationSettings:
        """What is adapted, for positions like `prototype` (one chain), made anew so as never to be stale."""
        blocks, forced = correlated_blocks(self._dense_mass, self._inverse_mass_matrix, prototype)
        return AdaptationSettings(
            adapt_step_size=self._adapt_step_size,
            adapt_metric=self._adapt_mass_matrix,
            search_step_size=self._find_heuristic_step_size,
            regularize=self._regularize_mass_matrix,
            blocks=blocks,
            block_rank=block_rank(self._inverse_mass_matrix, prototype, forced=forced),
            force_blocks=forced,
            search_length=self._trajectory_length is None,
            max_steps=self._max_steps,
            solve=self._solve
            and self._adapt_mass_matrix
            and self._adapt_step_size
            and GIBBS_SITES_KWARG not in (model_kwargs or {}),
        )
