"""Annealers against dwave-samplers: `python -m qdesampler.bench.annealers`.

Three tables. Energies and CPU seconds at equal sweeps on lattices and dense glasses (compilation left out,
medians of repeats that alternate); `log Z` of an 8 x 8 torus by annealed importance against tree
decomposition; spectral gaps of the moves on small Sherrington-Kirkpatrick glasses, by enumeration.
"""

import argparse
import datetime
import importlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.backends import (
    IsingProblem,
    PathIntegralAnnealing,
    QuantumDynamics,
    SimulatedAnnealing,
    SimulatedBifurcation,
    TreeDecomposition,
    log_partition_estimate,
    to_bqm,
)
from qdesampler.backends.adapters.tree_decomposition import ocean_sampler
from qdesampler.backends.exact_enumeration import all_bits, all_states
from qdesampler.equation.schedule import Schedule
from qdesampler.kernels.discrete.masks import coset_outcomes, mask_outcomes
from qdesampler.kernels.discrete.outcomes import DiscreteState, Outcomes

__all__ = ["lattice", "main", "sherrington_kirkpatrick", "spectral_gaps"]

_BETA = 3.0  # at the end of an anneal, in inverse couplings
_FIELD = 3.0  # where the transverse field starts


def lattice(rows: int, columns: int, seed: int, field: float = 0.1) -> IsingProblem:
    """Return a periodic lattice with couplings +1 or -1 and normal fields of standard deviation `field`."""
    rng = np.random.default_rng(seed)
    cells = np.arange(rows * columns).reshape(rows, columns)
    edges = np.concatenate(
        [np.stack([cells, np.roll(cells, -1, axis)], -1).reshape(-1, 2) for axis in (0, 1)]
    )
    h = field * rng.normal(size=rows * columns)
    return IsingProblem.from_edges(h, edges, rng.choice([-1.0, 1.0], len(edges)))


def sherrington_kirkpatrick(n: int, seed: int) -> IsingProblem:
    """Return a dense glass, couplings of variance `1 / n`, no fields."""
    rng = np.random.default_rng(seed)
    return IsingProblem.from_dense(np.zeros(n), np.triu(rng.normal(size=(n, n)), 1) / np.sqrt(n))


PROBLEMS: dict[str, Callable[[], IsingProblem]] = {
    "lattice 8 x 8": lambda: lattice(8, 8, 0),
    "lattice 16 x 32": lambda: lattice(16, 32, 1),
    "dense 64": lambda: sherrington_kirkpatrick(64, 2),
    "dense 512": lambda: sherrington_kirkpatrick(512, 3),
}


class Line(NamedTuple):
    """One sampler on one problem: `call(seed)` returns the energies of `reads` reads."""

    name: str
    call: Callable[[int], np.ndarray]
    reads: int


