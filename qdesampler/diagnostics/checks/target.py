r"""Checks with the target itself: its virial, its gradient, and regions where it is undefined.

For draws of a density `p` on unconstrained space, whatever its shape, integration by parts gives

    E[ d_j log p ] = 0,        E[ (x_i - m_i) d_j log p ] = -delta_ij,

the virial theorem of the Hamiltonian whose ground state is `sqrt(p)`, and Stein's identity of statistics.
It fails for draws that miss a part of `p` or come from another density, and for scores that are not the
gradient of `log p`. Two further checks evaluate the target: finite differences against the gradient, and
points half a standard deviation around the draws, where a log density should exist.

References:
    Gorham and Mackey, "Measuring sample quality with Stein's method", NeurIPS 2015.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.special import stdtrit

from qdesampler.diagnostics.checks.finding import DOUBLE, Check, Finding, Judged, listed, not_judged
from qdesampler.infer.model.scores import NoScoresError, RunScores, potential_values, run_scores

__all__ = ["Virial", "target_checks", "virial"]

_VIRIAL = "Virial, E[x_i d_j log p] = -delta_ij"
_BATCHES = 32  # batches of draws of all chains, long enough for errors that include autocorrelation
_LEVEL = 1e-3  # probability of a false alarm for all identities of a run together
_MATERIAL = 0.1  # deviation from the identity below which it does not matter, however certain it is
_ALL_PAIRS = 24  # coordinates up to which all pairs are checked
_MOST_WHITENED = 200  # coordinates up to which they are whitened; more are only scaled
_PROBES = 256  # points around the draws
_SLOPES = 32  # finite differences
_RADIUS = 0.5  # distance of the points from the draws, in local widths
_STEP = 0.05  # half the length of a finite difference, in local widths
_NEIGHBOUR = 4  # the distance to this neighbour measures the local width
_AMONG = 256  # draws that a neighbour is chosen from, so that each of 64 modes has as many
_SHORTER = 8  # ratio to the second, shorter difference
_DRAWS_A_COORDINATE = 4  # draws for each coordinate that whitening needs


class Virial(NamedTuple):
    """The identities of a run, in coordinates whitened by its first half.

    Attributes:
        deviation: deviations of `E[y_i d_j log p]` from `-delta_ij` and of `E[d_j log p]` from 0, shape
            `(n,)`.
        error: standard errors, from means of batches; same shape.
        labels: names of the identities.
        limit: standard errors that the largest of all deviations may have.
    """

    deviation: np.ndarray
    error: np.ndarray
    labels: list[str]
    limit: float

    @property
    def worst(self) -> int:
        """Index of the identity that fails with the most standard errors."""
        return int(np.argmax(np.where(np.abs(self.deviation) > _MATERIAL, self.sigmas, -1.0)))

    @property
    def sigmas(self) -> np.ndarray:
        """Deviations in standard errors."""
        return np.abs(self.deviation) / np.maximum(self.error, 1e-12)

    @property
    def passed(self) -> bool:
        """Whether no identity fails both beyond its error and by an amount that matters."""
        return not bool(np.any((self.sigmas > self.limit) & (np.abs(self.deviation) > _MATERIAL)))


def virial(run: RunScores) -> Virial:
    """Check the identities of this module on the second half of the draws.

    The coordinates come from the first half, because axes fitted to the same draws would violate the
    identities for good draws as well.

    Args:
        run: finite positions and scores of at least 8 draws a chain.
    """
    chains, draws, dim = run.positions.shape
    centre, scale, turn = _whitening(run.positions[:, : draws // 2])
    y, b = run.positions[:, draws // 2 :] - centre, run.scores[:, draws // 2 :]
    draws = y.shape[1]
    y, b = (y / scale).reshape(-1, dim), (b * scale).reshape(-1, dim)
    names = list(run.labels)
    if turn is not None:
        vectors, root = turn
        y, b = y @ (vectors / root), b @ (vectors * root)
        names = [names[i] for i in np.argmax(np.abs(vectors), axis=0)]
    i, j = np.arange(dim), np.arange(dim)
    if dim <= _ALL_PAIRS:
        i, j = (index.ravel() for index in np.indices((dim, dim)))
    length = max(1, draws // max(2, -(-_BATCHES // chains)))
    count = draws // length
    kept = np.arange(chains * draws).reshape(chains, draws)[:, : count * length].reshape(-1, length)
    batches = np.concatenate(
        [_batch_means(y[:, p] * b[:, q] + (p == q), kept) for p, q in zip(i, j, strict=True)]
        + [_batch_means(column, kept) for column in b.T],
    ).reshape(-1, len(kept))
    labels = [
        f"of {names[p]}" if p == q else f"between {names[p]} and {names[q]}"
        for p, q in zip(i, j, strict=True)
    ] + [f"of the force on {name}" for name in names]
    error = batches.std(1, ddof=1) / np.sqrt(len(kept))
    limit = float(-stdtrit(len(kept) - 1, _LEVEL / 2 / len(batches)))  # of Student's t
    return Virial(batches.mean(1), error, labels, limit)


def _whitening(
    positions: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
    """Centre and scale of some draws and, if there are enough draws, their principal axes with lengths."""
    dim = positions.shape[-1]
    flat = positions.reshape(-1, dim)
    centre = flat.mean(0)
    scale = np.maximum(flat.std(0), 1e-300)
    if dim > min(_MOST_WHITENED, len(flat) // _DRAWS_A_COORDINATE):
        return centre, scale, None
    z = (flat - centre) / scale
    values, vectors = np.linalg.eigh(z.T @ z / len(z))
    return centre, scale, (vectors, np.sqrt(np.maximum(values, 1e-10 * values[-1])))


def _batch_means(values: np.ndarray, batches: np.ndarray) -> np.ndarray:
    return values[batches].mean(1)


def target_checks(mcmc: Any, *, has_edges: bool = False) -> list[Judged]:
    """Rows and findings from the target of a run, or one row with the reason if it cannot be evaluated.

    Args:
        mcmc: a `numpyro.infer.MCMC` after `run`.
        has_edges: whether the density ends or jumps where it is large, so that its virial has boundary terms.
    """
    try:
        scores = run_scores(mcmc, require_finite=False)
    except NoScoresError as error:
        return [Judged(Check(_VIRIAL, not_judged(error)))]
    undefined = _undefined_gradients(scores)
    if undefined is not None:
        return [undefined]
    moving = np.ptp(scores.positions, axis=(0, 1)) > 0
    if not moving.any() or scores.positions.shape[1] < 8:
        return []
    try:
        judged = _around(mcmc, scores)
    except NoScoresError as error:  # the scores are known, but the target is not evaluated any more
        judged = [Judged(Check("Gradient against differences", not_judged(error)))]
    if has_edges:
        return [*judged, Judged(Check(_VIRIAL, "not judged: it does not hold at edges of the density"))]
    gradient_is_wrong = judged[0].finding is not None
    names = tuple(name for name, moves in zip(scores.labels, moving, strict=True) if moves)
    times = 4 * getattr(mcmc, "thinning", 1)  # four times the draws halve the errors
    more = f"`num_samples={times * scores.positions.shape[1]}`"
    return [*judged, _virial(scores, moving, names, more, wrong_gradient=gradient_is_wrong)]


def _virial(
    scores: RunScores, moving: np.ndarray, names: tuple[str, ...], more: str, *, wrong_gradient: bool
) -> Judged:
    found = virial(
        scores._replace(
            positions=scores.positions[..., moving], scores=scores.scores[..., moving], labels=names
        )
    )
    worst = found.worst
    text = (
        f"off by {found.deviation[worst]:+.2g} \N{PLUS-MINUS SIGN} {found.error[worst]:.2g} at worst, "
        f"{found.labels[worst]}"
    )
    limit = f"within {found.limit:.1f} errors, or {_MATERIAL:g}"
    check = Check(_VIRIAL, text, limit, found.passed)
    if found.passed:
        return Judged(check)
    why = "as is expected from the wrong gradient" if wrong_gradient else "or its gradient is wrong"
    return Judged(
        check,
        Finding(
            "virial",
            f"The virial identity E[x_i d_j log p] = -delta_ij fails: {text}, more than {found.limit:.1f} "
            f"standard errors. The draws are not draws of this density, {why}.",
            "Correct the gradient first."
            if wrong_gradient
            else f"Draw four times as many: {more}. If it stays, check custom gradients, look for funnels "
            "and edges in the plots of `qdesampler.plots.save_plots(mcmc, 'plots')`, and for other modes "
            "with `AnnealedQDE(model)`.",
        ),
    )


def _undefined_gradients(scores: RunScores) -> Judged | None:
    finite = np.all(np.isfinite(scores.positions) & np.isfinite(scores.scores), axis=2)
    if finite.all():
        return None
    share = 1 - finite.mean()
    bad = np.asarray(scores.labels)[~np.isfinite(scores.scores).all(axis=(0, 1))]
    where = f" (coordinates {listed(list(bad))})" if bad.size else ""
    return Judged(
        Check("Gradients at the draws", f"{share:.2%} not finite", "all finite", False),
        Finding(
            "undefined",
            f"The gradient of the log density is NaN or infinite at {share:.2%} of the draws{where}: the "
            "model does not determine what the sampler did there.",
            "Look for log, sqrt or a division at the edge of their domain, also in branches of jnp.where "
            f"that are not taken; try {DOUBLE}.",
        ),
    )


def _spread(scores: RunScores, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Some draws, and for each a random direction as long as the differences of draws around it.

    The direction leads to a near neighbour, so that it stays within a mode. It is lengthened as much as a
    difference of two normal draws of the same covariance is longer than the distance to such a neighbour.
    """
    rng = np.random.default_rng(seed)
    flat = scores.positions.reshape(-1, scores.positions.shape[-1])
    rows, others = rng.integers(len(flat), size=count), rng.integers(len(flat), size=_AMONG)
    scale = np.maximum(flat.std(0), 1e-300)
    points, among = (flat[rows] - flat.mean(0)) / scale, (flat[others] - flat.mean(0)) / scale
    # Combinations of the draws with normal weights have their covariance.
    normal = rng.normal(size=(count + _AMONG, _AMONG)) @ among / np.sqrt(_AMONG)
    near = np.linalg.norm(_to_neighbour(normal[:count], normal[count:]), axis=1)
    pairs = np.linalg.norm(normal[:count] - normal[count : 2 * count], axis=1)
    directions = _to_neighbour(points, among) * np.median(pairs) / max(np.median(near), 1e-300)
    longest = np.median(pairs) / np.maximum(np.linalg.norm(directions, axis=1), 1e-300)
    directions *= np.minimum(longest, 1)[:, None]
    return flat[rows], scale * directions / np.sqrt(2), rows  # differences have twice the covariance of draws


