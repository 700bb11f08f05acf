"""The bill of NUTS: the same draws as NUTS's own, and every gradient of the warm-up on it."""

import jax
import numpy as np
import pytest
from numpyro.infer import MCMC, NUTS

from qdesampler.bench.targets.closed_form import banana
from qdesampler.infer.counted_nuts import CountedNUTS

SIZES = {
    "num_warmup": 60,
    "num_samples": 40,
    "num_chains": 2,
    "chain_method": "vectorized",
    "progress_bar": False,
}


@pytest.mark.slow
def test_counted_nuts_is_nuts_with_a_bill():
    counted = MCMC(CountedNUTS(banana().model), **SIZES)
    counted.run(jax.random.key(3))
    plain = MCMC(NUTS(banana().model), **SIZES)
    plain.run(jax.random.key(3), extra_fields=("num_steps",))
    for site, draws in plain.get_samples(group_by_chain=True).items():
        np.testing.assert_array_equal(counted.get_samples(group_by_chain=True)[site], draws)
    fields = counted.get_extra_fields(group_by_chain=True)
    np.testing.assert_array_equal(
        fields["num_evals"], plain.get_extra_fields(group_by_chain=True)["num_steps"]
    )

    warmup = MCMC(NUTS(banana().model), **SIZES)
    warmup.warmup(jax.random.key(3), collect_warmup=True, extra_fields=("num_steps",))
    steps = np.asarray(warmup.get_extra_fields(group_by_chain=True)["num_steps"])
    assert steps.shape == (2, 60)
    np.testing.assert_array_equal(counted.last_state.warmup_evals, steps.sum(axis=1) + 1)
    assert counted.last_state.warmup_evals.dtype == np.int32
