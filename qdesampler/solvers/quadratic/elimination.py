r"""The fit of a triangular map to points and their scores, one coordinate after another from the last.

Where a coordinate is Gaussian given all others, `z_k ~ N(m, exp(2 s))`, its score is

    a_k = -(z_k - m) exp(-2 s)

at every point, whatever law the points have. So the shift `m` and the log width `s`, functions of the others,
are a regression of scores on points: where it fits, no draws of the target are needed, and it holds far from
the points as well. The coordinate that fits best becomes the last of the map; with its
`v = (z_k - m) exp(-s)` in place of `z_k` the others have the scores of what is left,

    a_j <- a_j + a_k (dm/dz_j + exp(s) v ds/dz_j) + ds/dz_j ,

and the next is taken from these. It is the elimination of variables of a graphical model, with the graph and
its order read from scores (Lauritzen 1996; by transport maps: Spantini, Bigoni and Marzouk 2018).

The residual `v + exp(s) a_k` is minimised by Gauss-Newton steps that count far points less (Cauchy weights).
Terms enter one at a time, the most correlated with the residual first, while that is beyond chance
(orthogonal matching pursuit: Pati, Rezaiifar and Krishnaprasad 1993).
"""

from typing import NamedTuple

import numpy as np

from qdesampler.numerics.triangular_map import BOUND, TriangularMap, affine_map, bounded
from qdesampler.solvers.quadratic.sample import Sample, map_depth

__all__ = ["eliminate"]

_SIGNIFICANT = 4.0  # standard errors of a correlation that is no chance
_MOST_TERMS = 20  # of a coordinate
# Median sizes of the residual at which a point counts half: far candidates of a poor trial are where the
# target has no mass.
_FAR = 4.5
_EXACT = 0.01  # residual, in standard deviations, below which no further term is looked for
_FLOOR = 1e-4  # added to squares of the residual before their logarithm
_FOR_A_PARENT = 0.1  # nats of misfit that one coordinate less to depend on is worth
_FIRST, _NEXT = 4, 3  # Gauss-Newton steps at the beginning and the end, and after a new term
_HALVINGS = 8  # of a step that does not lower the loss
_WIDEST = 2.0  # change of a log width in one step, at most
_LARGEST = 30.0  # log width, standardised units
_MOST_POINTS = 400  # of a fit; a fit in 32 dimensions takes 3 s of 180 points, 40 s of 670


class _Terms(NamedTuple):
    """Shift and log width of one coordinate.

    Attributes:
        log_width: constant of the log width.
        shift: constant of the shift.
        products: columns of `_Data.products` in the shift, and their slopes.
        slopes: of the products.
        widths: coordinates in the log width.
        width_slopes: of these.
    """

    log_width: float
    shift: float
    products: tuple[int, ...] = ()
    slopes: np.ndarray = np.zeros(0)
    widths: tuple[int, ...] = ()
    width_slopes: np.ndarray = np.zeros(0)

    def moved(self, step: np.ndarray) -> "_Terms":
        """After a step, in the order of `_Data.derivatives`."""
        split = 2 + len(self.products)
        return self._replace(
            log_width=self.log_width + step[0],
            shift=self.shift + step[1],
            slopes=self.slopes + step[2:split],
            width_slopes=self.width_slopes + step[split:],
        )


class _Residual(NamedTuple):
    """At all points: `v`, `exp(s) a_k`, `exp(s)` and how much each point counts."""

    v: np.ndarray
    pull: np.ndarray
    width: np.ndarray
    scale: float
    weight: np.ndarray

    @property
    def rest(self) -> np.ndarray:
        """`v + exp(s) a_k`, zero where the coordinate fits."""
        return self.v + self.pull


