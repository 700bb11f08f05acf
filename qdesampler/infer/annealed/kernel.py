"""AnnealedQDE: the NumPyro kernel for posteriors of many modes, which also gives the evidence."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from numpyro.infer.initialization import init_to_uniform

from qdesampler.infer.annealed.deprecated import renamed_argument
from qdesampler.infer.annealed.facts import LadderKernel
from qdesampler.infer.annealed.population import (
    LadderChoice,
    PassResult,
    anneal_and_fit,
    check_arrival,
    choose_ladder,
    flat_evaluation,
    path_named,
    start_ladders,
)
from qdesampler.infer.annealed.prior_reference import DEFAULT_SCALE, prior_gaussian
from qdesampler.infer.annealed.search import anneal_until_settled
from qdesampler.infer.annealed.state import AnnealedAdaptState, AnnealedState
from qdesampler.infer.model.arguments import Arguments
from qdesampler.infer.model.compiled_programs import CompiledPrograms
from qdesampler.infer.model.evaluation import is_batched
from qdesampler.infer.model.prior import prior_moments
from qdesampler.infer.model.target import Target
from qdesampler.kernels.paths.path import DiffusionPath, TemperingPath
from qdesampler.kernels.paths.replica import make_replica
from qdesampler.kernels.references.reference import Reference, gaussian_reference
from qdesampler.kernels.smc.persistent_sampling import ParticleSettings
from qdesampler.kernels.smc.reference_fit import num_slots
from qdesampler.kernels.tempering.ladder import SHORTEST_WARMUP, ladder_step
from qdesampler.numerics.types import ValueAndScore

__all__ = ["AnnealedQDE"]

_REFERENCE_KINDS = ("auto", "fitted", "prior")


class AnnealedQDE(LadderKernel):
    r"""Exact sampling of many modes, and the evidence: the outer loop of the quantum dynamic equation.

    Lowering `D` carries the ground state of the Hamiltonian from the prior to the posterior. Here the loop is
    a ladder of replicas inside each chain, on a path `q^(1-b) p^b` from a normalised reference `q` to the
    posterior `p = exp(-U)` (or through `exp(-U/D)` with `D` lowered). Neighbours swap non-reversibly, so that
    replicas travel from the reference, where every draw is new, to the posterior and back. The kernel leaves
    the product of all rungs invariant, and its draws are those of the posterior's rung.

    Before the warm-up a population of particles is annealed from the prior reference (persistent sampling).
    It fills the modes and gives the first rungs, metrics and evidence. A reference is fitted to the
    particles: a mixture of Gaussians, or a Gaussian whose widths depend on the position. If it covers them,
    it replaces the prior reference, and particles start again from it until the evidence has settled
    (`qdesampler.infer.annealed.search`). Then the ladder starts; it has two rungs if draws of the reference
    are accepted often. The warm-up places the rungs so that all pairs swap at the same rate and tunes step
    sizes, which follow the score if that is far from linear (`qdesampler.kernels.mcmc.local_step_size`); then
    everything is frozen.

    After `run`, `log_evidence(mcmc)` gives `log Z = log int exp(-U(z)) dz` *of the potential as given*: for a
    model that is the marginal likelihood, as its priors are normalised; constants missing from a
    `potential_fn` are missing from its evidence.

    Args:
        model: NumPyro model. Exactly one of `model`, `potential_fn` is given.
        potential_fn: `z -> U(z)`, scalar, over any pytree; `init_params` is then required in `run`.
        reference: the prior reference, a Gaussian in unconstrained coordinates: a scale, or `(centre,
            scale)`. It has to cover the posterior. None: as wide as the prior of the model; a scale of 5 for
            a potential.
        path: "geometric", "diffusion" (`D` lowered; prior reference only), "path-integral" (rings of slices,
            `D` lowered: quantum annealing) or a path object (`qdesampler.kernels.paths.path_integral`).
        reference_kind: what the ladder starts from: "fitted", "prior", or "auto", which takes the fitted
            reference if it covers the particles and its barrier is lower.
        num_rungs: rungs of the ladder, at least 2 (the reference counts); None: from the barrier.
        max_rungs: most rungs that None may choose.
        num_particles: particles of each chain's population, at least 16. None: 256, after a pilot of 128 over
            all chains (at least 32 a chain). The pilot suffices if one Gaussian, autoregressive or not, fits
            and its draws are accepted, either at once or after a start from the mode in which all descents
            ended.
        max_steps: most leapfrog steps of a particle's trajectory; between two swaps there are at most four.
        target_accept_prob: acceptance probability that step sizes aim at.
        init_strategy: NumPyro's per-site start, used for the structure of a model's sites.
        forward_mode_differentiation: differentiate forwards.
        leg: the old name of `reference_kind`, with "broad" for "prior"; deprecated.
        num_walkers: the old name of `num_particles`; deprecated.

    Raises:
        ValueError: for none or several sources, an improper reference, fewer than two rungs, or a number out
            of its range.
    """

    init_on_host = True  # what `init` finds decides the shapes of the state, so it cannot be one program

    def __init__(
        self,
        model: Callable | None = None,
        potential_fn: Callable | None = None,
        *,
        reference: Any = None,
        path: str | TemperingPath = "geometric",
        reference_kind: str = "auto",
        num_rungs: int | None = None,
        max_rungs: int = 40,
        num_particles: int | None = None,
        max_steps: int = 16,
        target_accept_prob: float = 0.8,
        init_strategy: Callable = init_to_uniform,
        forward_mode_differentiation: bool = False,
        leg: str | None = None,
        num_walkers: int | None = None,
    ):
        if leg is not None:
            reference_kind = renamed_argument("leg", "reference_kind", "prior" if leg == "broad" else leg)
        if num_walkers is not None:
            num_particles = renamed_argument("num_walkers", "num_particles", num_walkers)
        for name, value, least in (
            ("num_rungs", num_rungs, 2),
            ("max_rungs", max_rungs, 3),
            ("num_particles", num_particles, 16),
            ("max_steps", max_steps, 1),
        ):
            if value is not None and (isinstance(value, bool) or int(value) != value or value < least):
                remedy = " A ladder needs a reference and a target." if name == "num_rungs" else ""
                raise ValueError(f"{name} is {value}; expected an integer of at least {least}.{remedy}")
        if not 0 < target_accept_prob < 1:
            raise ValueError(f"target_accept_prob is {target_accept_prob}; expected between 0 and 1.")
        if reference_kind not in _REFERENCE_KINDS:
            raise ValueError(
                f"reference_kind is {reference_kind!r}; expected one of {', '.join(_REFERENCE_KINDS)}."
            )
        self._path = path_named(path)
        thermal = isinstance(self._path, DiffusionPath)
        if reference_kind == "fitted" and thermal:
            raise ValueError(
                "Lowering D forgets a fitted reference: use reference_kind='prior' with path='diffusion'."
            )
        self._reference_kind = "prior" if thermal else reference_kind
        if reference is not None:
            size = max((jnp.size(part) for part in jax.tree.leaves(reference)), default=1)
            prior_gaussian(reference, size)  # refuses an improper reference before any work starts
        self._reference = reference
        self._num_rungs = num_rungs
        self._max_rungs = max_rungs
        self._max_steps = max_steps
        self._target_accept_prob = target_accept_prob
        self._pilot = num_particles is None and self._reference_kind != "prior"
        settings = ParticleSettings(max_steps=max_steps)
        if num_particles is not None:
            settings = settings._replace(num_particles=int(num_particles))
        self._settings = settings
        self._target = Target(
            model,
            potential_fn,
            None,
            init_strategy=init_strategy,
            forward_mode=forward_mode_differentiation,
        )
        # Sequential chains must have states of one shape: the choice of the first one, and for which
        # arguments.
        self._chosen: tuple[Arguments, LadderChoice] | None = None
        self._programs = CompiledPrograms()

    # ---- NumPyro's contract --------------------------------------------------------------------------------

    def __getstate__(self) -> dict:
        """State for copies and pickles, without the choice and the programs of one run."""
        return {**self.__dict__, "_chosen": None, "_programs": CompiledPrograms()}

    def init(
        self,
        rng_key: jax.Array,
        num_warmup: int,
        init_params: Any = None,
        model_args: Sequence = (),
        model_kwargs: dict | None = None,
    ) -> AnnealedState:
        """Anneal particles, then start the ladder; a batch of keys gives a batch of vectorized chains.

        All chains of a batch have the same reference and number of rungs, and sequential chains take those of
        the first one. Under a transform (parallel chains, `vmap`) the number of rungs cannot depend on the
        barrier: it is `num_rungs`, or half of `max_rungs`.

        Raises:
            ValueError: a bad `init_params` or reference, or fewer than 32 iterations of warm-up.
            RuntimeError: no valid start, or particles that never saw a finite density or did not arrive.
        """
        if num_warmup < SHORTEST_WARMUP:
            raise ValueError(
                f"AnnealedQDE needs at least {SHORTEST_WARMUP} iterations of warm-up to place its rungs and "
                f"tune its steps; num_warmup is {num_warmup}. A finished run continues without: set "
                "mcmc.post_warmup_state = mcmc.last_state."
            )
        model_kwargs = model_kwargs or {}
        batched = is_batched(rng_key)
        keys = jax.vmap(lambda k: jax.random.split(k, 5))(rng_key if batched else rng_key[None])
        one = keys[:, 0] if batched else keys[0, 0]
        start = self._target.start(one, init_params, model_args, model_kwargs)
        prototype = jax.tree.map(lambda x: x[0], start.z) if batched else start.z
        flat, unravel = ravel_pytree(prototype)
        if flat.size == 0:
            raise ValueError("The model has no continuous latent site: there is nothing to anneal.")
        evaluate = self._evaluation(unravel, model_args, model_kwargs)
        centre, scale = self._prior_moments(keys[0, 4], flat.size, prototype, model_args, model_kwargs)
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(prototype))
        structure = (jax.tree.structure(prototype), shapes)

        def compiled(name, make):
            inputs = (keys, init_params)
            return self._programs.get((*name, structure), make, model_args, model_kwargs, inputs)

        prior_reference = gaussian_reference(centre, scale, num_slots(flat.size))
        result = self._anneal(keys[:, 1], evaluate, prior_reference, compiled)
        choice = self._choose(result, batched, model_args, model_kwargs)

        def start_all(keys, result, fitted):
            fixed = choice._replace(fitted=fitted)
            sizes = {"num_warmup": num_warmup, "max_steps": self._max_steps}
            return start_ladders(keys, result, fixed, self._path, **sizes)

        program = compiled(("ladder", choice.num_rungs, num_warmup), lambda: jax.jit(start_all))
        ladder = program(keys[:, 2], result, choice.fitted)
        spent = result.num_evals + start.num_evals
        rng_key = keys[:, 3]
        if not batched:
            ladder, spent, rng_key = jax.tree.map(lambda leaf: leaf[0], (ladder, spent, rng_key))
        zero = jnp.zeros_like(ladder.particle_log_evidence)
        none = jnp.zeros_like(spent)
        z, energy, gradient = self._posterior_rung(ladder, unravel, batched)
        return AnnealedState(
            i=none,
            z=z,
            z_grad=gradient,
            potential_energy=energy,
            energy=energy,
            num_evals=none,
            warmup_evals=none,
            pending_evals=spent,
            accept_prob=zero,
            mean_accept_prob=zero,
            diverging=~jnp.isfinite(energy),
            adapt_state=AnnealedAdaptState(ladder.step_sizes[..., -1], ladder),
            rng_key=rng_key,
        )

    def sample(self, state: AnnealedState, model_args: Sequence, model_kwargs: dict | None) -> AnnealedState:
        """One iteration of every chain of `state`."""
        batched = is_batched(state.rng_key)
        prototype = jax.tree.map(lambda x: x[0], state.z) if batched else state.z
        _, unravel = ravel_pytree(prototype)
        evaluate = self._evaluation(unravel, model_args, model_kwargs or {})

        def one(key, ladder):
            key, key_step = jax.random.split(key)
            step = ladder_step(
                key_step, ladder, evaluate, self._path, self._max_steps, self._target_accept_prob
            )
            return key, *step

        rng_key, ladder, info = (jax.vmap(one) if batched else one)(state.rng_key, state.adapt_state.ladder)
        warming = state.i < ladder.num_warmup
        evals = info.num_evals + state.pending_evals
        counted = state.i + 1 - jnp.where(warming, 0, ladder.num_warmup)
        accept_prob = jnp.where(info.moved, info.target_accept_prob, state.accept_prob)
        z, energy, gradient = self._posterior_rung(ladder, unravel, batched)
        return AnnealedState(
            i=state.i + 1,
            z=z,
            z_grad=gradient,
            potential_energy=energy,
            energy=info.energy,
            num_evals=evals,
            warmup_evals=state.warmup_evals + jnp.where(warming, evals, 0),
            pending_evals=jnp.zeros_like(state.pending_evals),
            accept_prob=accept_prob,
            mean_accept_prob=state.mean_accept_prob + (accept_prob - state.mean_accept_prob) / counted,
            diverging=info.diverging | ~jnp.isfinite(energy),
            adapt_state=AnnealedAdaptState(ladder.step_sizes[..., -1], ladder),
            rng_key=rng_key,
        )

    def get_diagnostics_str(self, state: AnnealedState) -> str:
        """One line for the progress bar of a single chain."""
        ladder = state.adapt_state.ladder
        return (
            f"{ladder.betas.shape[-1]} rungs, {ladder.kept.round_trips} round trips, "
            f"acc. prob={state.mean_accept_prob:.2f}"
        )

    def refresh(self, state: AnnealedState, model_args: Sequence, model_kwargs: dict | None) -> AnnealedState:
        """The same replicas with their densities recomputed for these arguments (one evaluation a rung)."""
        batched = is_batched(state.rng_key)
        prototype = jax.tree.map(lambda x: x[0], state.z) if batched else state.z
        _, unravel = ravel_pytree(prototype)
        evaluate = self._evaluation(unravel, model_args, model_kwargs or {})

        def refreshed(ladder):
            replicas = jax.vmap(lambda x, c: make_replica(x, evaluate, ladder.reference, self._path, c))(
                ladder.replicas.position, jax.vmap(self._path.coefficients)(ladder.betas)
            )
            return ladder._replace(replicas=replicas)

        ladder = (jax.vmap(refreshed) if batched else refreshed)(state.adapt_state.ladder)
        z, energy, gradient = self._posterior_rung(ladder, unravel, batched)
        return state._replace(
            z=z,
            z_grad=gradient,
            potential_energy=energy,
            pending_evals=state.pending_evals + ladder.betas.shape[-1] * self._path.slices,
            adapt_state=state.adapt_state._replace(ladder=ladder),
        )

    # ---- parts ---------------------------------------------------------------------------------------------

    def _evaluation(self, unravel, model_args, model_kwargs) -> ValueAndScore:
        potential = self._target.potential(model_args, model_kwargs)
        return flat_evaluation(potential, unravel, forward_mode=self._target.forward_mode)

    def _prior_moments(self, rng_key, dim, prototype, model_args, model_kwargs):
        """Centre and standard deviations of the prior reference."""
        if self._reference is not None:
            return prior_gaussian(self._reference, dim)
        if self.model is None:
            return prior_gaussian(DEFAULT_SCALE, dim)
        return prior_moments(rng_key, self.model, model_args, model_kwargs, prototype)

    def _anneal(self, keys, evaluate, prior_reference: Reference, compiled) -> PassResult:
        """The passes of particles; under a transform a single one, as their number depends on the data."""

        def anneal(keys, init, settings, prior_reference, *, with_mixtures, search_modes):
            return anneal_and_fit(
                keys,
                init,
                settings,
                evaluate,
                prior_reference,
                self._path,
                with_mixtures=with_mixtures,
                search_modes=search_modes,
            )

        static = ("settings", "with_mixtures")
        program = compiled(("anneal",), lambda: jax.jit(anneal, static_argnames=static))

        def run_pass(keys, init, settings, *, with_mixtures, search_modes):
            return program(
                keys,
                init,
                settings,
                prior_reference,
                with_mixtures=with_mixtures,
                search_modes=search_modes,
            )

        if isinstance(keys, Tracer):
            return run_pass(keys, prior_reference, self._settings, with_mixtures=True, search_modes=True)

        def may_continue(result):
            check_arrival(result.particles)
            if self._reference_kind == "prior":
                return False
            return choose_ladder(result, self._reference_kind, None, self._max_rungs).fitted

        result = anneal_until_settled(
            run_pass,
            keys,
            prior_reference,
            self._path,
            self._settings,
            pilot=self._pilot,
            may_continue=may_continue,
        )
        check_arrival(result.particles)
        return result

    def _choose(self, result: PassResult, batched, model_args, model_kwargs) -> LadderChoice:
        """The ladder of this batch, or of the sequential chain that was first."""
        arguments = Arguments(model_args, model_kwargs)
        if not batched and self._chosen is not None and self._chosen[0].are(model_args, model_kwargs):
            return self._chosen[1]
        choice = choose_ladder(result, self._reference_kind, self._num_rungs, self._max_rungs)
        if not batched and isinstance(choice.fitted, bool):
            self._chosen = (arguments, choice)
        return choice

    @staticmethod
    def _posterior_rung(ladder, unravel, batched):
        replica = jax.tree.map(lambda leaf: leaf[:, -1] if batched else leaf[-1], ladder.replicas)
        unpack = jax.vmap(unravel) if batched else unravel
        dim = ladder.reference.means.shape[-1]
        position, gradient = replica.position[..., :dim], -replica.feature_scores[..., 1, :dim]
        return unpack(position), -replica.features[..., 1], unpack(gradient)
