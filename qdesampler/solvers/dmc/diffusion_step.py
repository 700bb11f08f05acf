r"""One walker of diffusion Monte Carlo: the limited drift, the Metropolis-corrected move, the weight.

With a trial `psi_T` the product `f = psi_T psi` obeys, in imaginary time,

    df/dtau = D lap f - div(v f) - (E_L - E_ref) f,     v = 2 D grad log psi_T,    E_L = (H psi_T) / psi_T,

which walkers follow by drift, diffusion and weights. A step of length `tau` proposes

    x' = x + w(x) tau + sqrt(2 D tau) xi,      w = v 2 / (1 + sqrt(1 + 2 r)),   r = a tau |v|^2 / (2 D dim),

and accepts it by Metropolis and Hastings for the density `psi_T^2`, so that without weights `psi_T^2` is
sampled exactly whatever `tau` is. The limited drift `w` is what a walker can follow in a time `tau` near a
node or a nucleus, where `v` diverges (Umrigar, Nightingale and Runge 1993; their `a` with `|v|^2` for each
coordinate, so that the limit means the same in any dimension). The weight gains the factor

    exp(-tau_eff (S(x) + S(x')) / 2),          S = E_L - E_ref, cut to |S| <= c,

which is symmetric in time like the move, so that the whole step is self-adjoint in `psi_T^2`. `tau_eff` is
`tau` times the part of the squared displacement that was accepted. The cut bounds the weight of a step where
`E_L` diverges; `c` grows like `tau^(-1/2)`, so it has no part in the limit (as in Zen et al. 2016).

References:
    Reynolds, Ceperley, Alder and Lester, J. Chem. Phys. 77 (1982) 5593: the algorithm.
    Umrigar, Nightingale and Runge, J. Chem. Phys. 99 (1993) 2865, equations 35 and 36: the limited drift, and
    the effective time step.
    Zen, Sorella, Gillan, Michaelides and Alfe, Phys. Rev. B 93 (2016) 241118: the cut of the local energy.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.equation.laplacian import ScalarFunction, unrolled_gradient_and_laplacian

__all__ = [
    "Guide",
    "Step",
    "Trace",
    "Walker",
    "is_broken",
    "limited_drift",
    "local_energy",
    "make_walker",
    "propose",
    "walker_step",
]

_DRIFT_LIMIT = 0.25  # `a` of the limited drift
_UNROLLED = 16  # dimensions up to which second derivatives are written out one by one


@jax.tree_util.register_pytree_node_class
class Guide:
    """The Hamiltonian, the trial and its sign; functions that are no pytrees are static.

    Attributes:
        hamiltonian: `H`.
        log_psi: `log |psi_T|` of one point.
        sign: sign of `psi_T` at one point, a scalar, or `None` for a positive trial.
    """

    def __init__(self, hamiltonian: Hamiltonian, log_psi: ScalarFunction, sign: ScalarFunction | None = None):
        self.hamiltonian = hamiltonian
        self.log_psi = log_psi
        self.sign = sign

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Split into leaves and static parts, as JAX asks."""
        parts = (self.log_psi, self.sign)
        static = tuple(f if f is not None and jax.tree_util.all_leaves([f]) else None for f in parts)
        children = tuple(None if s is not None else f for f, s in zip(parts, static, strict=True))
        return (self.hamiltonian, *children), static

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], children: tuple[Any, ...]) -> "Guide":
        """Rebuild from leaves and static parts; nothing is checked."""
        hamiltonian, *functions = children
        self = object.__new__(cls)
        self.hamiltonian = hamiltonian
        self.log_psi, self.sign = (s if s is not None else f for f, s in zip(functions, static, strict=True))
        return self


class Walker(NamedTuple):
    """A point, and the trial and its local energy there.

    Attributes:
        x: shape `(dim,)`.
        log_psi: `log |psi_T|`.
        slope: `grad log psi_T`, shape `(dim,)`.
        local_energy: `E_L`.
        sign: of the trial; 1 for a positive one.
    """

    x: jax.Array
    log_psi: jax.Array
    slope: jax.Array
    local_energy: jax.Array
    sign: jax.Array


class Step(NamedTuple):
    """Numbers of the step, scalars.

    Attributes:
        tau: time step of the move.
        tau_effective: time step of the weights.
        reference: `E_ref`.
        cut: `c`, largest deviation from `E_ref` in the weights.
    """

    tau: jax.Array
    tau_effective: jax.Array
    reference: jax.Array
    cut: jax.Array


