r"""A triangular map of second order: coordinates in which bent and funnelled densities are rounder.

The coordinates are ordered, whitened by a triangular factor, and each is an affine function of a new one,
with a shift and a width that depend on those before it:

    x = c + P^T F w,        w_k = m_k(w_<k) + exp(s_k(w_<k)) v_k ,

    s_k = d_k - 1/2 log[(1 - c_k) exp(-2 g_k) + c_k exp(-2 h_k)],     g_k, h_k = sum e t(w_i),
    m_k = a_k + l_k f_k + sum b w_i w_j  (w_j may be 1),              t(w) = 6 tanh(w / 6),

    f_k = c_k exp(-2 h_k) / [(1 - c_k) exp(-2 g_k) + c_k exp(-2 h_k)] .

So a standard Gaussian `v` becomes a density that bends (`w_i w_j`) and funnels (`t`). With `c = 1` the log
width is `d + h`. With `c < 1` it is that of a coordinate with a prior of precision `(1 - c) exp(-2 g)` and
data of precision `c exp(-2 h)`, as that of the effects of a hierarchical model; `f` is the fraction of
the precision that the data have, and `l` how far their mean is from the prior's. The logarithm of `p`
changes by `log |dx/dv| = log det F + sum_k s_k`. It is a triangular transport map (Marzouk, Moselhy,
Parno and Spantini 2016) of affine coordinates.

All terms are lists of indices and coefficients. Coordinates without terms are known at once, those that
depend on them after one pass, and so on: `depth` passes give the whole point, to the last digit. The
functions take one point, shape `(dim,)`, of JAX, or rows `(n, dim)` of NumPy.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "BOUND",
    "TriangularMap",
    "affine_map",
    "bounded",
    "from_map",
    "into_map",
    "out_of_map",
    "pull_back",
    "push_forward",
    "shifts_and_log_widths",
    "to_device",
    "to_map",
    "value_and_score_in_map",
]

BOUND = 6.0  # standard deviations at which `t` levels off


class TriangularMap(NamedTuple):
    """The map; all fields are arrays.

    Attributes:
        centre: `c`, shape `(dim,)`.
        order: index in `x` of the `k`-th coordinate of `w`, shape `(dim,)`.
        factor: `F`, shape `(dim, dim)`, in the order of `w`; lower triangular if the map is a trial itself.
        inverse: `F^-1`.
        shifts: `a`, shape `(dim,)`.
        log_widths: `d`, shape `(dim,)`.
        shift_terms: `k, i, j` of each term of a shift, shape `(terms, 3)`; `j = dim` stands for 1.
        shift_slopes: `b`, shape `(terms,)`.
        width_terms: `k, i` of each term of `h`, shape `(terms, 2)`.
        width_slopes: `e`, shape `(terms,)`.
        prior_terms, prior_slopes: the same of `g`.
        centredness: `c`, between 0 and 1, shape `(dim,)`.
        data_shifts: `l`, shape `(dim,)`.
        depth: passes that give a whole point.
    """

    centre: Any
    order: Any
    factor: Any
    inverse: Any
    shifts: Any
    log_widths: Any
    shift_terms: Any
    shift_slopes: Any
    width_terms: Any
    width_slopes: Any
    prior_terms: Any
    prior_slopes: Any
    centredness: Any
    data_shifts: Any
    depth: Any


def affine_map(
    centre: np.ndarray, order: np.ndarray, factor: np.ndarray, inverse: np.ndarray
) -> TriangularMap:
    """The map `x = c + P^T F v`, without terms; the arguments are fields of `TriangularMap`."""
    dim = centre.size
    no_terms, no_slopes = np.zeros((0, 2), int), np.zeros(0)
    return TriangularMap(
        centre=centre,
        order=order,
        factor=factor,
        inverse=inverse,
        shifts=np.zeros(dim),
        log_widths=np.zeros(dim),
        shift_terms=np.zeros((0, 3), int),
        shift_slopes=no_slopes,
        width_terms=no_terms,
        width_slopes=no_slopes,
        prior_terms=no_terms,
        prior_slopes=no_slopes,
        centredness=np.ones(dim),
        data_shifts=np.zeros(dim),
        depth=np.asarray(1),
    )


def to_device[Map: tuple](law: Map) -> Map:
    """The arrays of this or another map as those of JAX, in the precision that JAX has."""

    def array(part: Any) -> jax.Array:
        part = np.asarray(part)
        return jnp.asarray(part, jnp.result_type(int if part.dtype.kind == "i" else float))

    return type(law)(*map(array, law))


def _sum_at(values, index, size: int):
    """Sums of the last axis of `values` by `index`, shape `(..., size)`."""
    if isinstance(values, np.ndarray):
        rows = int(np.prod(values.shape[:-1]))
        at = index + size * np.arange(rows)[:, None]
        sums = np.bincount(at.ravel(), values.ravel(), size * rows)
        return sums.reshape(*values.shape[:-1], size)
    return jnp.zeros((*values.shape[:-1], size), values.dtype).at[..., index].add(values)


def _repeat(number, step, first):
    """`step` applied `number` times."""
    if isinstance(first, np.ndarray):
        for _ in range(int(number)):
            first = step(first)
        return first
    return jax.lax.fori_loop(0, number, lambda _, value: step(value), first)


def _with_one(w):
    """The coordinates with a 1 behind them."""
    xp = np if isinstance(w, np.ndarray) else jnp
    return xp.concatenate([w, xp.ones_like(w[..., :1])], -1)


def bounded(w: Any) -> Any:
    """`t(w)`, elementwise: odd, of slope 1 at 0."""
    xp = np if isinstance(w, np.ndarray) else jnp
    return BOUND * xp.tanh(w / BOUND)


def shifts_and_log_widths(law: TriangularMap, w: Any) -> tuple[Any, Any]:
    """`m` and `s` at ordered, whitened points, each like `w`."""
    xp = np if isinstance(w, np.ndarray) else jnp
    dim, full = w.shape[-1], _with_one(w)
    rows, first, second = law.shift_terms.T
    bends = _sum_at(law.shift_slopes * full[..., first] * full[..., second], rows, dim)
    parts = _log_precisions(law, w)
    shifts = law.shifts + law.data_shifts * _fraction(xp, *parts) + bends
    return shifts, law.log_widths - 0.5 * xp.logaddexp(*parts)


def _log_precisions(law: TriangularMap, w):
    """Logarithms of the precisions of prior and data, `(1 - c) exp(-2 g)` and `c exp(-2 h)`."""
    xp = np if isinstance(w, np.ndarray) else jnp
    dim, levelled = w.shape[-1], bounded(w)

    def growth(terms, slopes):
        rows, of = terms.T
        return _sum_at(slopes * levelled[..., of], rows, dim)

    with np.errstate(divide="ignore"):
        prior, data = xp.log1p(-law.centredness), xp.log(law.centredness)
    return (
        prior - 2 * growth(law.prior_terms, law.prior_slopes),
        data - 2 * growth(law.width_terms, law.width_slopes),
    )


def _fraction(xp, log_prior, log_data):
    """`f`: the data's fraction of the precision, which is `ds / dh`."""
    with np.errstate(over="ignore"):
        return 1 / (1 + xp.exp(log_prior - log_data))


