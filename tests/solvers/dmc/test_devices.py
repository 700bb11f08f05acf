"""Walkers spread over devices: a process with two host devices, and the same answer as on one."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, jax, jax.numpy as jnp
from qdesampler.equation import Hamiltonian
from qdesampler.solvers import Walkers, ground_state


quartic = Hamiltonian.from_objective(lambda x: jnp.sum(x**4), dim=2)
for policy in ("reconfiguration", "branching"):
    for devices in (None, jax.devices()):
        solver = Walkers(trial=lambda x: -0.6 * jnp.sum(x**2), time_step=0.03, num_walkers=512, num_steps=400,
                         population=policy, devices=devices)
        state = ground_state(quartic, solver, key=jax.random.key(0))
        draws = state.sample(jax.random.key(1), (100,))
        print(json.dumps([float(state.energy), float(jnp.sum(draws)), float(state.energy_error)]))
"""


@pytest.mark.slow
def test_the_answer_does_not_depend_on_the_number_of_devices():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one, two, one_branching, two_branching = map(json.loads, done.stdout.splitlines())
    assert one[2] < 0.05
    assert one == two  # bit for bit, on the CPU
    assert one_branching == two_branching
    assert one != one_branching