class _Data:
    """Standardised points, the scores of what is left, and all products of the points."""

    def __init__(self, z: np.ndarray, scores: np.ndarray, weights: np.ndarray):
        self.dim = z.shape[1]
        self.z, self.scores, self.weights = z, scores.copy(), weights
        pairs = [(i, self.dim) for i in range(self.dim)]  # `dim` stands for 1
        pairs += [(i, j) for i in range(self.dim) for j in range(i + 1)]
        self.pairs = np.array(pairs)
        self.full = np.concatenate([z, np.ones((len(z), 1))], 1)
        self.products = self.full[:, self.pairs[:, 0]] * self.full[:, self.pairs[:, 1]]
        self.bounded = np.asarray(bounded(z))
        self.threshold = _SIGNIFICANT / np.sqrt(np.sum(weights) ** 2 / np.sum(weights**2))

    def residual(self, k: int, terms: _Terms, scale: float | None = None) -> _Residual:
        shift = terms.shift + self.products[:, terms.products] @ terms.slopes
        log_width = terms.log_width + self.bounded[:, terms.widths] @ terms.width_slopes
        width = np.exp(np.clip(log_width, -_LARGEST, _LARGEST))
        v, pull = (self.z[:, k] - shift) / width, width * self.scores[:, k]
        if scale is None:
            scale = _FAR * float(np.median(np.abs(v + pull))) + 1e-12
        return _Residual(v, pull, width, scale, self.weights / (1 + ((v + pull) / scale) ** 2))

    def loss(self, at: _Residual) -> float:
        found = float(np.sum(self.weights * np.log1p((at.rest / at.scale) ** 2)))
        return found if np.isfinite(found) else np.inf

    def derivatives(self, at: _Residual, products, widths, *, constants: bool) -> np.ndarray:
        """Of the residual by slopes, shape `(n, slopes)`: constants, products, widths."""
        by_width = (at.pull - at.v)[:, None]
        columns = [-self.products[:, products] / at.width[:, None], by_width * self.bounded[:, widths]]
        if constants:
            columns = [by_width, -1 / at.width[:, None], *columns]
        return np.concatenate(columns, 1)

    def newton(self, k: int, terms: _Terms, steps: int) -> _Terms:
        """After some steps of Gauss-Newton, each shortened until the loss falls."""
        for _ in range(steps):
            at = self.residual(k, terms)
            root = np.sqrt(at.weight)
            rows = self.derivatives(at, terms.products, terms.widths, constants=True) * root[:, None]
            size = np.sqrt(np.sum(rows**2, 0)) + np.finfo(float).tiny
            if not np.all(np.isfinite(rows)):
                return terms
            step = np.linalg.lstsq(rows / size, -at.rest * root, rcond=1e-8)[0] / size
            widening = step[0] + self.bounded[:, terms.widths] @ step[2 + len(terms.products) :]
            step = step * min(1.0, _WIDEST / max(float(np.max(np.abs(widening))), 1e-12))
            before = self.loss(at)
            for _ in range(_HALVINGS):
                moved = terms.moved(step)
                if self.loss(self.residual(k, moved, at.scale)) < before:
                    break
                step = step / 2
            else:
                return terms
            terms = moved
        return terms

    def best_term(self, k: int, terms: _Terms, others: np.ndarray) -> _Terms | None:
        """With the term that is most correlated with the residual; None if that is chance."""
        at = self.residual(k, terms)
        if np.sqrt(np.average(np.minimum(np.abs(at.rest), at.scale) ** 2, weights=self.weights)) < _EXACT:
            return None
        usable = np.append(others, True)
        usable[k] = False
        products = np.flatnonzero(usable[self.pairs[:, 0]] & usable[self.pairs[:, 1]])
        widths = np.flatnonzero(usable[:-1])
        if not len(widths):
            return None
        root = np.sqrt(at.weight)[:, None]
        known = self.derivatives(at, terms.products, terms.widths, constants=True) * root
        new = self.derivatives(at, products, widths, constants=False) * root
        frame, _ = np.linalg.qr(known)
        rest = at.rest * root[:, 0]
        rest = rest - frame @ (frame.T @ rest)
        whole = np.sum(new**2, 0)
        across = whole - np.sum((frame.T @ new) ** 2, 0)
        free = across > 1e-6 * whole
        seen = np.abs(new.T @ rest) / np.sqrt(np.where(free, across, np.inf)) / np.linalg.norm(rest)
        best = int(np.argmax(np.where(np.isfinite(seen), seen, 0.0)))
        if not seen[best] > self.threshold:
            return None
        if best < len(products):
            return terms._replace(
                products=(*terms.products, int(products[best])), slopes=np.append(terms.slopes, 0.0)
            )
        column = int(widths[best - len(products)])
        return terms._replace(widths=(*terms.widths, column), width_slopes=np.append(terms.width_slopes, 0.0))