def _ordered(law: TriangularMap, v):
    """`w` of `v`."""
    xp = np if isinstance(v, np.ndarray) else jnp

    def again(w):
        shifts, log_widths = shifts_and_log_widths(law, w)
        return shifts + xp.exp(log_widths) * v

    return _repeat(law.depth, again, xp.zeros_like(v))


def _unordered(law: TriangularMap, values):
    """Values in the order of `w` in that of `x`."""
    if isinstance(values, np.ndarray):
        out = np.empty_like(values)
        out[..., law.order] = values
        return out
    return jnp.zeros_like(values).at[..., law.order].set(values)


def _placed(law: TriangularMap, w):
    """`x` of `w`, and `log |dx/dv|` without `log det F`."""
    return law.centre + _unordered(law, w @ law.factor.T), shifts_and_log_widths(law, w)[1].sum(-1)


def push_forward(law: TriangularMap, v: Any) -> tuple[Any, Any]:
    """`x` of `v`, and `log |dx/dv|` without `log det F`, which is the same for all points."""
    return _placed(law, _ordered(law, v))


def to_map(law: TriangularMap, x: Any) -> tuple[Any, Any]:
    """The inverse of `push_forward`: `v` of `x`, and `log |dx/dv|` without `log det F`."""
    return _from_sites(law, x)[:2]


