"""The search before a ladder: passes of annealing, each from the reference of the last one, until they agree.

The first pass starts from the prior reference. What its particles missed (the neck of a funnel, a posterior
far narrower than the prior) is at the edge of the reference fitted to them, so that particles which start
from that reference reach it for a few evaluations. Passes end when the evidence has settled.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.infer.annealed.evidence import error_of_populations
from qdesampler.infer.annealed.population import MAX_UNCOVERED, AnnealingPass, PassResult
from qdesampler.kernels.paths.path import TemperingPath
from qdesampler.kernels.references.reference import Reference
from qdesampler.kernels.smc.persistent_sampling import ParticleSettings, log_evidence
from qdesampler.kernels.smc.reference_fit import AUTOREGRESSIVE, log_mass_outside, mode_reference
from qdesampler.kernels.tempering.schedule import HIGH_ACCEPTANCE

__all__ = ["MAX_PASSES", "anneal_until_settled"]

MAX_PASSES = 6  # passes from the whole populations, and from a pilot
# Nats of log Z between two passes that count as settled; twice the particles' error may raise the first
# number up to the second (results/evidence.md: "in all 70 runs within .05").
_SETTLED, _MAX_SETTLED = 0.1, 0.15
_SMALL_ERROR = 0.1  # nats of error with which one pass suffices if its reference has `HIGH_ACCEPTANCE`
# The pilot: particles over all chains, and of one chain at least (results/evidence.md: "One mode").
_PILOT_PARTICLES, _PILOT_LEAST = 128, 32
# The pilot: least effective sample size over the population, moves a stage, most steps of a trajectory.
_PILOT_ESS, _PILOT_MOVES, _PILOT_STEPS = 0.1, 1, 3
# Reference acceptance with which a settled pilot suffices if the target is unimodal, and below which a pilot
# is given up (results/evidence.md: "One mode").
_UNIMODAL_ACCEPTANCE, _LEAST_ACCEPTANCE = 0.3, 0.2
_ATTEMPTS = 2  # tries of a pilot's passes after the first
# Mass outside the final reference over Z, by the pilot's first pass, above which the pilot does not suffice.
# It is this small because few particles may find that mass nats too low (results/evidence.md:
# spike-in-slab-8).
_MAX_MASS_OUTSIDE = 1e-4


class _Passes(NamedTuple):
    """The last of several passes, and whether the evidence has settled."""

    result: PassResult
    settled: bool


class _Pilot(NamedTuple):
    """What a pilot found, and whether that suffices."""

    result: PassResult
    suffices: bool


def anneal_until_settled(
    run_pass: AnnealingPass,
    keys: jax.Array,
    prior_reference: Reference,
    path: TemperingPath,
    settings: ParticleSettings,
    *,
    pilot: bool,
    may_continue: Callable[[PassResult], bool],
) -> PassResult:
    """Try a pilot of few particles, which suffices for a single Gaussian; else anneal whole populations.

    Args:
        run_pass: runs the particles of one pass.
        keys: one a chain.
        prior_reference: where the first pass starts.
        path: from a reference to the target.
        settings: sizes of the whole populations.
        pilot: start with a pilot.
        may_continue: whether another pass may start from the reference that a pass left.
    """
    spent = 0
    if pilot:
        keys_pilot, keys = _split(keys)
        found = _run_pilot(run_pass, keys_pilot, prior_reference, path, settings)
        if found.suffices:
            return found.result
        spent = found.result.num_evals
    keys_pass, keys = _split(keys)
    result = run_pass(keys_pass, prior_reference, settings, with_mixtures=True, search_modes=True)
    if may_continue(result):
        init = result.fit.reference
        result, _ = _repeat_passes(
            run_pass, keys, init, settings, path, result, with_mixtures=True, may_continue=may_continue
        )
    return result._replace(num_evals=result.num_evals + spent)


def _run_pilot(
    run_pass: AnnealingPass,
    keys: jax.Array,
    prior_reference: Reference,
    path: TemperingPath,
    settings: ParticleSettings,
) -> _Pilot:
    """Anneal few particles, and judge whether they suffice.

    If particles of the first pass went astray but all its descents ended in one mode, the next pass starts
    from that mode. If later passes go astray, they are repeated once. The mass that the first pass found
    outside the final reference must be negligible, unless the first try from its own reference succeeded.
    """
    size = max(_PILOT_LEAST, -(-_PILOT_PARTICLES // keys.shape[0]))
    few = settings._replace(
        num_particles=size,
        least_ess=_PILOT_ESS,
        moves=_PILOT_MOVES,
        max_steps=min(settings.max_steps, _PILOT_STEPS),
    )
    keys_pass, keys = _split(keys)
    first = run_pass(keys_pass, prior_reference, few, with_mixtures=False, search_modes=True)
    unimodal = bool(first.fit.unimodal)
    single_gaussian = _is_single_gaussian(first, _LEAST_ACCEPTANCE) and float(first.fit.missed_mass) == 0
    if not (single_gaussian or unimodal):
        return _Pilot(first, False)
    init = first.fit.reference if single_gaussian else mode_reference(first.fit, prior_reference)
    result = first
    for attempt in range(_ATTEMPTS):
        keys_passes, keys = _split(keys)
        result, settled = _repeat_passes(
            run_pass,
            keys_passes,
            init,
            few,
            path,
            first._replace(num_evals=result.num_evals),
            with_mixtures=False,
            may_continue=lambda found: _is_single_gaussian(found, _LEAST_ACCEPTANCE),
        )
        good = _is_single_gaussian(result, HIGH_ACCEPTANCE)
        good = good or (unimodal and settled and _is_single_gaussian(result, _UNIMODAL_ACCEPTANCE))
        if not good:
            continue
        if single_gaussian and not attempt:
            return _Pilot(result, True)
        outside = float(log_mass_outside(first.particles, path, result.fit.reference))
        result = result._replace(fit=result.fit._replace(missed_mass=jnp.zeros_like(result.fit.missed_mass)))
        return _Pilot(result, bool(outside < _evidence(result, path)[0] + np.log(_MAX_MASS_OUTSIDE)))
    return _Pilot(result, False)


def _repeat_passes(
    run_pass: AnnealingPass,
    keys: jax.Array,
    init: Reference,
    settings: ParticleSettings,
    path: TemperingPath,
    first: PassResult,
    *,
    with_mixtures: bool,
    may_continue: Callable[[PassResult], bool],
) -> _Passes:
    """Run passes after `first`, the next one from `init`, until the evidence has settled."""
    result = first
    # If the first pass missed a mode there may be more of them: the second one searches again.
    search_modes = with_mixtures and float(first.fit.missed_mass) > 0
    for _ in range(1, MAX_PASSES):
        last, before = result, _evidence(result, path)[0]
        keys_pass, keys = _split(keys)
        result = run_pass(keys_pass, init, settings, with_mixtures=with_mixtures, search_modes=search_modes)
        search_modes, init = False, result.fit.reference
        missed_mass = jnp.maximum(last.fit.missed_mass, result.fit.missed_mass)
        result = result._replace(
            fit=result.fit._replace(missed_mass=missed_mass), num_evals=result.num_evals + last.num_evals
        )
        value, error = _evidence(result, path)
        settled = abs(value - before) <= np.clip(2 * np.nan_to_num(error), _SETTLED, _MAX_SETTLED)
        acceptance = float(jnp.mean(result.reference_acceptance))
        if settled or (error <= _SMALL_ERROR and acceptance >= HIGH_ACCEPTANCE):
            return _Passes(result, True)
        if not may_continue(result):
            break
    return _Passes(result, False)


def _split(keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    pairs = jax.vmap(jax.random.split)(keys)
    return pairs[:, 0], pairs[:, 1]


def _evidence(result: PassResult, path: TemperingPath) -> tuple[float, float]:
    """`log Z` by the particles of all chains, and its error."""
    log_z = jax.vmap(lambda one: log_evidence(one, path))(result.particles)
    return error_of_populations(np.asarray(log_z, float))


def _is_single_gaussian(result: PassResult, least_acceptance: float) -> bool:
    """Whether all particles arrived, and one Gaussian or autoregressive one covers them and is accepted."""
    fit, particles = result.fit, result.particles
    last = jnp.take_along_axis(particles.betas, particles.num_stages[:, None] - 1, axis=1)
    covers = ((fit.components == 1) | (fit.components == AUTOREGRESSIVE)) & (fit.uncovered <= MAX_UNCOVERED)
    accepted = jnp.mean(result.reference_acceptance) >= least_acceptance
    return bool(covers & jnp.all(last >= 1) & accepted)
