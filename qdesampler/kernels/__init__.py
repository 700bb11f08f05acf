"""Pure JAX Markov kernels: `init(position) -> state`, `step(key, state) -> (state, info)`; no NumPyro."""
