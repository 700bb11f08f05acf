"""Annealing: an objective with a million minima is minimised by following its ground state.

The inner loop evolves a wave packet in imaginary time at fixed D. The outer loop lowers D. While D is large,
the packet averages the objective over its width, and this average has one minimum. As D falls, the packet
settles in the lowest well. A descent from the same start ends in the nearest of 5^10 minima.

    python examples/annealing.py
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from qdesampler import Hamiltonian
from qdesampler.equation import Schedule
from qdesampler.solvers import anneal

DIM = 10


def rastrigin(x):
    """A parabola with ripples; the global minimum is 0, at 0."""
    return jnp.sum(x**2 + 10 * (1 - jnp.cos(2 * jnp.pi * x)))


def main():
    hamiltonian = Hamiltonian.from_objective(rastrigin, dim=DIM)
    start = jax.random.uniform(jax.random.key(0), (DIM,), minval=-2.5, maxval=2.5)
    descent = minimize(jax.value_and_grad(rastrigin), start, jac=True, method="L-BFGS-B")
    print(f"descent from the start: {descent.fun:.3f}")
    found = anneal(
        hamiltonian,
        Schedule.geometric(100.0, 0.001),
        key=jax.random.key(1),
        centre=start,
        width=2.5,
        num_steps=500,
    )
    path = found.path
    for fraction in (0.0, 0.25, 0.5, 0.75, 1.0):
        step = round(fraction * (len(path.diffusion) - 1))
        spread = float(np.sqrt(np.mean(np.asarray(path.variance[step]))))
        print(f"D = {path.diffusion[step]:9.4f}: width {spread:.3f}, energy {path.energy[step]:10.3f}")
    print(f"annealed: {found.value:.6f} after {found.evaluations} evaluations")


if __name__ == "__main__":
    main()
