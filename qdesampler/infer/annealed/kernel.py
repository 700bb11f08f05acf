"""AnnealedQDE: the NumPyro kernel for posteriors of many modes, which also gives the evidence."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpyro.infer.gibbs import GIBBS_SITES_KWARG
from numpyro.infer.initialization import init_to_uniform

from qdesampler.infer.annealed.deprecated import renamed_argument
from qdesampler.infer.annealed.evaluation import flat_evaluation
from qdesampler.infer.annealed.facts import LadderKernel
from qdesampler.infer.annealed.prior_reference import DEFAULT_SCALE, prior_gaussian
from qdesampler.infer.annealed.search import PreparedLadder, SearchSettings, prepare_ladder
from qdesampler.infer.annealed.state import AnnealedState
from qdesampler.infer.annealed.transitions import first_state, found_by, next_state, posterior_rung
from qdesampler.infer.model.evaluation import is_batched
from qdesampler.infer.model.memory import Memory, name_of
from qdesampler.infer.model.prior import prior_moments
from qdesampler.infer.model.raveling import unraveler
from qdesampler.infer.model.target import Target
from qdesampler.kernels.references.path import DiffusionPath, TemperingPath, path_named
from qdesampler.kernels.references.reference import gaussian_reference, log_density, value_and_score
from qdesampler.kernels.smc.persistent_sampling import ParticleSettings
from qdesampler.kernels.tempering.ladder import ladder_step
from qdesampler.kernels.tempering.swaps import Replicas
from qdesampler.numerics.evaluator import Evaluator
from qdesampler.numerics.types import ValueAndScore
from qdesampler.validation import check_whole

__all__ = ["AnnealedQDE"]

_REFERENCE_KINDS = ("auto", "fitted", "prior")
_SHORTEST_WARMUP = 32  # iterations; fewer do not tune a ladder


class AnnealedQDE(LadderKernel):
    r"""Exact sampling of many modes, and the evidence: the outer loop of the quantum dynamic equation.

    Lowering `D` carries the ground state of the Hamiltonian from the prior to the posterior. Here the loop is
    a ladder of replicas inside each chain, on a path `q^(1-b) p^b` from a normalised reference `q` to the
    posterior `p = exp(-U)` (or through `exp(-U/D)` with `D` lowered). Neighbours swap non-reversibly, so that
    replicas travel from the reference, where every draw is new, to the posterior and back. The kernel leaves
    the product of all rungs invariant, and its draws are those of the posterior's rung.

    `init` searches for the reference on the host (`qdesampler.infer.annealed.search`). It begins with the
    imaginary-time solve of `QDE`: where one certified trial is all there is, this is the reference, and two
    rungs suffice. Else populations of particles are annealed from the prior reference (persistent sampling),
    which fills the modes, and a reference is fitted to them: a mixture of Gaussians, a product of mixtures
    or a map that bends and funnels. Descents look for modes that particles missed. Particles start again from
    the fitted reference until the evidence has settled. Then the rungs are placed, so that all pairs swap at
    the same rate, and step sizes are tuned. The search depends on the target, the settings and `search_seed`
    alone, so that all chains share it. Every iteration is one frozen, exact transition; the first sixteen
    lead chains away from their starts, and the rest of the warm-up makes no evaluations.

    After `run`, `log_evidence(mcmc)` gives `log Z = log int exp(-U(z)) dz` *of the potential as given*: for a
    model that is the marginal likelihood, as its priors are normalised; constants missing from a
    `potential_fn` are missing from its evidence.

    Args:
        model: NumPyro model. Exactly one of `model`, `potential_fn` is given.
        potential_fn: `z -> U(z)`, scalar, over any pytree; `init_params` is then required in `run`.
        reference: the prior reference, a Gaussian in unconstrained coordinates: a scale, or `(centre,
            scale)`. It has to cover the posterior. None: as wide as the prior of the model; a scale of 5 for
            a potential.
        path: "geometric", "diffusion" (`D` lowered; prior reference only) or a path object
            (`qdesampler.kernels.references.path`).
        reference_kind: what the ladder starts from: "fitted", "prior", or "auto", which takes the fitted
            reference if it covers the particles and its barrier is lower.
        num_rungs: rungs of the ladder, at least 2 (the reference counts); None: from the barrier.
        max_rungs: most rungs that None may choose.
        num_particles: particles of each of four populations, at least 16. None: 256, after a solve that
            suffices for a single mode; with a number there is no solve.
        max_steps: most leapfrog steps of a particle's trajectory; between two swaps there are at most four.
        target_accept_prob: acceptance probability that step sizes aim at.
        init_strategy: NumPyro's per-site start, used for the structure of a model's sites.
        forward_mode_differentiation: differentiate forwards.
        search_seed: seed of the search. A run with another one is an independent search for modes.
        leg: the old name of `reference_kind`, with "broad" for "prior"; deprecated.
        num_walkers: the old name of `num_particles`; deprecated.

    Attributes:
        search_settings: of the search; measurements replace its field `without`.

    Raises:
        ValueError: for none or several sources, an improper reference, fewer than two rungs, or a number out
            of its range.
    """

    one_chain_prepares = True  # `init` leaves the same things in the kernel for one chain and for many
    init_on_host = True  # the driver calls `init` with concrete values

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
        search_seed: int = 0,
        leg: str | None = None,
        num_walkers: int | None = None,
    ):
        if leg is not None:
            reference_kind = renamed_argument("leg", "reference_kind", "prior" if leg == "broad" else leg)
        if num_walkers is not None:
            num_particles = renamed_argument("num_walkers", "num_particles", num_walkers)
        if num_rungs is not None:
            check_whole("num_rungs", num_rungs, 2, " A ladder needs a reference and a target.")
        if num_particles is not None:
            check_whole("num_particles", num_particles, 16)
        check_whole("max_rungs", max_rungs, 3)
        check_whole("max_steps", max_steps, 1)
        check_whole("search_seed", search_seed, 0)
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
        if reference is not None:  # an improper one is refused before any work starts
            prior_gaussian(reference, max((jnp.size(part) for part in jax.tree.leaves(reference)), default=1))
        self._reference = reference
        particles = ParticleSettings(max_steps=int(max_steps))
        particles = particles._replace(num_particles=int(num_particles or particles.num_particles))
        self.search_settings: SearchSettings = SearchSettings(
            particles,
            "prior" if thermal else reference_kind,
            num_particles is None,
            num_rungs,
            max_rungs,
            0,
            target_accept_prob,
        )
        self._search_seed = int(search_seed)
        self._target = Target(
            model,
            potential_fn,
            None,
            init_strategy=init_strategy,
            forward_mode=forward_mode_differentiation,
        )
        self._memory = Memory[PreparedLadder, Evaluator]()

    def __getstate__(self) -> dict[str, Any]:
        """State for copies and pickles, without the results of searches."""
        return {**self.__dict__, "_memory": Memory[PreparedLadder, Evaluator]()}

    # ---- NumPyro's contract --------------------------------------------------------------------------------

    def init(
        self,
        rng_key: jax.Array,
        num_warmup: int,
        init_params: Any = None,
        model_args: Sequence[Any] = (),
        model_kwargs: dict[str, Any] | None = None,
    ) -> AnnealedState:
        """The state before the first iteration, after the search; a batch of keys gives vectorized chains.

        Raises:
            TypeError: the model's arguments are traced, or the kernel is a block of Gibbs.
            ValueError: a bad `init_params` or reference, or fewer than 32 iterations of warm-up.
            RuntimeError: no valid start, or particles that never saw a finite density or did not arrive.
        """
        if num_warmup < _SHORTEST_WARMUP:
            raise ValueError(
                f"AnnealedQDE needs at least {_SHORTEST_WARMUP} iterations of warm-up to place its rungs and "
                f"tune its steps; num_warmup is {num_warmup}. A finished run continues without: set "
                "mcmc.post_warmup_state = mcmc.last_state."
            )
        model_kwargs = model_kwargs or {}
        _check_known(model_args, model_kwargs)
        batched = is_batched(rng_key)
        split = jax.vmap(jax.random.split, out_axes=1) if batched else jax.random.split
        rng_key, key_start = split(rng_key)
        prototype = None
        if init_params is None and self._target.starts_anywhere:
            prototype = self._target.prototype(model_args, model_kwargs)
        if prototype is None:
            start = self._target.start(key_start, init_params, model_args, model_kwargs)
            prototype = jax.tree.map(lambda x: x[0], start.z) if batched else start.z
        if not jax.tree.leaves(prototype):
            raise ValueError("The model has no continuous latent site: there is nothing to anneal.")
        # The search also runs while `init` is traced: nothing in it depends on a traced value.
        traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((rng_key, init_params)))
        with jax.ensure_compile_time_eval() if traced else nullcontext():
            prepared, spent = self._search(prototype, num_warmup, model_args, model_kwargs)
            found = found_by(prepared, self._path, num_warmup)
        return first_state(rng_key, key_start, prepared, found, prototype, spent)

    def sample(
        self, state: AnnealedState, model_args: Sequence[Any], model_kwargs: dict[str, Any] | None
    ) -> AnnealedState:
        """One iteration of every chain of `state`."""
        batched, found = is_batched(state.rng_key), state.adapt_state.shared
        evaluate = self._evaluation(state, model_args, model_kwargs)
        iteration = state.i[0] if batched else state.i
        warming = iteration < found.num_warmup
        active = ~warming | (iteration < found.burn_in)
        split = jax.vmap(jax.random.split, out_axes=1) if batched else jax.random.split
        rng_key, key_step = split(state.rng_key)

        def one(key, ladder):
            return ladder_step(key, ladder, found.ladder, evaluate, iteration, ~warming, active)

        ladder, info = (jax.vmap(one) if batched else one)(key_step, state.adapt_state.ladder)
        return next_state(state, rng_key, ladder, info, warming)

    def get_diagnostics_str(self, state: AnnealedState) -> str:
        """One line for the progress bar of a single chain."""
        adapt = state.adapt_state
        return (
            f"{adapt.shared.ladder.betas.shape[-1]} rungs, {adapt.ladder.kept.round_trips} round trips, "
            f"acc. prob={state.mean_accept_prob:.2f}"
        )

    def refresh(
        self, state: AnnealedState, model_args: Sequence[Any], model_kwargs: dict[str, Any] | None
    ) -> AnnealedState:
        """The same replicas with their densities recomputed for these arguments (one evaluation a rung)."""
        batched, adapt = is_batched(state.rng_key), state.adapt_state
        evaluate = self._evaluation(state, model_args, model_kwargs)
        reference = adapt.shared.ladder.reference
        rungs = adapt.shared.ladder.betas.shape[-1]

        def refreshed(replicas):
            positions = replicas.positions
            log_p, scores_p = jax.vmap(evaluate)(positions)
            if rungs > 2:
                log_q, scores_q = value_and_score(reference, positions)
            else:
                log_q, scores_q = log_density(reference, positions), jnp.zeros_like(positions)
            return Replicas(
                positions, log_q, scores_q, jnp.where(jnp.isnan(log_p), -jnp.inf, log_p), scores_p
            )

        replicas = (jax.vmap(refreshed) if batched else refreshed)(adapt.ladder.replicas)
        prototype = jax.tree.map(lambda x: x[0], state.z) if batched else state.z
        z, energy, gradient = posterior_rung(replicas, prototype)
        return state._replace(
            z=z,
            z_grad=gradient,
            potential_energy=energy,
            pending_evals=state.pending_evals + rungs,
            adapt_state=adapt._replace(ladder=adapt.ladder._replace(replicas=replicas)),
        )

    # ---- parts ---------------------------------------------------------------------------------------------

    def _evaluation(self, state: AnnealedState, model_args, model_kwargs) -> ValueAndScore:
        """`x -> (log p, grad log p)` over flat positions like those of `state`."""
        prototype = jax.tree.map(lambda x: x[0], state.z) if is_batched(state.rng_key) else state.z
        potential = self._target.potential(model_args, model_kwargs or {})
        return flat_evaluation(potential, unraveler(prototype), forward_mode=self._target.forward_mode)

    def _search(
        self, prototype: Any, num_warmup: int, model_args: Sequence[Any], model_kwargs: dict[str, Any]
    ) -> tuple[PreparedLadder, int]:
        """The search and its evaluations; 0 of them if a former one serves again."""
        name = name_of(prototype, model_args, model_kwargs)
        dim = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(prototype))

        def evaluator() -> Evaluator:
            potential = self._target.potential(model_args, model_kwargs)
            flat = flat_evaluation(potential, unraveler(prototype), forward_mode=self._target.forward_mode)
            return Evaluator(flat, dim)

        def search() -> PreparedLadder:
            evaluate = self._memory.evaluations(name, evaluator)
            evaluate.num_evals = 0
            moments = self._prior_moments(prototype, dim, model_args, model_kwargs)
            prior = gaussian_reference(*(np.asarray(part, float) for part in moments))
            settings = self.search_settings._replace(num_warmup=num_warmup)
            rng = np.random.default_rng(self._search_seed)
            return prepare_ladder(evaluate, prior, self._path, settings, rng, self._report_warmup)

        return self._memory.prepared((name, num_warmup), search)

    def _prior_moments(self, prototype, dim, model_args, model_kwargs):
        """Centre and standard deviations of the prior reference."""
        if self._reference is not None or self.model is None:
            return prior_gaussian(DEFAULT_SCALE if self._reference is None else self._reference, dim)
        key = jax.random.key(self._search_seed)
        return prior_moments(key, self.model, model_args, model_kwargs, prototype)


def _check_known(model_args: Sequence[Any], model_kwargs: dict[str, Any]) -> None:
    """Refuse a target that has no values before the first iteration.

    Raises:
        TypeError: with what to do.
    """
    if GIBBS_SITES_KWARG in model_kwargs:
        raise TypeError(
            "AnnealedQDE cannot be a block of Gibbs: its ladder is found for one target, and the target of a "
            "block changes at every iteration. Use QDE there."
        )
    leaves = jax.tree.leaves((tuple(model_args), model_kwargs))
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        raise TypeError(
            "AnnealedQDE searches for modes before the first iteration, and needs values for the model's "
            "arguments; these are traced (run inside jit or vmap over data). Run one data set after another."
        )
