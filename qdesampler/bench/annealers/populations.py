"""Annealing with and without resampling at equal flips: `python -m qdesampler.bench.annealers.populations`.

Tori and open cubic lattices of couplings +1 and -1 with weak fields, and ferromagnets in fields, whose
magnetisations and `log Z` tree decomposition has exactly. Each line is over all keys: the root mean square
errors of all magnetisations `<s_i>` and of `log Z`, the mean standard error that is stated for it, the mean
square of the deviations in those errors and how many are below two, and CPU seconds of one call.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from qdesampler.backends import (
    IsingProblem,
    PopulationAnnealing,
    SimulatedAnnealing,
    log_partition_estimate,
    to_bqm,
)
from qdesampler.backends.adapters.tree_decomposition import ocean_sampler
from qdesampler.backends.protocol import LocalBackend
from qdesampler.bench.annealers.__main__ import lattice
from qdesampler.bench.harness.record import Settings
from qdesampler.bench.harness.table import header

__all__ = ["Measured", "cubic", "ferromagnet_in_fields", "main", "measure"]


def cubic(side: int, seed: int, field: float = 0.1) -> IsingProblem:
    """Return an open cubic lattice with couplings +1 or -1 and normal fields of deviation `field`."""
    rng = np.random.default_rng(seed)
    cells = np.arange(side**3).reshape(side, side, side)
    edges = np.concatenate(
        [
            np.stack([np.delete(cells, -1, axis).ravel(), np.delete(cells, 0, axis).ravel()], -1)
            for axis in range(3)
        ]
    )
    return IsingProblem.from_edges(
        field * rng.normal(size=cells.size), edges, rng.choice([-1.0, 1.0], len(edges))
    )


def ferromagnet_in_fields(side: int, seed: int, field: float) -> IsingProblem:
    """Return a torus with couplings -1 and normal fields of standard deviation `field`."""
    glass = lattice(side, side, seed, field)
    return glass._replace(J=-np.ones(len(glass.J)))


PROBLEMS: dict[str, tuple[Callable[[int], IsingProblem], float]] = {
    "torus 8 x 8, beta 1": (lambda seed: lattice(8, 8, 100 + seed), 1.0),
    "torus 8 x 8, beta 3": (lambda seed: lattice(8, 8, 100 + seed), 3.0),
    "cube of 4, beta 1": (lambda seed: cubic(4, seed), 1.0),
    "cube of 4, beta 2": (lambda seed: cubic(4, seed), 2.0),
    "ferromagnet 8 x 8, beta 0.6": (lambda seed: ferromagnet_in_fields(8, seed, 0.3), 0.6),
}


class Measured(NamedTuple):
    """What `measure` returns; the module says what the numbers are."""

    magnetisation: float
    log_z: float
    stated: float
    square: float
    inside: int
    seconds: float


def truth(problem: IsingProblem, beta: float) -> tuple[np.ndarray, float]:
    """Return the magnetisations and `log Z` by tree decomposition."""
    sampler = ocean_sampler("TreeDecompositionSampler")
    info = sampler.sample(to_bqm(problem), num_reads=1, beta=beta, seed=0, marginals=True).info
    up = [info["variable_marginals"][i] for i in range(problem.num_variables)]
    return 2 * np.array(up) - 1, float(info["log_partition_function"])


def measure(
    problems: Sequence[IsingProblem],
    truths: Sequence[tuple[np.ndarray, float]],
    backend: LocalBackend,
    beta: float,
    reads: int,
    keys: int,
) -> Measured:
    """Run the backend with `keys` keys on each problem."""
    errors, off, stated, began = [], [], [], time.process_time()
    for number, (problem, (exact, log_z)) in enumerate(zip(problems, truths, strict=True)):
        for key in range(keys):
            call = jax.random.key(1000 * key + number)
            samples = backend.sample(problem, key=call, num_reads=reads, beta=beta)
            value, error = log_partition_estimate(samples)
            weights = np.asarray(samples.log_weight, float)
            weights = np.exp(weights - weights.max())
            means = weights @ np.asarray(samples.states, float) / weights.sum()
            errors.append(np.mean((means - exact) ** 2))
            off.append(float(value) - log_z)
            stated.append(float(error))
    deviations = np.array(off) / np.array(stated)
    return Measured(
        float(np.sqrt(np.mean(errors))),
        float(np.sqrt(np.mean(np.square(off)))),
        float(np.mean(stated)),
        float(np.mean(deviations**2)),
        int(np.sum(np.abs(deviations) < 2)),
        (time.process_time() - began) / len(off),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(
        prog="python -m qdesampler.bench.annealers.populations", description=__doc__
    )
    parser.add_argument("--problems", nargs="+", choices=tuple(PROBLEMS), default=tuple(PROBLEMS))
    parser.add_argument("--instances", type=int, default=10)
    parser.add_argument("--keys", type=int, default=4, help="for each instance")
    parser.add_argument("--sweeps", type=int, nargs="+", default=[300, 100])
    parser.add_argument("--flips", type=int, default=600_000, help="sweeps times reads of a call")
    given = parser.parse_args(arguments)
    if min(given.instances, given.keys, *given.sweeps) < 1 or given.flips < 40 * max(given.sweeps):
        parser.error("expected an instance, a key, a sweep and 40 reads or more")
    about = header(Settings(1, 0, 0))
    print("\n".join(f"- {name}: {value}" for name, value in about.items() if name != "settings"))
    total = given.instances * given.keys
    columns = ("problem", "annealing", "error of <s>", "of log Z", "stated", "mean square z")
    print("\n| " + " | ".join((*columns, f"of {total} below 2", "CPU s")) + " |\n" + "| --- " * 8 + "|")
    for name in given.problems:
        make, beta = PROBLEMS[name]
        problems = [make(seed) for seed in range(given.instances)]
        truths = [truth(problem, beta) for problem in problems]
        for sweeps in given.sweeps:
            reads = given.flips // sweeps // 20 * 20
            for kind in (SimulatedAnnealing, PopulationAnnealing):
                found = measure(problems, truths, kind(sweeps), beta, reads, given.keys)
                print(
                    f"| {name} | {kind.__name__}, {sweeps} x {reads} | {found.magnetisation:.4f} | "
                    f"{found.log_z:.4f} | {found.stated:.4f} | {found.square:.2f} | {found.inside} | "
                    f"{found.seconds:.2f} |",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
