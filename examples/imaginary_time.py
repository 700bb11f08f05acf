"""Imaginary time step by step: a start in the wrong place decays to the ground state.

The Hamiltonian is that of the quartic oscillator, H = -d^2/dx^2 + x^4, with the known ground energy
1.0603620905. The start is a Gaussian in the wrong place. At first the energy falls fast. The distance to the
ground state decays as exp(-gap tau) in the end, so that its rate, printed in the last column, tends to the
gap.

    python examples/imaginary_time.py
"""

import jax.numpy as jnp
import numpy as np

from qdesampler import Hamiltonian, SpectralGrid, ground_state
from qdesampler.solvers import propagate

KNOWN_ENERGY = 1.0603620905


def main():
    hamiltonian = Hamiltonian.from_objective(lambda x: x[0] ** 4, dim=1, diffusion=1.0)
    grid = SpectralGrid(bounds=(-5.0, 5.0), points=192)
    path = propagate(
        hamiltonian, grid, lambda x: jnp.exp(-((x[0] - 1.0) ** 2)), time_step=0.005, num_steps=400
    )

    time, energy, distance = (np.asarray(seen) for seen in (path.time, path.energy, path.distance))
    print("   tau       energy   distance   decay rate")
    for i in range(0, len(time), 50):
        rate = "" if i == 0 else f"{np.log(distance[i - 50] / distance[i]) / (time[i] - time[i - 50]):12.4f}"
        print(f"{time[i]:6.2f} {energy[i]:12.7f} {distance[i]:10.2e} {rate}")

    gs = ground_state(hamiltonian, grid)
    print(f"eigensolver: energy {gs.energy:.7f} +- {gs.energy_error:.0e}, gap {gs.gap:.4f}")
    print(f"known: energy {KNOWN_ENERGY:.7f}")


if __name__ == "__main__":
    main()
