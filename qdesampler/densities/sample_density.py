"""`sample`: draws of any density that a Python function evaluates."""

import os
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np

from qdesampler.densities.cache import EvaluationCache
from qdesampler.densities.calls import Calls, CallSettings
from qdesampler.densities.checks import check_gradient, check_repeats, check_same_density, listening
from qdesampler.densities.draws import Plan, draw, warm_up
from qdesampler.densities.errors import BudgetError, EvaluationError, EvaluationWarning
from qdesampler.densities.evaluator import DIFFERENCE, SpaceEvaluator
from qdesampler.densities.named import NamedDensity, Names
from qdesampler.densities.parameters import Space, space_of, space_of_bounds
from qdesampler.densities.progress import Bar, EvaluationProgress, Meter
from qdesampler.densities.run import DensityRun, RunCosts
from qdesampler.densities.workers import Workers
from qdesampler.driver.stopping import Until
from qdesampler.infer.qde.coordinates.rows import RowCoordinates
from qdesampler.infer.qde.starts import FEWEST_STARTS, find_starts
from qdesampler.infer.qde.warmup import OUTCOMES
from qdesampler.solvers.gaussian.search import Outcome
from qdesampler.validation import as_positive_int, as_positive_scalar

__all__ = ["sample"]


def sample(
    evaluate: Callable[[np.ndarray], Any] | NamedDensity,
    *,
    dim: int | None = None,
    start: Any = None,
    bounds: Any = None,
    parameters: Mapping[str, Any] | None = None,
    num_samples: int = 1000,
    num_chains: int = 4,
    seed: int = 0,
    until: Until | Mapping[str, Any] | None = None,
    executor: Executor | Callable[[], Executor] | Any = None,
    chunk_size: int | None = None,
    timeout: float | None = None,
    retries: int = 2,
    max_evals: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    failures: str = "raise",
    difference_step: float = DIFFERENCE,
    progress: bool | Callable[[EvaluationProgress], None] = True,
) -> DensityRun:
    """Exact draws of a density that a Python function evaluates, with few evaluations.

    The method is that of the kernel QDE: an imaginary-time solve for a trial density, then a frozen mixture
    of independence Metropolis moves from the trial and of trajectories. All of it runs on the host in
    float64 and asks for batches of evaluations; the candidates of many draws are one batch.

    At least one of `dim`, `start`, `bounds` and `parameters` is given, unless `evaluate` is a model of
    `from_pymc` or `from_stan`.

    Args:
        evaluate: `points (n, columns) -> (log densities (n,), scores (n, columns))`, or log densities alone.
            The densities need not be normalised; the scores are gradients of their logarithms. -inf is
            a density of zero. Without scores they are taken by differences, at `1 + dim` evaluations a
            point; candidates of global moves need none. Or a model of `from_pymc` or `from_stan`, whose
            points are unconstrained.
        dim: number of coordinates, without bounds.
        start: where the solve may begin, shape `(columns,)` or `(n, columns)`; None: near the origin of
            unconstrained space.
        bounds: pairs of lower and upper bounds, shape `(columns, 2)`, None or infinite where there is none.
        parameters: names and supports, `{"mu": "real", "sigma": "positive", "phi": (0, 1), "w":
            Parameter("simplex", 3)}`; their values are the columns of the points, in this order.
        num_samples: draws of each chain.
        num_chains: number of chains.
        seed: of the draws; the warm-up always has the same random numbers.
        until: criteria that end the run earlier, as of `qdesampler.driver.Until`, without `max_time`:
            `{"ess": 400, "rhat": 1.01}`. They are checked in unconstrained space.
        executor: evaluates chunks elsewhere: an executor of `concurrent.futures`, loky, Dask
            (`client.get_executor()`) or mpi4py, or a function that makes one, and makes it anew when it
            breaks. If one that was made elsewhere breaks, this process goes on alone, with a warning.
        chunk_size: points of a call; None: one with an executor or a checkpoint, else a whole batch.
        timeout: seconds within which at least one of the running calls must end (executors only).
        retries: how often a chunk that was lost is given to another worker (executors only).
        max_evals: evaluations that are allowed, those in the checkpoint included. Draws made so far are
            returned when it is used up.
        checkpoint: a file that keeps every evaluation. A run that is begun again with the same arguments
            takes them from there and makes the same draws. One point is evaluated again, as a check that the
            density is still the same.
        failures: what an exception of `evaluate` does: "raise" ends the run, "reject" counts as a density of
            zero.
        difference_step: the step of differences, relative to `1 + |u|` in unconstrained space; give a larger
            one to functions with numerical errors, such as adaptive solvers.
        progress: True shows a bar of evaluations; a function gets `EvaluationProgress`; False: nothing.

    Returns:
        Draws for `summary`, `diagnose`, `report`, `zero_variance` and `to_datatree`.

    Raises:
        ValueError: a bad argument.
        EvaluationError: `evaluate` raises, returns no log densities, is not deterministic, or its scores
            are not the gradient; or workers were lost too often.
        BudgetError: `max_evals` ended before the first draw.
        CheckpointError: the checkpoint is of another density, in use, or cannot be written.

    Warns:
        EvaluationWarning: `evaluate` prints, or was undefined at some points, or an executor broke.
    """
    if not callable(evaluate):
        raise ValueError(f"evaluate is {evaluate!r}; expected a function of points of shape (n, dim).")
    named = evaluate if isinstance(evaluate, NamedDensity) else None
    if named is not None:
        dim, start = _of_model(named, dim, start, bounds, parameters)
    space, starts = _space_and_starts(dim, start, bounds, parameters)
    plan = _plan(num_samples, num_chains, seed, until)
    settings = _settings(
        chunk_size, max_evals, failures, apart=executor is not None or checkpoint is not None
    )
    timeout = None if timeout is None else float(as_positive_scalar("timeout", timeout))
    step = float(as_positive_scalar("difference_step", difference_step))
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise ValueError(f"retries is {retries!r}; expected 0 or a positive integer.")
    workers = None if executor is None else Workers(evaluate, executor, timeout, retries)
    cache = EvaluationCache(None if checkpoint is None else Path(checkpoint), space.columns)
    shown = Bar() if progress is True else None if progress is False else progress
    meter = Meter(shown)
    calls = Calls(evaluate, space.columns, settings, cache, workers)
    calls.watch = meter.evaluated
    if named is None:
        name = getattr(evaluate, "__name__", type(evaluate).__name__)
        names = Names(name, space.labels, space.named, space.dims)
    else:
        names = Names(named.name, named.labels, named.constrain, named.dims, named.coords)
    try:
        evaluator = SpaceEvaluator(calls, space, step)
        if resumed := len(cache) > 0:
            check_same_density(calls, cache)
        with listening():
            starts = _starts(RowCoordinates(evaluator), starts, insist=named is None or start is not None)
        # What a checkpoint knows has been checked when it was begun.
        if not resumed:
            check_repeats(calls, space.constrain(starts[:1])[0][0])
        if calls.has_scores:
            check_gradient(evaluator, starts)
        return _run(evaluator, starts, plan, meter, names)
    finally:
        cache.close()
        if isinstance(shown, Bar):
            shown.close()
        if workers is not None:
            workers.close()


