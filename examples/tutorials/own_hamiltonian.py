"""Ground states of your own Hamiltonian; cells begin with `# %%`.

python examples/tutorials/own_hamiltonian.py [--quick]
"""

# %% [markdown]
# # Ground states of your own Hamiltonian
#
# Write the potential for one point, shape `(dim,)`. The package finds the lowest state of
# $H = -D\nabla^2 + V$, and gives its energy with an error, its density, its drift, and exact draws.

# %%
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler import GaussianTrial, Hamiltonian, SpectralGrid, Walkers, ground_state
from qdesampler.plots import plot_ground_state

QUICK = "--quick" in sys.argv
OUT = Path("figures")

# %% [markdown]
# The example is a tilted double well. `diffusion` is $\hbar^2/2m$; the usual units of textbooks have the
# value 1/2.


# %%
def potential(x):
    return (x[0] ** 2 - 2) ** 2 / 2 + 0.3 * x[0]


hamiltonian = Hamiltonian.from_objective(potential, dim=1, diffusion=0.5)

# %% [markdown]
# **On a grid**, in up to three dimensions. The error is estimated from a refined grid, from the mass at the
# walls and from rounding.

# %%
gs = ground_state(hamiltonian, SpectralGrid(bounds=(-5.0, 5.0), points=128, states=4))
print(f"energy {gs.energy:.6f} +- {gs.energy_error:.0e}, gap {gs.gap:.4f}")
print("levels", np.asarray(gs.levels).round(4))
OUT.mkdir(exist_ok=True)
plot_ground_state(gs, hamiltonian).savefig(OUT / "own_hamiltonian.png")

# %% [markdown]
# **By a Gaussian trial state**, in any dimension. Its energy is an upper bound. Here the bound is poor,
# because the state extends over two wells. `energy_error` says how far it may be off.

# %%
trial = ground_state(hamiltonian, GaussianTrial(), key=jax.random.key(0))
print(f"Gaussian: energy {trial.energy:.4f}, within {trial.energy_error:.2f} of some level")

# %% [markdown]
# **By walkers**, in any dimension: this is diffusion Monte Carlo, guided by a trial state, with an error
# bar. If you give several time steps, the energy is extrapolated to the time step 0.


# %%
def log_trial(x):
    """Two Gaussians, up to a constant: wrong, and good enough to guide."""
    return jnp.logaddexp(-((x[0] - 1.3) ** 2), -((x[0] + 1.3) ** 2))


walkers = Walkers(
    trial=log_trial,
    time_step=0.05 if QUICK else (0.08, 0.04, 0.02),
    num_walkers=256 if QUICK else 1024,
    num_steps=2000 if QUICK else 6000,
    forward_time=10.0,
    start=np.zeros(1),
)
found = ground_state(hamiltonian, walkers, key=jax.random.key(1))
print(f"walkers: energy {found.energy:.4f} +- {found.energy_error:.4f}")

# %% [markdown]
# Each result is a `GroundState`. It has a density, the drift that leaves this density invariant, and exact
# draws. It can be a target for `QDE(ground_state=gs)`, and, by `GroundStateDistribution`, a prior in a
# NumPyro model.

# %%
draws = gs.sample(jax.random.key(2), (4000,))
print(f"mean of x {float(jnp.mean(draws)):.3f}, left of 0 {float(jnp.mean(draws < 0)):.1%}")
print(
    f"at 0: log density {float(gs.log_prob(jnp.zeros(1))):.3f}, drift {float(gs.drift(jnp.zeros(1))[0]):.3f}"
)
