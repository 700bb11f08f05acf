"""The hydrogen atom by diffusion Monte Carlo: energy with its error, and draws from the squared ground state.

Thousands of walkers simulate exp(-H tau). They are guided by a trial state that is wrong on purpose:
exp(-0.9 r) instead of exp(-r), with the energy -0.495. The walkers find the energy -1/2. Their descendants
have the density psi0^2, whose mean radius is 3/2; that of the trial state is 5/3.

    python examples/hydrogen_by_walkers.py
"""

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.equation import Hamiltonian
from qdesampler.solvers import Walkers, ground_state


def coulomb(x):
    """Attraction of a proton at the origin; lengths in Bohr radii, energies in hartrees."""
    return -1 / jnp.linalg.norm(x)


def log_trial(x):
    """Logarithm of the trial state, up to a constant."""
    return -0.9 * jnp.linalg.norm(x)


def main():
    hydrogen = Hamiltonian.from_objective(coulomb, dim=3, diffusion=0.5)
    walkers = Walkers(
        trial=log_trial,
        time_step=(0.1, 0.05, 0.025),
        num_walkers=2048,
        num_steps=6000,
        start=np.ones(3),
        forward_time=12.0,
    )
    gs = ground_state(hydrogen, walkers, key=jax.random.key(0))
    found = gs.diagnostics
    for tau, energy, error in zip(
        found["time_steps"], found["energies"], found["energy_errors"], strict=True
    ):
        print(f"time step {tau:.3f}: {energy:.5f} +- {error:.5f}")
    print(f"extrapolated: energy {gs.energy:.5f} +- {gs.energy_error:.5f}, exact -0.5")
    draws = gs.sample(jax.random.key(1), (20000,))
    radius = float(jnp.mean(jnp.linalg.norm(draws, axis=1)))
    print(f"mean radius {radius:.3f}, exact 1.5, by {found['effective_draws']:.0f} effective draws")
    near, far = jnp.array([0.5, 0.0, 0.0]), jnp.array([2.5, 0.0, 0.0])
    ratio = float(jnp.exp(gs.log_psi(far) - gs.log_psi(near)))
    print(f"psi(2.5) over psi(0.5) {ratio:.4f}, exact {np.exp(-2):.4f}, the trial's {np.exp(-1.8):.4f}")


if __name__ == "__main__":
    main()
