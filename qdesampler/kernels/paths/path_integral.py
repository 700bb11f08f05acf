r"""The path-integral path: quantum annealing proper, made a ladder that ends in the posterior.

By Trotter's product a quantum state at the diffusion coefficient `D` is a ring of `P` slices `x_1 .. x_P`
under `exp(-(1/P) sum_k U(x_k) - kappa/2 sum_k |x_k - x_k+1|^2)` with `kappa` proportional to `1/D`: lowering
`D` stiffens the ring until it is a classical point. Slices spread through a thin barrier that a point has to
climb. Here

    log pi_beta = a log q(x_1) + b log p(x_1) + m (1/P) sum_k log p(x_k) + log N(u; 0, 1/kappa),

with `u` the ring's internal coordinates. The path has three parts. The first leads from the reference to the
quantum state at the largest `D` (`m` from 0 to 1). The second lowers `D` (Kadowaki and Nishimori 1998;
Santoro et al. 2002). The third moves the target from the mean over all slices to the first slice (`m` from 1
to 0, `b` from 0 to 1). At its end the ring is a normalised Gaussian that is independent of `x_1`, so that the
marginal of `x_1` is the posterior and the evidence that of the posterior.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.kernels.paths.path import DiffusionPath, GeometricPath
from qdesampler.kernels.references import reference as references
from qdesampler.kernels.references.reference import Reference
from qdesampler.numerics.types import ValueAndScore

__all__ = ["PATHS", "PathIntegralPath"]


@dataclasses.dataclass(frozen=True)
class PathIntegralPath:
    """Rings of `slices` points whose stiffness grows from `loose` to `stiff` while `D` falls.

    A position holds `x_1` and `u`, `slices * dim` numbers; `x_k = x_1 + S (B u)_k` with `S` the standard
    deviations of the reference, so that the ring energy is `|u|^2` whatever the scale of the problem.

    Attributes:
        slices: points on the ring, at least 2; each costs an evaluation.
        loose: `kappa` at the largest `D`, in units of the reference.
        stiff: `kappa` at the end.

    Raises:
        ValueError: for a number out of its range.
    """

    slices: int = 4
    loose: float = 4.0
    stiff: float = 4000.0

    _REFERENCE_FRACTION, _HANDOVER = 0.4, 0.9  # values of beta where the second and the third part begin

    def __post_init__(self):
        if isinstance(self.slices, bool) or int(self.slices) != self.slices or self.slices < 2:
            raise ValueError(f"slices is {self.slices}; expected an integer of at least 2.")
        if not 0 < self.loose < self.stiff < float("inf"):
            raise ValueError(
                f"loose is {self.loose} and stiff {self.stiff}; expected finite numbers, 0 < loose < stiff."
            )

    def coefficients(self, beta: jax.Array) -> jax.Array:
        """Those of `log q(x_1)`, `log p(x_1)`, the mean over slices, `-|u|^2 / 2` and `log kappa`."""
        first = jnp.clip(beta / self._REFERENCE_FRACTION, 0, 1)
        second = jnp.clip(
            (beta - self._REFERENCE_FRACTION) / (self._HANDOVER - self._REFERENCE_FRACTION), 0, 1
        )
        last = jnp.clip((beta - self._HANDOVER) / (1 - self._HANDOVER), 0, 1)
        log_kappa = jnp.log(self.loose) + second * jnp.log(self.stiff / self.loose)
        return jnp.stack([1 - first, last, first - last, jnp.exp(log_kappa), log_kappa])

    def draw(self, reference: Reference, key: jax.Array) -> jax.Array:
        """`x_1` from the reference, the ring from its Gaussian."""
        key_point, key_ring = jax.random.split(key)
        first = references.draw(reference, key_point)
        ring = jax.random.normal(key_ring, ((self.slices - 1) * first.size,), first.dtype)
        return jnp.concatenate([first, ring / jnp.sqrt(self.loose)])

    def features(self, position: jax.Array, evaluate: ValueAndScore, reference: Reference) -> tuple:
        """The five features of `coefficients`, and their gradients; NaN counts as zero density."""
        dim = reference.means.shape[1]
        first, ring = position[:dim], position[dim:]
        bridge = jnp.asarray(_bridge(self.slices), position.dtype)  # (P, P - 1), its first row zero
        scale = _scale(reference)
        points = first + scale * (bridge @ ring.reshape(self.slices - 1, dim))
        values, scores = jax.vmap(evaluate)(points)
        values = jnp.where(jnp.isnan(values), -jnp.inf, values)
        log_q, score_q = self.log_reference(position, reference)
        zero_ring, zero = jnp.zeros_like(ring), jnp.zeros_like(position)
        pulled = (bridge.T @ (scale * scores) / self.slices).reshape(-1)
        constant = 0.5 * ring.size
        features = jnp.stack(
            [
                log_q,
                values[0],
                jnp.mean(values),
                -0.5 * ring @ ring,
                jnp.asarray(constant, position.dtype),
            ]
        )
        gradients = jnp.stack(
            [
                score_q,
                jnp.concatenate([scores[0], zero_ring]),
                jnp.concatenate([jnp.mean(scores, 0), pulled]),
                jnp.concatenate([jnp.zeros_like(first), -ring]),
                zero,
            ]
        )
        return features, gradients

    def log_reference(self, position: jax.Array, reference: Reference) -> tuple[jax.Array, jax.Array]:
        """`log q(x_1)` without the ring's `log 2 pi` terms, and its gradient."""
        dim = reference.means.shape[1]
        value, score = references.value_and_score(reference, position[:dim])
        return value, jnp.concatenate([score, jnp.zeros_like(position[dim:])])

    def point(self, position: jax.Array, dim: int) -> jax.Array:
        """`x_1`."""
        return position[:dim]


def _bridge(slices: int) -> np.ndarray:
    """`B` with `sum_k |x_k - x_k+1|^2 = |u|^2` for `x = B u` around the ring from `x_1 = 0`."""
    ring = 2 * np.eye(slices - 1) - np.eye(slices - 1, k=1) - np.eye(slices - 1, k=-1)
    if slices == 2:
        ring = np.array([[2.0]])
    root = np.linalg.inv(np.linalg.cholesky(ring)).T
    return np.concatenate([np.zeros((1, slices - 1)), root])


def _scale(reference: Reference) -> jax.Array:
    """Standard deviations of a reference's last slot, which holds the prior reference."""
    whitener = reference.whiteners[references.PRIOR_SLOT]
    return 1 / (jnp.diagonal(whitener) if whitener.ndim == 2 else whitener)


PATHS = {
    "geometric": GeometricPath(),
    "diffusion": DiffusionPath(),
    "path-integral": PathIntegralPath(),
}
