"""Targets whose evidence and masses of modes are known: by quadrature, algebra or construction."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.integrate import quad

from qdesampler.bench.targets.hard import GERMAN_CREDIT
from qdesampler.infer import load_model, model_hamiltonian

IONOSPHERE = GERMAN_CREDIT.parent / "ionosphere"

__all__ = ["EVIDENCE_TARGETS", "EvidenceTarget", "mixture_40", "mixture_40_means"]


class EvidenceTarget(NamedTuple):
    """A log density with a known integral.

    Attributes:
        log_density: the log density of one position, shape `(dim,)`, not normalised.
        dim: number of coordinates.
        reference: standard deviation of the Gaussian around 0 that ladders start from, which is the prior of
            the peers; a vector or number.
        log_evidence: the true log of the integral.
        in_mode: `x -> whether it is in the mode whose mass is measured`.
        mass: the true mass of that mode, or None.
    """

    log_density: Callable[[jax.Array], jax.Array]
    dim: int
    reference: Any
    log_evidence: float
    in_mode: Callable[[jax.Array], jax.Array]
    mass: float | None


def _left(x):
    return x[0] < 0


def _well(x, y):
    return -(x**4) + 6 * x**2 + x / 2 - y**2 / 2


def double_well() -> EvidenceTarget:
    """`log p = -x^4 + 6 x^2 + x/2 - y^2/2`; truth by quadrature."""
    return EvidenceTarget(lambda x: _well(x[0], x[1]), 2, 3.0, 10.293479707, _left, 0.155692903)


def wells_32() -> EvidenceTarget:
    """Sixteen double wells: 65,536 modes in 32 dimensions."""

    def log_density(x):
        return jnp.sum(_well(x[:16], x[16:]))

    return EvidenceTarget(log_density, 32, 3.0, 164.695675, _left, 0.155692903)


def many_wells() -> EvidenceTarget:
    """`log p = -sum (x_i^2 - 4)^2`: 32 modes in 5 dimensions; truth by quadrature."""
    return EvidenceTarget(lambda x: -jnp.sum((x**2 - 4) ** 2), 5, 3.0, -0.541055513, _left, 0.5)


def mixture_40_means() -> np.ndarray:
    """Modes of `mixture_40`, uniform on [-40, 40]^2 (fixed seed), shape `(40, 2)`."""
    return np.random.default_rng(0).uniform(-40, 40, (40, 2))


def mixture_40() -> EvidenceTarget:
    """Forty unit Gaussians of equal weight, at `mixture_40_means`."""
    means = mixture_40_means()

    def log_density(x):
        return jax.nn.logsumexp(-0.5 * jnp.sum((x - means) ** 2, 1)) - jnp.log(80 * jnp.pi)

    # The mass of x_1 < 0, all modes together.
    mass = float(np.mean(jax.scipy.stats.norm.cdf(-means[:, 0])))
    return EvidenceTarget(log_density, 2, 30.0, 0.0, _left, mass)


def funnel_10() -> EvidenceTarget:
    """Neal's funnel, normalised: `x_0 ~ N(0, 3)`, nine `x_i ~ N(0, exp(x_0 / 2))` (standard deviations)."""

    def log_density(x):
        neck = -0.5 * (x[0] / 3) ** 2 - jnp.log(3.0)
        leaves = jnp.sum(-0.5 * x[1:] ** 2 * jnp.exp(-x[0]) - 0.5 * x[0])
        return neck + leaves - 0.5 * x.size * jnp.log(2 * jnp.pi)

    return EvidenceTarget(log_density, 10, 10.0, 0.0, _left, 0.5)


def two_modes_50() -> EvidenceTarget:
    """Two unit Gaussians in 50 dimensions at +2 and -2 in every coordinate, weights 1/4 and 3/4."""

    def log_density(x):
        near, far = jnp.log(0.25) - 0.5 * jnp.sum((x - 2) ** 2), jnp.log(0.75) - 0.5 * jnp.sum((x + 2) ** 2)
        return jnp.logaddexp(near, far) - 25 * jnp.log(2 * jnp.pi)

    return EvidenceTarget(log_density, 50, 3.0, 0.0, lambda x: jnp.sum(x) > 0, 0.25)


def spike_in_slab() -> EvidenceTarget:
    """A spike of width 0.02 with 90% of the mass in a slab of width 1, both at the origin, 8 dimensions."""

    def log_density(x):
        spike = jnp.log(0.9) - 0.5 * jnp.sum((x / 0.02) ** 2) - 8 * jnp.log(0.02)
        return jnp.logaddexp(spike, jnp.log(0.1) - 0.5 * jnp.sum(x**2)) - 4 * jnp.log(2 * jnp.pi)

    return EvidenceTarget(log_density, 8, 3.0, 0.0, lambda x: jnp.sum(x**2) < 0.1, 0.9)


