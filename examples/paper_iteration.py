"""The basic iterative process: Taylor orders 0, 1, 2 of an objective, and two loops that minimise it.

This is the paper's iterative process (Wang and Maimaitiniyazi, arXiv:2407.19890). The objective in
dpsi/dtau = D lap psi - zeta psi is expanded about the present point. Order 0 leaves the heat kernel
N(x, 2 D tau), which is a random search. Order 1 adds the drift -D tau^2 grad zeta: this is gradient descent
with noise. Order 2 is the harmonic oscillator: about a minimum of curvature a the kernel tends to the
harmonic state, of variance sqrt(2 D / a). The inner loop runs steps at fixed D, and the outer loop lowers D.
The example does this for walkers of orders 0 and 1, and by `anneal` for the whole wave packet.

Where our statement differs: no local expansion contains another valley. Walkers reach the lowest valley by
noise and by their number, and the packet because it averages zeta over its width. At order 1, with noise
2 D tau and descent D tau^2, the temperature is 1 / tau, and D is only the rate. And psi^2, the density of a
ground state, has half the variance of psi, the density of the kernel.

    python examples/paper_iteration.py [--out FOLDER] [--quick]
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from qdesampler import Hamiltonian
from qdesampler.equation import Schedule, expand, iterative_process
from qdesampler.solvers import anneal

DIM, TAU = 2, 0.02
LOOPS = {0: (0.02, 10.0, 0.01), 1: (0.2, 0.08, 0.002)}  # tau of a step, first and last D of each order
START = jnp.array([2.2, -1.7])


def zeta(x):
    """Rastrigin's function: a parabola with ripples, its minimum 0 at 0."""
    return jnp.sum(x**2 + 10 * (1 - jnp.cos(2 * jnp.pi * x)))


def follow(order, steps, walkers):
    """The lowest value seen so far, by one walker (median) and by all, after each step."""
    tau, first, last = LOOPS[order]
    diffusion = Schedule.geometric(first, last).table(steps)

    def one(key):
        return iterative_process(zeta, START, order=order, tau=tau, diffusion=diffusion, key=key).points

    points = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(order), walkers))
    lowest = jax.lax.cummin(jax.vmap(jax.vmap(zeta))(points), axis=1)
    return np.asarray(points), np.median(lowest, axis=0), np.min(lowest, axis=0)


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the figure")
    parser.add_argument("--quick", action="store_true", help="fewer walkers and steps")
    options = parser.parse_args()
    walkers, steps = (50, 400) if options.quick else (200, 2000)

    # What each order recovers, about a point on a slope and about the minimum.
    heat = expand(zeta, START, 0).step(START, TAU, 1.0)
    print(
        f"order 0: step of the mean {float(jnp.linalg.norm(heat.mean - START)):.4f}, "
        f"variance {float(heat.variances[0]):.4f}, heat kernel {2 * TAU:.4f}"
    )
    force = expand(zeta, START, 1).step(START, TAU, 1.0)
    descent = START - TAU**2 * jax.grad(zeta)(START)
    print(f"order 1: mean less gradient step {float(jnp.max(jnp.abs(force.mean - descent))):.1e}")
    bottom = jnp.zeros(DIM)
    curvature = float(jax.hessian(zeta)(bottom)[0, 0])
    harmonic = expand(zeta, bottom, 2).step(bottom + 0.1, 5.0, 1.0)
    print(
        f"order 2: mean after a long time {float(harmonic.mean[0]):.5f}, "
        f"variance {float(harmonic.variances[0]):.5f}, harmonic state {np.sqrt(2 / curvature):.5f}"
    )

    # The two loops: D falls; each step is one of the inner loop.
    runs = {order: follow(order, steps, walkers) for order in (0, 1)}
    for order, (_, median, best) in runs.items():
        print(f"order {order}, D lowered: lowest of a walker {median[-1]:.3f}, of {walkers} {best[-1]:.4f}")
    hamiltonian = Hamiltonian.from_objective(zeta, dim=DIM)
    packet = anneal(
        hamiltonian,
        Schedule.geometric(100.0, 0.001),
        key=jax.random.key(1),
        centre=START,
        width=2.5,
        num_steps=steps,
    )
    print(f"packet, D lowered: {packet.value:.6f} after {packet.evaluations} evaluations")

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    path, values, spread = figure.subplots(1, 3)
    line = np.linspace(-3, 3, 200)
    mesh = jnp.stack(jnp.meshgrid(line, line), -1)
    path.contourf(line, line, jax.vmap(jax.vmap(zeta))(mesh), 12, cmap="Greys", alpha=0.7)
    for order, (points, _, _) in runs.items():
        path.plot(*points[0].T, lw=0.7, color=f"C{order}", label=f"order {order}, one walker")
    path.plot(*np.asarray(packet.path.mean).T, color="C3", lw=2, label="packet, its mean")
    path.set(title="Paths", xlim=(-3, 3), ylim=(-3, 3))
    path.legend(loc="upper left", fontsize=8)
    for order, (_, median, best) in runs.items():
        values.semilogy(median, color=f"C{order}", label=f"order {order}: one walker (median)")
        values.semilogy(best, color=f"C{order}", ls=":", label=f"best of {walkers}")
    values.set(xlabel="step", ylabel="lowest objective so far", title="Walkers")
    values.legend(frameon=False, fontsize=8)
    diffusion = np.asarray(packet.path.diffusion)
    spread.loglog(diffusion, np.sqrt(np.asarray(packet.path.variance).mean(1)), label="packet")
    spread.loglog(diffusion, np.sqrt(np.sqrt(diffusion / (2 * curvature))), "k:", label="harmonic state")
    spread.invert_xaxis()
    spread.set(xlabel="D, lowered", ylabel="width of $\\psi^2$", title="The packet")
    spread.legend(frameon=False)
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / "paper_iteration.png", dpi=120)


if __name__ == "__main__":
    main()