def _run(evaluator: SpaceEvaluator, starts: np.ndarray, plan: Plan, meter: Meter, names: Names) -> DensityRun:
    """The warm-up and the draws."""
    calls, coordinates = evaluator.calls, RowCoordinates(evaluator)
    try:
        prepared = warm_up(coordinates, starts, meter)
        if OUTCOMES[prepared.outcome] == str(Outcome.UNBOUNDED):
            _warn_unbounded()
        kept, before, ended_by = draw(coordinates, evaluator, prepared, plan, meter)
    except BudgetError as error:
        raise BudgetError(
            f"The budget ended before the first draw, after {calls.num_evals} evaluations: {error} Raise "
            "max_evals; with the same checkpoint= nothing is evaluated again."
        ) from error
    lost = {} if calls.workers is None else dict(calls.workers.lost)
    costs = RunCosts(calls.num_evals, before, calls.made, calls.failures, calls.undefined, lost)
    _warn(calls)
    return DensityRun(names, kept, prepared, costs, ended_by)


def _starts(coordinates: RowCoordinates, given: np.ndarray | None, *, insist: bool) -> np.ndarray:
    """Points of finite density: those given, and others near them or near the origin.

    Starts that are not insisted on are left out where the density is not finite.
    """
    if given is not None:
        values, scores = coordinates.evaluate_sites(given[:FEWEST_STARTS])
        bad = ~(np.isfinite(values) & np.all(np.isfinite(scores), 1))
        if not insist and np.any(bad):
            given = None
        elif np.any(bad):
            raise EvaluationError(
                f"The log density at start[{int(np.argmax(bad))}] is {values[np.argmax(bad)]}, or its score "
                "is not finite. Start where the density is positive."
            )
    try:
        return find_starts(coordinates, given, 0.0 if given is None else given[0])
    except RuntimeError as error:
        if isinstance(error, EvaluationError | BudgetError):
            raise
        raise EvaluationError(
            "The log density or its score was not finite at any point that was tried, within 2 of the origin "
            "of unconstrained space. Give start= a point of positive density, or bounds=."
        ) from error


