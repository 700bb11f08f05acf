"""The bridge between densities and states: `p <-> psi0`, `U <-> V`, the drift and the trial energy.

Let `p = exp(-U)`, `psi0 = sqrt(p)` and `H = -D lap + V` with the Boltzmann potential

    V = D (|grad U|^2 / 4 - lap U / 2).

**The ground state is `psi0`, with energy 0.** With `a = grad log psi0 = -grad U / 2`, the first-order
operator `A = grad - a` and its adjoint `A* = -div - a .` satisfy

    A* A psi = -div(grad psi - a psi) - a . (grad psi - a psi) = -lap psi + (div a + |a|^2) psi,

and `D (div a + |a|^2) = D (-lap U / 2 + |grad U|^2 / 4) = V`. Hence `H = D A* A >= 0`, and `H psi = 0`
exactly where `A psi = 0`, that is `grad log psi = grad log psi0`: `psi` is a multiple of `psi0`.

**Imaginary time is the Fokker-Planck equation.** For `psi = q / psi0 = psi0 r` with `r = q / p`, one has
`A psi = psi0 grad r = p grad r / psi0 = w`, and `div w = div(p grad r) / psi0 - a . w`, so that
`A* w = -div(p grad r) / psi0`. Hence `d psi / d tau = -H psi` reads

    dq / dtau = D div(p grad(q / p)) = D div(grad q + q grad U),

the law of `dx = b dtau + sqrt(2 D) dW` with the drift `b = 2 D grad log psi0 = -D grad U`.

**The energy of a trial state is a Fisher divergence.** For a normalised `psi_T = sqrt(q)`, `A psi_T` is
`psi_T (grad log q - grad log p) / 2`, so that

    E[q] = <psi_T| H |psi_T> = D |A psi_T|^2 = (D / 4) E_q |grad log q - grad log p|^2 >= 0,

with equality exactly where `q = p`: minimising the energy is score matching.

Three states belong to densities, and they differ: `sqrt(p)` is the ground state, `sqrt(q)` a trial state, and
`q / sqrt(p)` the state that evolves while `q` relaxes to `p`. Boundary terms are taken to vanish: `p` and `q`
are positive and smooth on the whole space and decay.

References:
    Risken, "The Fokker-Planck Equation" (1989), section 5.4.
    Hyvarinen, J. Mach. Learn. Res. 6 (2005) 695: score matching.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from qdesampler.equation.laplacian import ScalarFunction, gradient_and_laplacian
from qdesampler.validation import as_positive_scalar

VectorFunction = Callable[[jax.Array], jax.Array]


def log_ground_state(log_p: ScalarFunction) -> ScalarFunction:
    """Return `log psi0 = log p / 2`, the log ground state of the Boltzmann Hamiltonian of `p`.

    It is normalised, `int psi0^2 = 1`, if `p` is.
    """
    return lambda x: log_p(x) / 2


def log_density_of(log_psi: ScalarFunction) -> ScalarFunction:
    """Return `log q = 2 log psi`, the log density of a positive state: the inverse of `log_ground_state`."""
    return lambda x: 2 * log_psi(x)


def relaxing_log_state(log_q: ScalarFunction, log_p: ScalarFunction) -> ScalarFunction:
    """Return `log(q / sqrt(p))`, the state that obeys `d psi / d tau = -H psi` while `q` relaxes to `p`."""
    return lambda x: log_q(x) - log_p(x) / 2


def relaxing_log_density(log_psi: ScalarFunction, log_p: ScalarFunction) -> ScalarFunction:
    """Return `log(psi sqrt(p))`, the relaxing density of a state: the inverse of `relaxing_log_state`."""
    return lambda x: log_psi(x) + log_p(x) / 2


def drift(log_psi: ScalarFunction, diffusion: ArrayLike) -> VectorFunction:
    """Return the drift `b(x) = 2 D grad log psi(x)`, shape `(dim,)`.

    The diffusion `dx = b dtau + sqrt(2 D) dW` leaves `psi^2` invariant; for `psi = sqrt(p)` it is Langevin's,
    with `b = -D grad U`.

    Raises:
        TypeError: `diffusion` is not a real number.
        ValueError: `diffusion` is not positive and finite.
    """
    diffusion = as_positive_scalar("diffusion", diffusion)
    gradient = jax.grad(log_psi)
    return lambda x: 2 * diffusion * gradient(x)


def potential_of_ground_state(log_psi: ScalarFunction, diffusion: ArrayLike) -> ScalarFunction:
    """Return the potential `V - E0 = D (lap log psi + |grad log psi|^2)` whose ground state is `psi`.

    The inverse problem: the energy zero is put at the ground state. With `psi = sqrt(p)` this is the
    Boltzmann potential of `p`. The other way, from `V` to `psi`, is what an imaginary-time solver does; it
    has no closed form.

    Raises:
        TypeError: `diffusion` is not a real number.
        ValueError: `diffusion` is not positive and finite.
    """
    diffusion = as_positive_scalar("diffusion", diffusion)

    def potential(x: jax.Array) -> jax.Array:
        gradient, laplacian = gradient_and_laplacian(log_psi, x)
        return diffusion * (laplacian + gradient @ gradient)

    return potential


def relaxation_rate(log_q: ScalarFunction, log_p: ScalarFunction, diffusion: ArrayLike) -> ScalarFunction:
    """Return `d log q / d tau` of the Fokker-Planck equation, a function of one point returning a scalar.

        d log q / d tau = D (lap log(q / p) + grad log q . grad log(q / p)).

    It is minus the local energy of the relaxing state `q / sqrt(p)`, and 0 everywhere exactly if `q = p`.

    Raises:
        TypeError: `diffusion` is not a real number.
        ValueError: `diffusion` is not positive and finite.
    """
    diffusion = as_positive_scalar("diffusion", diffusion)

    def rate(x: jax.Array) -> jax.Array:
        gradient, laplacian = gradient_and_laplacian(lambda y: log_q(y) - log_p(y), x)
        return diffusion * (laplacian + gradient @ jax.grad(log_q)(x))

    return rate


def score_energy(log_q: ScalarFunction, log_p: ScalarFunction, diffusion: ArrayLike) -> ScalarFunction:
    """Return the energy of the trial state `sqrt(q)` as a function of one point, to be averaged over `q`.

        e(x) = (D / 4) |grad log q(x) - grad log p(x)|^2 >= 0,      E[q] = E_q e(x).

    The local energy of `sqrt(q)` has the same average over `q`, but not the same values: `e` is never
    negative and needs first derivatives only.

    Raises:
        TypeError: `diffusion` is not a real number.
        ValueError: `diffusion` is not positive and finite.
    """
    diffusion = as_positive_scalar("diffusion", diffusion)
    score_difference = jax.grad(lambda x: log_q(x) - log_p(x))
    return lambda x: diffusion / 4 * jnp.sum(score_difference(x) ** 2)