def _from_sites(law: TriangularMap, x):
    """`v` and `log |dx/dv|` at `x`, and `w`."""
    xp = np if isinstance(x, np.ndarray) else jnp
    w = (x - law.centre)[..., law.order] @ law.inverse.T
    shifts, log_widths = shifts_and_log_widths(law, w)
    return (w - shifts) * xp.exp(-log_widths), log_widths.sum(-1), w


def into_map(law: TriangularMap, x: Any, score: Any) -> tuple[Any, Any, Any]:
    """`to_map`, and the score of `v` from that of `x`."""
    v, change, w = _from_sites(law, x)
    return v, change, _pulled(law, v, w, score)


def out_of_map(law: TriangularMap, v: Any, score: Any) -> tuple[Any, Any, Any]:
    """`push_forward`, and the score of `x` from that of `v`."""
    w = _ordered(law, v)  # once for both
    return *_placed(law, w), _returned(law, v, w, score)


def _adjoint(law: TriangularMap, w, v_widths, adjoint):
    """What a change of each `w_i` does through the shifts and log widths of the others.

    `adjoint` holds the derivatives by the whole of each `w_k`, `v_widths` the products `exp(s_k) v_k`.
    """
    xp = np if isinstance(w, np.ndarray) else jnp
    dim, full = w.shape[-1], _with_one(w)
    rows, first, second = law.shift_terms.T
    through = adjoint[..., rows] * law.shift_slopes
    out = _sum_at(through * full[..., second], first, dim + 1) + _sum_at(
        through * full[..., first], second, dim + 1
    )
    whole = out[..., :dim]
    fraction = _fraction(xp, *_log_precisions(law, w))
    by_width, by_fraction = adjoint * v_widths + 1, adjoint * law.data_shifts
    turn = 2 * by_fraction * fraction * (1 - fraction)
    slope = 1 - (bounded(w) / BOUND) ** 2
    for terms, slopes, through in (
        (law.width_terms, law.width_slopes, by_width * fraction - turn),
        (law.prior_terms, law.prior_slopes, by_width * (1 - fraction) + turn),
    ):
        rows, of = terms.T
        whole = whole + _sum_at(through[..., rows] * slopes * slope[..., of], of, dim)
    return whole


def pull_back(law: TriangularMap, v: Any, score: Any) -> Any:
    """The score of `v`, of `log p(x(v)) + log |dx/dv|`, from the score of `x`."""
    return _pulled(law, v, _ordered(law, v), score)


def value_and_score_in_map(law: TriangularMap, v: Any, evaluate: Callable) -> tuple[Any, Any]:
    """`log p(x(v)) + log |dx/dv|` and its score, from `evaluate(x) -> (log p(x), grad log p(x))`."""
    w = _ordered(law, v)  # once for both directions
    x, change = _placed(law, w)
    value, score = evaluate(x)
    return value + change, _pulled(law, v, w, score)


def _pulled(law: TriangularMap, v, w, score):
    xp = np if isinstance(v, np.ndarray) else jnp
    widths = xp.exp(shifts_and_log_widths(law, w)[1])
    direct = score[..., law.order] @ law.factor
    whole = _repeat(law.depth, lambda g: direct + _adjoint(law, w, widths * v, g), direct)
    return whole * widths


def from_map(law: TriangularMap, v: Any, score: Any) -> Any:
    """The inverse of `pull_back`: the score of `x` from that of `v`."""
    return _returned(law, v, _ordered(law, v), score)


def _returned(law: TriangularMap, v, w, score):
    xp = np if isinstance(v, np.ndarray) else jnp
    widths = xp.exp(shifts_and_log_widths(law, w)[1])
    whole = score / widths
    return _unordered(law, (whole - _adjoint(law, w, widths * v, whole)) @ law.inverse)