def _sampler_lines(problem: IsingProblem, sweeps: int, reads: int, paths: bool, openjij: bool) -> list[Line]:
    bqm = to_bqm(problem)
    some, few = max(reads // 10, 2), max(reads // 50, 2)  # path integrals are slow: times are scaled up

    def ours(backend, count):
        def call(seed):
            found = backend.sample(problem, key=jax.random.key(seed), num_reads=count, beta=_BETA)
            return np.asarray(found.energies)

        return call

    def oceans(sampler, count, **arguments):
        def call(seed):
            found = ocean_sampler(sampler).sample(bqm, num_reads=count, seed=seed, **arguments)
            return found.record.energy

        return call

    def openjijs(count):
        module = importlib.import_module("openjij")

        def call(seed):
            del seed  # with one, OpenJij returns the same read `count` times
            sampler = module.SASampler()
            schedule = [(float(beta), 1) for beta in np.linspace(_BETA / sweeps, _BETA, sweeps)]
            return sampler.sample(bqm, num_reads=count, schedule=schedule).record.energy

        return call

    anneal = {"num_sweeps": sweeps, "beta_range": [_BETA / sweeps, _BETA], "beta_schedule_type": "linear"}
    lines = [
        Line("SimulatedAnnealing", ours(SimulatedAnnealing(sweeps), reads), reads),
        Line("dwave SimulatedAnnealing", oceans("SimulatedAnnealingSampler", reads, **anneal), reads),
        Line("SimulatedBifurcation, 1000 steps", ours(SimulatedBifurcation(), reads), reads),
    ]
    if openjij:
        lines.append(Line("OpenJij SASampler", openjijs(some), some))
    if paths:
        quantum = {
            "num_sweeps": sweeps,
            "beta_schedule_type": "custom",
            "Hp_field": np.full(sweeps, _BETA),
            "Hd_field": _BETA * np.linspace(_FIELD, 0, sweeps),
        }
        path = PathIntegralAnnealing(sweeps, 8, Schedule.constant(1.0), Schedule.linear(_FIELD, 0.0))
        lines += [
            Line("PathIntegralAnnealing, 8 slices", ours(path, some), some),
            Line("dwave PathIntegral", oceans("PathIntegralAnnealingSampler", few, **quantum), few),
        ]
    return lines


def energies_and_times(
    names: Sequence[str], sweeps: int, reads: int, repeats: int, paths: bool, openjij: bool
) -> list[str]:
    """Return the rows of the first table; samplers take turns, and calls that compile do not count."""
    rows = []
    for name in names:
        lines = _sampler_lines(PROBLEMS[name](), sweeps, reads, paths, openjij)
        for line in lines:
            if not line.name.startswith(("dwave", "OpenJij")):
                line.call(0)
        seconds: list[list[float]] = [[] for _ in lines]
        energies: list[list[np.ndarray]] = [[] for _ in lines]
        for seed in range(1, repeats + 1):
            for k, line in enumerate(lines):
                if seed == 1 or line.reads == reads:
                    began = time.process_time()
                    energies[k].append(line.call(seed))
                    seconds[k].append(time.process_time() - began)
        for line, spent, each in zip(lines, seconds, energies, strict=True):
            found, median = np.concatenate(each), statistics.median(spent) * reads / line.reads
            cells = (
                name,
                line.name,
                line.reads,
                f"{median:.3f}",
                f"{found.mean():.2f}",
                f"{found.min():.2f}",
            )
            rows.append("| " + " | ".join(map(str, cells)) + " |")
            print(rows[-1], flush=True)
    return rows


def partition_functions(instances: int, beta: float, sweeps: int, reads: int) -> list[str]:
    """Return the rows of the second table; deviations are in standard errors."""
    tree, backend, deviations = TreeDecomposition(), SimulatedAnnealing(sweeps), []
    rows = []
    for seed in range(instances):
        problem = lattice(8, 8, 100 + seed)
        exact = tree.log_partition(problem, beta=beta)
        samples = backend.sample(problem, key=jax.random.key(seed), num_reads=reads, beta=beta)
        value, error = (float(x) for x in log_partition_estimate(samples))
        deviations.append((value - exact) / error)
        rows.append(f"| {seed} | {exact:.4f} | {value:.4f} | {error:.4f} | {deviations[-1]:+.2f} |")
        print(rows[-1], flush=True)
    inside = sum(abs(d) < 2 for d in deviations)
    rows.append(
        f"| within 2 standard errors: {inside} of {instances}; mean square "
        f"{np.mean(np.square(deviations)):.2f} | | | | |"
    )
    return rows


def _average(outcomes: Callable[..., Outcomes], cases: jax.Array, values: jax.Array, n: int) -> np.ndarray:
    """The transition matrix of a move: outcomes averaged over equally likely cases."""
    powers = jnp.asarray(2 ** np.arange(n - 1, -1, -1))

    def row(x, value):
        def one(total, case):
            found = outcomes(DiscreteState(x, value), lambda y: values[y.astype(jnp.int32) @ powers], case)
            index = found.positions.astype(jnp.int32) @ powers
            return total.at[index].add(jnp.exp(found.log_prob) / len(cases)), None

        return jax.lax.scan(one, jnp.zeros(2**n, values.dtype), cases)[0]

    return np.asarray(jax.jit(jax.vmap(row))(all_bits(n), values), float)


def _gap(P: np.ndarray, pi: np.ndarray) -> float:
    """One minus the second largest absolute eigenvalue of a matrix reversible with respect to `pi`."""
    root = np.sqrt(pi)
    levels = np.linalg.eigvalsh(
        root[:, None] * P / root[None, :] * 0.5 + (root[:, None] * P / root[None, :]).T * 0.5
    )
    return float(1 - max(abs(levels[0]), levels[-2]))


def spectral_gaps(n: int, seed: int, drives: int = 8, masks: int = 100) -> dict[str, float]:
    """Return the gap of each move on one Sherrington-Kirkpatrick glass at temperature one.

    Fields and couplings are standard normal, as in Layden et al., Nature 619 (2023) 282.

    The pool is drawn from a device that is 10 % wrong about the couplings; the quantum proposal is averaged
    over `drives` random drives, pool masks over `masks` pairs of reads.
    """
    rng = np.random.default_rng(seed)
    problem = IsingProblem.from_dense(rng.normal(size=n), np.triu(rng.normal(size=(n, n)), 1))
    f = -np.asarray(problem.energies(all_states(n)), float)
    pi = np.exp(f - f.max())
    pi /= pi.sum()
    values = jnp.asarray(f)
    noise = np.triu(rng.normal(size=(n, n)), 1)
    wrong = problem._replace(J=problem.J * (1 + 0.1 * (noise + noise.T)))
    law = np.exp(-np.asarray(wrong.energies(all_states(n)), float))
    reads = np.asarray(all_bits(n))[rng.choice(2**n, size=(2, masks), p=law / law.sum())]
    pool = jnp.asarray(reads[0] ^ reads[1], jnp.int32)
    units = jnp.eye(n, dtype=jnp.int32)

    def single(state, log_density, mask):
        return mask_outcomes(state, log_density, mask)

    local = _average(single, units, values, n)
    uniform = np.minimum(1, np.exp(f[None, :] - f[:, None])) / 2**n
    np.fill_diagonal(uniform, 0)
    np.fill_diagonal(uniform, 1 - uniform.sum(1))
    pairs = jnp.stack([pool, units[rng.integers(n, size=masks)]], 1)
    triples = jnp.concatenate(
        [pool[rng.permutation(masks)][:, None], pool[rng.permutation(masks)][:, None], pairs], 1
    )
    backend = QuantumDynamics(num_steps=100)
    keys = jax.random.split(jax.random.key(seed), drives)
    Q = np.mean([backend.transition_matrix(problem, key=key) for key in keys], 0, dtype=float)

    def quantum(f, Q):
        P = Q * np.minimum(1, np.exp(f[None, :] - f[:, None]))
        np.fill_diagonal(P, 0)
        np.fill_diagonal(P, 1 - P.sum(1))
        return P

    matrices = {
        "local": local,
        "uniform": uniform,
        "mask + local": 0.5 * local + 0.5 * _average(single, pool, values, n),
        "coset, 2 masks": _average(coset_outcomes, pairs, values, n),
        "coset, 4 masks": _average(coset_outcomes, triples, values, n),
        "quantum quench": quantum(f, Q),
    }
    return {name: _gap(P, pi) for name, P in matrices.items()}


def gap_table(sizes: Sequence[int], instances: int) -> list[str]:
    """Return the rows of the third table: mean gaps by size and the exponent of `2^(-k n)` through them."""
    found = {n: [spectral_gaps(n, seed) for seed in range(instances)] for n in sizes}
    rows = []
    for name in found[sizes[0]][0]:
        means = [float(np.mean([gaps[name] for gaps in found[n]])) for n in sizes]
        slope = -np.polyfit(sizes, np.log2(means), 1)[0]
        rows.append(f"| {name} | " + " | ".join(f"{mean:.4f}" for mean in means) + f" | {slope:.2f} |")
        print(rows[-1], flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and print, or write, its tables."""
    parser = argparse.ArgumentParser(prog="python -m qdesampler.bench.annealers", description=__doc__)
    tables = ("energies", "partition", "gaps")
    parser.add_argument("--tables", nargs="+", choices=tables, default=tables)
    parser.add_argument("--problems", nargs="+", choices=tuple(PROBLEMS), default=tuple(PROBLEMS))
    parser.add_argument("--no-paths", action="store_true", help="leave out path integrals, which are slow")
    parser.add_argument("--openjij", action="store_true", help="OpenJij as well; install it first")
    parser.add_argument("--sweeps", type=int, default=100)
    parser.add_argument("--reads", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--instances", type=int, default=20, help="of the torus")
    parser.add_argument("--glasses", type=int, default=10, help="of each size, for the gaps")
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 6, 8, 10])
    parser.add_argument("--out", type=Path, help="a Markdown file; it is replaced")
    given = parser.parse_args(arguments)
    parts = ["# Annealers", "", _where(sys.argv[1:] if arguments is None else arguments)]
    if "energies" in given.tables:
        parts += [
            "",
            f"CPU seconds for {given.reads} reads of {given.sweeps} sweeps, beta rising linearly to "
            f"{_BETA:g} (path integrals: beta {_BETA:g}, field {_FIELD:g} to 0; fewer reads, seconds scaled "
            f"up); medians of "
            f"{given.repeats}, after compilation.",
            "",
            "| problem | sampler | reads | seconds | mean energy | least |",
            "| --- | --- | --- | --- | --- | --- |",
            *energies_and_times(
                given.problems, given.sweeps, given.reads, given.repeats, not given.no_paths, given.openjij
            ),
        ]
    if "partition" in given.tables:
        parts += [
            "",
            "log Z of 8 x 8 tori at beta = 1: annealed importance, 300 sweeps, 2000 reads, against tree "
            "decomposition.",
            "",
            "| instance | exact | estimate | standard error | deviation |",
            "| --- | --- | --- | --- | --- |",
            *partition_functions(given.instances, 1.0, 300, 2000),
        ]
    if "gaps" in given.tables:
        parts += [
            "",
            f"Spectral gaps at temperature one, means over {given.glasses} Sherrington-Kirkpatrick glasses "
            "with standard normal fields and couplings.",
            "",
            "| move | " + " | ".join(f"n = {n}" for n in given.sizes) + " | k of 2^(-k n) |",
            "| --- " * (len(given.sizes) + 2) + "|",
            *gap_table(given.sizes, given.glasses),
        ]
    text = "\n".join(parts) + "\n"
    if given.out is None:
        print(text)
    else:
        given.out.write_text(text, encoding="utf-8")
    return 0


def _where(arguments: Sequence[str]) -> str:
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("jax", "dimod", "dwave-samplers"))
    return (
        f"{datetime.date.today()}; {versions}; Python {platform.python_version()}, {jax.default_backend()}, "
        f"{os.cpu_count()} cores, load {load} at the start.\n"
        f"Command: `python -m qdesampler.bench.annealers {' '.join(arguments)}`".rstrip()
    )


if __name__ == "__main__":
    sys.exit(main())
