"""Quantum against thermal annealing: a tilted double well behind a tall thin barrier, then a low broad one.

This is the paper's outer loop (Wang and Maimaitiniyazi, arXiv:2407.19890), quantum annealing: the diffusion
coefficient D of dpsi/dtau = D lap psi - zeta psi is lowered while the packet follows. Thermal annealing
lowers the temperature T of dp/dt = T lap p + div(p grad zeta). Both equations are solved on a grid, without
noise, from the same start in the wrong well, with the same schedule D = T and the same length of time. The
example compares the mass that ends in the lower well. The rate over the barrier is about
exp(-height / T), and the rate through it exp(-width sqrt(height / D)). Therefore a tall thin barrier stops
thermal annealing and not quantum annealing.

Where our statement differs: this is no law about hardware or cost. The evolution is in imaginary time, which
lets the mass of the lower well grow by exp(dE tau) relative to the other, once anything has come through.
Over a low broad barrier thermal annealing arrives too, but slowly. And the squared end state is not
exp(-zeta / D): it is wider than the thermal one at the same D = T.

    python examples/paper_quantum_annealing.py [--out FOLDER] [--quick]
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy.linalg import solve_banded

from qdesampler import Hamiltonian, SpectralGrid, ground_state
from qdesampler.equation import Schedule
from qdesampler.solvers import evolve

GRID = SpectralGrid(bounds=(-3.0, 3.0), points=256)
WRONG_WELL = Hamiltonian.from_objective(lambda x: 200 * (x[0] - 1) ** 2, dim=1, diffusion=0.5)
SCHEDULE = Schedule.geometric(0.5, 0.02)
TIME_STEP = 0.02
BARRIERS = {"tall and thin": (8.0, 0.06), "low and broad": (1.5, 0.5)}


def landscape(height, width):
    """Wells near -1 (lower) and 1, with a Gaussian barrier between."""

    def zeta(x):
        wells = 4 * (jnp.abs(x[0]) - 1) ** 2 * (jnp.abs(x[0]) > 1)
        return wells + 0.25 * x[0] + height * jnp.exp(-((x[0] / width) ** 2) / 2)

    return zeta


def quantum(zeta, start, num_steps):
    """The density that follows the lowered D, on the nodes."""
    hamiltonian = Hamiltonian.from_objective(zeta, dim=1, diffusion=0.5)
    path = evolve(hamiltonian, start, SCHEDULE, time_step=TIME_STEP, num_steps=num_steps)
    return np.asarray(path.state, float) ** 2


def thermal(values, density, nodes, num_steps):
    """The density that follows the lowered T: implicit Euler steps of jumps between neighbouring nodes."""
    spacing = nodes[1] - nodes[0]
    for temperature in np.asarray(SCHEDULE.table(num_steps), float):
        tilt = np.clip(np.diff(values) / (2 * temperature), -30, 30)
        up = temperature / spacing**2 * np.exp(-tilt) * TIME_STEP  # from node i to i + 1, in detailed balance
        down = temperature / spacing**2 * np.exp(tilt) * TIME_STEP
        leaving = 1 + np.append(up, 0) + np.append(0, down)
        bands = np.array([np.append(0, -down), leaving, np.append(-up, 0)])
        density = solve_banded((1, 1), bands, density)
    return density / (density.sum() * spacing)


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the figure")
    parser.add_argument("--quick", action="store_true", help="fewer lengths of run")
    options = parser.parse_args()
    start = ground_state(WRONG_WELL, GRID)
    nodes = GRID.grid(1).nodes(0)
    spacing = nodes[1] - nodes[0]
    points = jnp.asarray(nodes)[:, None]
    density = np.asarray(jnp.exp(jax.vmap(start.log_prob)(points)), float)
    lengths = (500, 2000) if options.quick else (125, 250, 500, 1000, 2000, 4000)

    figure = Figure(figsize=(10, 6.2), layout="constrained")
    rows = figure.subplots(2, 2)
    print("barrier          time   lower well: quantum   thermal")
    for (name, barrier), (left, right) in zip(BARRIERS.items(), rows, strict=True):
        zeta = landscape(*barrier)
        values = np.asarray(jax.vmap(zeta)(points), float)
        masses = []
        for steps in lengths:
            ends = quantum(zeta, start, steps), thermal(values, density, nodes, steps)
            masses.append([float(end[nodes < 0].sum() * spacing) for end in ends])
            print(f"{name:14s} {steps * TIME_STEP:6.1f} {masses[-1][0]:21.4f} {masses[-1][1]:9.4f}")
        left.plot(nodes, values, color="0.4")
        left.set(xlim=(-2.2, 2.2), ylim=(-1, 9.5), xlabel="x", ylabel="objective", title=f"{name} barrier")
        densities = left.twinx()
        densities.plot(nodes, density, ":", color="0.4", label="start")
        for end, label, color in zip(ends, ("quantum, end", "thermal, end"), ("C0", "C3"), strict=True):
            densities.plot(nodes, end, color=color, label=label)
        densities.set(ylim=(0, None), ylabel="density")
        densities.legend(frameon=False, loc="upper right")
        for k, (label, color) in enumerate((("quantum: D lowered", "C0"), ("thermal: T lowered", "C3"))):
            right.plot(np.array(lengths) * TIME_STEP, [m[k] for m in masses], "o-", color=color, label=label)
        right.set_xscale("log", base=2)
        right.set_xticks([n * TIME_STEP for n in lengths], [f"{n * TIME_STEP:g}" for n in lengths])
        right.set(ylim=(-0.03, 1.03), xlabel="length of the run", ylabel="mass in the lower well")
        right.legend(frameon=False, loc=(0.5, 0.62))
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / "paper_quantum_annealing.png", dpi=120)


if __name__ == "__main__":
    main()
