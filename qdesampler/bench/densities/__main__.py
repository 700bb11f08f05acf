"""The command `python -m qdesampler.bench.densities`: a simulator sampled by QDE and by NUTS.

python -m qdesampler.bench.densities --cells 16 --parameters 20 --methods qde,nuts
python -m qdesampler.bench.densities --wait 50 --methods qde --workers 1,2 --ess 100

The density is the inverse problem of `qdesampler/bench/densities/groundwater.py`, whose grid (`--cells`) sets
how long an evaluation takes; with `--wait` it waits besides, as for a simulator on another machine. Every
method calls the same function of NumPy: QDE by `qdesampler.sample`, NUTS by `jax.pure_callback` in a NumPyro
model. The main figure is a count, which no other load of the machine changes: the evaluations until the worst
parameter has so many effective draws, `warm-up + draws * wanted / reached`. Below the table is what workers
can gain at most, by counts as well: the evaluations over the rounds in which so many workers make them,
`sum ceil(batch / workers)`.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from time import perf_counter
from typing import NamedTuple

import numpy as np

from qdesampler.bench.densities.groundwater import AMPLITUDE, NOISE, Groundwater
from qdesampler.bench.densities.nuts_peer import nuts
from qdesampler.densities import sample
from qdesampler.driver.stopping import check_convergence

__all__ = ["Row", "gain_of_workers", "main", "measure_nuts", "measure_qde"]

CHAINS = 4  # of both methods
_MOST_DRAWS = 20_000  # of each chain of QDE, which ends when it has enough effective draws
WORKERS = (2, 8, 32)  # whose gain is shown
METHODS = ("qde", "nuts", "nuts-dense")


class _Recorded:
    """A target, and the sizes of the batches that it was asked for."""

    def __init__(self, target: Groundwater):
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
    means: np.ndarray
    errors: np.ndarray
    batches: Sequence[int] = ()

    def until(self, ess: float) -> float:
        """Evaluations until the worst parameter has so many effective draws."""
        return self.of_warmup + self.of_draws * ess / max(self.ess, 1e-9)


def _row(method: str, draws: np.ndarray, of_warmup: int, of_draws: int, seconds: float) -> Row:
    found = check_convergence(draws, draws.shape[1])
    flat = draws.reshape(-1, draws.shape[-1])
    errors = flat.std(0) / np.sqrt(max(found.ess, 1.0))
    return Row(method, of_warmup, of_draws, found.ess, found.rhat, seconds, flat.mean(0), errors)


def measure_qde(target: Groundwater, ess: float, workers: int) -> Row:
    """QDE in this process, or with worker processes, until it has enough effective draws."""
    pool = None
    if workers:
        pool = partial(ProcessPoolExecutor, workers, mp_context=multiprocessing.get_context("spawn"))
    recorded = _Recorded(target)
    began = perf_counter()
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
    draws = run.get_samples(group_by_chain=True)["x"]
    row = _row(name, draws, before, run.costs.evaluations - before, perf_counter() - began)
    return row._replace(batches=recorded.batches)


def measure_nuts(target: Groundwater, warmup: int, draws: int, *, dense: bool) -> Row:
    """NUTS through a callback."""
    began = perf_counter()
    run = nuts(target, target.dim, warmup, draws, CHAINS, dense=dense)
    name = "NUTS, dense metric" if dense else "NUTS"
    return _row(name, run.draws, run.of_warmup, run.of_draws, perf_counter() - began)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _methods(text: str) -> list[str]:
    names = text.split(",")
    if not set(names) <= set(METHODS):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(METHODS)}, got {text!r}")
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m qdesampler.bench.densities", description=__doc__)
    parser.add_argument("--cells", type=int, default=16, help="cells along each side of the square")
    parser.add_argument("--parameters", type=int, default=20, help="parameters of the ground")
    parser.add_argument("--noise", type=float, default=NOISE, help="standard deviation of a measured head")
    parser.add_argument("--amplitude", type=float, default=AMPLITUDE, help="of the log conductivity")
    parser.add_argument("--wait", type=float, default=0.0, help="milliseconds that an evaluation waits")
    parser.add_argument("--methods", type=_methods, default=["qde", "nuts"], help=", ".join(METHODS))
    parser.add_argument("--workers", type=_numbers, default=[0], help="processes of QDE; 0: this one")
    parser.add_argument("--ess", type=float, default=400.0, help="effective draws of the worst parameter")
    parser.add_argument("--nuts-warmup", type=int, default=500, help="iterations of each chain")
    parser.add_argument("--nuts-draws", type=int, default=250, help="draws of each chain")
    given = parser.parse_args(arguments)
    target = Groundwater(given.cells, given.parameters, given.noise, given.amplitude, given.wait / 1000)
    points = np.random.default_rng(0).standard_normal((6, target.dim))
    target(points[:1])
    began = perf_counter()
    target(points[1:])
    each = (perf_counter() - began) / 5
    print(
        f"Groundwater: {given.parameters} parameters, noise {given.noise:g}, amplitude {given.amplitude:g}, "
        f"{given.cells} x {given.cells} cells, {1000 * each:.1f} ms an evaluation; evaluations until "
        f"{given.ess:g} effective draws.\n"
    )
    print("| method | warm-up | until then | times the first | ESS reached | R-hat | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    rows: list[Row] = []
    for method in given.methods:
        if method == "qde":
            made = (measure_qde(target, given.ess, workers) for workers in given.workers)
        else:
            made = iter(
                [measure_nuts(target, given.nuts_warmup, given.nuts_draws, dense=method == "nuts-dense")]
            )
        for row in made:
            rows.append(row)
            total = row.until(given.ess)
            print(
                f"| {row.method} | {row.of_warmup:,} | {total:,.0f} | {total / rows[0].until(given.ess):.1f} "
                f"| {row.ess:.0f} | {row.rhat:.3f} | {row.seconds:.0f} |",
                flush=True,
            )
    for row in rows:
        if row.batches:
            gains = ", ".join(f"{gain_of_workers(row.batches, n):.2f} for {n}" for n in WORKERS)
            print(f"\nMost that workers can gain, by counts: {gains} ({len(row.batches)} batches).")
    if len(rows) > 1:
        worst = max(
            float(np.max(np.abs(row.means - rows[0].means) / np.hypot(row.errors, rows[0].errors)))
            for row in rows[1:]
        )
        print(f"\nMeans differ from those of the first row by {worst:.1f} standard errors at most.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
