"""A diagnosis of AnnealerGibbs reports the pool and the law of its annealer."""

import jax
import numpy as np
import pytest
from numpyro.infer import MCMC

from qdesampler.backends import IsingProblem, SimulatedAnnealing
from qdesampler.diagnostics import diagnose
from qdesampler.infer import AnnealerGibbs
from tests.targets import BITS, NUM_BITS, bits

EVEN = IsingProblem.from_dense(np.zeros(NUM_BITS), np.zeros((NUM_BITS, NUM_BITS)))


def diagnosis(**options):
    kernel = AnnealerGibbs(bits, move="mask", taylor_order=0, **options)
    mcmc = MCMC(
        kernel, num_warmup=0, num_samples=400, num_chains=2, chain_method="vectorized", progress_bar=False
    )
    mcmc.run(jax.random.key(0))
    found = diagnose(mcmc, target=False)
    (row,) = (check for check in found.checks if check.name == "Pool of reads")
    return mcmc, row, [finding for finding in found if finding.code == "pool"]


def test_a_pool_of_equal_reads_is_a_remark():
    cold = np.repeat(BITS[:2], [19, 1], axis=0)
    mcmc, row, (remark,) = diagnosis(pool=cold)
    assert row.passed is False
    assert "2 different reads among 20" in remark.message
    assert not remark.grave
    facts = mcmc.sampler.facts(mcmc.last_state)
    assert facts["pool_diversity"] == pytest.approx(1 - 0.95**2 - 0.05**2)
    assert facts["backend"] == "given reads"


def test_diverse_reads_of_an_annealer_pass():
    mcmc, row, remarks = diagnosis(backend=SimulatedAnnealing(20), surrogate=EVEN, pool_size=64)
    assert (row.passed, remarks) == (True, [])
    facts = mcmc.sampler.facts(mcmc.last_state)
    assert (facts["backend"], facts["backend_law"], facts["pool_reads"]) == (
        "SimulatedAnnealing",
        "weighted",
        64,
    )
    pool = np.asarray(mcmc.last_state.adapt_state.pool)
    equal = np.all(pool[:, None] == pool, -1).mean()
    assert facts["pool_diversity"] == pytest.approx(1 - equal)
    assert 1 - equal > 0.5
