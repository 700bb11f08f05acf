"""Real posteriors of several modes: their evidence and masses by enumeration, quadrature or symmetry."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.stats import norm

from qdesampler.bench.targets.evidence import EvidenceTarget
from qdesampler.infer import load_model, model_hamiltonian

__all__ = ["MULTIMODAL_POSTERIORS"]

MODELS = Path(__file__).parents[3] / "models"


def _case(name):
    folder = MODELS / name
    if not folder.is_dir():
        raise FileNotFoundError(f"{name} needs the data in {folder}: use a checkout.")
    return load_model(folder)


def label_switching() -> EvidenceTarget:
    """`models/label_switching`: two components that may change places; evidence by quadrature, mass 1/2.

    Raises:
        FileNotFoundError: outside a checkout of this repository.
    """
    case = _case("label_switching")
    log_density = model_hamiltonian(jax.random.key(0), case.model, **case.data).hamiltonian.function
    axis = np.linspace(-6, 6, 241)
    grid = jnp.asarray(np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2))
    values = np.asarray(jax.lax.map(log_density, grid, batch_size=4096), float)
    log_z = float(np.logaddexp.reduce(values) + 2 * np.log(axis[1] - axis[0]))
    return EvidenceTarget(log_density, 2, 3.0, log_z, lambda x: x[0] < x[1], 0.5)


def sinusoid_period() -> EvidenceTarget:
    """`models/sinusoid_period`: a frequency with aliases; mass of those above 1/2 by quadrature.

    Amplitudes are integrated out in closed form, the logit of the frequency and log sigma on a grid.

    Raises:
        FileNotFoundError: outside a checkout of this repository.
    """
    case = _case("sinusoid_period")
    log_density = model_hamiltonian(jax.random.key(0), case.model, **case.data).hamiltonian.function
    time, y = (np.asarray(case.data[name], float) for name in ("time", "y"))
    logit, log_sigma = np.linspace(-12, 12, 2401), np.linspace(-3, 1.7, 95)
    frequency = 0.05 + 0.9 / (1 + np.exp(-logit))
    log_prior = -np.logaddexp(0, logit) - np.logaddexp(0, -logit)
    table = np.empty((logit.size, log_sigma.size))
    for i, f in enumerate(frequency):
        waves = np.stack([np.cos(2 * np.pi * f * time), np.sin(2 * np.pi * f * time)], 1)
        values, vectors = np.linalg.eigh(waves @ waves.T)
        turned = (vectors.T @ y) ** 2
        variances = values[:, None] + np.exp(2 * log_sigma)  # of y, on its own axes
        table[i] = -0.5 * np.sum(np.log(2 * np.pi * variances) + turned[:, None] / variances, 0)
    table += log_prior[:, None] + np.log(2) + norm.logpdf(np.exp(log_sigma)) + log_sigma
    cell = np.log((logit[1] - logit[0]) * (log_sigma[1] - log_sigma[0]))
    log_z = float(np.logaddexp.reduce(table, axis=None) + cell)
    mass = float(np.exp(np.logaddexp.reduce(table[logit > 0], axis=None) + cell - log_z))
    # Raveled order: a, b, logit of the frequency, log sigma.
    return EvidenceTarget(log_density, 4, np.array([1, 1, 2, 1.5]), log_z, lambda x: x[2] > 0, mass)


def spike_and_slab_8() -> EvidenceTarget:
    """Eight coefficients under a continuous spike and slab; truth by enumerating the 256 sets.

    `beta_k ~ 0.7 N(0, 0.02) + 0.3 N(0, 1)` (George and McCulloch 1993), `y ~ N(X beta, 1)`, thirty made-up
    rows in which the first two columns nearly agree: either is in, hardly ever both. The mass is that of
    `beta_1 > 0.4`.
    """
    rng = np.random.default_rng(12)
    x = rng.standard_normal((30, 8))
    x[:, 1] = x[:, 0] + 0.15 * rng.standard_normal(30)
    y = 1.5 * x[:, 0] - 0.8 * x[:, 4] + rng.standard_normal(30)
    slab, spike = 0.3, 0.02

    def model():
        prior = dist.MixtureSameFamily(
            dist.Categorical(probs=jnp.array([1 - slab, slab])),
            dist.Normal(jnp.zeros(2), jnp.array([spike, 1.0])),
        )
        beta = numpyro.sample("beta", prior.expand([8]).to_event(1))
        numpyro.sample("y", dist.Normal(x @ beta, 1).to_event(1), obs=y)

    log_p, above = [], []
    for code in range(256):
        included = np.array([code >> k & 1 for k in range(8)])
        variance = np.where(included == 1, 1.0, spike**2)
        covariance = np.eye(30) + (x * variance) @ x.T
        solved = np.linalg.solve(covariance, np.c_[y, x[:, 0]])
        log_y = -0.5 * (y @ solved[:, 0] + np.linalg.slogdet(covariance)[1] + 30 * np.log(2 * np.pi))
        log_p.append(log_y + np.sum(np.where(included == 1, np.log(slab), np.log1p(-slab))))
        mean = variance[0] * x[:, 0] @ solved[:, 0]
        scale = np.sqrt(variance[0] - variance[0] ** 2 * x[:, 0] @ solved[:, 1])
        above.append(norm.sf(0.4, mean, scale))
    log_z = float(np.logaddexp.reduce(log_p))
    mass = float(np.exp(np.array(log_p) - log_z) @ np.array(above))
    log_density = model_hamiltonian(jax.random.key(0), model).hamiltonian.function
    return EvidenceTarget(log_density, 8, 1.0, log_z, lambda b: b[0] > 0.4, mass)


MULTIMODAL_POSTERIORS = {
    "label-switching-2": label_switching,
    "sinusoid-period-4": sinusoid_period,
    "spike-and-slab-8": spike_and_slab_8,
}
