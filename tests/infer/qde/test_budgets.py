"""What QDE compiles, counted: fused kernels and programs, which cost the same on every machine."""

import json
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from qdesampler.infer.qde.kernel import QDE

EFFECT = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
ERROR = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])


def eight_schools(error, effect):
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
    scale = numpyro.sample("scale", dist.HalfCauchy(5.0))
    noise = numpyro.sample("noise", dist.Normal(0.0, 1.0).expand([8]).to_event(1))
    numpyro.sample("y", dist.Normal(mean + scale * noise, error), obs=effect)


def regression(error, effect):
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 5.0).expand([7]).to_event(1))
    log_noise = numpyro.sample("log_noise", dist.Normal(0.0, 1.0))
    fit = mean + slope[:4].sum() * error + slope[4:].sum() * error**2
    numpyro.sample("y", dist.Normal(fit, jnp.exp(log_noise)), obs=effect)


@pytest.mark.parametrize(("model", "most", "in_map"), [(regression, 150, False), (eight_schools, 225, True)])
def test_the_loop_around_the_transition_has_few_fused_kernels(optimised, model, most, in_map):
    """With the adaptation in the loop there were 654 fused kernels; NUTS's loop of eight schools has 289."""
    kernel = QDE(model)
    state: Any = kernel.init(jax.random.split(jax.random.key(0), 4), 100, None, (ERROR, EFFECT), {})
    assert (state.adapt_state.shared.law is not None) is in_map

    def loop(state):
        return jax.lax.fori_loop(0, 10, lambda _, s: kernel.sample(s, (ERROR, EFFECT), {}), state)

    program = jax.jit(loop).lower(state).compile()
    assert program.as_text().count(" fusion(") <= most


CHILD = """
import json, os, sys
import jax, numpy as np
sys.path.insert(0, {folder!r})
from test_budgets import EFFECT, ERROR, eight_schools
from jax._src import compiler
from qdesampler import MCMC, QDE
fusions = []
compile_before = compiler.backend_compile_and_load
def counted(*args, **kwargs):
    executable = compile_before(*args, **kwargs)
    fusions.append(sum(module.to_string().count(" fusion(") for module in executable.hlo_modules()))
    return executable
compiler.backend_compile_and_load = counted
mcmc = MCMC(QDE(eight_schools), num_warmup=1000, num_samples=1000, num_chains=4, progress_bar=False)
mcmc.run(jax.random.key(0), ERROR, EFFECT)
print(json.dumps([len(fusions), sum(fusions)]))
"""


def test_a_cold_run_of_our_driver_compiles_little():
    """Evaluations and constraints only: the solve and the draws are made on the host."""
    folder = str(__file__).rsplit("/", 1)[0]
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(folder=folder)],
        env={"JAX_ENABLE_COMPILATION_CACHE": "false", "PATH": "", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    programs, fusions = json.loads(done.stdout.splitlines()[-1])
    assert 0 < fusions <= 120
    assert programs <= 40