def conjugate_normal() -> EvidenceTarget:
    """`b ~ N(0, I_4)`, `y ~ N(X b, I)`, 20 made-up rows; truth by algebra."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((20, 4))
    y = x @ np.array([1.0, -1.0, 0.5, 2.0]) + rng.standard_normal(20)

    def model():
        b = numpyro.sample("b", dist.Normal(jnp.zeros(4), 1).to_event(1))
        numpyro.sample("y", dist.Normal(x @ b, 1).to_event(1), obs=y)

    covariance = np.eye(20) + x @ x.T
    log_det = np.linalg.slogdet(covariance)[1]
    log_z = -0.5 * (y @ np.linalg.solve(covariance, y) + log_det + 20 * np.log(2 * np.pi))
    found = model_hamiltonian(jax.random.key(0), model)
    return EvidenceTarget(found.hamiltonian.function, 4, 1.0, float(log_z), _left, None)


_EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
_ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools() -> EvidenceTarget:
    """Eight schools, non-centred, `mu ~ N(0, 5)`, `tau ~ HalfCauchy(5)`; truth by quadrature over tau.

    Rubin, Journal of Educational Statistics 6(4), 1981.
    """

    def model():
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        tau = numpyro.sample("tau", dist.HalfCauchy(5))
        offset = numpyro.sample("offset", dist.Normal(jnp.zeros(8), 1).to_event(1))
        numpyro.sample("y", dist.Normal(mu + tau * offset, _ERRORS).to_event(1), obs=_EFFECTS)

    def given(tau):
        covariance = np.diag(_ERRORS**2 + tau**2) + 25.0
        log_det = np.linalg.slogdet(covariance)[1]
        quadratic = _EFFECTS @ np.linalg.solve(covariance, _EFFECTS)
        log_p = -0.5 * (quadratic + log_det + 8 * np.log(2 * np.pi)) + 31
        return np.exp(log_p) * 2 / (np.pi * 5 * (1 + (tau / 5) ** 2))

    total = (
        quad(given, 0, 50, epsabs=1e-12, limit=200)[0] + quad(given, 50, np.inf, epsabs=1e-12, limit=200)[0]
    )
    found = model_hamiltonian(jax.random.key(0), model)
    # Raveled order: mu, offset, log tau.
    scale = np.concatenate([[5.0], np.ones(8), [2.0]])
    return EvidenceTarget(found.hamiltonian.function, 10, scale, float(np.log(total)) - 31, _left, None)


def german_credit() -> EvidenceTarget:
    """Logistic regression of `models/german_credit`, 25 dimensions; truth -531.282(2) from long runs.

    Raises:
        FileNotFoundError: outside a checkout of this repository.
    """
    if not GERMAN_CREDIT.is_dir():
        raise FileNotFoundError(f"german_credit needs the data in {GERMAN_CREDIT}: use a checkout.")
    case = load_model(GERMAN_CREDIT)
    found = model_hamiltonian(jax.random.key(0), case.model, **case.data)
    return EvidenceTarget(found.hamiltonian.function, 25, 1.0, -531.282, _left, None)


def ionosphere() -> EvidenceTarget:
    """Logistic regression of `models/ionosphere`, 35 dimensions; truth -111.605(5) from long runs.

    Raises:
        FileNotFoundError: outside a checkout of this repository.
    """
    if not IONOSPHERE.is_dir():
        raise FileNotFoundError(f"ionosphere needs the data in {IONOSPHERE}: use a checkout.")
    case = load_model(IONOSPHERE)
    found = model_hamiltonian(jax.random.key(0), case.model, **case.data)
    return EvidenceTarget(found.hamiltonian.function, 35, 1.0, -111.605, _left, None)


EVIDENCE_TARGETS: dict[str, Callable[[], EvidenceTarget]] = {
    "double-well": double_well,
    "many-wells-5": many_wells,
    "mixture-40": mixture_40,
    "two-modes-50": two_modes_50,
    "spike-in-slab-8": spike_in_slab,
    "funnel-10": funnel_10,
    "conjugate-normal-4": conjugate_normal,
    "eight-schools": eight_schools,
    "wells-32": wells_32,
    "german-credit-25": german_credit,
    "ionosphere-35": ionosphere,
}
