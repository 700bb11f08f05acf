"""Modes among the ends of descents: which are different, the Gaussian about each, and which has most mass."""

import numpy as np

from qdesampler.numerics.numpy_metric import whiten_rows
from qdesampler.solvers.gaussian.descents import Descent, Evaluate
from qdesampler.solvers.gaussian.host_step import Gaussian, secant_gaussian
from qdesampler.solvers.gaussian.search import Search, SolveSettings

__all__ = ["group_by_mode", "sort_by_mass", "trial_by_curvature", "trial_by_secants"]

_LOW = 15.0  # nats (and one for each dimension) below the highest end, beyond which a mode has no mass
_SAME_MODE = 4.0  # squared whitened distance within which two trials are one mode, at least
_UNLIKELY = 10.0  # nats of mass behind the largest, beyond which a mode is dropped
_BETWEEN = np.array([0.25, 0.5, 0.75])  # where the line between two ends is looked at
_PROBE = 0.05  # nats of energy change that a difference of scores spans
_DIP = 0.5  # nats by which the log density may fall between two ends of one mode
_LOCAL_STEPS = 3  # of each mode before their masses are compared


def group_by_mode(evaluate: Evaluate, descents: list[Descent]) -> tuple[list[list[Descent]], int]:
    """Ends that matter, grouped by mode, the highest mode first; and the evaluations that it took.

    Two ends are one mode if the log density does not fall between them: it is evaluated at points of the
    straight line. Ends so low that no width could give their mode mass are left out.
    """
    dim = descents[0].position.size
    ends = sorted((d for d in descents if np.isfinite(d.log_density)), key=lambda d: -d.log_density)
    groups: list[list[Descent]] = []
    spent = 0
    for end in ends:
        if end.log_density < ends[0].log_density - dim - _LOW:
            continue
        for group in groups:
            line = end.position + _BETWEEN[:, None] * (group[0].position - end.position)
            values, _ = evaluate(line)
            spent += len(line)
            if np.all(values >= end.log_density - _DIP):
                group.append(end)
                break
        else:
            groups.append([end])
    return groups, spent


def trial_by_secants(group: list[Descent], settings: SolveSettings) -> Gaussian:
    """The Gaussian about the highest end of a mode, by the secants of all descents that came there.

    That of a Markov field takes its curvature.
    """
    if settings.field is not None:
        elimination, steps, bends = settings.field
        return secant_gaussian(group[0].position, steps, bends, settings.rank, elimination=elimination)
    steps = np.concatenate([descent.pairs.steps for descent in group])
    bends = np.concatenate([descent.pairs.bends for descent in group])
    return secant_gaussian(group[0].position, steps, bends, settings.rank, settings.blocks)


def trial_by_curvature(evaluate: Evaluate, end: Descent, settings: SolveSettings) -> tuple[Gaussian, int]:
    """The Gaussian about an end by differences of its scores along every axis, and the evaluations: `2 dim`.

    A descent that started close to its mode has seen few directions; a mode is not compared with others by a
    Gaussian that is wide where nobody looked. The first differences give the length of the second.
    """
    dim = end.position.size
    lengths = np.cbrt(np.finfo(settings.precision).eps) * (1 + np.abs(end.position))
    steps = bends = np.zeros((0, dim))
    for _ in range(2):
        points = (end.position + np.diag(lengths)).astype(settings.precision).astype(float)
        _, scores = evaluate(points)
        moved, change = points - end.position, end.score - scores
        energies = np.abs(np.sum(moved * change, 1))
        sound = np.isfinite(energies) & np.all(np.isfinite(change), 1) & (energies > 0)
        sign = np.sign(np.sum(moved * change, 1, where=sound[:, None]))[sound, None]
        root = np.sqrt(energies[sound])[:, None]
        steps, bends = moved[sound] / root, sign * change[sound] / root
        lengths = np.where(sound, lengths * np.sqrt(_PROBE / np.where(sound, energies, _PROBE)), lengths / 8)
    return secant_gaussian(end.position, steps, bends, settings.rank, settings.blocks), 2 * dim


def _overlap(one: Gaussian, other: Gaussian) -> bool:
    """Whether the centre of one trial lies in the bulk of the other."""
    offset = (one.centre - other.centre)[None]
    square = min(float(np.sum(whiten_rows(t.metric, offset) ** 2)) for t in (one, other))
    return square <= max(_SAME_MODE, 0.25 * one.centre.size)


def sort_by_mass(searches: list[Search]) -> list[Search]:
    """Let each mode take a few steps, merge those that meet, and sort by mass, the largest first."""
    for number in range(_LOCAL_STEPS):
        for search in searches:
            search.look()
            search.move()
        searches.sort(key=lambda search: -search.certificate.log_mass)
        kept: list[Search] = []
        for search in searches:
            behind = searches[0].certificate.log_mass - search.certificate.log_mass
            lost = number > 0 and behind > _UNLIKELY
            if lost or any(_overlap(search.trial, other.trial) for other in kept):
                kept[0].spent_by_others += search.evaluations + search.spent_by_others
            else:
                kept.append(search)
        searches[:] = kept
        if len(searches) == 1:
            break
    return searches
