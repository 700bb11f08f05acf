"""Cases of a disease on a lattice: Poisson counts with an intrinsic autoregression (ICAR) in space."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist


def prepare(data):
    """Counts as vectors, and the basis in which the autoregression is white.

    The precision of the autoregression is the lattice's Laplacian L. Its null vector, the constant, is left
    out, so that effects sum to zero exactly: effect = basis z with basis = Q diag(eigenvalues)^(-1/2).
    """
    rows, columns = data["cases"].shape
    place = np.arange(rows * columns).reshape(rows, columns)
    pairs = [*zip(place[:-1].ravel(), place[1:].ravel(), strict=True)]
    pairs += [*zip(place[:, :-1].ravel(), place[:, 1:].ravel(), strict=True)]
    laplacian = np.zeros((place.size, place.size))
    for i, j in pairs:
        laplacian[[i, j], [i, j]] += 1
        laplacian[[i, j], [j, i]] -= 1
    eigenvalues, vectors = np.linalg.eigh(laplacian)
    basis = vectors[:, 1:] / np.sqrt(eigenvalues[1:])
    return {"expected": data["expected"].ravel(), "cases": data["cases"].ravel(), "basis": basis}


def model(expected, cases, basis):
    """Cases with a log relative risk ``alpha + sigma effect``.

    Args:
        expected: expected cases of each area, shape ``(areas,)``.
        cases: shape ``(areas,)``; None draws from the prior predictive.
        basis: shape ``(areas, areas - 1)``, see `prepare`.
    """
    alpha = numpyro.sample("alpha", dist.Normal(0, 1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("mode", basis.shape[1]):
        z = numpyro.sample("z", dist.Normal(0, 1))
    risk = numpyro.deterministic("risk", alpha + sigma * (basis @ z))
    with numpyro.plate("area", len(expected)):
        numpyro.sample("cases", dist.Poisson(expected * jnp.exp(risk)), obs=cases)
