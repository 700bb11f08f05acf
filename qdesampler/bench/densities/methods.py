"""QDE and its peers on a function of NumPy: one row of a table each, with every evaluation counted."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from time import perf_counter, process_time
from typing import Any, NamedTuple

import numpy as np

from qdesampler.bench.densities.nuts_peer import NutsRun, nuts
from qdesampler.bench.densities.pymc_peer import pymc_nuts
from qdesampler.bench.harness.record import Settings
from qdesampler.bench.peers.nutpie import sample_function
from qdesampler.densities import sample
from qdesampler.driver.stopping import check_convergence

__all__ = ["CHAINS", "PEERS", "Row", "gain_of_workers", "measure_peer", "measure_qde"]

CHAINS = 4  # of every method
_MOST_DRAWS = 20_000  # of each chain of QDE, which ends when it has enough effective draws


class _Recorded:
    """A target, and the sizes of the batches that it was asked for."""

    def __init__(self, target: Callable):
        self._target = target
        self.batches: list[int] = []

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.batches.append(len(points))
        return self._target(points)


def gain_of_workers(batches: Sequence[int], workers: int) -> float:
    """Evaluations over the rounds in which `workers` make them."""
    return sum(batches) / sum(-(-size // workers) for size in batches)


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        method: its name, with the number of workers.
        of_warmup: evaluations of the warm-up.
        of_draws: evaluations of the draws.
        ess: effective draws of the worst parameter.
        rhat: largest split R-hat.
        seconds: wall time.
        cpu: CPU seconds of this process and of its workers.
        means: posterior means, shape `(dim,)`.
        errors: their standard errors, by the effective draws of the worst parameter.
        batches: points of each batch, where they were recorded.
    """

    method: str
    of_warmup: int
    of_draws: int
    ess: float
    rhat: float
    seconds: float
    cpu: float
    means: np.ndarray
    errors: np.ndarray
    batches: Sequence[int] = ()

    def until(self, ess: float) -> float:
        """Evaluations until the worst parameter has so many effective draws."""
        return self.of_warmup + self.of_draws * ess / max(self.ess, 1e-9)


class _Clock:
    """Wall time, and CPU time of this process and of the children that have ended."""

    def __init__(self):
        self._wall, self._cpu = perf_counter(), self._used()

    @staticmethod
    def _used() -> float:
        children = os.times()
        return process_time() + children.children_user + children.children_system

    def read(self) -> tuple[float, float]:
        """Both, in seconds."""
        return perf_counter() - self._wall, self._used() - self._cpu


def _row(method: str, run: NutsRun, clock: _Clock) -> Row:
    seconds, cpu = clock.read()
    found = check_convergence(run.draws, run.draws.shape[1])
    flat = run.draws.reshape(-1, run.draws.shape[-1])
    errors = flat.std(0) / np.sqrt(max(found.ess, 1.0))
    return Row(method, run.of_warmup, run.of_draws, found.ess, found.rhat, seconds, cpu, flat.mean(0), errors)


def measure_qde(target: Any, ess: float, workers: int) -> Row:
    """QDE in this process, or with worker processes, until it has enough effective draws.

    Args:
        target: the density, with `dim`.
        ess: effective draws of the worst parameter.
        workers: their number; 0 evaluates in this process.
    """
    recorded, clock = _Recorded(target), _Clock()
    with ExitStack() as stack:
        pool = None
        if workers:  # joined at the end, so that their CPU time is known
            spawn = multiprocessing.get_context("spawn")
            pool = stack.enter_context(ProcessPoolExecutor(workers, mp_context=spawn))
        run = sample(
            target if workers else recorded,
            dim=target.dim,
            num_chains=CHAINS,
            num_samples=_MOST_DRAWS,
            until={"ess": ess},
            executor=pool,
            progress=False,
        )
    name = f"QDE, {workers} worker{'s' * (workers != 1)}" if workers else "QDE"
    before = run.costs.of_warmup
    made = NutsRun(run.get_samples(group_by_chain=True)["x"], before, run.costs.evaluations - before)
    return _row(name, made, clock)._replace(batches=recorded.batches)


def _nutpie(evaluate: Callable, dim: int, warmup: int, draws: int, *, low_rank: bool) -> NutsRun:
    calls = [0]

    def gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        calls[0] += 1
        values, scores = evaluate(np.asarray(x, float).reshape(1, dim))
        return float(values[0]), np.asarray(scores[0], float)

    settings = Settings(chains=CHAINS, draws=draws)
    tree = sample_function(gradient, dim, 0, settings, low_rank=low_rank, tune=warmup, cores=1)
    steps = int(np.sum(np.asarray(tree["sample_stats"]["n_steps"])))
    return NutsRun(np.asarray(tree["posterior"]["x"], float), calls[0] - steps, steps)


# Name: what it is called in the table, and `(function, dim, iterations of warm-up, draws) -> run`.
PEERS: dict[str, tuple[str, Callable[[Callable, int, int, int], NutsRun]]] = {
    "nuts": ("NumPyro's NUTS", partial(nuts, chains=CHAINS, dense=False)),
    "nuts-dense": ("NumPyro's NUTS, dense metric", partial(nuts, chains=CHAINS, dense=True)),
    "pymc": ("PyMC's NUTS", partial(pymc_nuts, chains=CHAINS)),
    "nutpie": ("nutpie", partial(_nutpie, low_rank=False)),
    "nutpie-low-rank": ("nutpie, low rank", partial(_nutpie, low_rank=True)),
}


def measure_peer(name: str, target: Any, warmup: int, draws: int) -> Row:
    """One of `PEERS` through a callback, chains one after another.

    Args:
        name: which.
        target: the density, with `dim`.
        warmup: iterations of each chain.
        draws: of each chain.

    Raises:
        ImportError: its package is not installed.
    """
    clock = _Clock()
    words, run = PEERS[name]
    return _row(words, run(target, target.dim, warmup, draws), clock)
