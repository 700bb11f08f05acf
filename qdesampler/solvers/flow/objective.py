r"""Training a flow on the energy of an objective: the variational principle with reparametrised draws.

    E[q] = E_q[ (D/4) |grad log q|^2 + zeta ],        x = T(u),   u ~ N(0, I),

is an upper bound of `E_0` for every normalised `psi = sqrt(q)`, and its gradient passes through the draws.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.solvers.flow.boltzmann import FlowSettings
from qdesampler.solvers.flow.training import minimise
from qdesampler.solvers.flow.wavefunction import FlowWavefunction
from qdesampler.solvers.protocol import NoGroundStateError

__all__ = ["solve_objective"]

_HELD_OUT = 512  # held-out draws that compare the rounds
_CERTIFIED = 2048  # draws that the final numbers are estimated from
_SETTLED = 0.5  # standard errors of a paired difference that a round must gain to continue
_PATIENCE = 2  # rounds without gain after which training ends


def _energy_density(hamiltonian: Hamiltonian, psi: FlowWavefunction, u: jax.Array) -> jax.Array:
    x = psi.push(u)[0]
    slope = jax.grad(psi.log_psi)(x)
    return hamiltonian.diffusion * slope @ slope + hamiltonian.function(x)


def _loss(numbers: Any, key: jax.Array, psi: FlowWavefunction, hamiltonian: Hamiltonian, blank: jax.Array):
    flow = dataclasses.replace(psi, numbers=numbers)
    half = jax.random.normal(key, blank.shape, blank.dtype)
    nodes = jnp.concatenate([half, -half])
    return jnp.mean(jax.vmap(lambda u: _energy_density(hamiltonian, flow, u))(nodes))


@jax.jit
def _densities(hamiltonian: Hamiltonian, psi: FlowWavefunction, nodes: jax.Array) -> jax.Array:
    return jax.vmap(lambda u: _energy_density(hamiltonian, psi, u))(nodes)


@functools.partial(jax.jit, static_argnames=("count",))
def _local_energies(hamiltonian: Hamiltonian, psi: FlowWavefunction, key: jax.Array, count: int) -> jax.Array:
    """`E_L` at fresh draws, shape `(count,)`; in batches, since each Laplacian takes `dim` passes at once."""
    draws = jax.vmap(psi.sample)(jax.random.split(key, count))
    return jax.lax.map(lambda x: hamiltonian.local_energy(psi.log_psi, x), draws, batch_size=128)


def solve_objective(
    hamiltonian: Hamiltonian, key: jax.Array, psi: FlowWavefunction, settings: FlowSettings
) -> tuple[FlowWavefunction, dict[str, Any]]:
    """The flow of least energy on held-out draws, and its energy, error and diagnostics.

    Raises:
        NoGroundStateError: the energy of the start is not finite.
    """
    key_held_out, key_last, key_fit = jax.random.split(key, 3)
    dtype = psi.gaussian.centre.dtype
    held_out = jax.random.normal(key_held_out, (_HELD_OUT, psi.dim), dtype)
    blank = jnp.zeros((-(-settings.batch // 2), psi.dim), dtype)
    steps = max(1, settings.evaluations // (2 * blank.shape[0] * settings.rounds))
    lowest = _densities(hamiltonian, psi, held_out)
    evaluations, best, idle, converged = _HELD_OUT, psi, 0, False
    if not bool(jnp.isfinite(jnp.mean(lowest))):
        raise NoGroundStateError(
            f"the objective is not finite at all of {_HELD_OUT} draws of the Gaussian that the flow starts "
            "from; check zeta for NaN, or give another start."
        )
    history = [(evaluations, float(jnp.mean(lowest)))]
    rounds = 0
    for i in range(settings.rounds):
        numbers, _ = minimise(
            _loss,
            psi.numbers,
            jax.random.fold_in(key_fit, i),
            steps,
            settings.rate / (1 + i),
            psi,
            hamiltonian,
            blank,
        )
        psi = dataclasses.replace(psi, numbers=numbers)
        local = _densities(hamiltonian, psi, held_out)
        evaluations += steps * 2 * blank.shape[0] + _HELD_OUT
        rounds += 1
        history.append((evaluations, float(jnp.mean(local))))
        gain = lowest - local
        error = jnp.std(gain) / jnp.sqrt(_HELD_OUT)
        idle = 0 if bool(jnp.mean(gain) > _SETTLED * error) else idle + 1
        if bool(jnp.mean(gain) > 0):
            best, lowest = psi, local
        if idle >= _PATIENCE:
            converged = True
            break
    local = _local_energies(hamiltonian, best, key_last, _CERTIFIED)
    spread = jnp.std(local)
    rounding = 32 * float(jnp.finfo(dtype).eps)
    return best, {
        "energy": jnp.mean(local),
        "energy_spread": spread,
        "energy_error": spread * (1 + _CERTIFIED**-0.5) + rounding * jnp.abs(jnp.mean(local)),
        "energy_standard_error": spread / _CERTIFIED**0.5,
        "evaluations": evaluations + _CERTIFIED,
        "rounds": rounds,
        "converged": converged,
        "history": {
            "evaluations": jnp.asarray([spent for spent, _ in history]),
            "held_out_energy": jnp.asarray([energy for _, energy in history]),
        },
    }
