"""nutpie's NUTS on the bench, with the log density and its gradient from JAX.

nutpie (Rust) adapts its metric to draws and scores; `low_rank` also fits correlations. It calls a Python
function for every gradient, so that evaluations are counted where they are made. nutpie is optional:
`pip install 'qdesampler[bench]'`.
"""

import os
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import numpy as np

from qdesampler.bench.harness.outcome import Outcome, Runner
from qdesampler.bench.harness.record import Settings
from qdesampler.bench.harness.unconstrained import START_RADIUS, unconstrained_target
from qdesampler.infer import ModelCase

__all__ = ["CountedGradient", "nutpie_runner", "sample_function", "sample_with_nutpie"]

TRIES = 100  # as many starts as NumPyro tries


def _nutpie() -> ModuleType:
    try:
        import nutpie  # pyright: ignore[reportMissingImports]
        import nutpie.compiled_pyfunc  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "nutpie is not installed: pip install 'qdesampler[bench]', or leave its kernels out."
        ) from error
    return nutpie


class CountedGradient:
    """Value and gradient in float64 for NumPy, counted; threads may share one.

    Args:
        log_density: scalar JAX function of a vector.
        start: a point to compile for.
    """

    def __init__(self, log_density: Callable, start: jax.Array):
        self._evaluate = jax.jit(jax.value_and_grad(log_density)).lower(start).compile()
        self._dtype = start.dtype
        self._lock = threading.Lock()
        self.calls: int = 0

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """The value and the gradient at `x`."""
        with self._lock:
            self.calls += 1
        value, gradient = self._evaluate(np.asarray(x, self._dtype))
        return float(value), np.asarray(gradient, np.float64)


def nutpie_runner(*, low_rank: bool, tune: int = 400) -> Runner:
    """NUTS with nutpie's adaptation, one thread a chain as far as there are processors.

    Args:
        low_rank: the low-rank metric instead of the diagonal one.
        tune: tuning iterations, whatever the comparison's own warm-up: nutpie's default is 400 for the
            diagonal metric and 800 for the low-rank one.
    """

    def run(case: ModelCase, seed: int, settings: Settings) -> Outcome:
        outcome, _ = sample_with_nutpie(case, seed, settings, low_rank=low_rank, tune=tune)
        return outcome

    return run


def sample_with_nutpie(
    case: ModelCase, seed: int, settings: Settings, *, low_rank: bool, tune: int
) -> tuple[Outcome, int]:
    """Run nutpie.

    Chains start uniformly on (-2, 2) as in NumPyro; which points these are is decided by the seed that nutpie
    gives each chain, so that threads cannot change a run.

    Returns:
        The outcome, whose evaluations are the calls of the gradient (searches for a start and a first step
        size included), and the leapfrog steps that nutpie itself reports for the tuning.

    Raises:
        ImportError: nutpie is not installed.
        RuntimeError: nutpie gave up, or found no start of finite density.
    """
    _nutpie()
    target = unconstrained_target(case, seed, settings.chains)
    gradient = CountedGradient(target.log_density, target.starts[0])
    trace = sample_function(gradient, target.dim, seed, settings, low_rank=low_rank, tune=tune)
    stats = trace["sample_stats"]
    draw_evals = np.asarray(stats["n_steps"], np.int64)
    outcome = Outcome(
        samples=target.constrain(np.asarray(trace["posterior"]["x"], np.float64)),
        sites=target.sites,
        dim=target.dim,
        warmup_evals=gradient.calls - int(draw_evals.sum()),
        draw_evals=draw_evals,
        divergences=int(np.sum(np.asarray(stats["diverging"]))),
    )
    return outcome, int(np.sum(np.asarray(trace["warmup_sample_stats"]["n_steps"], np.int64)))


def sample_function(
    gradient: Callable[[np.ndarray], tuple[float, np.ndarray]],
    dim: int,
    seed: int,
    settings: Settings,
    *,
    low_rank: bool,
    tune: int,
    cores: int | None = None,
) -> Any:
    """Run nutpie on a Python function; returns its tree, with the variable `x` and the warm-up.

    Args:
        gradient: log density and its gradient at a point of shape `(dim,)`.
        dim: number of coordinates.
        seed: of the run.
        settings: `chains` and `draws` of it are used.
        low_rank: the low-rank metric instead of the diagonal one.
        tune: tuning iterations.
        cores: threads; None: one a chain as far as there are processors.

    Raises:
        ImportError: nutpie is not installed.
        RuntimeError: nutpie gave up, or found no start of finite density.
    """
    nutpie = _nutpie()

    def start(chain_seed: int) -> np.ndarray:
        rng = np.random.default_rng([seed, chain_seed])
        for _ in range(TRIES):
            x = rng.uniform(-START_RADIUS, START_RADIUS, dim)
            value, slope = gradient(x)
            if np.isfinite(value) and np.isfinite(slope).all():
                return x
        raise RuntimeError(f"no start of finite density in {TRIES} tries")

    model = nutpie.compiled_pyfunc.from_pyfunc(
        dim,
        lambda: gradient,
        lambda *_: lambda x: {"x": np.asarray(x, np.float64)},
        [np.dtype(np.float64)],
        [(dim,)],
        ["x"],
        make_initial_point_fn=start,
    )
    return nutpie.sample(
        model,
        draws=settings.draws,
        tune=tune,
        chains=settings.chains,
        cores=min(settings.chains, os.cpu_count() or 1) if cores is None else cores,
        seed=seed,
        adaptation="low_rank" if low_rank else "diag",
        progress_bar=False,
        save_warmup=True,
    )