def _warn_unbounded() -> None:
    warnings.warn(
        "The log density rises, or stays level, without end: it cannot be normalised. Does the function "
        "return an energy (-log p)? Is a prior missing?",
        EvaluationWarning,
        stacklevel=5,
    )


def _warn(calls: Calls) -> None:
    """Say what was rejected."""
    if calls.undefined:
        warnings.warn(
            f"The log density was NaN or +inf at {calls.undefined} points, the last of which is "
            f"{calls.worst}. They were rejected as if it were -inf there.",
            EvaluationWarning,
            stacklevel=4,
        )
    if calls.failures:
        warnings.warn(
            f"The function raised an exception at {calls.failures} points, which count as density zero; the "
            f"first one was {calls.error}.",
            EvaluationWarning,
            stacklevel=4,
        )


def _plan(num_samples: Any, num_chains: Any, seed: Any, until: Any) -> Plan:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed is {seed!r}; expected 0 or a positive integer.")
    criteria = Until.of(until)
    if criteria is not None and (criteria.max_time is not None or criteria.max_evals is not None):
        raise ValueError("`until` takes ess and rhat here; evaluations are limited by max_evals=.")
    return Plan(
        as_positive_int("num_samples", num_samples),
        as_positive_int("num_chains", num_chains),
        int(seed),
        criteria,
    )


def _settings(chunk_size: Any, max_evals: Any, failures: str, *, apart: bool) -> CallSettings:
    if failures not in ("raise", "reject"):
        raise ValueError(f"failures is {failures!r}; expected 'raise' or 'reject'.")
    size = (1 if apart else None) if chunk_size is None else as_positive_int("chunk_size", chunk_size)
    most = None if max_evals is None else as_positive_int("max_evals", max_evals)
    return CallSettings(size, most, failures == "reject")


def _space_and_starts(dim: Any, start: Any, bounds: Any, parameters: Any) -> tuple[Space, np.ndarray | None]:
    """The space, and the given starts in unconstrained coordinates.

    Raises:
        ValueError: nothing says how many coordinates there are, or two arguments disagree.
    """
    rows = None
    if start is not None:
        try:
            rows = np.atleast_2d(np.asarray(start, float))
        except (TypeError, ValueError) as error:
            raise ValueError(f"start is {start!r}; expected numbers, (columns,) or (n, columns).") from error
        if rows.ndim != 2 or not np.all(np.isfinite(rows)) or not rows.size:
            raise ValueError(f"start has the shape {rows.shape}; expected finite numbers, (n, columns).")
    size = rows.shape[1] if rows is not None else None
    if dim is not None:
        size = _agreed("dim", as_positive_int("dim", dim), size)
    if parameters is not None:
        if bounds is not None:
            raise ValueError(
                "Give either bounds= or parameters=; supports in the table may be (lower, upper)."
            )
        space = space_of(parameters)
        _agreed("the table of parameters", space.columns, size)
    elif bounds is not None:
        lower, upper = _bounds(bounds)
        _agreed("bounds", len(lower), size)
        space = space_of_bounds(lower, upper)
    elif size is not None:
        space = space_of_bounds(np.full(size, -np.inf), np.full(size, np.inf))
    else:
        raise ValueError("How many coordinates are there? Give dim=, start=, bounds= or parameters=.")
    return space, None if rows is None else space.unconstrain(rows)


def _of_model(named: NamedDensity, dim: Any, start: Any, bounds: Any, parameters: Any) -> tuple[int, Any]:
    """The size of a model's space, and where to start.

    Raises:
        ValueError: what the model says is given as well.
    """
    if not (dim is None and bounds is None and parameters is None):
        raise ValueError("The model says what its parameters are: leave out dim=, bounds= and parameters=.")
    return named.dim, named.start if start is None else start


def _agreed(what: str, size: int, other: int | None) -> int:
    if other is not None and other != size:
        raise ValueError(f"{what} says {size} columns, another argument {other}.")
    return size


def _bounds(bounds: Any) -> tuple[np.ndarray, np.ndarray]:
    try:
        pairs = [(lower, upper) for lower, upper in bounds]
        lower = np.array([-np.inf if pair[0] is None else pair[0] for pair in pairs], float)
        upper = np.array([np.inf if pair[1] is None else pair[1] for pair in pairs], float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"bounds is {bounds!r}; expected a pair (lower, upper) for each column.") from error
    if not pairs:
        raise ValueError("bounds is empty; expected a pair (lower, upper) for each column.")
    return lower, upper