class _Fit(NamedTuple):
    """One coordinate given the others that are left: its terms, how badly they fit, what it depends on."""

    terms: _Terms
    misfit: float
    parents: frozenset[int]

    @property
    def rank(self) -> float:
        """The least is eliminated next."""
        return self.misfit + _FOR_A_PARENT * len(self.parents)


def _fit(data: _Data, k: int, others: np.ndarray) -> _Fit:
    ratio = np.std(data.z[:, k]) / max(float(np.std(data.scores[:, k])), np.finfo(float).tiny)
    terms = _Terms(0.5 * float(np.log(np.clip(ratio, 1e-12, 1e12))), float(np.mean(data.z[:, k])))
    terms = data.newton(k, terms, _FIRST)
    while len(terms.products) + len(terms.widths) < _MOST_TERMS:
        more = data.best_term(k, terms, others)
        if more is None:
            break
        terms = data.newton(k, more, _NEXT)
    terms = data.newton(k, terms, _FIRST)
    squares = np.log(_FLOOR + data.residual(k, terms).rest ** 2)
    parents = {*data.pairs[list(terms.products)].ravel().tolist(), *terms.widths} - {data.dim}
    return _Fit(terms, float(np.average(squares, weights=data.weights)), frozenset(parents))


def _eliminated(data: _Data, k: int, terms: _Terms) -> None:
    """Make the scores those of the other coordinates with `v` in place of the `k`-th."""
    at, score = data.residual(k, terms), data.scores[:, k].copy()
    for column, slope in zip(terms.products, terms.slopes, strict=True):
        i, j = data.pairs[column]
        data.scores[:, i] += score * slope * data.full[:, j]
        if j < data.dim:
            data.scores[:, j] += score * slope * data.full[:, i]
    for i, slope in zip(terms.widths, terms.width_slopes, strict=True):
        data.scores[:, i] += (at.pull * at.v + 1) * slope * (1 - (data.bounded[:, i] / BOUND) ** 2)


def eliminate(sample: Sample) -> TriangularMap:
    """The map of a diagonal factor whose terms are found by elimination.

    Args:
        sample: points with their scores, finite; none of the coordinates constant.

    Raises:
        LinAlgError: the scores are too large or too small for a fit.
    """
    keep = slice(None, None, max(-(-len(sample.points) // _MOST_POINTS), 1))
    points, scores, weights = sample.points[keep], sample.scores[keep], sample.weights[keep]
    share = weights / np.sum(weights)
    centre = share @ points
    scale = np.sqrt(share @ (points - centre) ** 2)
    data = _Data((points - centre) / scale, scores * scale, len(weights) * share)
    if not (np.all(np.isfinite(data.products)) and np.all(np.isfinite(data.scores))):
        raise np.linalg.LinAlgError("points or scores are not finite in units of their spread")
    left = np.full(data.dim, True)
    fits = {k: _fit(data, k, left) for k in range(data.dim)}
    found: list[tuple[int, _Terms]] = []
    while fits:
        k = min(fits, key=lambda k: fits[k].rank)
        terms, _, parents = fits.pop(k)
        left[k] = False
        found.append((k, terms))
        _eliminated(data, k, terms)
        for j in [j for j in fits if j in parents or k in fits[j].parents]:
            fits[j] = _fit(data, j, left)
    return _as_map(found[::-1], data.pairs, centre, scale)


def _as_map(
    found: list[tuple[int, _Terms]], pairs: np.ndarray, centre: np.ndarray, scale: np.ndarray
) -> TriangularMap:
    dim = len(found)
    order = np.array([k for k, _ in found])
    place = np.append(np.argsort(order), dim)
    shift_terms, slopes, width_terms, width_slopes = [], [], [], []
    for row, (_, terms) in enumerate(found):
        shift_terms += [(row, *place[pairs[column]]) for column in terms.products]
        width_terms += [(row, place[i]) for i in terms.widths]
        slopes += list(terms.slopes)
        width_slopes += list(terms.width_slopes)
    law = affine_map(centre, order, np.diag(scale[order]), np.diag(1 / scale[order]))
    law = law._replace(
        shifts=np.array([terms.shift for _, terms in found]),
        log_widths=np.array([terms.log_width for _, terms in found]),
        shift_terms=np.array(shift_terms, int).reshape(-1, 3),
        shift_slopes=np.array(slopes, float),
        width_terms=np.array(width_terms, int).reshape(-1, 2),
        width_slopes=np.array(width_slopes, float),
    )
    return law._replace(depth=map_depth(law))
