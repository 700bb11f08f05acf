"""The ground state of a double well: energy, gap, drift, exact draws, and the same state sampled by QDE.

The objective itself is the potential, so the density psi^2 of the state is not exp(-zeta). It has mass on the
barrier too, and more of it for a larger diffusion D. A smaller D concentrates it in the wells and makes the
gap smaller.

    python examples/ground_state.py
"""

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import MCMC

from qdesampler import QDE, Hamiltonian, SpectralGrid, ground_state


def double_well(x):
    """Minima at -1 and 1, a barrier of height 1 between them."""
    return (x[0] ** 2 - 1.0) ** 2


def main():
    for diffusion in (1.0, 0.3, 0.1):
        hamiltonian = Hamiltonian.from_objective(double_well, dim=1, diffusion=diffusion)
        gs = ground_state(hamiltonian, SpectralGrid(bounds=(-4.0, 4.0), points=256))
        barrier = jnp.exp(gs.log_prob(jnp.array([0.0])) - gs.log_prob(jnp.array([1.0])))
        print(
            f"D = {diffusion}: energy {gs.energy:.6f} +- {gs.energy_error:.0e}, gap {gs.gap:.6f}, "
            f"drift at 0.5 {gs.drift(jnp.array([0.5]))[0]:+.3f}, density at 0 over density at 1 {barrier:.3f}"
        )

    exact = gs.sample(jax.random.key(0), (4000,))[:, 0]
    mcmc = MCMC(
        QDE(ground_state=gs),
        num_warmup=500,
        num_samples=1000,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(1))
    draws = mcmc.get_samples()["x"][:, 0]
    for name, x in (("exact draws", exact), ("QDE draws", draws)):
        x = np.asarray(x)
        print(f"{name}: mean of |x| {np.abs(x).mean():.3f}, of x^2 {(x**2).mean():.3f}")


if __name__ == "__main__":
    main()
