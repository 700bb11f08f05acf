"""A check of draws against a known expectation."""

import numpy as np
from numpyro.diagnostics import effective_sample_size


def assert_mean(draws, expected, *, standard_errors=5.0, min_ess=100):
    """Compare the mean of draws, shape `(chains, draws, ...)`, with a known value, entry by entry.

    The bound is `standard_errors` times the Monte Carlo standard error by the draws' own effective sample
    size, which must reach `min_ess`, so that a chain that hardly moves cannot pass.
    """
    draws = np.asarray(draws, dtype=np.float64)
    assert np.all(np.isfinite(draws))
    ess = np.asarray(effective_sample_size(draws))
    assert np.all(ess >= min_ess), f"effective sample size {ess} is below {min_ess}"
    error = draws.std(axis=(0, 1)) / np.sqrt(ess)
    mean = draws.mean(axis=(0, 1))
    assert np.all(np.abs(mean - expected) <= standard_errors * error), (
        f"mean {mean} is more than {standard_errors} standard errors ({error}) from {expected}"
    )
