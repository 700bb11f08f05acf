r"""Mirror images of the draws that the draws leave out: swapped labels, flipped signs.

For a map `T` that is its own inverse and keeps volumes (swapping two components, flipping a sign), and any
set `A` with the mirror image `TA` outside of it,

    P(TA) = E_p[ 1_A(x) p(Tx) / p(x) ],

so that draws in `A` tell the mass of `TA` whether or not a chain has ever been there. A mixture whose
components can be exchanged has `p(Tx) = p(x)` for the swap of two of them: half of the mass lies where
`mu[0] < mu[1]`. Chains that all sit in one mode agree with each other, and disagree with that.

`A` is a half space, `x_i > x_j` for a swap and `x_i > 0` for a flip. The weight `p(Tx) / p(x)` may have a
long tail, but it is never negative: few draws underestimate the mass of the image, which hides a mode and
never invents one.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from qdesampler.diagnostics.checks.finding import Check, Finding, Judged
from qdesampler.infer.model.scores import log_densities, moved_draws

__all__ = ["symmetry_check"]

_PROBES = 64  # draws at which every map is tried
_MOST_MAPS = 48
_MOST_COMPONENTS = 8  # of an axis whose components are swapped, of a site whose coordinates are flipped alone
_ALL_PAIRS = 4  # components up to which all pairs are swapped, else neighbours
_MOST_JOINT = 6  # sites of which any two are flipped together
_SIGMAS, _MATERIAL = 5.0, 0.05
_NAME = "Mirror images (swapped labels, flipped signs)"


class _Map(NamedTuple):
    """One map of draws: what it does in words, the leaves it changes, and the contrasts that change sign.

    Attributes:
        words: what it does.
        image: from leaves to leaves, each `(n, ...)`.
        contrasts: numbers whose signs it turns, shape `(n, m)`.
        names: of the contrasts, as "greater than".
    """

    words: str
    image: Callable[[list[np.ndarray]], list[np.ndarray]]
    contrasts: Callable[[list[np.ndarray]], np.ndarray]
    names: list[str]


def symmetry_check(mcmc: Any, table: Any) -> Judged:
    """Compare the draws in a half space with what the density says of its mirror image.

    Args:
        mcmc: a `numpyro.infer.MCMC` after `run`.
        table: of `summary`; its least effective sample size sets the error.
    """
    try:
        leaves, names = _leaves(moved_draws(mcmc))
        maps = list(itertools.islice(_maps(names, leaves), _MOST_MAPS))
        if not maps or not all(np.isfinite(leaf).all() for leaf in leaves):
            return Judged()
        probes = _spread(leaves)
        before = log_densities(mcmc, _as_draws(mcmc, probes))
        images = [change.image(probes) for change in maps]
        together = [np.concatenate(parts) for parts in zip(*images, strict=True)]
        after = log_densities(mcmc, _as_draws(mcmc, together)).reshape(len(maps), -1)
    except (ValueError, AttributeError, NotImplementedError, RuntimeError):
        return Judged()  # another row says why the target cannot be evaluated
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
            f"{worst.words} leads to places that the draws leave out: by the density {worst.expected:.0%} of "
            f"the mass lies where {worst.where}, of the draws {worst.found:.0%}. Chains that all sit on one "
            "side agree with each other all the same.",
            "Use AnnealedQDE, or order what can be exchanged (labels of a mixture, signs of factors). Where "
            "this is all that is wrong, means of what the map leaves unchanged are right.",
        ),
    )


class _Compared(NamedTuple):
    words: str
    where: str
    expected: float
    found: float
    excess: float


def _compare(change, leaves, probes, log_weight, known, effective) -> _Compared:
    """The half space whose image is missed by most: its mass by the density and by the draws."""
    signs = change.contrasts(leaves)
    balance = np.mean(signs > 0, axis=0) - np.mean(signs < 0, axis=0)
    k = int(np.argmax(np.abs(balance)))
    side = np.sign(balance[k]) or 1.0
    on_side = side * change.contrasts(probes)[known, k] > 0
    weight = np.where(on_side, np.exp(np.clip(log_weight[known], -700, 50)), 0.0)
    # draws that are all on one side are weighed against their image: r / (1 + r)
    here, found = (float(np.mean(sign * side * signs[:, k] > 0)) for sign in (1, -1))
    mass = weight.mean()
    surely = max(mass - _SIGMAS * weight.std() / np.sqrt(min(effective, weight.size)), 0.0)
    share, least = (value / (here + value) if value > 0 else 0.0 for value in (mass, surely))
    least -= _SIGMAS * np.sqrt(share * (1 - share) / effective)
    excess = min(least - found, share - found - _MATERIAL)
    flipped = change.names[k] if side < 0 else change.names[k].replace(">", "<")
    return _Compared(change.words, flipped, float(share), found, float(excess))


def _leaves(draws: Any) -> tuple[list[np.ndarray], list[str]]:
    """Leaves with chains and draws on one axis, and their names."""
    paths = jax.tree_util.tree_flatten_with_path(draws)[0]
    names = [jax.tree_util.keystr(path, simple=True, separator=".") or "z" for path, _ in paths]
    leaves = [np.asarray(leaf) for _, leaf in paths]
    return [leaf.reshape(-1, *leaf.shape[2:]) for leaf in leaves], names


def _as_draws(mcmc: Any, leaves: list[np.ndarray]) -> Any:
    return jax.tree.unflatten(jax.tree.structure(moved_draws(mcmc)), leaves)


def _spread(leaves: list[np.ndarray]) -> list[np.ndarray]:
    """Some draws, evenly over all chains."""
    rows = np.linspace(0, len(leaves[0]) - 1, min(_PROBES, len(leaves[0]))).astype(int)
    return [leaf[rows] for leaf in leaves]


def _maps(names: list[str], leaves: list[np.ndarray]) -> Iterator[_Map]:
    yield from _swaps(names, leaves)
    yield from _flips(names, leaves)


def _swaps(names: list[str], leaves: list[np.ndarray]) -> Iterator[_Map]:
    """Two components of an axis exchanged, in all sites that have an axis of that length, then in one."""
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
    """The sign turned: of a site, of two sites, of all of them, of a coordinate."""
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
