r"""The Gaussian solve on the host: descents, the mode of most mass, closed-form steps, a certificate.

The trial state `psi = sqrt(q)`, `q = N(mu, Sigma)`, is brought to the least energy that a Gaussian can have,

    E[q] = (D/4) E_q |grad log q - grad log p|^2 ,

by imaginary time in plain NumPy. Of the target it asks one thing, batches of log densities and scores.

1. *Descents* (`D -> 0`, `descents.py`) from several starts. Their secants give a Gaussian about every end.
   Ends where the density is rounding are left out (`rounding.py`).
2. *The mode of most mass*: where the density falls between ends, and they are high enough for their mass to
   matter, each takes a few steps by itself; the one with the highest evidence bound is kept, whatever its
   height.
3. *Steps*: candidates are drawn from the trial and evaluated, and the trial takes the closed-form step
   (`host_step.py`). Before every step the candidates certify the trial that drew them: its acceptance and
   autocorrelation time as the proposal of independence Metropolis. The certificate decides when to stop, and
   whether a low-rank factor has to become dense.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from qdesampler.numerics.markov_field import Elimination
from qdesampler.numerics.metric import DENSE_UP_TO
from qdesampler.solvers.gaussian.certificate import NOTHING, Certificate
from qdesampler.solvers.gaussian.descents import Descent, Evaluate
from qdesampler.solvers.gaussian.host_step import Gaussian, secant_gaussian
from qdesampler.solvers.gaussian.modes import (
    group_by_mode,
    sort_by_mass,
    trial_by_curvature,
    trial_by_secants,
)
from qdesampler.solvers.gaussian.rounding import without_rounding
from qdesampler.solvers.gaussian.search import Outcome, Recentre, Search, SolveSettings

__all__ = ["GaussianSolve", "Outcome", "SolveSettings", "Step", "solve_gaussian"]

_ESCAPED = 1e12  # a coordinate or width beyond this has run away
_MAX_LOG_DENSITY = 1e20  # nats; a log density above it has run away


class Step(NamedTuple):
    """One step of the solve, for those who watch it.

    Attributes:
        number: 1 for the first.
        certificate: of the trial before the step.
        change: how far the step moved it, root mean square distance in units of its widths.
        evaluations: so far, descents included.
    """

    number: int
    certificate: Certificate
    change: float
    evaluations: int


class GaussianSolve(NamedTuple):
    """A finished solve.

    Attributes:
        trial: the Gaussian found.
        outcome: in words.
        certificate: of the trial that drew the last candidates; the trial itself is one step further, but for
            a solved one. A middling trial is the best of all, with its own certificate.
        evaluations: all of them.
        modes: centres of the modes that were compared, shape `(modes, dim)`, the one kept first.
        log_masses: their evidence bounds, shape `(modes,)`; NaN where one mode was alone.
        steps: what happened, step by step.
        wild_steps: steps in which most candidates had no density, so that the widths were halved.
        elimination: of the graph of a Markov field, where the trial is one.
    """

    trial: Gaussian
    outcome: Outcome
    certificate: Certificate
    evaluations: int
    modes: np.ndarray
    log_masses: np.ndarray
    steps: tuple[Step, ...]
    wild_steps: int
    elimination: Elimination | None = None


def _has_escaped(trial: Gaussian) -> bool:
    """Whether the trial has grown beyond all bounds."""
    widths = trial.metric.scale * np.max(trial.metric.stretch, initial=1.0)
    return not (np.max(np.abs(trial.centre)) < _ESCAPED and np.max(widths) < _ESCAPED)


def _is_sound(descent: Descent) -> bool:
    """Whether a descent ended somewhere, rather than nowhere or rising without end."""
    inside = np.max(np.abs(descent.position)) < _ESCAPED
    return bool(inside and np.isfinite(descent.log_density) and descent.log_density < _MAX_LOG_DENSITY)


def _without_ground_state(highest: Descent, settings: SolveSettings) -> GaussianSolve:
    trial = secant_gaussian(highest.position, *highest.pairs, settings.rank, settings.blocks)
    return GaussianSolve(trial, Outcome.UNBOUNDED, NOTHING, 0, trial.centre[None], np.full(1, np.nan), (), 0)


def solve_gaussian(
    evaluate: Evaluate,
    descents: list[Descent],
    settings: SolveSettings,
    rng: np.random.Generator,
    report: Callable[[Step], None] | None = None,
    recentre: Recentre | None = None,
) -> GaussianSolve:
    """Bring a Gaussian trial to its least energy.

    Args:
        evaluate: points `(n, dim)` to log densities `(n,)` and scores `(n, dim)`; what is not finite is
            handled.
        descents: descents that have ended, at least one.
        settings: see `SolveSettings`.
        rng: draws the candidates.
        report: called after every step.
        recentre: changes the coordinates in which `evaluate` sees points, see `search.Recentre`.

    Returns:
        The trial, its certificate and the evaluations, without those of the descents. An outcome of
        `UNBOUNDED` says that a descent or a width grew without end; one of `HOPELESS` that candidates are
        hardly ever accepted.
    """
    highest = max(descents, key=lambda d: d.log_density if np.isfinite(d.log_density) else -np.inf)
    if not _is_sound(highest):
        return _without_ground_state(highest, settings)
    precision = float(np.finfo(settings.precision).eps)
    descents, examined = without_rounding(evaluate, descents, precision)
    groups, evaluations = group_by_mode(evaluate, descents)
    evaluations += examined
    trials = [trial_by_secants(group, settings) for group in groups]
    if len(groups) > 1 and highest.position.size <= DENSE_UP_TO and settings.field is None:
        trials, spent = zip(*(trial_by_curvature(evaluate, g[0], settings) for g in groups), strict=True)
        evaluations += sum(spent)
    searches = [Search(evaluate, settings, trial, rng) for trial in trials]
    if len(searches) > 1:
        searches = sort_by_mass(searches)
    search = searches[0]
    masses = [other.certificate.log_mass for other in searches] if len(searches) > 1 else [np.nan]
    evaluations += search.spent_by_others + sum(other.evaluations for other in searches[1:])
    steps: list[Step] = []
    outcome = low_rank = None
    while outcome is None:
        rising = search.look()
        outcome = search.verdict(rising)
        if outcome in (Outcome.MIDDLING, Outcome.HOPELESS) and search.may_be_dense:
            low_rank = search.best
            search.make_dense()
            outcome = None
            continue
        if outcome is not Outcome.SOLVED:
            search.move(recentre)
        steps.append(Step(search.number, search.certificate, search.change, evaluations + search.evaluations))
        if report is not None:
            report(steps[-1])
        if _has_escaped(search.trial):
            outcome = Outcome.UNBOUNDED
    trial, certificate = search.trial, search.certificate
    if outcome is Outcome.HOPELESS and low_rank is not None and low_rank[1].acceptance >= settings.usable:
        outcome = Outcome.MIDDLING
        trial, certificate = low_rank
    elif outcome is Outcome.MIDDLING and settings.good_time is not None and search.best[1] is not NOTHING:
        trial, certificate = search.best
    return GaussianSolve(
        trial=trial,
        outcome=outcome,
        certificate=certificate,
        evaluations=evaluations + search.evaluations,
        modes=np.stack([other.trial.centre for other in searches]),
        log_masses=np.asarray(masses),
        steps=tuple(steps),
        wild_steps=search.wild,
        elimination=None if settings.field is None else settings.field.elimination,
    )
