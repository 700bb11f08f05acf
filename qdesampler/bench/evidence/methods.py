"""Methods that estimate an evidence, for several seeds: AnnealedQDE, tempering, particles, SMC, dynesty."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import NUTS

from qdesampler.bench.evidence.nested_peers import nested, nested_slices
from qdesampler.bench.evidence.result import Result, Sizes
from qdesampler.bench.peers.blackjax import _blackjax
from qdesampler.bench.targets.evidence import EvidenceTarget
from qdesampler.diagnostics.checks.ladder import ladder_findings
from qdesampler.diagnostics.statistics.ladder import ladder_summary
from qdesampler.driver.mcmc import MCMC
from qdesampler.infer.annealed.evidence import evidence_report
from qdesampler.infer.annealed.kernel import AnnealedQDE
from qdesampler.infer.annealed.particles import anneal_particles
from qdesampler.infer.annealed.search import PreparedLadder
from qdesampler.infer.annealed.state import AnnealedAdaptState
from qdesampler.infer.annealed.transitions import first_state, found_by
from qdesampler.kernels.references import reference as references
from qdesampler.kernels.references.path import GeometricPath
from qdesampler.kernels.smc.persistent_sampling import ParticleSettings, anneal
from qdesampler.kernels.tempering.host_ladder import LadderSettings, tune_ladder
from qdesampler.kernels.tempering.ladder import ladder_step
from qdesampler.kernels.tempering.schedule import num_rungs_for
from qdesampler.numerics.evaluator import Evaluator
from qdesampler.numerics.numpy_metric import identity

__all__ = ["METHODS", "Result", "Sizes", "annealed"]

CHAINS = 4  # chains of every seed
_PEER_STARTS = 256  # draws of the prior from which the peer's replicas begin
_TRIAL_RUNGS = 24  # rungs of the peer's first ladder
_MAX_STEPS = 16  # most leapfrog steps of the peer's trajectories
_ACCEPT = 0.8  # acceptance probability that the peers' step sizes aim at


def annealed(
    without: tuple[str, ...] = (), **options: Any
) -> Callable[[EvidenceTarget, Sizes], list[Result]]:
    """AnnealedQDE, four chains a seed; each seed a search and a run of its own.

    Args:
        without: parts of the search that are left out (`SearchSettings.without`).
        **options: arguments of the kernel.
    """

    def run(target: EvidenceTarget, sizes: Sizes) -> list[Result]:
        start = jnp.full((CHAINS, target.dim), 0.1)
        results = []
        for seed in range(sizes.seeds):
            kernel = AnnealedQDE(
                potential_fn=lambda x: -target.log_density(x),
                reference=(0.0, target.reference),
                search_seed=seed,
                **options,
            )
            kernel.search_settings = kernel.search_settings._replace(without=without)
            mcmc = MCMC(
                kernel,
                num_warmup=sizes.warmup,
                num_samples=sizes.draws,
                num_chains=CHAINS,
                chain_method="vectorized",
                progress_bar=False,
            )
            mcmc.run(jax.random.key(17 + seed), init_params=start)
            draws = jnp.asarray(mcmc.get_samples(group_by_chain=True))
            evals = np.asarray(mcmc.get_extra_fields(group_by_chain=True)["num_evals"], np.int64)
            state: Any = mcmc.last_state
            warmup = int(np.sum(np.asarray(state.warmup_evals), dtype=np.int64))
            results.append(_result(target, state, draws, warmup, int(evals.sum())))
        return results

    return run


def _result(target: EvidenceTarget, state: Any, draws: jax.Array, warmup: int, evals: int) -> Result:
    inside = np.asarray(jax.vmap(jax.vmap(target.in_mode))(draws), float)
    report = evidence_report(state)
    return Result(
        report.value,
        report.standard_error,
        float(inside.mean()),
        warmup,
        evals,
        tuple(finding.code for finding in ladder_findings(state)),
        float(ladder_summary(state).round_trips.sum()),
    )


class _PeerState(NamedTuple):
    adapt_state: AnnealedAdaptState


def plain_tempering(target: EvidenceTarget, sizes: Sizes) -> list[Result]:
    """Non-reversible tempering from the prior with standard tuning: the peer.

    Replicas begin as draws from the prior. A trial ladder of 24 rungs measures the barrier in half of a
    warm-up; the ladder proper has `2 Lambda + 2` rungs, rounds that double and step sizes by dual averaging.
    The metric is the identity in units of the prior's standard deviations. There are no particles and no fit.
    """
    path, dim = GeometricPath(), target.dim
    scale = np.broadcast_to(np.asarray(target.reference, float), (dim,))
    prior = references.gaussian_reference(np.zeros(dim), scale)
    metric = identity(dim, 0)._replace(scale=scale)
    evaluate = Evaluator(jax.value_and_grad(target.log_density), dim)
    device = jax.value_and_grad(target.log_density)
    chains = ParticleSettings(num_particles=_PEER_STARTS, stages=1, populations=1)

    @jax.jit
    def draw(keys, state):
        def body(state, inputs):
            key, iteration = inputs

            def one(key, ladder):
                return ladder_step(key, ladder, state.shared.ladder, device, iteration)

            ladder, info = jax.vmap(one)(key, state.ladder)
            return state._replace(ladder=ladder), (ladder.replicas.positions[:, -1], info.num_evals)

        return jax.lax.scan(body, state, (keys, jnp.arange(len(keys))))

    results = []
    for seed in range(sizes.seeds):
        rng = np.random.default_rng(seed)
        evaluate.num_evals = 0
        starts = anneal(rng, evaluate, prior, path, chains)._replace(step_size=0.5)
        trial = np.concatenate([[0.0], np.geomspace(1e-3, 1, _TRIAL_RUNGS - 1)])
        first = LadderSettings(sizes.warmup // 2, _MAX_STEPS, _ACCEPT, metric)
        probe = tune_ladder(rng, starts, prior, path, trial, evaluate, first, 0.0)
        rungs = num_rungs_for(float(np.sum(probe.rejections)), 40)
        betas = np.interp(np.linspace(0, _TRIAL_RUNGS - 1, rungs), np.arange(_TRIAL_RUNGS), probe.betas)
        settings = first._replace(iterations=sizes.warmup)
        tuned = tune_ladder(rng, starts, prior, path, betas, evaluate, settings, 0.0)
        prepared = PreparedLadder(tuned, prior, 0, np.full(1, np.nan), 0.0, 0.0, evaluate.num_evals)
        found = found_by(prepared, path, 0)
        key_start, key_run = jax.random.split(jax.random.key(23 + seed))
        keys = jax.random.split(key_start, CHAINS)
        state = first_state(keys, keys, prepared, found, np.zeros(dim), 0).adapt_state
        steps = jax.random.split(key_run, (sizes.draws, CHAINS))
        state, (draws, evals) = draw(steps, state)
        spent = int(np.sum(np.asarray(evals), dtype=np.int64))
        results.append(
            _result(target, _PeerState(state), jnp.swapaxes(draws, 0, 1), prepared.num_evals, spent)
        )
    return results


def particles(target: EvidenceTarget, sizes: Sizes) -> list[Result]:
    """`anneal_particles`: eight populations of 256 particles a seed."""
    results = []
    for seed in range(sizes.seeds):
        found = anneal_particles(
            potential_fn=lambda x: -target.log_density(x),
            key=jax.random.key(seed),
            init_params=jnp.full((target.dim,), 0.1),
            reference=(0.0, target.reference),
            num_particles=256,
        )
        inside = np.asarray(jax.vmap(jax.vmap(target.in_mode))(found.samples), float)
        by_population = np.sum(np.exp(found.log_weights) * inside, axis=1)
        weight = np.exp(found.by_population - found.by_population.max())
        mass = float(by_population @ weight / weight.sum())
        results.append(Result(*found.log_evidence, mass, found.num_evals, 0))
    return results


def tempered_smc(target: EvidenceTarget, sizes: Sizes) -> list[Result]:
    """BlackJAX's adaptive tempered SMC: 2048 particles, ESS 0.9, five HMC moves of three steps a stage.

    The step size, in units of the particles' standard deviations at each stage, begins at 0.4 and follows the
    acceptance of the stage before towards 0.8.
    """
    blackjax = _blackjax()
    dim, count, moves, steps = target.dim, 2048, 5, 3
    scale = jnp.broadcast_to(jnp.asarray(target.reference, float), (dim,))

    def log_prior(x):
        return jnp.sum(jax.scipy.stats.norm.logpdf(x, scale=scale))

    def log_likelihood(x):
        return target.log_density(x) - log_prior(x)

    @jax.jit
    def stage(key, state, variance, step_size):
        algorithm = blackjax.adaptive_tempered_smc(
            log_prior,
            log_likelihood,
            blackjax.hmc.build_kernel(),
            blackjax.hmc.init,
            {
                "step_size": step_size[None],
                "inverse_mass_matrix": variance[None],
                "num_integration_steps": jnp.full((1,), steps),
            },
            blackjax.smc.resampling.systematic,
            0.9,
            num_mcmc_steps=moves,
        )
        state, info = algorithm.step(key, state)
        return state, info.log_likelihood_increment, jnp.mean(info.update_info.acceptance_rate)

    results = []
    for seed in range(sizes.seeds):
        key = jax.random.key(seed)
        start = scale * jax.random.normal(key, (count, dim))
        state: Any = blackjax.smc.tempered.init(start)
        log_z, evals, step_size = 0.0, count, jnp.asarray(0.4)
        while float(state.tempering_param) < 1 and evals < 20_000_000:
            key, key_stage = jax.random.split(key)
            variance = jnp.var(state.particles, axis=0) + 1e-12
            state, increment, rate = stage(key_stage, state, variance, step_size)
            log_z += float(increment)
            step_size = jnp.clip(step_size * jnp.exp(rate - _ACCEPT), 1e-3, 1.0)
            evals += count * moves * (steps + 1)
        mass = float(jnp.mean(jax.vmap(target.in_mode)(state.particles)))
        results.append(Result(log_z, math.nan, mass, evals, 0))
    return results


def nuts(target: EvidenceTarget, sizes: Sizes) -> list[Result]:
    """NumPyro's NUTS at its defaults, four chains from draws of the prior; no evidence."""
    scale = jnp.broadcast_to(jnp.asarray(target.reference, float), (target.dim,))
    mcmc = MCMC(
        NUTS(potential_fn=lambda x: -target.log_density(x)),
        num_warmup=sizes.warmup,
        num_samples=sizes.draws,
        num_chains=CHAINS,
        chain_method="vectorized",
        progress_bar=False,
    )
    results = []
    for seed in range(sizes.seeds):
        key_start, key_run = jax.random.split(jax.random.key(17 + seed))
        start = scale * jax.random.normal(key_start, (CHAINS, target.dim))
        mcmc.warmup(key_run, extra_fields=("num_steps",), init_params=start, collect_warmup=True)
        warmup = int(np.asarray(mcmc.get_extra_fields()["num_steps"], np.int64).sum())
        mcmc.run(key_run, extra_fields=("num_steps",))
        evals = int(np.asarray(mcmc.get_extra_fields()["num_steps"], np.int64).sum())
        inside = jax.vmap(target.in_mode)(jnp.asarray(mcmc.get_samples()))
        results.append(Result(math.nan, math.nan, float(jnp.mean(inside)), warmup, evals))
    return results


METHODS: dict[str, Callable[[EvidenceTarget, Sizes], list[Result]]] = {
    "annealed": annealed(),
    "annealed-1024": annealed(num_particles=1024),
    "annealed-prior": annealed(reference_kind="prior"),
    "annealed-diffusion": annealed(path="diffusion"),
    "tempering": plain_tempering,
    "nuts": nuts,
    "particles": particles,
    "blackjax-smc": tempered_smc,
    "blackjax-nested": nested_slices,
    "dynesty": nested,
}
