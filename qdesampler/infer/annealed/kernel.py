"""AnnealedQDE: the NumPyro kernel for posteriors of many modes, with the evidence beside the draws."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from numpyro.infer.initialization import init_to_uniform

from qdesampler.infer.annealed.broad_reference import DEFAULT_SCALE, broad_gaussian
from qdesampler.infer.annealed.population import (
    Start,
    agree,
    check_arrival,
    flat_evaluation,
    path_named,
    walk,
)
from qdesampler.infer.annealed.search import search
from qdesampler.infer.annealed.state import AnnealedAdaptState, AnnealedState
from qdesampler.infer.model.arguments import Arguments
from qdesampler.infer.model.compiled_programs import KeptPrograms
from qdesampler.infer.model.evaluation import is_batched
from qdesampler.infer.model.kernel_base import TargetKernel
from qdesampler.infer.model.prior import prior_moments
from qdesampler.infer.model.target import Target
from qdesampler.kernels.paths.path import DiffusionPath, TemperingPath
from qdesampler.kernels.paths.replica import place
from qdesampler.kernels.references.reference import broad
from qdesampler.kernels.smc.persistent_sampling import WalkerSettings
from qdesampler.kernels.smc.reference_fit import room_for, with_reference
from qdesampler.kernels.tempering.ladder import SHORTEST_WARMUP, ladder_step, start_ladder
from qdesampler.kernels.tempering.schedule import equal_shares
from qdesampler.numerics.types import ValueAndScore

__all__ = ["AnnealedQDE"]

_LEGS = ("auto", "fitted", "broad")


class AnnealedQDE(TargetKernel):
    r"""Exact sampling of many modes, and the evidence: the outer loop of the quantum dynamic equation.

    Lowering `D` carries the ground state of the Hamiltonian from a broad state to the posterior. Here the
    loop is a ladder of replicas inside each chain, on a path `q^(1-s) p^s` from a normalised reference `q` to
    the posterior `p = exp(-U)` (or through `exp(-U/D)` with `D` lowered). Neighbours swap non-reversibly, so
    that replicas travel from the reference, where they forget, to the posterior and back; the kernel leaves
    the product of all rungs invariant, and its draws are those of the posterior's rung.

    Before the warm-up a population of persistent walkers is annealed from a broad Gaussian: it fills the
    modes and gives the first rungs, metrics and evidence. From the walkers a reference is fitted: mixtures of
    Gaussians, or one whose widths depend on the place. Where it covers them it replaces the broad
    Gaussian: walkers set out again from there, until the evidence has settled
    (`qdesampler.infer.annealed.search`), then the ladder, of two rungs where fresh draws of the reference are
    accepted. The warm-up places the rungs at equal shares of the measured barrier and tunes step sizes, which
    follow the score where that is far from linear (`qdesampler.kernels.mcmc.local_step_size`); then all is
    frozen.

    After `run`, `log_evidence(mcmc)` gives `log Z = log int exp(-U(z)) dz` *of the potential as given*: for a
    model that is the marginal likelihood, as its priors are normalised; constants missing from a
    `potential_fn` are missing from its evidence.

    Args:
        model: NumPyro model. Exactly one of `model`, `potential_fn` is given.
        potential_fn: `z -> U(z)`, scalar, over any pytree; `init_params` is then required in `run`.
        reference: the broad Gaussian in unconstrained coordinates: a scale, or `(centre, scale)`. It has to
            cover the posterior. None: as wide as the prior of the model; 5 for a potential.
        path: "geometric", "diffusion" (`D` lowered; broad reference only), "path-integral" (rings of slices,
            `D` lowered: quantum annealing) or a path object (`qdesampler.kernels.paths.path_integral`).
        leg: "fitted", "broad", or "auto": fitted where that mixture covers the walkers and its barrier is
            lower.
        num_rungs: of the ladder, at least 2 (the reference counts); None: from the barrier.
        max_rungs: most rungs that None may choose.
        num_walkers: of the population of each chain, at least 16. None: 256, after a pilot of 128 over all
            chains (32 a chain at least), which is all where it sees one Gaussian, autoregressive or not,
            whose draws are accepted, at once or from the top in which all descents ended.
        max_steps: most leapfrog steps of a walker's trajectory; between two swaps there are at most four.
        target_accept_prob: what step sizes aim at.
        init_strategy: NumPyro's per-site start, used for the structure of a model's sites.
        forward_mode_differentiation: differentiate forwards.

    Raises:
        ValueError: for none or several sources, an improper reference, fewer than two rungs, or a number out
            of its range.
    """

    init_on_host = True  # what `init` finds decides the shapes of the state: it cannot be compiled whole

    def __init__(
        self,
        model: Callable | None = None,
        potential_fn: Callable | None = None,
        *,
        reference: Any = None,
        path: str | TemperingPath = "geometric",
        leg: str = "auto",
        num_rungs: int | None = None,
        max_rungs: int = 40,
        num_walkers: int | None = None,
        max_steps: int = 16,
        target_accept_prob: float = 0.8,
        init_strategy: Callable = init_to_uniform,
        forward_mode_differentiation: bool = False,
    ):
        for name, value, least in (
            ("num_rungs", num_rungs, 2),
            ("max_rungs", max_rungs, 3),
            ("num_walkers", num_walkers, 16),
            ("max_steps", max_steps, 1),
        ):
            if value is not None and (isinstance(value, bool) or int(value) != value or value < least):
                remedy = " A ladder needs a reference and a target." if name == "num_rungs" else ""
                raise ValueError(f"{name} is {value}; expected an integer of at least {least}.{remedy}")
        if not 0 < target_accept_prob < 1:
            raise ValueError(f"target_accept_prob is {target_accept_prob}; expected between 0 and 1.")
        if leg not in _LEGS:
            raise ValueError(f"leg is {leg!r}; expected one of {', '.join(_LEGS)}.")
        self._path = path_named(path)
        thermal = isinstance(self._path, DiffusionPath)
        if leg == "fitted" and thermal:
            raise ValueError("Lowering D forgets a fitted reference: use leg='broad' with path='diffusion'.")
        self._leg = "broad" if thermal else leg
        if reference is not None:
            size = max((jnp.size(part) for part in jax.tree.leaves(reference)), default=1)
            broad_gaussian(reference, size)  # refuse what is improper before any work starts
        self._reference = reference
        self._num_rungs = num_rungs
        self._max_rungs = max_rungs
        self._max_steps = max_steps
        self._target_accept_prob = target_accept_prob
        self._pilot = num_walkers is None and leg != "broad" and not thermal
        settings = WalkerSettings(max_steps=max_steps)
        self._walkers = settings if num_walkers is None else settings._replace(walkers=int(num_walkers))
        self._target = Target(
            model,
            potential_fn,
            None,
            init_strategy=init_strategy,
            forward_mode=forward_mode_differentiation,
        )
        # Sequential chains must have states of one shape: what the first one chose, and for which arguments.
        self._chosen: tuple[Arguments, int, bool] | None = None
        self._programs = KeptPrograms()

    # ---- NumPyro's contract --------------------------------------------------------------------------------

    def __getstate__(self) -> dict:
        """State for copies and pickles, without what belongs to one run."""
        return {**self.__dict__, "_chosen": None, "_programs": KeptPrograms()}

    def init(
        self,
        rng_key: jax.Array,
        num_warmup: int,
        init_params: Any = None,
        model_args: Sequence = (),
        model_kwargs: dict | None = None,
    ) -> AnnealedState:
        """Walkers, then the ladder; a batch of keys gives a batch of vectorized chains.

        The number of rungs and the reference's leg are agreed over the chains of a batch, and taken over by
        the sequential chains that follow the first. Under a transform (parallel chains, `vmap`) the number of
        rungs cannot depend on the barrier: it is `num_rungs`, or half of `max_rungs`.

        Raises:
            ValueError: a bad `init_params` or reference, or fewer than 32 iterations of warm-up.
            RuntimeError: no valid start, walkers that never saw a finite density or did not arrive.
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
        centre, scale = self._broad(keys[0, 4], flat.size, prototype, model_args, model_kwargs)
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(prototype))
        structure = (jax.tree.structure(prototype), shapes)

        def kept(name, make):
            return self._programs.get((*name, structure), make, model_args, model_kwargs, (keys, init_params))

        found = self._found(keys[:, 1], evaluate, broad(centre, scale, room_for(flat.size)), kept)
        rungs, fitted = self._agreed(found, batched, model_args, model_kwargs)

        def built(keys, found, fitted):
            reference = found.reference(fitted)

            def build(key, walkers, probes, rejections):
                return start_ladder(
                    key,
                    with_reference(walkers, reference, self._path),
                    reference,
                    self._path,
                    equal_shares(probes, rejections, rungs),
                    num_warmup,
                    self._max_steps,
                    found.fit.hidden_share,
                    jnp.where(fitted, found.fit.components, 0),
                )

            return jax.vmap(build)(keys, found.walkers, found.probes, found.rejections(fitted))

        build_all = kept(("ladder", rungs, num_warmup), lambda: jax.jit(built))
        ladder = build_all(keys[:, 2], found, fitted)
        spent = found.num_evals + start.num_evals
        rng_key = keys[:, 3]
        if not batched:
            ladder, spent, rng_key = jax.tree.map(lambda leaf: leaf[0], (ladder, spent, rng_key))
        zero = jnp.zeros_like(ladder.walker_log_evidence)
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
            f"{ladder.fractions.shape[-1]} rungs, {ladder.kept.round_trips} round trips, "
            f"acc. prob={state.mean_accept_prob:.2f}"
        )

    def refresh(self, state: AnnealedState, model_args: Sequence, model_kwargs: dict | None) -> AnnealedState:
        """The same replicas, their densities recomputed for these arguments (one evaluation a rung)."""
        batched = is_batched(state.rng_key)
        prototype = jax.tree.map(lambda x: x[0], state.z) if batched else state.z
        _, unravel = ravel_pytree(prototype)
        evaluate = self._evaluation(unravel, model_args, model_kwargs or {})

        def anew(ladder):
            replicas = jax.vmap(lambda x, c: place(x, evaluate, ladder.reference, self._path, c))(
                ladder.replicas.position, jax.vmap(self._path.coefficients)(ladder.fractions)
            )
            return ladder._replace(replicas=replicas)

        ladder = (jax.vmap(anew) if batched else anew)(state.adapt_state.ladder)
        z, energy, gradient = self._posterior_rung(ladder, unravel, batched)
        return state._replace(
            z=z,
            z_grad=gradient,
            potential_energy=energy,
            pending_evals=state.pending_evals + ladder.fractions.shape[-1] * self._path.slices,
            adapt_state=state.adapt_state._replace(ladder=ladder),
        )

    # ---- parts ---------------------------------------------------------------------------------------------

    def _evaluation(self, unravel, model_args, model_kwargs) -> ValueAndScore:
        potential = self._target.potential(model_args, model_kwargs)
        return flat_evaluation(potential, unravel, self._target.forward_mode)

    def _broad(self, rng_key, dim, prototype, model_args, model_kwargs):
        if self._reference is not None:
            return broad_gaussian(self._reference, dim)
        if self.model is None:
            return broad_gaussian(DEFAULT_SCALE, dim)
        return prior_moments(rng_key, self.model, model_args, model_kwargs, prototype)

    def _found(self, keys, evaluate, wide, kept) -> Start:
        """What the walkers found; under a transform one leg, as the number of legs depends on the data."""

        def one(keys, begin, wide, look, settings, rich):
            return walk(keys, evaluate, begin, wide, self._path, settings, rich, look)

        program = kept(("walk",), lambda: jax.jit(one, static_argnums=(4, 5)))

        def leg(keys, begin, settings, rich, look):
            return program(keys, begin, wide, look, settings, rich)

        if isinstance(keys, Tracer):
            return leg(keys, wide, self._walkers, True, True)

        def again(found):
            check_arrival(found.walkers)
            return self._leg != "broad" and agree(found, self._leg, None, self._max_rungs)[1]

        found = search(leg, keys, wide, self._path, self._walkers, self._pilot, again)
        check_arrival(found.walkers)
        return found

    def _agreed(self, found, batched, model_args, model_kwargs) -> tuple[int, Any]:
        """Number of rungs, and whether the reference is the fitted one."""
        arguments = Arguments(model_args, model_kwargs)
        if not batched and self._chosen is not None and self._chosen[0].are(model_args, model_kwargs):
            return self._chosen[1], self._chosen[2]
        rungs, fitted = agree(found, self._leg, self._num_rungs, self._max_rungs)
        if not batched and isinstance(fitted, bool):
            self._chosen = (arguments, rungs, fitted)
        return rungs, fitted

    @staticmethod
    def _posterior_rung(ladder, unravel, batched):
        replica = jax.tree.map(lambda leaf: leaf[:, -1] if batched else leaf[-1], ladder.replicas)
        unpack = jax.vmap(unravel) if batched else unravel
        dim = ladder.reference.means.shape[-1]
        position, gradient = replica.position[..., :dim], -replica.feature_scores[..., 1, :dim]
        return unpack(position), -replica.features[..., 1], unpack(gradient)
