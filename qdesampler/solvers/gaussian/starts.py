"""The start of a search: descents from several points, and the refusal of those that rise without end."""

import jax
import numpy as np

from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.numerics.evaluator import Evaluator
from qdesampler.solvers.gaussian.descents import Descent, descend
from qdesampler.solvers.protocol import NoGroundStateError

__all__ = ["LOST", "log_weight", "make_evaluator", "run_descents"]

LOST = 1e12  # a coordinate or a standard deviation beyond this has run away
_SPREAD = 2.0  # half width of the box that starts are drawn from
_TRIES = 64  # points drawn for each start before the search for a finite one is given up
_DESCENT_STEPS = 320  # steps of a descent, at most; in more than 160 dimensions twice their number


def log_weight(hamiltonian: Hamiltonian, x: jax.Array) -> jax.Array:
    """The function that descents maximise: `log p`, or `-zeta / D`, a scalar."""
    value = hamiltonian.function(x)
    return value if hamiltonian.kind == "boltzmann" else -value / hamiltonian.diffusion


def make_evaluator(hamiltonian: Hamiltonian) -> Evaluator:
    """Batches of `log_weight` and its gradient for the host."""
    return Evaluator(jax.value_and_grad(lambda x: log_weight(hamiltonian, x)), hamiltonian.dim)


def _starts(evaluate: Evaluator, rng: np.random.Generator, centre: np.ndarray | None, count: int, name: str):
    """Descents at points with a finite density and gradient."""
    origin = np.zeros(evaluate.dim) if centre is None else centre
    precision = float(np.finfo(evaluate.dtype).eps)
    found: list[Descent] = []
    for attempt in range(_TRIES):
        box = _SPREAD * 0.8 ** (attempt // 8)  # smaller after every eight attempts
        points = evaluate.rounded(origin + rng.uniform(-box, box, (count, evaluate.dim)))
        if centre is not None and attempt == 0:
            points[0] = evaluate.rounded(centre)
        for point, value, score in zip(points, *evaluate(points), strict=True):
            if np.isfinite(value) and np.all(np.isfinite(score)):
                found.append(Descent(point, value, score, precision))
        if len(found) >= count:
            break
    if not found:
        raise NoGroundStateError(
            f"the {name} or its gradient was not finite at {evaluate.num_evals} points within {_SPREAD:g} of "
            f"{'the origin' if centre is None else 'start'}; give a start where it is finite."
        )
    return found[:count]


def run_descents(
    hamiltonian: Hamiltonian,
    evaluate: Evaluator,
    rng: np.random.Generator,
    centre: np.ndarray | None,
    count: int,
) -> list[Descent]:
    """Descents from `count` points around `centre` (the first from there) or around the origin.

    Returns:
        Those that ended somewhere, the highest first.

    Raises:
        NoGroundStateError: no start is finite, or `log p` (an objective: `-zeta`) rises without end.
    """
    boltzmann = hamiltonian.kind == "boltzmann"
    descents = _starts(evaluate, rng, centre, count, "log density" if boltzmann else "objective")
    descend(evaluate, descents, max(_DESCENT_STEPS, 2 * evaluate.dim), evaluate.rounded)
    descents.sort(key=lambda descent: -descent.log_density)
    highest = descents[0]
    far = float(np.max(np.abs(highest.position)))
    if not far < LOST:
        raise NoGroundStateError(
            f"no normalisable ground state: the {'log density rises' if boltzmann else 'objective falls'} "
            f"without end; a descent came to |x| = {far:.3g}. Check its sign, give every coordinate a proper "
            "prior (a confining potential), and write a funnel in non-centred coordinates."
        )
    return [descent for descent in descents if np.max(np.abs(descent.position)) < LOST]