class Trace(NamedTuple):
    """The results of one step that enter the averages.

    Attributes:
        log_weight: log weight of the walker since the start of the turn.
        deviation: `E_L - E_ref` after the step, 0 where the walker is dead.
        acceptance: Metropolis probability.
        proposed: squared displacement proposed.
        accepted: the same, times the acceptance.
        broken: whether trial, gradient or local energy at the proposal was not a number.
    """

    log_weight: jax.Array
    deviation: jax.Array
    acceptance: jax.Array
    proposed: jax.Array
    accepted: jax.Array
    broken: jax.Array


def local_energy(guide: Guide, x: jax.Array) -> jax.Array:
    """`hamiltonian.local_energy` of the trial, several times as fast under `vmap` in few dimensions."""
    if x.size > _UNROLLED:
        return guide.hamiltonian.local_energy(guide.log_psi, x)
    return guide.hamiltonian._local_energy(guide.log_psi, x, unrolled_gradient_and_laplacian)


def make_walker(guide: Guide, x: jax.Array) -> Walker:
    """The walker at a point."""
    log_psi, slope = jax.value_and_grad(guide.log_psi)(x)
    energy = local_energy(guide, x)
    sign = jnp.ones_like(log_psi) if guide.sign is None else jnp.asarray(guide.sign(x), log_psi.dtype)
    return Walker(x, log_psi, slope, jnp.asarray(energy, log_psi.dtype), sign)


def is_broken(walker: Walker) -> jax.Array:
    """Whether something is not finite where the trial is not zero; `E_L = +inf`, a wall, is allowed."""
    zero = walker.log_psi == -jnp.inf
    energy = jnp.isfinite(walker.local_energy) | (walker.local_energy == jnp.inf)
    sound = jnp.isfinite(walker.log_psi) & jnp.all(jnp.isfinite(walker.slope)) & energy
    return ~zero & ~sound


def limited_drift(slope: jax.Array, tau: jax.Array, diffusion: jax.Array | float) -> jax.Array:
    """The drift `w`, shape `(dim,)`, from `grad log psi_T`; at most `2 sqrt(D dim / (a tau))` long."""
    drift = 2 * diffusion * slope
    rate = _DRIFT_LIMIT * tau * jnp.sum(drift**2) / (2 * diffusion * slope.size)
    return drift * (2 / (1 + jnp.sqrt(1 + 2 * rate)))


def propose(
    guide: Guide, old: Walker, tau: jax.Array, noise: jax.Array
) -> tuple[Walker, jax.Array, jax.Array]:
    """The proposed walker, the log of its Metropolis ratio, and whether it is broken."""
    diffusion = guide.hamiltonian.diffusion
    push = limited_drift(old.slope, tau, diffusion) * tau
    kick = jnp.sqrt(2 * diffusion * tau) * noise
    new = make_walker(guide, old.x + push + kick)
    back = push + kick + limited_drift(new.slope, tau, diffusion) * tau
    log_ratio = 2 * (new.log_psi - old.log_psi) - jnp.sum(back**2 - kick**2) / (4 * diffusion * tau)
    broken = is_broken(new)
    allowed = (new.log_psi > -jnp.inf) & ~broken & (new.sign * old.sign > 0)
    return new, jnp.where(allowed, log_ratio, -jnp.inf), broken


def _cost(energy: jax.Array, step: Step) -> jax.Array:
    """`S`, cut; infinite behind a wall."""
    cut = jnp.clip(energy - step.reference, -step.cut, step.cut)
    return jnp.where(energy == jnp.inf, jnp.inf, cut)


def walker_step(
    guide: Guide, old: Walker, log_weight: jax.Array, step: Step, noise: jax.Array, log_uniform: jax.Array
) -> tuple[Walker, Trace]:
    """One step of one walker.

    Args:
        guide: Hamiltonian and trial.
        old: the walker.
        log_weight: its log weight before the step; the trace has that after the step.
        step: numbers of the step.
        noise: standard normal, shape `(dim,)`.
        log_uniform: log of a uniform number in (0, 1).
    """
    proposal, log_ratio, broken = propose(guide, old, step.tau, noise)
    taken = log_uniform < log_ratio
    new: Walker = jax.tree.map(lambda a, b: jnp.where(taken, a, b), proposal, old)
    cost = 0.5 * (_cost(old.local_energy, step) + _cost(new.local_energy, step))
    log_weight = log_weight - step.tau_effective * cost
    shift = proposal.x - old.x
    square = jnp.sum(shift**2)
    acceptance = jnp.exp(jnp.minimum(log_ratio, 0))
    trace = Trace(
        log_weight,
        jnp.where(log_weight > -jnp.inf, new.local_energy - step.reference, 0),
        acceptance,
        square,
        # A proposal at infinity is rejected, and must not turn the sum into NaN.
        jnp.where(acceptance > 0, acceptance * square, 0),
        broken,
    )
    return new, trace
