"""Compare kernels on a model: evaluations, effective draws, error, wall time."""
