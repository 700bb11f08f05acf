"""Global minima by `anneal` and by SciPy's dual annealing and basin hopping, at equal evaluations.

    python -m qdesampler.bench.solvers.minimise --evaluations 5000,20000 --seeds 20

Objectives of 10 dimensions, and the energy of four and seven Lennard-Jones atoms (12 and 21 coordinates),
from random starts; found is a value within 0.01 of the least. Dual annealing keeps to a box and takes its
default settings; its local searches estimate gradients by differences. Basin hopping's local searches
(L-BFGS-B) have gradients. A gradient counts one evaluation, as in the descents of `anneal`.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import basinhopping, dual_annealing

from qdesampler.bench.harness.record import Settings
from qdesampler.bench.harness.table import header
from qdesampler.equation import Hamiltonian, Schedule
from qdesampler.solvers import anneal

__all__ = ["OBJECTIVES", "main", "success_rates"]

DIM, DRAWS, POLISH = 10, 20, 100  # dimensions, draws of a step, most evaluations of a descent at the end
DESCENTS = 600  # evaluations of all of them, about, which the steps leave
CLOSE = 1e-2  # of the global minimum: a success


class Objective(NamedTuple):
    """A function of one point.

    Attributes:
        function: of a point of shape `(dim,)`.
        half_width: of the box that starts are drawn from and that dual annealing keeps to.
        least: its least value.
        schedule: of `D`.
        dim: coordinates.
        width: standard deviation of the first state.
    """

    function: Callable[[jax.Array], jax.Array]
    half_width: float
    least: float
    schedule: Schedule
    dim: int
    width: float


def _rastrigin(x):
    return 10 * x.size + jnp.sum(x**2 - 10 * jnp.cos(2 * jnp.pi * x))


def _ackley(x):
    # The small number keeps the gradient finite at the minimum.
    root = jnp.sqrt(jnp.mean(x**2) + 1e-12)
    return -20 * jnp.exp(-0.2 * root) - jnp.exp(jnp.mean(jnp.cos(2 * jnp.pi * x))) + 20 + jnp.e


def _tilted_wells(x):
    return jnp.sum((x**2 - 4) ** 2 + x)


def _lennard_jones(x):
    """`sum 4 (r^-12 - r^-6)` over all pairs of atoms; infinite, or NaN, where two coincide."""
    atoms = x.reshape(-1, 3)
    first, second = np.triu_indices(len(atoms), 1)
    inverse = 1 / jnp.sum((atoms[first] - atoms[second]) ** 2, 1)
    return jnp.sum(4 * (inverse**6 - inverse**3))


# Atoms evaporate from a wide state: it starts as wide as a third of their distance, in a box of one cluster.
_CLUSTER = Schedule.geometric(0.1, 0.001)
_WELL = float(np.min([(x**2 - 4) ** 2 + x for x in np.linspace(-3, -1, 200_001)]))
OBJECTIVES = {
    "rastrigin": Objective(_rastrigin, 5.12, 0.0, Schedule.geometric(100.0, 0.01), DIM, 2.56),
    "ackley": Objective(_ackley, 32.768, 0.0, Schedule.geometric(10.0, 1e-4), DIM, 16.384),
    "tilted double wells": Objective(
        _tilted_wells, 4.0, DIM * _WELL, Schedule.geometric(100.0, 0.01), DIM, 2.0
    ),
    # Least energies: Hoare and Pal, Adv. Phys. 20 (1971) 161.
    "4 Lennard-Jones atoms": Objective(_lennard_jones, 1.0, -6.0, _CLUSTER, 12, 0.3),
    "7 Lennard-Jones atoms": Objective(_lennard_jones, 1.0, -16.505384, _CLUSTER, 21, 0.3),
}


def success_rates(objective: Objective, evaluations: int, seeds: int) -> dict[str, tuple[float, float]]:
    """Share of seeds that found the minimum, and mean evaluations, by method."""
    methods = {"anneal": _annealed, "dual annealing": _dually_annealed, "basin hopping": _hopped}
    compiled = jax.jit(jax.value_and_grad(objective.function))
    rates = {}
    for name, method in methods.items():
        runs = []
        for seed in range(seeds):
            start = np.random.default_rng(seed).uniform(-1, 1, objective.dim) * objective.half_width
            value, spent = method(objective, compiled, start, evaluations, seed)
            runs.append((value < objective.least + CLOSE, spent))
        rates[name] = tuple(float(np.mean(column)) for column in zip(*runs, strict=True))
    return rates


def _annealed(objective: Objective, compiled: Callable, start: np.ndarray, evaluations: int, seed: int):
    del compiled
    found = anneal(
        Hamiltonian.from_objective(objective.function, dim=objective.dim),
        objective.schedule,
        key=jax.random.key(seed),
        centre=start,
        width=objective.width,
        num_steps=(evaluations - DESCENTS) // DRAWS - 1,
        num_draws=DRAWS,
        polish=POLISH,
    )
    return float(found.value), found.evaluations


def _dually_annealed(objective: Objective, compiled: Callable, start, evaluations: int, seed: int):
    def value(x):
        found = float(compiled(x)[0])
        return found if np.isfinite(found) else 1e30  # it refuses infinities

    bounds = [(-objective.half_width, objective.half_width)] * objective.dim
    found = dual_annealing(value, bounds, maxfun=evaluations, x0=start, rng=seed)
    return float(found.fun), int(found.nfev)


class _Spent(Exception):  # noqa: N818
    """The evaluations are used up."""


def _hopped(objective: Objective, compiled: Callable, start: np.ndarray, evaluations: int, seed: int):
    seen = [np.inf]

    def both(x):
        if len(seen) > evaluations:
            raise _Spent
        value, gradient = compiled(x)
        seen.append(float(value))
        return seen[-1], np.asarray(gradient, float)

    with contextlib.suppress(_Spent):
        basinhopping(
            both, start, niter=evaluations, minimizer_kwargs={"method": "L-BFGS-B", "jac": True}, rng=seed
        )
    return float(np.nanmin(seen)), len(seen) - 1


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
    print(
        "\n| objective | budget | anneal found | evaluations | dual annealing found | evaluations "
        "| basin hopping found | evaluations |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, objective in OBJECTIVES.items():
        for budget in map(int, budgets):
            rates = success_rates(objective, budget, options.seeds)
            cells = " | ".join(f"{rate:.0%} | {spent:,.0f}" for rate, spent in rates.values())
            print(f"| {name}, {objective.dim}-d | {budget:,} | {cells} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
