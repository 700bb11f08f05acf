"""The kernels without NumPyro: BlackJAX's loop, and a PyMC model; cells begin with `# %%`.

python examples/tutorials/kernels_elsewhere.py [--quick]
"""

# %% [markdown]
# # The kernels from BlackJAX and from a PyMC model
#
# The kernels are also plain functions, `init(position, key) -> state` and
# `step(key, state) -> (state, info)`. They take positions that are pytrees, and any log density that JAX
# can differentiate. This is the form of BlackJAX's algorithms.

# %%
import sys
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import MCMC

from qdesampler import QDE
from qdesampler.kernels.mcmc.trajectory import trajectory

QUICK = "--quick" in sys.argv
DRAWS = 300 if QUICK else 2000


def log_density(position):
    """A correlated normal law of mean (1, -1), variances 1 and correlation 0.8."""
    x, y = position["x"] - 1, position["y"] + 1
    return -(x**2 - 1.6 * x * y + y**2) / (2 * (1 - 0.8**2))


kernel = trajectory(log_density, step_size=0.5, length=2.0)
start = {"x": jnp.array(0.0), "y": jnp.array(0.0)}

# %% [markdown]
# First, they run in a loop of your own:


# %%
@jax.jit
def run(key):
    def one(state, key):
        state, info = kernel.step(key, state)
        return state, (state.position, info.accept_prob, info.num_evals)

    return jax.lax.scan(one, kernel.init(start), jax.random.split(key, DRAWS))[1]


def describe(name, draws):
    x, y = (np.asarray(draws[site])[DRAWS // 10 :] for site in ("x", "y"))
    print(f"{name}: means {x.mean():.2f} {y.mean():.2f}, correlation {np.corrcoef(x, y)[0, 1]:.2f}")


draws, accepted, evaluations = run(jax.random.key(0))
describe("lax.scan", draws)
print(f"accepted {float(accepted.mean()):.2f}, {int(evaluations.sum())} evaluations")

# %% [markdown]
# Second, they run in BlackJAX's loop, in the place of one of its algorithms. This cell runs where BlackJAX
# is installed.

# %%
if find_spec("blackjax"):
    from blackjax.util import run_inference_algorithm  # pyright: ignore[reportMissingImports]

    _, draws = run_inference_algorithm(
        rng_key=jax.random.key(1),
        inference_algorithm=kernel,  # pyright: ignore[reportArgumentType]
        num_steps=DRAWS,
        initial_position=start,
        transform=lambda state, info: state.position,
    )
    describe("BlackJAX", draws)

# %% [markdown]
# ## A PyMC model
#
# PyMC compiles the log density of a model for JAX (`pymc.sampling.jax.get_jaxified_logp`). Its arguments
# are the unconstrained values of the free variables. The log density of any other library is used in the
# same way: `QDE` needs a potential over a pytree, and a start.


# %%
def sample(log_density, position):
    """Draws from any log density of JAX; `position` is one start, any pytree."""
    mcmc = MCMC(
        QDE(potential_fn=lambda z: -log_density(z)),
        num_warmup=150 if QUICK else 500,
        num_samples=DRAWS,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    noise = jax.random.normal(jax.random.key(2), (4,))
    starts = jax.tree.map(lambda leaf: leaf + noise.reshape(4, *[1] * jnp.ndim(leaf)), position)
    mcmc.run(jax.random.key(3), init_params=starts, extra_fields=("warmup_evals",))
    return mcmc


# %% [markdown]
# This cell runs where PyMC is installed (importing its JAX backend switches JAX to float64). Eight
# schools, whose mean effect is known to be 4.4.

# %%
if find_spec("pymc"):
    import pymc
    from pymc.sampling.jax import get_jaxified_logp

    with pymc.Model() as schools:
        mu = pymc.Normal("mu", 0, 5)
        tau = pymc.HalfCauchy("tau", 5)
        offset = pymc.Normal("offset", 0, 1, shape=8)
        pymc.Normal(
            "y",
            mu + tau * offset,
            np.array([15, 10, 16, 11, 9, 11, 10, 18]),
            observed=np.array([28, 8, -3, 7, -1, 1, 18, 12]),
        )

    names = [variable.name for variable in schools.value_vars]
    first = schools.initial_point()
    mcmc = sample(get_jaxified_logp(schools), [jnp.asarray(first[name]) for name in names])
    z = dict(zip(names, mcmc.get_samples(), strict=True))
    mean_mu, mean_tau = float(z["mu"].mean()), float(jnp.exp(z["tau_log__"]).mean())
    print(f"PyMC's eight schools: mu {mean_mu:.2f}, tau {mean_tau:.2f}")
    print(f"{int(mcmc.get_extra_fields()['num_evals'].sum())} evaluations for {4 * DRAWS} draws")
