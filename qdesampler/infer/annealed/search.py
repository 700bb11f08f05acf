"""The search before a ladder: legs of walkers, each from the reference of the last one, until they agree.

The first leg starts from the broad reference. What its walkers overlooked (the neck of a funnel, a posterior
far narrower than the prior) is at the edge of the reference fitted to them, so that walkers which start from
there get farther for a few evaluations. Legs end when the evidence has settled.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.infer.annealed.evidence import error_of_populations
from qdesampler.infer.annealed.population import MOST_UNCOVERED, Start
from qdesampler.kernels.paths.path import TemperingPath
from qdesampler.kernels.references.reference import Reference
from qdesampler.kernels.smc.persistent_sampling import WalkerSettings, target_log_weights
from qdesampler.kernels.smc.reference_fit import AUTOREGRESSIVE, outside, peak_reference

__all__ = ["MOST_LEGS", "Leg", "search"]

# (keys, where to begin, settings, mixtures too?, descents too?) -> what was found
Leg = Callable[[jax.Array, Reference, WalkerSettings, bool, bool], Start]

MOST_LEGS = 6
# Nats between legs; errors of the walkers may raise the first up to the second.
_SETTLED, _AT_MOST = 0.1, 0.15
_PLAIN_ERROR, _PLAIN_DIRECT = 0.1, 0.7  # error of the walkers and acceptance that need no second opinion
_PILOT, _PILOT_LEAST = 128, 32  # walkers of the pilot over all chains, and of one chain at least
_PILOT_ESS, _PILOT_MOVES, _PILOT_STEPS = 0.1, 1, 3
# Acceptance from end to end: the pilot is enough, is enough where there is one mode alone, or is no use.
_PILOT_DIRECT, _ALONE_DIRECT, _HOPELESS = 0.7, 0.3, 0.2
_ATTEMPTS = 2  # at the legs after the first
_ELSEWHERE = 1e-4  # of the evidence; of few walkers it may be nats too low


def search(
    leg: Leg,
    keys: jax.Array,
    wide: Reference,
    path: TemperingPath,
    settings: WalkerSettings,
    pilot: bool,
    again: Callable[[Start], bool],
) -> Start:
    """A pilot of few walkers, which is all where there is one Gaussian; else the populations of `settings`.

    Args:
        leg: runs the walkers of one leg.
        keys: one a chain.
        wide: the broad reference.
        path: from a reference to the target.
        settings: of the whole populations.
        pilot: begin with one.
        again: whether another leg may start from the reference that a leg left.
    """
    spent = 0
    if pilot:
        keys_pilot, keys = _split(keys)
        found, enough = _pilot(leg, keys_pilot, wide, path, settings)
        if enough:
            return found
        spent = found.num_evals
    keys_leg, keys = _split(keys)
    found = leg(keys_leg, wide, settings, True, True)
    if again(found):
        found, _ = _legs(leg, keys, found, found.fit.reference, path, settings, True, again)
    return found._replace(num_evals=found.num_evals + spent)


def _pilot(leg, keys, wide, path, settings) -> tuple[Start, bool]:
    """Few walkers, and whether they are enough.

    Where some went astray but all descents ended in one mode, the next leg starts from its top. Where later
    legs went astray they are walked once more. What the first leg saw outside of what comes of either must
    not count.
    """
    size = max(_PILOT_LEAST, -(-_PILOT // keys.shape[0]))
    steps = min(settings.max_steps, _PILOT_STEPS)
    few = settings._replace(walkers=size, least_ess=_PILOT_ESS, moves=_PILOT_MOVES, max_steps=steps)
    keys_leg, keys = _split(keys)
    first = leg(keys_leg, wide, few, False, True)
    alone = bool(first.fit.alone)
    plain = _is_plain(first, _HOPELESS) and float(first.fit.hidden_share) == 0
    if not (plain or alone):
        return first, False
    begin = first.fit.reference if plain else peak_reference(first.fit, wide)
    found = first
    for attempt in range(_ATTEMPTS):
        keys_legs, keys = _split(keys)
        spent = first._replace(num_evals=found.num_evals)
        found, settled = _legs(
            leg, keys_legs, spent, begin, path, few, False, lambda found: _is_plain(found, _HOPELESS)
        )
        good = _is_plain(found, _PILOT_DIRECT) or (alone and settled and _is_plain(found, _ALONE_DIRECT))
        if not good:
            continue
        if plain and not attempt:
            return found, True
        elsewhere = float(outside(first.walkers, path, found.fit.reference))
        found = found._replace(fit=found.fit._replace(hidden_share=jnp.zeros_like(found.fit.hidden_share)))
        return found, elsewhere < _evidence(found, path)[0] + np.log(_ELSEWHERE)
    return found, False


def _legs(leg, keys, found, begin, path, settings, rich, again) -> tuple[Start, bool]:
    """Legs after the first until the evidence has settled, and whether it has."""
    look = rich and float(found.fit.hidden_share) > 0  # once more: there may be other overlooked modes
    for _ in range(1, MOST_LEGS):
        last, before = found, _evidence(found, path)[0]
        keys_leg, keys = _split(keys)
        found = leg(keys_leg, begin, settings, rich, look)
        look, begin = False, found.fit.reference
        hidden = jnp.maximum(last.fit.hidden_share, found.fit.hidden_share)
        found = found._replace(
            fit=found.fit._replace(hidden_share=hidden), num_evals=found.num_evals + last.num_evals
        )
        value, error = _evidence(found, path)
        settled = abs(value - before) <= np.clip(2 * np.nan_to_num(error), _SETTLED, _AT_MOST)
        if settled or (error <= _PLAIN_ERROR and float(jnp.mean(found.direct)) >= _PLAIN_DIRECT):
            return found, True
        if not again(found):
            break
    return found, False


def _split(keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    pairs = jax.vmap(jax.random.split)(keys)
    return pairs[:, 0], pairs[:, 1]


def _evidence(found: Start, path: TemperingPath) -> tuple[float, float]:
    walkers = found.walkers
    weights = jax.vmap(lambda one: target_log_weights(one, path))(walkers)
    per_stage = weights.shape[1] // walkers.fractions.shape[1]
    log_z = jax.nn.logsumexp(weights, axis=1) - jnp.log(walkers.used * per_stage)
    return error_of_populations(np.asarray(log_z, float))


def _is_plain(found: Start, least: float) -> bool:
    """All walkers arrived, one Gaussian (autoregressive or not) covers them, and its draws are accepted."""
    fit, walkers = found.fit, found.walkers
    last = jnp.take_along_axis(walkers.fractions, walkers.used[:, None] - 1, axis=1)
    plain = ((fit.components == 1) | (fit.components == AUTOREGRESSIVE)) & (fit.uncovered <= MOST_UNCOVERED)
    return bool(plain & jnp.all(last >= 1) & (jnp.mean(found.direct) >= least))
