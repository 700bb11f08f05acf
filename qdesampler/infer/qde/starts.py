"""Where the warm-up begins: points of finite density, and descents from them."""

import jax
import numpy as np
from jax.core import Tracer

from qdesampler.infer.model.target import StartingPoint
from qdesampler.infer.qde.coordinates.rows import NEAR, RowCoordinates
from qdesampler.solvers.gaussian.descents import Descent, descend

__all__ = ["ESCAPED", "FEWEST_STARTS", "SEED", "find_starts", "known_rows", "run_descents"]

SEED = 0x9DE  # of all random numbers of a warm-up
FEWEST_STARTS = 4  # of descents, whatever the number of chains
_DESCENT_BATCHES = 320  # evaluations of a descent, at most
_SPREAD = 2.0  # half width of the box of starts, as in NumPyro's `init_to_uniform`
ESCAPED = 1e12  # a coordinate beyond this has run away
_TRIES = 64  # boxes of four points that are tried


def find_starts(
    coordinates: RowCoordinates,
    given: np.ndarray | None,
    centre: np.ndarray | float = 0.0,
    *,
    near: bool = True,
) -> np.ndarray:
    """Raveled sites of finite density: those given, and uniform points until there are four, if possible.

    Sites with a normal prior around 0 of their own, as in a model written non-centred, are near 0 at first.

    Args:
        coordinates: where the target is evaluated.
        given: starts of the chains, shape `(n, dim)`, or None.
        centre: of the uniform points, shape `(dim,)` or a number.
        near: whether such sites are near 0 at first, for descents; to see which takes a trace of the model.

    Raises:
        RuntimeError: no point has a finite density and gradient.
    """
    rng = np.random.default_rng(SEED)
    found = np.zeros((0, coordinates.dim)) if given is None else given[:FEWEST_STARTS]
    tries, width = 0, 1.0
    if near and len(found) < FEWEST_STARTS:
        width = np.where(coordinates.standard_widths() > 0, NEAR, 1.0)
    while len(found) < FEWEST_STARTS and tries < _TRIES:
        box = _SPREAD * 0.8 ** (tries // 8)  # smaller after every eight attempts
        drawn = centre + width * rng.uniform(-box, box, (FEWEST_STARTS, coordinates.dim))
        sites = coordinates.evaluator.rounded(drawn)
        values, scores = coordinates.evaluate_sites(sites)
        sound = np.isfinite(values) & np.all(np.isfinite(scores), 1)
        found = np.concatenate([found, sites[sound]])
        tries, width = tries + 1, 1.0  # a density that is not finite near 0 may be so elsewhere
    if not len(found):
        raise RuntimeError(
            f"Cannot find valid initial parameters: the density or its gradient was not finite at "
            f"{coordinates.evaluator.num_evals} points within {_SPREAD:g} of the origin of the unconstrained "
            "sites. Check the model for NaN, or give `init_params` or an `init_strategy` inside the support."
        )
    return found if given is not None else found[:FEWEST_STARTS]


def run_descents(coordinates: RowCoordinates, starts: np.ndarray) -> list[Descent]:
    """Descents from the starts, run to their ends."""
    evaluator = coordinates.evaluator
    points = evaluator.rounded(coordinates.descent_starts(starts))
    precision = float(np.finfo(evaluator.dtype).eps)
    values, scores = coordinates.evaluate(points)
    found = [Descent(*start, precision) for start in zip(points, values, scores, strict=True)]
    descend(coordinates.evaluate, found, max(_DESCENT_BATCHES, 2 * coordinates.dim), evaluator.rounded)
    return found


def known_rows(start: StartingPoint | None) -> np.ndarray | None:
    """The raveled starts of the chains, shape `(chains, dim)`; None if they have no values yet."""
    if start is None or any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(start.z)):
        return None
    chains = np.size(start.potential_energy)
    return np.concatenate([np.asarray(x, float).reshape(chains, -1) for x in jax.tree.leaves(start.z)], 1)
