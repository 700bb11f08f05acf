"""Methods that estimate an evidence, for several seeds: AnnealedQDE, tempering, particles, SMC, dynesty."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import NUTS

from qdesampler.bench.peers.blackjax import _blackjax
from qdesampler.bench.targets.evidence import EvidenceTarget
from qdesampler.diagnostics.checks.ladder import ladder_findings
from qdesampler.diagnostics.statistics.ladder import ladder_summary
from qdesampler.driver.mcmc import MCMC
from qdesampler.infer.annealed.evidence import evidence_report
from qdesampler.infer.annealed.kernel import AnnealedQDE
from qdesampler.infer.annealed.particles import anneal_particles
from qdesampler.infer.annealed.state import AnnealedAdaptState
from qdesampler.kernels.mcmc.dual_averaging import start_averaging
from qdesampler.kernels.paths.path import GeometricPath
from qdesampler.kernels.paths.replica import make_replica
from qdesampler.kernels.references import reference as references
from qdesampler.kernels.tempering.evidence_sums import empty_sums
from qdesampler.kernels.tempering.ladder import Ladder, ladder_step
from qdesampler.kernels.tempering.schedule import num_rungs_for
from qdesampler.numerics.metric import identity_metric

__all__ = ["METHODS", "Result", "Sizes"]

CHAINS = 4  # chains of every seed
_TRIAL_RUNGS = 24  # rungs of the peer's first ladder
_MAX_STEPS = 16  # most leapfrog steps of the peer's trajectories
_ACCEPT = 0.8  # acceptance probability that the peers' step sizes aim at


class Sizes(NamedTuple):
    """Iterations of warm-up and draws of a chain, and the seeds."""

    warmup: int
    draws: int
    seeds: int


class Result(NamedTuple):
    """One seed of one method.

    Attributes:
        log_evidence: the estimate, in nats.
        error: its stated standard error.
        mass: posterior mass of the target's chosen mode.
        warmup_evals: evaluations before the draws.
        draw_evals: evaluations of the draws; 0 for a method without draws that could be added.
        alarms: codes of the findings.
        round_trips: round trips of all chains in the kept iterations.
    """

    log_evidence: float
    error: float
    mass: float
    warmup_evals: int
    draw_evals: int
    alarms: tuple[str, ...] = ()
    round_trips: float = math.nan


def annealed(**options: Any) -> Callable[[EvidenceTarget, Sizes], list[Result]]:
    """AnnealedQDE, four chains a seed; each seed a run of its own."""

    def run(target: EvidenceTarget, sizes: Sizes) -> list[Result]:
        kernel = AnnealedQDE(
            potential_fn=lambda x: -target.log_density(x), reference=(0.0, target.reference), **options
        )
        mcmc = MCMC(
            kernel,
            num_warmup=sizes.warmup,
            num_samples=sizes.draws,
            num_chains=CHAINS,
            chain_method="vectorized",
            progress_bar=False,
        )
        start = jnp.full((CHAINS, target.dim), 0.1)
        results = []
        for seed in range(sizes.seeds):
            mcmc.run(jax.random.key(17 + seed), init_params=start)
            draws = jnp.asarray(mcmc.get_samples(group_by_chain=True))
            evals = np.asarray(mcmc.get_extra_fields(group_by_chain=True)["num_evals"], np.int64).sum(axis=1)
            results += _by_seed(target, mcmc.last_state, draws, evals, 1)
        return results

    return run


def _by_seed(target, state, draws, evals, seeds) -> list[Result]:
    inside = np.asarray(jax.vmap(jax.vmap(target.in_mode))(draws), float).mean(axis=1)
    results = []
    for seed in range(seeds):
        rows = slice(CHAINS * seed, CHAINS * (seed + 1))
        part = state._replace(adapt_state=jax.tree.map(lambda leaf, rows=rows: leaf[rows], state.adapt_state))
        report = evidence_report(part)
        results.append(
            Result(
                report.value,
                report.standard_error,
                float(inside[rows].mean()),
                int(np.sum(np.asarray(state.warmup_evals[rows]), dtype=np.int64)),
                int(evals[rows].sum()),
                tuple(finding.code for finding in ladder_findings(part)),
                float(ladder_summary(part).round_trips.sum()),
            )
        )
    return results


class _PeerState(NamedTuple):
    adapt_state: AnnealedAdaptState
    warmup_evals: Any


def plain_tempering(target: EvidenceTarget, sizes: Sizes) -> list[Result]:
    """Non-reversible tempering from the prior with standard tuning: the peer.

    Replicas begin as draws from the prior. A trial ladder of 24 rungs measures the barrier in half of a
    warm-up; the ladder proper has `2 Lambda + 2` rungs, rounds that double and step sizes by dual averaging.
    The metric is the identity in units of the prior's standard deviations. There are no particles and no fit.
    """
    path, chains, dim = GeometricPath(), CHAINS * sizes.seeds, target.dim
    scale = jnp.broadcast_to(jnp.asarray(target.reference, float), (dim,))
    prior = references.gaussian_reference(jnp.zeros(dim), scale, 1)
    evaluate = jax.value_and_grad(target.log_density)

    def start(key, betas, num_warmup):
        rungs = betas.size
        coefficients = jax.vmap(path.coefficients)(betas)
        starts = jax.vmap(lambda k: references.draw(prior, k))(jax.random.split(key, rungs))
        replicas = jax.vmap(lambda x, c: make_replica(x, evaluate, prior, path, c))(starts, coefficients)
        metric = identity_metric(dim, 0)._replace(scale=scale)
        steps = jnp.full((rungs,), 0.5)
        return Ladder(
            iteration=jnp.zeros((), int),
            num_warmup=jnp.asarray(num_warmup, int),
            replicas=replicas,
            directions=jnp.zeros((rungs,), int),
            reference=prior,
            betas=betas,
            centres=jnp.zeros(rungs - 1),
            metrics=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (rungs, *leaf.shape)), metric),
            local_scales=jnp.zeros(rungs),
            averaging=jax.vmap(start_averaging)(steps[1:]),
            step_sizes=steps,
            num_steps=jnp.asarray(3, int),
            move_every=jnp.ones((), int),
            round_sums=jnp.zeros((3, rungs - 1)),
            round_count=jnp.zeros((), int),
            kept=empty_sums(rungs),
            particle_log_evidence=jnp.full((), jnp.nan),
            missed_mass=jnp.zeros(()),
            components=jnp.zeros((), int),
        )

    def runner(num_warmup, iterations):
        def body(ladder, key):
            ladder, info = ladder_step(key, ladder, evaluate, path, _MAX_STEPS, _ACCEPT)
            return ladder, (ladder.replicas.position[-1], info.num_evals)

        def run(key, betas):
            key_start, key_run = jax.random.split(key)
            ladder = start(key_start, betas, num_warmup)
            return jax.lax.scan(body, ladder, jax.random.split(key_run, iterations))

        return jax.jit(jax.vmap(run, in_axes=(0, None)))

    keys = jax.random.split(jax.random.key(23), chains)
    half = sizes.warmup // 2
    trial = jnp.concatenate([jnp.zeros(1), jnp.geomspace(1e-3, 1, _TRIAL_RUNGS - 1)])
    probe, (_, spent) = runner(half, half + 50)(keys, trial)
    barrier = float(np.mean(np.sum(np.asarray(probe.kept.rejections), axis=1))) / 50
    rungs = num_rungs_for(barrier, 40)
    at = jnp.linspace(0, _TRIAL_RUNGS - 1, rungs)
    betas = jnp.interp(at, jnp.arange(_TRIAL_RUNGS), jnp.mean(probe.betas, axis=0))
    ladder, (draws, evals) = runner(sizes.warmup, sizes.warmup + sizes.draws)(keys, betas)
    evals = np.asarray(evals, np.int64)
    warm = evals[:, : sizes.warmup].sum(1) + np.asarray(spent, np.int64).sum(1) + rungs + _TRIAL_RUNGS
    state = _PeerState(AnnealedAdaptState(ladder.step_sizes[..., -1], ladder), warm)
    return _by_seed(target, state, draws[:, sizes.warmup :], evals[:, sizes.warmup :].sum(1), sizes.seeds)


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
    prior = references.gaussian_reference(jnp.zeros(dim), scale, 1)

    def log_prior(x):
        return references.log_density(prior, x)

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
        start = jax.vmap(lambda k: references.draw(prior, k))(jax.random.split(key, count))
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


def nested(target: EvidenceTarget, sizes: Sizes) -> list[Result]:
    """Static nested sampling, 500 live points, dynesty's choice of sampler; one seed because it is slow."""
    dynesty = _dynesty()
    scale = np.broadcast_to(np.asarray(target.reference, float), (target.dim,))
    prior = references.gaussian_reference(jnp.zeros(target.dim), jnp.asarray(scale), 1)
    ratio = jax.jit(lambda x: target.log_density(x) - references.log_density(prior, x))
    normal = jax.scipy.special.ndtri

    def transform(unit):
        return scale * np.asarray(normal(np.clip(unit, 1e-7, 1 - 1e-7)), float)

    results = []
    for seed in range(min(sizes.seeds, 1)):
        sampler = dynesty.NestedSampler(
            lambda x: float(np.nan_to_num(ratio(x), nan=-1e30, neginf=-1e30)),
            transform,
            target.dim,
            nlive=500,
            rstate=np.random.default_rng(seed),
        )
        sampler.run_nested(print_progress=False, maxcall=300_000, dlogz=0.1)
        found = sampler.results
        weights = np.exp(found.logwt - found.logz[-1])
        inside = np.asarray(jax.vmap(target.in_mode)(jnp.asarray(found.samples)), float)
        mass = float(weights @ inside / weights.sum())
        evals = int(np.sum(found.ncall))
        results.append(Result(float(found.logz[-1]), float(found.logzerr[-1]), mass, evals, 0))
    return results


def _dynesty() -> Any:
    try:
        import dynesty  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("dynesty is not installed: pip install dynesty, or leave `nested` out.") from error
    return dynesty


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
    "annealed-slices": annealed(path="path-integral", reference_kind="prior"),
    "tempering": plain_tempering,
    "nuts": nuts,
    "particles": particles,
    "blackjax-smc": tempered_smc,
    "dynesty": nested,
}
