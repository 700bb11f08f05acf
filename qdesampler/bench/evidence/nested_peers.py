"""Nested sampling by other packages: dynesty, and BlackJAX's nested slice sampler."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.bench.evidence.result import Result, Sizes
from qdesampler.bench.peers.blackjax import _blackjax
from qdesampler.bench.targets.evidence import EvidenceTarget

__all__ = ["nested", "nested_slices"]

_LIVE = 500  # live points, the default of dynesty
_DELETED = 50  # live points that BlackJAX replaces together
_LEFT = 1e-3  # share of the evidence in the live points at which BlackJAX's run ends
_MOST_EVALUATIONS = 20_000_000  # of a run


def nested(target: EvidenceTarget, sizes: Sizes) -> list[Result]:
    """Static nested sampling, 500 live points, dynesty's choice of sampler; one seed because it is slow."""
    dynesty = _dynesty()
    scale = np.broadcast_to(np.asarray(target.reference, float), (target.dim,))
    ratio = jax.jit(lambda x: target.log_density(x) - jnp.sum(jax.scipy.stats.norm.logpdf(x, scale=scale)))
    normal = jax.scipy.special.ndtri

    def transform(unit):
        return scale * np.asarray(normal(np.clip(unit, 1e-7, 1 - 1e-7)), float)

    results = []
    for seed in range(min(sizes.seeds, 1)):
        sampler = dynesty.NestedSampler(
            lambda x: float(np.nan_to_num(ratio(x), nan=-1e30, neginf=-1e30)),
            transform,
            target.dim,
            nlive=_LIVE,
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


def nested_slices(target: EvidenceTarget, sizes: Sizes) -> list[Result]:
    """BlackJAX's nested slice sampler: 500 live points, 50 replaced together, `max(5, 2 dim)` slices each.

    A slice evaluates its first two ends, its expansions and its shrinkages. Log Z and its error are the mean
    and the spread over simulated volumes.
    """
    blackjax = _blackjax()
    scale = jnp.broadcast_to(jnp.asarray(target.reference, float), (target.dim,))

    def log_prior(x):
        return jnp.sum(jax.scipy.stats.norm.logpdf(x, scale=scale))

    algorithm = blackjax.nss(
        log_prior,
        lambda x: target.log_density(x) - log_prior(x),
        num_inner_steps=max(5, 2 * target.dim),
        num_delete=_DELETED,
    )
    step = jax.jit(algorithm.step)
    results = []
    for seed in range(sizes.seeds):
        key, key_start, key_weights = jax.random.split(jax.random.key(seed), 3)
        state: Any = algorithm.init(scale * jax.random.normal(key_start, (_LIVE, target.dim)))
        dead, evals = [], _LIVE
        while evals < _MOST_EVALUATIONS:
            left = state.integrator.logZ_live - jnp.logaddexp(
                state.integrator.logZ, state.integrator.logZ_live
            )
            if left < np.log(_LEFT):
                break
            key, key_step = jax.random.split(key)
            state, info = step(key_step, state)
            dead.append(info)
            made = info.update_info
            evals += int(jnp.sum(made.num_expansions + made.num_shrink + 2))
        whole = blackjax.ns.utils.finalise(state, dead)
        weights = np.asarray(blackjax.ns.utils.log_weights(key_weights, whole), float)
        log_z = np.logaddexp.reduce(weights, axis=0)
        inside = np.asarray(jax.vmap(target.in_mode)(whole.particles.position), float)
        mean = np.exp(weights - log_z).mean(axis=1)
        mass = float(mean @ inside / mean.sum())
        results.append(Result(float(np.mean(log_z)), float(np.std(log_z)), mass, evals, 0))
    return results


def _dynesty() -> Any:
    try:
        import dynesty  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("dynesty is not installed: pip install dynesty, or leave `nested` out.") from error
    return dynesty
