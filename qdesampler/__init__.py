"""qdesampler: posterior sampling for NumPyro by imaginary time."""
