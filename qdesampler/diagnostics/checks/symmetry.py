r"""Mirror images of the draws that are missing from the draws: swapped labels, flipped signs.

Let the map `T` be its own inverse and preserve volumes (swapping two components, flipping a sign), and let
`A` be a set that does not intersect its mirror image `TA`. Then

    P(TA) = E_p[ 1_A(x) p(Tx) / p(x) ],

so that draws in `A` determine the mass of `TA` even if no chain has been there. A mixture whose components
can be exchanged has `p(Tx) = p(x)` for the swap of two of them: half of the mass is where `mu[0] < mu[1]`.
Chains that all stay in one mode agree with each other, but not with this mass.

`A` is a half space, `x_i > x_j` for a swap and `x_i > 0` for a flip. The weight `p(Tx) / p(x)` may have a
long tail, but it is never negative. With few draws the mass of the image is therefore underestimated: a mode
may stay hidden, but none is invented.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from qdesampler.diagnostics.checks.finding import Check, Finding, Judged, not_judged
from qdesampler.infer.model.scores import NoScoresError, log_densities, moved_draws

__all__ = ["symmetry_check"]

_PROBES = 64  # draws at which every map is tried
_MOST_MAPS = 48  # maps that are tried
_MOST_COMPONENTS = 8  # size of an axis up to which components are swapped, and single coordinates flipped
_ALL_PAIRS = 4  # components up to which all pairs are swapped; of more only neighbours are
_MOST_JOINT = 6  # sites up to which any two are flipped together
_SIGMAS = 5.0  # standard errors by which a mass may be wrong
_MATERIAL = 0.05  # error of a mass below which it does not matter
_NAME = "Mirror images (swapped labels, flipped signs)"


class _Map(NamedTuple):
    """One map of draws.

    Attributes:
        words: description of the map.
        image: function from leaves to leaves, each `(n, ...)`.
        contrasts: function from leaves to the numbers whose signs the map changes, shape `(n, m)`.
        names: the contrasts in words, written with ">".
    """

    words: str
    image: Callable[[list[np.ndarray]], list[np.ndarray]]
    contrasts: Callable[[list[np.ndarray]], np.ndarray]
    names: list[str]


def symmetry_check(mcmc: Any, table: Any) -> Judged:
    """Compare the draws in a half space with the mass of its mirror image, which the density determines.

    Args:
        mcmc: a `numpyro.infer.MCMC` after `run`.
        table: the table of `summary`; its smallest effective sample size determines the error.

    Returns:
        A row and perhaps a finding; only a row with the reason if the target cannot be evaluated; nothing if
        there is no map to try.
    """
    try:
        leaves, names = _leaves(moved_draws(mcmc))
        maps = list(itertools.islice(_maps(names, leaves), _MOST_MAPS))
        if not maps or not all(np.isfinite(leaf).all() for leaf in leaves):
            return Judged()
        probes = _spread(leaves)
        images = [probes, *(change.image(probes) for change in maps)]
        together = [np.concatenate(parts) for parts in zip(*images, strict=True)]
        before, *after = log_densities(mcmc, _as_draws(mcmc, together)).reshape(len(images), -1)
    except NoScoresError as error:
        return Judged(Check(_NAME, not_judged(error)))
    known = np.isfinite(before)
    if known.sum() < _PROBES // 2:
        return Judged()
    effective = float(np.nanmin(table["ess_bulk"].to_numpy(), initial=np.inf))
    worst = max(
        (
            _compare(change, leaves, probes, values - before, known, effective)
            for change, values in zip(maps, after, strict=True)
        ),
        key=lambda found: found.excess,
    )
    check = Check(
        _NAME,
        f"{len(maps)} tried"
        if worst.excess <= 0
        else f"{worst.words}: {worst.expected:.0%} of the mass, {worst.found:.0%} of the draws",
        f"within {_SIGMAS:g} errors, or {_MATERIAL:.0%}",
        worst.excess <= 0,
    )
    if check.passed:
        return Judged(check)
    return Judged(
        check,
        Finding(
            "modes",
            f"{worst.words} leads to places that the draws do not visit: by the density {worst.expected:.0%} "
            f"of the mass is where {worst.where}, but {worst.found:.0%} of the draws. Chains that all stay "
            "on one side agree with each other nevertheless.",
            "Use `AnnealedQDE(model)`, or order parameters that can be exchanged (labels of a mixture, signs "
            "of factors). If nothing else is wrong, means of quantities that the map does not change "
            "are right.",
        ),
    )


class _Compared(NamedTuple):
    """The half space of a map whose mass by the density differs most from that of the draws.

    Attributes:
        words: description of the map.
        where: the half space in words.
        expected: its mass by the density.
        found: fraction of the draws in it.
        excess: difference beyond what errors allow; the check fails if it is positive.
    """

    words: str
    where: str
    expected: float
    found: float
    excess: float


def _compare(change, leaves, probes, log_weight, known, effective) -> _Compared:
    """Compare the masses of the half space whose image is least visited."""
    signs = change.contrasts(leaves)
    balance = np.mean(signs > 0, axis=0) - np.mean(signs < 0, axis=0)
    k = int(np.argmax(np.abs(balance)))
    side = np.sign(balance[k]) or 1.0
    on_side = side * change.contrasts(probes)[known, k] > 0
    weight = np.where(on_side, np.exp(np.clip(log_weight[known], -700, 50)), 0.0)
    # If all draws are on one side, the mass of their image is r / (1 + r).
    here, found = (float(np.mean(sign * side * signs[:, k] > 0)) for sign in (1, -1))
    mass = weight.mean()
    surely = max(mass - _SIGMAS * weight.std() / np.sqrt(min(effective, weight.size)), 0.0)
    share, least = (value / (here + value) if value > 0 else 0.0 for value in (mass, surely))
    least -= _SIGMAS * np.sqrt(share * (1 - share) / effective)
    excess = min(least - found, share - found - _MATERIAL)
    flipped = change.names[k] if side < 0 else change.names[k].replace(">", "<")
    return _Compared(change.words, flipped, float(share), found, float(excess))


def _leaves(draws: Any) -> tuple[list[np.ndarray], list[str]]:
    """The leaves, with chains and draws joined into one axis, and their names."""
    paths = jax.tree_util.tree_flatten_with_path(draws)[0]
    names = [jax.tree_util.keystr(path, simple=True, separator=".") or "z" for path, _ in paths]
    leaves = [np.asarray(leaf) for _, leaf in paths]
    return [leaf.reshape(-1, *leaf.shape[2:]) for leaf in leaves], names


def _as_draws(mcmc: Any, leaves: list[np.ndarray]) -> Any:
    return jax.tree.unflatten(jax.tree.structure(moved_draws(mcmc)), leaves)


def _spread(leaves: list[np.ndarray]) -> list[np.ndarray]:
    """Some draws, at equal distances over all chains."""
    rows = np.linspace(0, len(leaves[0]) - 1, min(_PROBES, len(leaves[0]))).astype(int)
    return [leaf[rows] for leaf in leaves]


def _maps(names: list[str], leaves: list[np.ndarray]) -> Iterator[_Map]:
    yield from _swaps(names, leaves)
    yield from _flips(names, leaves)


def _swaps(names: list[str], leaves: list[np.ndarray]) -> Iterator[_Map]:
    """Swaps of two components of an axis, in all sites with an axis of this length, then in single sites."""
    axes = {}
    for i, leaf in enumerate(leaves):
        for axis in range(1, leaf.ndim):
            if 2 <= leaf.shape[axis] <= _MOST_COMPONENTS:
                axes.setdefault(leaf.shape[axis], []).append((i, axis))
    for length, places in axes.items():
        first = list({i: (i, axis) for i, axis in reversed(places)}.values())
        groups = [first, *([place] for place in places if [place] != first)]
        pairs = list(itertools.combinations(range(length), 2))
        if length > _ALL_PAIRS:
            pairs = [(a, a + 1) for a in range(length - 1)]
        for group, pair in itertools.product(groups, pairs):
            yield _swap(names, leaves, group, pair)


def _swap(names, leaves, group, pair) -> _Map:
    a, b = pair

    def image(values):
        values = list(values)
        for i, axis in group:
            order = np.arange(values[i].shape[axis])
            order[[a, b]] = b, a
            values[i] = np.take(values[i], order, axis)
        return values

    def contrasts(values):
        parts = [np.take(values[i], a, axis) - np.take(values[i], b, axis) for i, axis in group]
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)

    labels = []
    for i, axis in group:
        rest = np.delete(leaves[i].shape[1:], axis - 1)
        for index in np.ndindex(*rest):
            one, other = (_label(names[i], (*index[: axis - 1], c, *index[axis - 1 :])) for c in (a, b))
            labels.append(f"{one} > {other}")
    words = " and of ".join(names[i] for i, _ in group)
    return _Map(f"Swapping the components {a} and {b} of {words}", image, contrasts, labels)


def _flips(names: list[str], leaves: list[np.ndarray]) -> Iterator[_Map]:
    """Flips of the sign of a site, of two sites, of all sites, and of a coordinate."""
    whole = range(len(leaves))
    chosen: list[tuple[int, ...]] = [(i,) for i in whole]
    if len(leaves) <= _MOST_JOINT:
        chosen += list(itertools.combinations(whole, 2))
    if len(leaves) > 2:
        chosen.append(tuple(whole))
    for group in chosen:
        yield _flip(names, leaves, [(i, ...) for i in group])
    for i, leaf in enumerate(leaves):
        if 1 < leaf[0].size <= _MOST_COMPONENTS:
            for index in np.ndindex(leaf.shape[1:]):
                yield _flip(names, leaves, [(i, (slice(None), *index))])


def _flip(names, leaves, group) -> _Map:
    def image(values):
        values = list(values)
        for i, place in group:
            values[i] = values[i].copy()
            values[i][place] *= -1
        return values

    def contrasts(values):
        return np.concatenate([values[i][place].reshape(len(values[i]), -1) for i, place in group], axis=1)

    labels: list[str] = []
    words: list[str] = []
    for i, place in group:
        if place is ...:
            words.append(names[i])
            labels += [f"{_label(names[i], index)} > 0" for index in np.ndindex(leaves[i].shape[1:])]
        else:
            one = _label(names[i], place[1:])
            words.append(one)
            labels.append(f"{one} > 0")
    return _Map(f"Flipping the sign of {' and '.join(words)}", image, contrasts, labels)


def _label(name: str, index: Sequence[Any]) -> str:
    return f"{name}[{', '.join(map(str, index))}]" if index else name
