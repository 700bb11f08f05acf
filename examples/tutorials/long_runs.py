"""Long runs: checkpoints, early ends, more chains than memory; cells begin with `# %%`.

python examples/tutorials/long_runs.py [--quick]
"""

# %% [markdown]
# # Long runs with checkpoints
#
# `qdesampler.MCMC` takes the place of `numpyro.infer.MCMC`, for any kernel. It compiles once, keeps the
# draws on the host, and can write checkpoints to a folder. Here NUTS samples eight schools.

# %%
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import NUTS

from qdesampler import MCMC

QUICK = "--quick" in sys.argv
DRAWS = 300 if QUICK else 3000
EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def schools(effects, errors):
    mean = numpyro.sample("mean", dist.Normal(0, 5))
    spread = numpyro.sample("spread", dist.HalfCauchy(5))
    with numpyro.plate("school", 8):
        offset = numpyro.sample("offset", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mean + spread * offset, errors), obs=effects)


# %% [markdown]
# This run ends in the middle. Here a callback ends it; it could be a crash, a power cut or the end of a
# job's time. Every 100 iterations, in the warm-up too, the new draws and the state are written to the
# folder.

# %%
folder = Path(tempfile.mkdtemp()) / "schools.ckpt"
settings = {"num_warmup": 200, "num_samples": DRAWS, "num_chains": 4, "progress_bar": False}
stopped = MCMC(
    NUTS(schools),
    **settings,
    checkpoint=folder,
    every=100,
    callbacks=[lambda progress: progress.draws >= 100],
)
stopped.run(jax.random.key(0), EFFECTS, ERRORS)
print(f"ended by {stopped.report.ended_by} before all {DRAWS} draws: {stopped.report.draws < DRAWS}")

# %% [markdown]
# The run is resumed in another object; it could be another process. Its draws are bit for bit those of a
# run without an interruption.

# %%
resumed = MCMC(NUTS(schools), **settings)
resumed.resume(folder, EFFECTS, ERRORS)
whole = MCMC(NUTS(schools), **settings)
whole.run(jax.random.key(0), EFFECTS, ERRORS)
same = np.array_equal(resumed.get_samples()["mean"], whole.get_samples()["mean"])
print(f"{resumed.report.draws} draws, the same as without a break: {same}")

# %% [markdown]
# This run ends when every parameter has enough effective draws. The check is made a few times, at numbers
# of draws that are fixed beforehand. `num_samples` is the largest number of draws.

# %%
enough = MCMC(
    NUTS(schools),
    num_warmup=200,
    num_samples=20_000,
    num_chains=4,
    progress_bar=False,
    until={"ess": 400, "rhat": 1.02},
)
enough.run(jax.random.key(1), EFFECTS, ERRORS)
check = enough.report.check
assert check is not None  # the run ended by a check
print(
    f"ended by {enough.report.ended_by} at {check.draws} draws: ESS {check.ess:.0f}, R-hat {check.rhat:.3f}"
)

# %% [markdown]
# More arguments serve long runs. With `jit_model_args=True` new data of the same shape need no compilation.
# `chain_batch=512` runs many chains in batches, and `devices=4` distributes chains over devices.
# `store="draws.zarr"` writes the draws to a zarr store, so that memory holds one or two chunks only;
# `xarray.open_datatree(..., engine="zarr", consolidated=False)` reads it as a tree for ArviZ, and
# `to_netcdf("draws.nc", engine="h5netcdf")` of this tree writes a netCDF file. Ctrl-C ends a run and keeps
# its draws.
