r"""State vectors of a few spins in a transverse field: real and imaginary time.

    H = E(Z) - Gamma sum_i X_i

on `2^n` amplitudes, in the order of `all_bits`. Real time goes by symmetric splitting,

    U = prod_k e^{-i a_k E / 2} e^{-i b_k sum X} e^{-i a_k E / 2}.

Each factor is a symmetric matrix. If the drive reads the same backwards, so does the product, hence `U = U'`
for any number of steps: the splitting is inexact as physics and exact as a symmetric proposal. Imaginary time
goes by Krylov steps, `e^{-delta H} psi` in the span of `psi, H psi, H^2 psi, ...`.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

__all__ = ["evolve_real_time", "relax_imaginary_time", "transverse_action"]

_KRYLOV = 24  # vectors in the Krylov space of one step


def _num_spins(size: int) -> int:
    return size.bit_length() - 1


def _flipped(psi: jax.Array, spin: int) -> jax.Array:
    """`X_spin psi`."""
    return jnp.flip(psi.reshape(2**spin, 2, -1), 1).reshape(psi.shape)


def transverse_action(psi: jax.Array) -> jax.Array:
    """Return `sum_i X_i psi`, shape `(2^n,)`."""
    return sum((_flipped(psi, spin) for spin in range(_num_spins(psi.size))), jnp.zeros_like(psi))


def evolve_real_time(psi: jax.Array, energies: jax.Array, phases: jax.Array, angles: jax.Array) -> jax.Array:
    """Return `U psi` for a drive of `T` steps.

    Args:
        psi: amplitudes, complex, shape `(2^n,)`.
        energies: `E` of all states, shape `(2^n,)`.
        phases: `a_k`, shape `(T,)`: energy scale times time step.
        angles: `b_k`, shape `(T,)`: transverse field times time step.
    """

    def step(psi, now):
        phase, angle = now
        half = jnp.exp(-0.5j * phase * energies)
        psi = half * psi
        for spin in range(_num_spins(psi.size)):
            psi = jnp.cos(angle) * psi - 1j * jnp.sin(angle) * _flipped(psi, spin)
        return half * psi, None

    return jax.lax.scan(step, psi, (phases, angles))[0]


def relax_imaginary_time(
    energies: jax.Array, transverse_field: jax.Array, max_steps: int, tolerance: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Follow `d psi / d tau = -H psi` from the uniform state until it is stationary.

    By Perron and Frobenius the ground state has no node, so the uniform state overlaps with it.

    Returns:
        The energy `<psi|H|psi>`, the amplitudes (non-negative, of norm one), the residual
        `|H psi - energy psi|`, and the imaginary time that passed.
    """
    size, dtype = energies.size, energies.dtype
    width = min(_KRYLOV, size)

    def action(psi):
        return energies * psi - transverse_field * transverse_action(psi)

    def measure(psi):
        moved = action(psi)
        energy = psi @ moved
        return energy, jnp.linalg.norm(moved - energy * psi)

    def krylov_step(psi):
        def extend(k, carry):
            basis, alpha, beta = carry
            vector = action(basis[k])
            alpha = alpha.at[k].set(basis[k] @ vector)
            for _ in range(2):  # twice is enough to keep the basis orthogonal
                vector = vector - basis.T @ (basis @ vector)
            length = jnp.linalg.norm(vector)
            kept = length > 100 * jnp.finfo(dtype).eps * scale
            beta = beta.at[k].set(jnp.where(kept, length, 0.0))
            vector = jnp.where(kept, vector / jnp.where(kept, length, 1.0), 0.0)
            return basis.at[k + 1].set(vector), alpha, beta

        basis = jnp.zeros((width + 1, size), dtype).at[0].set(psi)
        basis, alpha, beta = jax.lax.fori_loop(
            0, width, extend, (basis, jnp.zeros(width, dtype), jnp.zeros(width, dtype))
        )
        # Past the end of an invariant subspace the basis is zero: those levels are moved above all others.
        alpha = jnp.where(jnp.any(basis[:width] != 0, 1), alpha, 10 * scale)
        levels, vectors = jnp.linalg.eigh(jnp.diag(alpha) + jnp.diag(beta[:-1], 1) + jnp.diag(beta[:-1], -1))
        delta = width**2 / (8 * jnp.maximum(levels[-1] - levels[0], jnp.finfo(dtype).tiny))
        weights = vectors @ (jnp.exp(-delta * (levels - levels[0])) * vectors[0])
        psi = jnp.maximum(weights @ basis[:width], 0.0)  # rounding may cross zero where psi is tiny
        return psi / jnp.linalg.norm(psi), delta

    scale = jnp.max(jnp.abs(energies)) + transverse_field * _num_spins(size)

    def unfinished(carry):
        _, _, residual, _, step = carry
        return (residual > tolerance * scale) & (step < max_steps)

    def relax(carry):
        psi, _, _, passed, step = carry
        psi, delta = krylov_step(psi)
        energy, residual = measure(psi)
        return psi, energy, residual, passed + delta, step + 1

    psi = jnp.full(size, size**-0.5, dtype)
    energy, residual = measure(psi)
    start = (psi, energy, residual, jnp.zeros((), dtype), 0)
    psi, energy, residual, passed, _ = jax.lax.while_loop(unfinished, relax, start)
    return energy, psi, residual, passed
