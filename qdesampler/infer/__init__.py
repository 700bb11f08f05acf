"""NumPyro kernels and model tools; the only room that imports NumPyro."""
