"""Pure JAX Markov kernels: `init(position, key=None)`, `step(key, state) -> (state, info)`; no NumPyro."""
