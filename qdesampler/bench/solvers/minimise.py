"""Global minima by `anneal` and by SciPy's dual annealing, at equal evaluations.

    python -m qdesampler.bench.solvers.minimise --evaluations 5000,20000 --seeds 20

Each objective in 10 dimensions, from random starts in its usual box; found is a value within 0.01 of the
least. Dual annealing keeps to the box and takes its default settings; its local searches estimate gradients
by differences. For `anneal` a gradient, in the descent at the end, counts one evaluation.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import dual_annealing

from qdesampler.bench.harness.record import Settings
from qdesampler.bench.harness.table import header
from qdesampler.equation import Hamiltonian, Schedule
from qdesampler.solvers import anneal

__all__ = ["OBJECTIVES", "main", "success_rates"]

DIM, DRAWS, POLISH = 10, 20, 100  # dimensions, draws of a step, evaluations of the last descent
CLOSE = 1e-2  # of the global minimum: a success


class Objective(NamedTuple):
    """A function of one point, half the width of its box, its least value, and a schedule of `D`."""

    function: Callable[[jax.Array], jax.Array]
    half_width: float
    least: float
    schedule: Schedule


def _rastrigin(x):
    return 10 * x.size + jnp.sum(x**2 - 10 * jnp.cos(2 * jnp.pi * x))


def _ackley(x):
    # The small number keeps the gradient finite at the minimum.
    root = jnp.sqrt(jnp.mean(x**2) + 1e-12)
    return -20 * jnp.exp(-0.2 * root) - jnp.exp(jnp.mean(jnp.cos(2 * jnp.pi * x))) + 20 + jnp.e


def _tilted_wells(x):
    return jnp.sum((x**2 - 4) ** 2 + x)


_WELL = float(np.min([(x**2 - 4) ** 2 + x for x in np.linspace(-3, -1, 200_001)]))
OBJECTIVES = {
    "rastrigin": Objective(_rastrigin, 5.12, 0.0, Schedule.geometric(100.0, 0.01)),
    "ackley": Objective(_ackley, 32.768, 0.0, Schedule.geometric(10.0, 1e-4)),
    "tilted double wells": Objective(_tilted_wells, 4.0, DIM * _WELL, Schedule.geometric(100.0, 0.01)),
}


def success_rates(objective: Objective, evaluations: int, seeds: int) -> dict[str, tuple[float, float]]:
    """Share of seeds that found the minimum, and mean evaluations, by method."""
    h = Hamiltonian.from_objective(objective.function, dim=DIM)
    compiled = jax.jit(objective.function)
    box = objective.half_width
    steps = (evaluations - 2 * POLISH) // DRAWS - 1
    found: dict[str, list[tuple[bool, int]]] = {"anneal": [], "dual_annealing": []}
    for seed in range(seeds):
        start = np.random.default_rng(seed).uniform(-box, box, DIM)
        ours = anneal(
            h,
            objective.schedule,
            key=jax.random.key(seed),
            centre=start,
            width=box / 2,
            num_steps=steps,
            num_draws=DRAWS,
            polish=POLISH,
        )
        found["anneal"].append((float(ours.value) < objective.least + CLOSE, ours.evaluations))
        theirs = dual_annealing(
            lambda x: float(compiled(x)), [(-box, box)] * DIM, maxfun=evaluations, x0=start, rng=seed
        )
        found["dual_annealing"].append((float(theirs.fun) < objective.least + CLOSE, int(theirs.nfev)))
    return {
        name: (float(np.mean([good for good, _ in runs])), float(np.mean([spent for _, spent in runs])))
        for name, runs in found.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(prog="python -m qdesampler.bench.solvers.minimise", description=__doc__)
    parser.add_argument("--evaluations", default="5000,20000", help="budgets, separated by commas")
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args(arguments)
    budgets = options.evaluations.split(",")
    if not all(budget.isdecimal() and int(budget) >= 1000 for budget in budgets):
        parser.error(f"--evaluations {options.evaluations}: expected integers of at least 1000")
    if options.seeds < 1:
        parser.error(f"--seeds {options.seeds}: expected at least 1")
    about = header(Settings(1, 0, 0))
    del about["settings"]  # of chains: there are none
    print("\n".join(f"- {name}: {value}" for name, value in about.items()))
    print("\n| objective | budget | anneal found | evaluations | dual_annealing found | evaluations |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, objective in OBJECTIVES.items():
        for budget in map(int, budgets):
            rates = success_rates(objective, budget, options.seeds)
            cells = " | ".join(f"{rate:.0%} | {spent:,.0f}" for rate, spent in rates.values())
            print(f"| {name}, {DIM}-d | {budget:,} | {cells} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
