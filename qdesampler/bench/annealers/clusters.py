"""Cluster sweeps against sweeps of single spins: `python -m qdesampler.bench.annealers.clusters`.

Ferromagnetic tori without fields at their critical temperature, `beta = log(1 + sqrt(2)) / 2`, and a periodic
lattice of couplings +1 and -1 with weak fields at `beta = 1`, which is frustrated. Chains start from 200
cluster sweeps, of the glass from 500 sweeps of annealing. The observable is the magnetisation squared, of the
glass the energy. Its autocorrelation time is in sweeps: draws over effective draws of all chains (ArviZ's ESS
of the mean). CPU time is that of the process for one sweep of one chain, after compilation; the last column
is the product, for one effective draw.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from arviz_stats.base.array import array_stats

from qdesampler.backends import IsingProblem, SimulatedAnnealing, SwendsenWang
from qdesampler.backends.protocol import LocalBackend
from qdesampler.bench.annealers.__main__ import lattice
from qdesampler.bench.harness.record import Settings
from qdesampler.bench.harness.table import header

__all__ = ["Measured", "ferromagnet", "main", "measure"]

_PARTS = 5  # equal parts of a run, one program for all; one more goes before them and is left out

CRITICAL = float(np.log(1 + np.sqrt(2)) / 2)
METHODS: dict[str, LocalBackend] = {
    "SwendsenWang": SwendsenWang(1),
    "heat bath": SimulatedAnnealing(1, update="heat_bath"),
    "Metropolis": SimulatedAnnealing(1),
}


class Measured(NamedTuple):
    """Mean of the observable and its standard error, autocorrelation time in sweeps, CPU seconds a sweep."""

    mean: float
    error: float
    sweeps: float
    seconds: float


def ferromagnet(side: int) -> IsingProblem:
    """Return the periodic square lattice with couplings -1 and no fields."""
    glass = lattice(side, side, 0)
    return glass._replace(h=np.zeros(side * side), J=-np.ones(len(glass.J)))


def measure(
    problem: IsingProblem, backend: LocalBackend, beta: float, sweeps: int, chains: int, seed: int
) -> Measured:
    """Run `chains` chains of `sweeps` sweeps, after a fifth as many more that are left out."""
    magnetic = not np.any(np.asarray(problem.h))

    def observe(states):
        if magnetic:
            return jnp.mean(states.astype(float), 1) ** 2
        return problem.energies(states)

    @jax.jit
    def run(states, keys):
        def step(states, key):
            found = backend.sample(problem, key=key, num_reads=chains, beta=beta, initial_states=states)
            return found.states, observe(found.states)

        return jax.lax.scan(step, states, keys)

    settle = SwendsenWang(200) if magnetic else SimulatedAnnealing(500)
    part = max(sweeps // _PARTS, 2)
    first, *keys = jax.random.split(jax.random.key(seed), _PARTS + 2)
    states = settle.sample(problem, key=first, num_reads=chains, beta=beta).states
    parts, seconds = [], []
    for key in keys:
        began = time.process_time()
        states, values = jax.block_until_ready(run(states, jax.random.split(key, part)))
        seconds.append(time.process_time() - began)
        parts.append(np.asarray(values, np.float64))
    draws = np.concatenate(parts[1:]).T
    effective = float(np.min(array_stats.ess(draws, chain_axis=0, draw_axis=1, method="mean")))
    return Measured(
        float(draws.mean()),
        float(draws.std() / np.sqrt(effective)),
        draws.size / effective,
        sum(seconds[1:]) / draws.size,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(
        prog="python -m qdesampler.bench.annealers.clusters", description=__doc__
    )
    parser.add_argument("--sides", type=int, nargs="*", default=[16, 32], help="of ferromagnetic tori")
    parser.add_argument("--glass", type=int, default=16, help="side of the frustrated lattice; 0 for none")
    parser.add_argument("--chains", type=int, default=32)
    parser.add_argument("--sweeps", type=int, default=4000, help="of clusters")
    parser.add_argument("--single", type=int, default=20_000, help="sweeps of single spins")
    given = parser.parse_args(arguments)
    if min(given.chains, given.sweeps, given.single, *given.sides) < 2 or given.glass < 0:
        parser.error("expected sides, chains and sweeps of at least 2")
    about = header(Settings(given.chains, 0, 0))
    print("\n".join(f"- {name}: {value}" for name, value in about.items() if name != "settings"))
    print("\n| problem | sweep | mean | autocorrelation time | CPU us a sweep | CPU ms a draw |")
    print("| --- " * 6 + "|")
    problems = [(f"torus {side} x {side}", ferromagnet(side), CRITICAL) for side in given.sides]
    if given.glass:
        problems.append((f"glass {given.glass} x {given.glass}", lattice(given.glass, given.glass, 0), 1.0))
    for name, problem, beta in problems:
        for method, backend in METHODS.items():
            sweeps = given.sweeps if method == "SwendsenWang" else given.single
            found = measure(problem, backend, beta, sweeps, given.chains, 0)
            print(
                f"| {name} | {method} | {found.mean:.4f} +- {found.error:.4f} | {found.sweeps:.1f} | "
                f"{1e6 * found.seconds:.1f} | {1e3 * found.sweeps * found.seconds:.2f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
