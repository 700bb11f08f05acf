"""Chains on two devices: the draws of chains one after another; a host's annealer is refused in words."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import jax, numpy as np, numpyro, numpyro.distributions as dist
from numpyro.infer import MCMC
from qdesampler.backends import TreeDecomposition
from qdesampler.infer import AnnealerGibbs
assert jax.local_device_count() == 2

def model():
    z = numpyro.sample("z", dist.Bernoulli(0.5).expand([5]).to_event(1))
    numpyro.factor("odd", 2.0 * z[0] * z[1] * z[2] - z[3] * z[4])

def run(method, **options):
    kernel = AnnealerGibbs(model, pool_size=20, **options)
    mcmc = MCMC(kernel, num_warmup=0, num_samples=30, num_chains=2, chain_method=method, progress_bar=False)
    assert mcmc.chain_method == method
    mcmc.run(jax.random.key(0), extra_fields=("num_evals",))
    return mcmc.get_samples(group_by_chain=True)["z"], mcmc.get_extra_fields(group_by_chain=True)["num_evals"]

# what one device learns while it is traced has no test for a quadratic: a surrogate is named for both
parallel, sequential = (run(method, surrogate="finite_differences") for method in ("parallel", "sequential"))
for ours, theirs in zip(parallel, sequential):
    assert ours.shape[:2] == (2, 30)
    np.testing.assert_array_equal(ours, theirs)
draws = np.asarray(parallel[0])
assert not np.array_equal(draws[0], draws[1])  # the twin: one key for both chains
try:
    run("parallel", backend=TreeDecomposition())
except TypeError as error:
    assert "chain_method='parallel'" in str(error) and "pool=" in str(error), error
else:
    raise AssertionError("a host's annealer inside a traced start")
"""


@pytest.mark.slow
def test_parallel_chains_equal_sequential_ones():
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
