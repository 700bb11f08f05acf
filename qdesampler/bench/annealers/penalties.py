"""Penalty problems: is the reported energy right, and is the optimum found?

    python -m qdesampler.bench.annealers.penalties --sizes 20 200 --penalties 10 1000 1e6

Colouring, bisection, knapsack and assignment with 20 to 200 bits, by `SimulatedAnnealing` and by simulated
annealing of dwave-samplers, with equally many sweeps and the same geometric range of inverse temperatures,
and with dwave-samplers' own range. "off" is the largest difference between an energy as reported and in
double precision; "found" the share of reads that are feasible and as good as the best: known exactly, or the
best of all reads of the line's problem. "z" is the difference of the first two shares in standard errors.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from qdesampler.backends import IsingProblem, SimulatedAnnealing, to_bqm
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
    ours = SimulatedAnnealing(sweeps, Schedule.geometric(hot / cold, 1.0))
    found = ours.sample(ising, key=jax.random.key(seed), num_reads=reads, beta=cold)
    states = {"ours": (np.asarray(found.states), np.asarray(found.energies))}
    sampler, bqm = ocean_sampler("SimulatedAnnealingSampler"), to_bqm(ising)
    for label, more in (("dwave", {"beta_range": (hot, cold)}), ("dwave, own range", {})):
        answer = sampler.sample(bqm, num_reads=reads, num_sweeps=sweeps, seed=seed, **more)
        columns = [answer.variables.index(i) for i in range(ising.num_variables)]
        states[label] = (answer.record.sample[:, columns], answer.record.energy)
    exact, off = {}, {}
    for label, (rows, reported) in states.items():
        bits = (rows + 1) // 2
        energies = problem.energies(bits)
        off[label] = float(np.max(np.abs(energies - reported)))
        exact[label] = np.where(problem.feasible(bits), energies, np.inf)
    tolerance = _SAME + 1e-13 * float(np.abs(problem.Q).sum())
    best = min(float(values.min()) for values in exact.values()) if problem.best is None else problem.best
    return {
        "bits": ising.num_variables,
        "off": off,
        "found": {label: float(np.mean(values <= best + tolerance)) for label, values in exact.items()},
        "tolerance": tolerance,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the problems and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m qdesampler.bench.annealers.penalties", description=__doc__
    )
    parser.add_argument("--problems", nargs="+", choices=tuple(PROBLEMS), default=tuple(PROBLEMS))
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 200], help="bits, at least 12")
    parser.add_argument("--penalties", type=float, nargs="+", default=[10.0, 1e3, 1e6])
    parser.add_argument("--sweeps", type=int, default=1000)
    parser.add_argument("--reads", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    if min(given.sizes) < 12 or min(given.sweeps, given.reads) < 2 or not min(given.penalties) > 0:
        parser.error("expected 12 bits or more, two sweeps and reads or more, and positive penalties")
    about = header(Settings(1, 0, given.reads))
    print("\n".join(f"- {name}: {value}" for name, value in about.items() if name != "settings"))
    print(f"- {given.sweeps} sweeps, {given.reads} reads, seed {given.seed}\n")
    print("| problem | bits | penalty | off | found | dwave found | dwave found, own range | z |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in given.problems:
        for n in given.sizes:
            for penalty in given.penalties:
                row = penalty_row(name, n, penalty, given.sweeps, given.reads, given.seed)
                ours, dwave = row["found"]["ours"], row["found"]["dwave"]
                pooled = (ours + dwave) / 2
                error = np.sqrt(max(2 * pooled * (1 - pooled) / given.reads, 1e-12))
                shares = " | ".join(f"{share:.3f}" for share in row["found"].values())
                print(
                    f"| {name} | {row['bits']} | {penalty:g} | {row['off']['ours']:.1e} | {shares} | "
                    f"{(ours - dwave) / error:+.1f} |",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
