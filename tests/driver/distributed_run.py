"""One process of a run over several; a script that the tests start: see `test_driver_processes.py`."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import NUTS

from qdesampler import MCMC, QDE, AnnealedQDE


def model(y):
    mean = numpyro.sample("mean", dist.Normal(0, 3))
    width = numpyro.sample("width", dist.HalfNormal(2))
    numpyro.sample("y", dist.Normal(mean, width), obs=y)


def annealed(model):
    return AnnealedQDE(model, num_particles=64)


def main(index, processes, port, kernel, act, draws, folder):
    batches, chains = (2, 8) if act.startswith("batches") else (1, 4)
    if act == "plain":  # vectorized chains on the one device of one process
        assert processes == "1"
    else:
        jax.config.update("jax_num_cpu_devices", 4 // int(processes))
    if processes != "1":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            f"127.0.0.1:{port}", int(processes), int(index), heartbeat_timeout_seconds=25
        )
    folder = Path(folder)
    checkpoint = folder / f"{kernel}.ckpt"
    mcmc = MCMC(
        {"NUTS": NUTS, "QDE": QDE, "AnnealedQDE": annealed}[kernel](model),
        num_warmup=60,
        num_samples=int(draws),
        num_chains=chains,
        chain_batch=4 if batches > 1 else None,
        progress_bar=False,
        devices=None if act == "plain" else "all",
        checkpoint=checkpoint if act.endswith("checkpointed") else None,
        every=50,
        callbacks=[lambda p: print(p.iteration, p.draws, flush=True)],
        until={"ess": 60} if act == "until" else None,
    )
    y = jnp.array([0.3, 1.2, -0.4, 0.8])
    mcmc.resume(checkpoint, y) if act.endswith("resume") else mcmc.run(jax.random.key(0), y)
    own = mcmc.get_samples(group_by_chain=True)["mean"]
    assert own.shape[0] == chains // int(processes)
    every = mcmc.gathered()
    drawn = every.get_samples(group_by_chain=True)["mean"]
    of_each = drawn.reshape(batches, int(processes), -1, *drawn.shape[1:])  # of each batch each has a share
    assert np.array_equal(of_each[:, int(index)].reshape(own.shape), own)
    assert np.array_equal(every.last_state.z["mean"], drawn[:, -1])
    print(f"ended by {mcmc.report.ended_by}, {mcmc.report.evaluations} evaluations, {mcmc.report.check}")
    if index == "0":
        np.save(folder / f"{kernel}-{act}-{processes}.npy", drawn)


if __name__ == "__main__":
    main(*sys.argv[1:])
