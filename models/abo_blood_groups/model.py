"""ABO blood groups: allele frequencies, a point of the simplex, from counts of phenotypes."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist


def prepare(data):
    """The four counts as one vector."""
    return {"counts": np.array([data[group] for group in ("A", "B", "AB", "O")])}


def model(counts):
    """Phenotypes by the Hardy-Weinberg law from the frequencies of the alleles A, B and O.

    Args:
        counts: persons of the groups A, B, AB and O, shape ``(4,)``.
    """
    allele = jnp.asarray(numpyro.sample("allele", dist.Dirichlet(jnp.ones(3))))
    a, b, o = allele
    group = jnp.stack([a * a + 2 * a * o, b * b + 2 * b * o, 2 * a * b, o * o])
    numpyro.sample("counts", dist.Multinomial(total_count=counts.sum(), probs=group), obs=counts)