def _to_neighbour(points: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The way from each point to its neighbour of a fixed rank; equal points, repeated draws, are none."""
    squares = np.stack([np.sum((among - point) ** 2, axis=1) for point in points])
    squares[squares == 0] = np.inf
    return among[np.argpartition(squares, _NEIGHBOUR - 1, axis=1)[:, _NEIGHBOUR - 1]] - points


def _around(mcmc: Any, scores: RunScores) -> list[Judged]:
    """The checks that evaluate the density near the draws; all in one batch, so that it compiles once."""
    points, directions, rows = _spread(scores, _SLOPES, 0)
    steps = [length * directions for length in (_STEP, _STEP / _SHORTER)]
    centres, outward, _ = _spread(scores, _PROBES, 1)
    places = [points + sign * step for step in steps for sign in (1, -1)]
    values = potential_values(mcmc, np.concatenate([*places, centres + _RADIUS * outward]))
    ends, around = np.split(values, [len(places) * _SLOPES])
    gradients = -scores.scores.reshape(-1, scores.positions.shape[-1])[rows]
    return [_gradient(points, steps, ends.reshape(2, 2, _SLOPES), gradients), _undefined(around)]


def _gradient(points: np.ndarray, steps: list[np.ndarray], ends: np.ndarray, gradients: np.ndarray) -> Judged:
    """From the potential at both ends of a longer and a shorter difference, shape `(2, 2, points)`."""
    off, usable, _ = _off(points, steps[0], _STEP, ends[0], gradients)
    # A difference across a bend is off as well, until the step is shorter; where the shorter one is lost in
    # the rounding of the density, the longer one counts.
    near, _, seen = _off(points, steps[1], _STEP / _SHORTER, ends[1], gradients)
    off = off & (near | ~seen)
    if usable.sum() < _SLOPES // 4:
        return Judged(
            Check("Gradient against differences", "not judged: the log density is not finite nearby")
        )
    share = float(off[usable].mean())
    check = Check(
        "Gradient against differences", f"{share:.0%} of probes differ", "at most 25%", share <= 0.25
    )
    if check.passed:
        return Judged(check)
    finding = Finding(
        "gradient",
        f"The gradient is not the slope of the log density: at {share:.0%} of {int(usable.sum())} draws it "
        "differs from finite differences.",
        "Look for a wrong custom_jvp or custom_vjp, stop_gradient, rounding (argmax, floor, integers) or a "
        f"discontinuity in the model; try {DOUBLE}.",
    )
    return Judged(check, finding)


def _off(
    points: np.ndarray, steps: np.ndarray, length: float, values: np.ndarray, gradients: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which differences contradict the gradients, are finite, and stand out of rounding.

    A difference spans a step to either side of its point, `length` in units of the standard deviation; the
    potential there is `values`, shape `(2, points)`.
    """
    slopes = 2 * np.sum(gradients * steps, axis=1)
    found = values[0] - values[1]
    # Rounding of the density, and of the points.
    size = 16 * (1 + np.abs(values).max(0)) + 2 * np.sum(np.abs(gradients * points), axis=1)
    noise = np.finfo(jnp.result_type(float)).eps * size
    size = np.abs(found) + np.abs(slopes)
    off = np.abs(found - slopes) > 0.1 * size + noise + 2 * length**2
    return off, np.isfinite(found), 0.1 * size > noise


def _undefined(values: np.ndarray) -> Judged:
    bad = float(np.mean(np.isnan(values) | (values == -np.inf)))
    check = Check("Log density around the draws", f"{bad:.1%} of probes undefined", "none", bad == 0)
    if check.passed:
        return Judged(check)
    finding = Finding(
        "undefined",
        f"The log density is NaN or +infinite at {bad:.1%} of points about half a local width from the "
        "draws: the sampler treats such a region as forbidden, and the draws stop at its edge.",
        "Look for log, sqrt or division of values that can become negative or zero, and for overflow; give "
        "the prior a support, or return -inf where the density is truly zero.",
    )
    return Judged(check, finding)
