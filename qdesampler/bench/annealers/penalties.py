"""Penalty problems: is the reported energy right, and is the optimum found?

    python -m qdesampler.bench.annealers.penalties --sizes 20 60 200 --penalties 10 1000 1e6

Colouring, bisection, knapsack and assignment, whose optima are known, by `SimulatedAnnealing` and by
simulated annealing of dwave-samplers with equally many sweeps: first with the same geometric range of inverse
temperatures, then each with its own range, ours by `low_energies`. "off" is the largest difference between
our reported energy and the one in double precision. "found" is the share of reads that are feasible and
optimal, "best" the objective of the best feasible read above the optimum, "mean" that of all feasible reads.
Pairs of numbers are ours and dwave's; "z" is their difference in standard errors, positive where ours is
better and "-" where neither varies.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from qdesampler.backends import IsingProblem, SimulatedAnnealing, low_energies, to_bqm
from qdesampler.backends.adapters.tree_decomposition import ocean_sampler
from qdesampler.bench.harness.record import Settings
from qdesampler.bench.harness.table import header
from qdesampler.bench.targets.penalties import PROBLEMS, PenaltyProblem, penalty_problem
from qdesampler.equation.schedule import Schedule

__all__ = ["main", "penalty_row"]

_COLD = 5.0  # last inverse temperature: objectives differ by one, so that excitations are rare
_SAME = 1e-6  # of the scale of the energy: objectives that differ by less are equal


def _range(problem: PenaltyProblem) -> tuple[float, float]:
    """Inverse temperatures from where the strongest field is weak to where the objective is resolved."""
    strongest = np.abs(problem.Q).sum(0) + np.abs(problem.Q).sum(1)
    return min(1.0 / float(strongest.max()), _COLD / 2), _COLD


def penalty_row(name: str, n: int, penalty: float, sweeps: int, reads: int, seed: int) -> dict[str, Any]:
    """Return errors of energies and shares of optima of one problem."""
    problem = penalty_problem(name, n, penalty, seed=seed)
    ising = IsingProblem.from_qubo(problem.Q, problem.offset).sparse()
    hot, cold = _range(problem)
    states = {}
    key = jax.random.key(seed)
    backend = SimulatedAnnealing(sweeps, Schedule.geometric(hot / cold, 1.0))
    for label, found in (
        ("ours", backend.sample(ising, key=key, num_reads=reads, beta=cold)),
        ("ours, own range", low_energies(ising, key=key, num_reads=reads, num_sweeps=sweeps)),
    ):
        states[label] = (np.asarray(found.states), np.asarray(found.energies))
    sampler, bqm = ocean_sampler("SimulatedAnnealingSampler"), to_bqm(ising)
    for label, more in (("dwave", {"beta_range": (hot, cold)}), ("dwave, own range", {})):
        answer = sampler.sample(bqm, num_reads=reads, num_sweeps=sweeps, seed=seed, **more)
        columns = [answer.variables.index(i) for i in range(ising.num_variables)]
        states[label] = (answer.record.sample[:, columns], answer.record.energy)
    above, off = {}, {}
    for label, (rows, reported) in states.items():
        bits = (rows + 1) // 2
        energies = problem.energies(bits)
        off[label] = float(np.max(np.abs(energies - reported)))
        above[label] = np.where(problem.feasible(bits), energies - problem.best, np.inf)
    tolerance = _SAME + 1e-13 * float(np.abs(problem.Q).sum())
    return {
        "bits": ising.num_variables,
        "off": max(off["ours"], off["ours, own range"]),
        "found": {label: values <= tolerance for label, values in above.items()},
        "above": {label: values[np.isfinite(values)] for label, values in above.items()},
    }


def _pair(row: dict[str, Any], name: str, kind: str, better: int) -> list[str]:
    """Means of ours and dwave's, and their difference in standard errors."""
    ours, dwave = (np.asarray(row[name][f"{label}{kind}"], float) for label in ("ours", "dwave"))
    if min(len(ours), len(dwave)) == 0:
        return ["-", "-"]
    error = float(np.sqrt(np.var(ours) / len(ours) + np.var(dwave) / len(dwave)))
    means = float(np.mean(ours)), float(np.mean(dwave))
    z = f"{better * (means[0] - means[1]) / error:+.1f}" if error > 0 else "-"
    return [", ".join(f"{mean:.3g}" for mean in means), z]


def _cells(row: dict[str, Any]) -> list[str]:
    least = (f"{max(np.min(values), 0.0):.3g}" if len(values) else "-" for values in row["above"].values())
    return [
        f"{row['off']:.1e}",
        *_pair(row, "found", "", 1),
        *_pair(row, "found", ", own range", 1),
        ", ".join(least),
        *_pair(row, "above", "", -1),
        *_pair(row, "above", ", own range", -1),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the problems and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m qdesampler.bench.annealers.penalties", description=__doc__
    )
    parser.add_argument("--problems", nargs="+", choices=tuple(PROBLEMS), default=tuple(PROBLEMS))
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 60, 200], help="bits, at least 12")
    parser.add_argument("--penalties", type=float, nargs="+", default=[10.0, 1e3, 1e6])
    parser.add_argument("--sweeps", type=int, default=1000)
    parser.add_argument("--reads", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    if min(given.sizes) < 12 or min(given.sweeps, given.reads) < 2 or not min(given.penalties) > 0:
        parser.error("expected 12 bits or more, two sweeps and reads or more, and positive penalties")
    about = header(Settings(1, 0, given.reads))
    print("\n".join(f"- {name}: {value}" for name, value in about.items() if name != "settings"))
    print(f"- {given.sweeps} sweeps, {given.reads} reads, seed {given.seed}\n")
    print(
        "| problem | bits | penalty | off | found | z | found, own range | z | best: ours, own, dwave, "
        "own | mean | z | mean, own range | z |\n" + "| --- " * 13 + "|"
    )
    for name in given.problems:
        for n in given.sizes:
            for penalty in given.penalties:
                row = penalty_row(name, n, penalty, given.sweeps, given.reads, given.seed)
                cells = [name, str(row["bits"]), f"{penalty:g}", *_cells(row)]
                print("| " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
