"""What a cold run of AnnealedQDE compiles, counted: fused kernels, which cost the same on every machine."""

import json
import subprocess
import sys

CHILD = """
import json
import jax, jax.numpy as jnp
from jax._src import compiler
from qdesampler import MCMC, AnnealedQDE
fusions = []
compile_before = compiler.backend_compile_and_load
def counted(*args, **kwargs):
    executable = compile_before(*args, **kwargs)
    fusions.append(sum(module.to_string().count(" fusion(") for module in executable.hlo_modules()))
    return executable
compiler.backend_compile_and_load = counted
def potential(x):
    return x[0] ** 4 - 6 * x[0] ** 2 - x[0] / 2 + x[1] ** 2 / 2
kernel = AnnealedQDE(potential_fn=potential, reference=3.0)
settings = {"num_warmup": 300, "num_samples": 1000, "num_chains": 4, "chain_method": "vectorized"}
mcmc = MCMC(kernel, progress_bar=False, **settings)
mcmc.run(jax.random.key(0), init_params=jnp.ones((4, 2)))
print(json.dumps([len(fusions), sum(fusions)]))
"""


def test_a_cold_run_on_the_double_well_compiles_little():
    """With the search in JAX there were more than 4,000 fused kernels."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        env={"JAX_ENABLE_COMPILATION_CACHE": "false", "PATH": "", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    programs, fusions = json.loads(done.stdout.splitlines()[-1])
    assert 0 < fusions <= 400
    assert programs <= 90
